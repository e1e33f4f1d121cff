"""The paths by which other packages import the contract, and what importing it brings along."""

import subprocess
import sys
from importlib import import_module

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


@pytest.mark.parametrize(
    ("path", "foreign"),
    [
        ("mmssl", ("mmssl.objectives", "mmssl.training", "mmssl.data", "mmssl.evaluation", "datasets")),
        ("mmssl.recipe", ("mmssl.objectives", "mmssl.training", "mmssl.data", "mmssl.evaluation")),
        ("mmssl.objectives.parts", ("mmssl.training", "mmssl.evaluation", "mmssl.report")),
    ],
)
def test_importing_a_room_leaves_the_others_alone(path: str, foreign: tuple[str, ...]) -> None:
    code = f"import sys, {path}; print(*[name for name in {foreign!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
