"""Laws of graphs: what torch.compile, torch.export and ONNX make of a model is the model, for any batch and any size of sample."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnxruntime as ort
import pytest
from filelock import FileLock

from mmssl.modality import find
from mmssl.plugins import installed
from mmssl.processor import MMSSLProcessor


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Of each modality the largest differences, and the folder of its graph; by a process without checks of types.

    One for all workers of pytest: it takes most of a minute.
    """
    own = tmp_path_factory.getbasetemp()
    place = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "graphs"
    place.mkdir(exist_ok=True)
    told = place / "told.jsonl"
    with FileLock(place / "lock"):
        if not told.exists():
            command = [sys.executable, str(Path(__file__).with_name("graphs.py")), str(place), *installed()]
            done = subprocess.run(command, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr[-3000:]
            told.write_text(done.stdout, encoding="utf-8")
    lines = [json.loads(line) for line in told.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
    return {line["modality"]: line | {"folder": place / line["modality"]} for line in lines}


@pytest.mark.parametrize("how", ["compile", "export", "onnx"])
@pytest.mark.parametrize("name", installed())
def test_a_graph_gives_what_the_model_gives(name: str, how: str, made: dict[str, Any]) -> None:
    assert made[name][how] <= 1e-4


@pytest.mark.parametrize("name", installed())
def test_the_folder_says_what_the_graph_takes(name: str, made: dict[str, Any]) -> None:
    folder = made[name]["folder"] / "onnx"
    about = json.loads((folder / "onnx.json").read_text())
    session = ort.InferenceSession(folder / "model.onnx")
    assert about["modality"] == name
    assert about["outputs"] == [each.name for each in session.get_outputs()] == ["last_hidden_state", "pooler_output"]
    known = {each.name: each.shape for each in session.get_inputs()}
    assert known.keys() == about["inputs"].keys()
    for key, shape in known.items():
        told = about["inputs"][key]["shape"]
        assert told[0] == "batch" and len(told) == len(shape)
        assert [each for each in told if isinstance(each, int)] == [each for each in shape if isinstance(each, int)]
    processor = MMSSLProcessor.from_pretrained(folder)
    assert known.keys() <= processor(**{find(name).keyword: find(name).example(3, 0)}, windows=False).keys()
