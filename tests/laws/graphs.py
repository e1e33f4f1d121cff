"""A process of its own, without the checks of types that tests run under and that no graph can hold: run by test_graphs.py.

    python graphs.py FOLDER NAME ...

Of each modality it writes FOLDER/NAME/model and FOLDER/NAME/onnx, and prints a line of JSON: the largest differences.
"""

import json
import sys
from pathlib import Path

import onnxruntime as ort
import torch
from torch import Tensor
from torch.export import Dim
from torch.export import export as to_graph

from mmssl.modality import Inputs, find
from mmssl.processor import MMSSLProcessor
from mmssl.publish import export_onnx
from mmssl.publish.graph import Graph, made_up
from mmssl.testing import small_model
from mmssl.testing.small import small_processor


def batch(name: str, *which: int) -> Inputs:
    """Examples of a modality, padded to the largest of them."""
    processor, raws = small_processor(name), find(name).example(6, 0)
    return processor.sized(processor.batch([raws[number] for number in which]))


def apart(a: Tensor, b: Tensor) -> float:
    assert a.shape == b.shape, f"{list(a.shape)} and {list(b.shape)}"
    return (a - b).abs().max().item()


def compiled(name: str) -> float:
    """torch.compile in one graph, on padded samples."""
    model, inputs = small_model(name), batch(name, 0, 1, 2)
    whole = torch.compile(model, fullgraph=True, backend="eager")
    return apart(whole(**inputs).pooler_output, model(**inputs).pooler_output)


def programmed(name: str) -> float:
    """torch.export with a dynamic batch, on other batches and sizes."""
    graph = Graph(small_model(name), name)
    inputs, axes = made_up(graph, 3, 4), graph.model.adapter(name).axes
    sizes = {key: {0: Dim("batch"), **dict.fromkeys(axes.get(key, {}), Dim.AUTO)} for key in inputs}
    program = to_graph(graph, (), inputs, dynamic_shapes={"inputs": sizes}).module()
    others = [made_up(graph, count, size) for count, size in ((1, 2), (5, 6))]
    return max(apart(program(**other)[1], graph(**other)[1]) for other in others)


def in_onnxruntime(name: str, place: Path) -> float:
    """`export_onnx`, on what the processor makes of examples: alone, several with padding, and others."""
    model = small_model(name)
    model.save_pretrained(place / "model")
    MMSSLProcessor({name: small_processor(name)}).save_pretrained(place / "model")
    export_onnx(place / "model", place / "onnx")
    session, largest = ort.InferenceSession(place / "onnx" / "model.onnx"), 0.0
    for which in ((0,), (1, 2, 3, 4), (3, 0)):
        inputs = batch(name, *which)
        found = session.run(["pooler_output"], {each.name: inputs[each.name].numpy() for each in session.get_inputs()})[0]
        largest = max(largest, apart(torch.from_numpy(found), model(**inputs).pooler_output))
    return largest


if __name__ == "__main__":
    folder, *names = sys.argv[1:]
    with torch.no_grad():
        for name in names:
            done = {"compile": compiled(name), "export": programmed(name), "onnx": in_onnxruntime(name, Path(folder) / name)}
            print(json.dumps({"modality": name} | done), flush=True)
