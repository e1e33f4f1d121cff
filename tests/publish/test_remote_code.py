"""Models that bring their own code: what an interpreter without mmssl makes of them is what mmssl makes of them."""

import ast
import json
import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoModel, pipeline

import mmssl_cli as cli
from mmssl.modality import find
from mmssl.model import LabelHead, MMSSLForClassification, MMSSLModel, faced, load_model, load_predictor
from mmssl.plugins import installed
from mmssl.processor import MMSSLProcessor
from mmssl.publish import export_remote_code, fresh
from mmssl.publish.check import check_reload, outputs_of
from mmssl.publish.flat import Flat
from mmssl.publish.remote import WithoutTraining, code_of
from mmssl.testing import small_model
from mmssl.testing.small import inputs_of

ALONE = """
import json, runpy, sys
import numpy as np, torch
from safetensors.torch import save_file
sys.meta_path.insert(0, runpy.run_path(sys.argv[1])["NoMmssl"]())
raws, out = sys.argv[2:]
from transformers import AutoModel, AutoProcessor

def read(value):
    if isinstance(value, dict) and value.keys() == {"array"}:
        return np.asarray(value["array"]["data"], value["array"]["dtype"])
    return {key: read(each) for key, each in value.items()} if isinstance(value, dict) else value

found = {}
for name, (folder, keyword, samples) in json.load(open(raws)).items():
    model = AutoModel.from_pretrained(folder, trust_remote_code=True).eval()
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    with torch.no_grad():
        inputs = processor(**{keyword: [read(sample) for sample in samples]})
        result = model(**inputs)
    found |= {f"{name}/input/{key}": value.contiguous() for key, value in inputs.items()}
    found |= {f"{name}/last_hidden_state": result.last_hidden_state, f"{name}/pooler_output": result.pooler_output}
save_file(found, out)
wrong = sorted(name for name in sys.modules if name.split(".")[0].startswith("mmssl"))
assert not wrong, wrong
"""


def saved(model: MMSSLModel, folder: Path) -> Path:
    """A model with its processor, as a run publishes them."""
    faced(model).save_pretrained(folder)
    settings = {name: parts["processor"] for name, parts in model.config.modalities.items()}
    MMSSLProcessor.from_settings(settings).save_pretrained(folder)
    return folder


def written(value: Any) -> Any:
    """A raw sample as JSON; an image as its array."""
    if isinstance(value, dict):
        return {key: written(each) for key, each in value.items()}
    if isinstance(value, str | int | float | bool | None):
        return value
    array = np.asarray(value)
    return {"array": {"data": array.tolist(), "dtype": str(array.dtype)}}


def read(value: Any) -> Any:
    if isinstance(value, dict) and value.keys() == {"array"}:
        return np.asarray(value["array"]["data"], value["array"]["dtype"])
    return {key: read(each) for key, each in value.items()} if isinstance(value, dict) else value


def raw_samples(name: str) -> list[Any]:
    return [written(raw) for raw in find(name).example(3, 0)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model of each modality, and beside it `NAME-flat`, the same with code of its own."""
    place = tmp_path_factory.mktemp("models")
    for name in installed():
        export_remote_code(saved(small_model(name), place / name), place / f"{name}-flat")
    return place


@pytest.fixture(scope="module")
def alone(folders: Path) -> dict[str, torch.Tensor]:
    """What one interpreter that cannot see mmssl makes of raw samples of all modalities."""
    given = {name: (str(folders / f"{name}-flat"), find(name).keyword, raw_samples(name)) for name in installed()}
    (folders / "raws.json").write_text(json.dumps(given))
    script, out = folders / "alone.py", folders / "out.safetensors"
    script.write_text(ALONE)
    command = [sys.executable, "-I", str(script), str(fresh.__file__), str(folders / "raws.json"), str(out)]
    environment = os.environ | {"HF_MODULES_CACHE": str(folders / "modules")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folders)
    assert done.returncode == 0, done.stderr
    return load_file(out)


@pytest.mark.parametrize("name", installed())
def test_raw_samples_give_the_same_without_mmssl(name: str, folders: Path, alone: dict[str, torch.Tensor]) -> None:
    processor, model = MMSSLProcessor.from_pretrained(folders / name), load_model(folders / name).eval()
    with torch.no_grad():
        inputs = processor(**{find(name).keyword: [read(sample) for sample in raw_samples(name)]})
        own = model(**inputs)
    for key, value in inputs.items():
        assert torch.equal(alone[f"{name}/input/{key}"], value), key
    torch.testing.assert_close(alone[f"{name}/last_hidden_state"], own.last_hidden_state, rtol=0, atol=1e-6)
    torch.testing.assert_close(alone[f"{name}/pooler_output"], own.pooler_output, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", installed())
def test_the_folder_is_flat_and_needs_little(name: str) -> None:
    code = code_of(small_model(name).config)
    assert all(re.fullmatch(r"\w+\.py", file) for file in code)
    for file, text in code.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.level:
                assert node.level == 1 and f"{node.module}.py" in code, f"{file}: from .{node.module}"
            outside = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            outside += [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert not {each.partition(".")[0] for each in outside} & {
                *("mmssl", "mmssl_modalities", "jaxtyping", "pydantic", "matplotlib", "sklearn", "datasets", "accelerate")
            }, f"{file}: {outside}"
    others = {f"mmssl_modalities_{other}.py" for other in installed() if other != name}
    assert not others & set(code), "the code of other modalities"


def test_several_modalities_heads_and_labels(tmp_path: Path) -> None:
    one, other = (small_model(name).config.modalities for name in installed()[:2])
    torch.manual_seed(0)
    base = small_model(installed()[0])
    model = MMSSLModel(base.config.derive(modalities=one | other, pooling="attention", num_register_tokens=2, mlp="swiglu")).eval()
    model.label(LabelHead(kind="ordinal", size=3, modality=installed()[0]), ["low", "middle", "high"])
    export_remote_code(saved(model, tmp_path / "model"), tmp_path / "flat")
    config = json.loads((tmp_path / "flat" / "config.json").read_text())
    assert config["auto_map"]["AutoModelForImageClassification"] == "modeling_mmssl_tasks.MMSSLForClassification"
    inputs = {name: inputs_of(name) for name in installed()[:2]}
    assert check_reload(tmp_path / "flat", inputs, outputs_of(model, inputs), "alone") <= 1e-6


def test_with_mmssl_its_own_classes_win(tmp_path: Path) -> None:
    name = installed()[0]
    export_remote_code(saved(small_model(name), tmp_path / "model"), tmp_path / "flat")
    for options in ({}, {"trust_remote_code": True}):
        assert type(AutoModel.from_pretrained(tmp_path / "flat", **options)) is MMSSLModel


def test_export_by_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = saved(small_model(installed()[0]), tmp_path / "run" / "model")
    cli.main(["export", str(folder.parent), "--remote-code", str(tmp_path / "flat")])
    assert "loads with trust_remote_code=True, without mmssl" in capsys.readouterr().out
    assert (tmp_path / "flat" / "modeling_mmssl.py").is_file()
    with pytest.raises(SystemExit, match="flat exists already; give another folder"):
        cli.main(["export", str(folder), "--remote-code", str(tmp_path / "flat")])


def test_flat_keeps_what_is_needed_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "acme_flat"
    package.mkdir()
    (package / "__init__.py").write_text('"""A package."""\nfrom acme_flat.a import one as uno\n')
    (package / "a.py").write_text(
        '"""Ones."""\nimport os\nimport json as j\nfrom acme_flat.b import TWO, unused\nfrom typing import Annotated\n'
        "LIMIT: int = 3\nprint('never run')\n"
        "def one(x: Annotated[int, 'a'], *y: str) -> dict:\n    z: int = LIMIT\n    from acme_flat.b import late\n"
        "    return j.loads(TWO) + [x, z, late()]\n"
        "def other():\n    return os.sep\n"
    )
    (package / "b.py").write_text("TWO = '[2]'\ndef late():\n    return HELP\nHELP = 9\ndef unused():\n    return 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    flat = Flat({"acme_flat"}, {}, WithoutTraining(), {"acme_flat": "whole"})
    flat.add("acme_flat", "uno")
    files = flat.files("# made\n")
    assert files == {
        "whole.py": '# made\n\n"""A package."""\nfrom .acme_flat_a import one as uno\n',
        "acme_flat_a.py": '# made\n\n"""Ones."""\nimport json as j\nfrom .acme_flat_b import TWO\nLIMIT = 3\n\n'
        "def one(x, *y):\n    z = LIMIT\n    from .acme_flat_b import late\n    return j.loads(TWO) + [x, z, late()]\n",
        "acme_flat_b.py": "# made\n\nTWO = '[2]'\n\ndef late():\n    return HELP\nHELP = 9\n",
    }
    with pytest.raises(LookupError, match="has no 'three' to make flat"):
        flat.add("acme_flat.b", "three")


PIPES = """
import json, runpy, sys
import numpy as np
sys.meta_path.insert(0, runpy.run_path(sys.argv[1])["NoMmssl"]())
from PIL import Image
from transformers import AutoModelForImageClassification, AutoProcessor, pipeline

for name, (task, folder) in json.loads(sys.argv[2]).items():
    served = pipeline(task, model=folder, trust_remote_code=True, top_k=None)
    given = {"image": Image.new("RGB", (40, 30), (200, 10, 10)), "audio": np.linspace(-1, 1, 8000), "text": "a b c"}[name]
    print(json.dumps({name: {each["label"]: each["score"] for each in served([given])[0]}}))
_, folder = json.loads(sys.argv[2])["image"]
for kind in (AutoModelForImageClassification, AutoProcessor):  # saved again, as a Trainer does
    kind.from_pretrained(folder, trust_remote_code=True).save_pretrained("again")
    kind.from_pretrained("again", trust_remote_code=True)
wrong = sorted(name for name in sys.modules if name.split(".")[0].startswith("mmssl"))
assert not wrong, wrong
"""
SERVED = {"image": "image-classification", "audio": "audio-classification", "text": "text-classification"}


def test_pipelines_without_mmssl(tmp_path: Path) -> None:
    """The line that pages of the Hub show, `pipeline(task, model=REPO, trust_remote_code=True)`, with each kind of processor."""
    given, wanted = {}, {}
    raws: dict[str, Any] = {"image": Image.new("RGB", (40, 30), (200, 10, 10)), "audio": np.linspace(-1, 1, 8000), "text": "a b c"}
    for name, task in SERVED.items():
        model = small_model(name)
        model.label(LabelHead(kind="classification", size=2, modality=name), ["low", "high"])
        export_remote_code(saved(model, tmp_path / name), tmp_path / f"{name}-flat")
        given[name] = (task, str(tmp_path / f"{name}-flat"))
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # an array of sound without a rate
            inputs = MMSSLProcessor.from_pretrained(tmp_path / name)(**{find(name).keyword: [raws[name]]})
            shares = load_predictor(tmp_path / name).eval()(**inputs).logits.softmax(1)[0]
        wanted[name] = dict(zip(("low", "high"), shares.tolist(), strict=True))
    (tmp_path / "pipes.py").write_text(PIPES)
    command = [sys.executable, "-I", str(tmp_path / "pipes.py"), str(fresh.__file__), json.dumps(given)]
    environment = os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = {name: shares for line in done.stdout.splitlines() if line.startswith("{") for name, shares in json.loads(line).items()}
    assert found.keys() == wanted.keys()
    for name, shares in wanted.items():
        assert found[name] == pytest.approx(shares, abs=1e-5), name


def test_with_mmssl_pipelines_ask_for_no_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small_model("image")
    model.label(LabelHead(kind="classification", size=2), ["low", "high"])
    export_remote_code(saved(model, tmp_path / "image"), tmp_path / "flat")
    monkeypatch.setattr("builtins.input", lambda *given: pytest.fail("asked whether code may run"))
    served = pipeline("image-classification", model=str(tmp_path / "flat"))
    assert type(served.model) is MMSSLForClassification and type(served.image_processor).__module__ == "mmssl.model.auto"
    assert len(served(Image.new("RGB", (40, 30)))) == 2
