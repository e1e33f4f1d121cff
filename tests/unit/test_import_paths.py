"""The paths by which other packages import the contract, and what importing it brings along."""

import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

CONTRACT = {
    "mmssl": ("MMSSLConfig", "MMSSLModel", "MMSSLProcessor", "check", "embed", "evaluate", "train"),
    "mmssl.config": ("MMSSLConfig",),
    "mmssl.data": ("Batch",),
    "mmssl.draws": ("Draws", "keys"),
    "mmssl.encoder": ("Encoder", "initialise_all"),
    "mmssl.masking": ("Sampler", "Split", "preferred"),
    "mmssl.modality": ("Adapter", "Inputs", "MaskPreference", "Modality", "Processor", "find", "pad_stack"),
    "mmssl.model": ("MMSSLConfig", "MMSSLModel", "load_model"),
    "mmssl.objectives": ("OBJECTIVES", "Jepa", "Masked", "Objective", "Output", "Setup", "Supervised"),
    "mmssl.objectives.distances": ("LOSSES", "Loss"),
    "mmssl.objectives.parts": ("Predicted", "Predictor", "Scene", "Target"),
    "mmssl.objectives.predictors": ("PREDICTORS", "Predictor", "Transformer"),
    "mmssl.objectives.targets": ("TARGETS", "Raw", "Target"),
    "mmssl.processor": ("MMSSLProcessor",),
    "mmssl.recipe": ("Recipe", "RecipeError", "json_schema", "load"),
    "mmssl.teacher": ("ema_copy", "ema_update"),
    "mmssl.testing": ("LAWS", "batch_of", "small_model"),
    "mmssl.tokens": ("Tokens", "gather"),
}


@pytest.mark.parametrize("path", CONTRACT)
def test_path_of_the_contract_works(path: str) -> None:
    module = import_module(path)
    assert [name for name in CONTRACT[path] if not hasattr(module, name)] == []


def test_old_and_new_paths_give_the_same_classes() -> None:
    for old, new, name in (
        ("mmssl.config", "mmssl.model.config", "MMSSLConfig"),
        ("mmssl.encoder", "mmssl.model.encoder", "Encoder"),
        ("mmssl.objectives.parts", "mmssl.objectives.predict.parts", "Target"),
        ("mmssl.objectives.targets", "mmssl.objectives.predict.targets", "TARGETS"),
        ("mmssl.teacher", "mmssl.model.teacher", "ema_copy"),
    ):
        assert getattr(import_module(old), name) is getattr(import_module(new), name)


HEAVY = (
    *("datasets", "deepspeed", "matplotlib", "onnx", "open_clip", "pandas", "peft", "scipy.stats", "sentence_transformers"),
    *("sklearn", "transformers.image_processing_backends", "transformers.models.auto.image_processing_auto"),
)
"""What takes half a second or more to import, and is wanted by few commands."""


def imported(code: str, names: tuple[str, ...]) -> list[str]:
    """Which modules are imported after running code in a fresh process."""
    told = f"{code}\nimport sys; print('imported:', *[name for name in {names!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True)
    return done.stdout.partition("imported:")[2].split()


def test_importing_mmssl_imports_no_library() -> None:
    assert imported("import mmssl", (*HEAVY, "accelerate", "numpy", "torch", "torchvision", "transformers")) == []


def test_what_few_need_is_not_imported() -> None:
    assert imported("import mmssl.api", HEAVY) == []


def test_a_model_is_saved_without_deepspeed(tmp_path: Path) -> None:
    """Transformers would import it, where it is installed, to ask whether the model is one of its engines."""
    code = f"""
from mmssl.model.loading import without_deepspeed
from mmssl.testing import small_model
with without_deepspeed():
    small_model('image').save_pretrained({str(tmp_path)!r})"""
    assert imported(code, ("deepspeed",)) == []


def test_check_imports_what_it_needs(tmp_path: Path) -> None:
    command = f"mmssl_cli.main(['check', 'recipes/quickstart.yaml', 'run.dir={tmp_path}'])"
    assert imported(f"import mmssl_cli; {command}", HEAVY) == []


AUTO = {
    "AutoConfig": "MMSSLConfig",
    "AutoModel": "MMSSLModel",
    "AutoModelForImageClassification": "MMSSLForClassification",
    "AutoModelForSequenceClassification": "MMSSLForClassification",
    "AutoModelForAudioClassification": "MMSSLForClassification",
    "AutoProcessor": "MMSSLProcessor",
    "AutoImageProcessor": "MMSSLImageProcessor",
    "AutoFeatureExtractor": "MMSSLFeatureExtractor",
}
FIRST = {
    "mmssl": f"import mmssl; from transformers import {', '.join(AUTO)}",
    "transformers": f"from transformers import {', '.join(AUTO)}; import mmssl",
    "a model's class": f"from mmssl import MMSSLModel; from transformers import PreTrainedModel, {', '.join(AUTO)}",
    "our processor": f"from mmssl import MMSSLProcessor; from transformers import {', '.join(AUTO)}",
    "the room of our processor": f"from mmssl.processor import MMSSLProcessor; from transformers import {', '.join(AUTO)}",
    "another library": f"import mmssl, peft; from transformers import {', '.join(AUTO)}",
}


@pytest.mark.parametrize("first", FIRST)
def test_auto_classes_know_ours_whatever_is_imported_first(first: str) -> None:
    code = f"""{FIRST[first]}
import sys
for auto in ({", ".join(AUTO)}):
    known = [one._extra_content.values() for one in vars(sys.modules[auto.__module__]).values() if hasattr(one, "_extra_content")]
    print(auto.__name__, known)"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()[-len(AUTO) :]
    assert [line.split()[0] for line, ours in zip(lines, AUTO.values(), strict=True) if ours in line] == [*AUTO]


@pytest.mark.parametrize(
    ("path", "foreign"),
    [
        ("mmssl", ("mmssl.objectives", "mmssl.training", "mmssl.data", "mmssl.evaluation", "datasets")),
        ("mmssl.recipe", ("mmssl.objectives", "mmssl.training", "mmssl.data", "mmssl.evaluation")),
        ("mmssl.objectives.parts", ("mmssl.training", "mmssl.evaluation", "mmssl.report")),
    ],
)
def test_importing_a_room_leaves_the_others_alone(path: str, foreign: tuple[str, ...]) -> None:
    assert imported(f"import {path}", foreign) == []
