"""Heads of places as graphs of ONNX: what onnxruntime gives is what the model gives, for any batch and any size of sample."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mmssl.plugins import installed
from mmssl.testing import small_model

SCRIPT = """
import json, sys
import numpy as np, onnxruntime as ort, torch
from pathlib import Path
from mmssl.modality import find
from mmssl.model import LabelHead, faced
from mmssl.model.model import labels_of_places
from mmssl.processor import MMSSLProcessor
from mmssl.publish import export_onnx
from mmssl.testing import small_model
from mmssl.testing.small import small_processor

torch.manual_seed(0)
for name in sys.argv[2:]:
    place = Path(sys.argv[1]) / name
    model, processor, raws = small_model(name), small_processor(name), find(name).example(6, 0)
    dense = labels_of_places(model.adapter(name), name)
    detail = 1 if dense.shape == "sequence" else 2
    model.label(LabelHead(kind="dense", size=3, modality=name, places=dense.shape, detail=None if detail == 1 else detail), "abc")
    model = faced(model).eval()
    model.save_pretrained(place / "model")
    MMSSLProcessor({name: processor}).save_pretrained(place / "model")
    done = export_onnx(place / "model", place / "onnx")
    session, found = ort.InferenceSession(place / "onnx" / "model.onnx"), []
    for which in ((0,), (1, 2, 3, 4), (5, 3)):
        inputs = processor.sized(processor.batch([raws[number] for number in which]))
        (logits,) = session.run(["logits"], {each.name: inputs[each.name].numpy() for each in session.get_inputs()})
        with torch.no_grad():
            wanted = model(**inputs).logits.numpy()
        assert logits.shape == wanted.shape, (logits.shape, wanted.shape)
        found.append([float(np.abs(logits - wanted).max()), list(logits.shape), float(np.ptp(wanted))])
    print(json.dumps({"name": name, "found": found, "face": type(model).__name__}), flush=True)
"""


@pytest.mark.parametrize("name", [name for name in installed() if small_model(name).adapter(name).dense is not None])
def test_graphs_label_places(name: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT, str(tmp_path), name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    (line,) = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert line["face"].startswith("MMSSLFor")
    assert len({tuple(shape) for _, shape, _ in line["found"]}) > 1, "sizes and batches differ"
    for apart, shape, spread in line["found"]:
        assert apart < 1e-4 and spread > 0.01, shape
    about = json.loads((tmp_path / name / "onnx" / "onnx.json").read_text())
    assert about["outputs"] == ["last_hidden_state", "pooler_output", "logits"]
    assert about["labels"] == {"0": "a", "1": "b", "2": "c"}
