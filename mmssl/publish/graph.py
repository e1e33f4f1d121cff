"""A model as one graph of ONNX, for any batch and any size of sample: `mmssl export MODEL FOLDER --onnx`."""

import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from mmssl import files
from mmssl.modality import Axis, Inputs
from mmssl.model import MMSSLModel, load_model
from mmssl.model.auto import write_auto_files
from mmssl.model.loading import model_of
from mmssl.processor import MMSSLProcessor
from mmssl.publish.place import Exported, differing, new_place

GRAPH, ABOUT = "model.onnx", "onnx.json"
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TRACED = (3, 4)
"""Samples, and units of the largest, of the inputs by which the graph is made."""
CHECKED = ((1, 2), (5, 7), (2, 1))
"""The same of inputs on which onnxruntime must give what the model gives."""
LARGEST = 1_900_000_000
"""Bytes of weights that one file of ONNX can hold, with some room; above they lie in a second file."""


class Graph(nn.Module):
    """A model of one modality with outputs in a fixed order: `names`, in which there are those of its heads."""

    def __init__(self, model: MMSSLModel, modality: str) -> None:
        super().__init__()
        self.model, self.modality = model, modality
        self.projects = modality in (model.config.projections or {})
        self.labels = model.config.label_head is not None and model.label_head.modality in (None, modality)
        self.names = ["last_hidden_state", "pooler_output", *["embeds"] * self.projects, *["logits"] * self.labels]

    def forward(self, **inputs: Tensor) -> tuple[Tensor, ...]:
        tokens = self.model.encode(self.modality, inputs)
        pooled = self.model.pool(tokens)
        found = [tokens.values, pooled]
        if self.projects:
            found.append(nn.functional.normalize(self.model.projected(self.modality, pooled), dim=-1))
        if self.labels and self.model.label_head.dense:
            found.append(self.model.told(self.modality, self.model.dense(self.modality, tokens, inputs), inputs))
        elif self.labels:
            found.append(self.model.label_head.logits(self.model.predicted(pooled)))
        return tuple(found)

    def valid(self, inputs: Inputs) -> Bool[Tensor, "b n"]:
        """Which encoded tokens are real."""
        there = self.model.embed(self.modality, inputs).valid_or_ones()
        return nn.functional.pad(there, (self.model.encoder.num_prefix, 0), value=True)


def export_onnx(model: str | Path, folder: str | Path, modality: str | None = None) -> Exported:
    """Write a saved model as `model.onnx` to a new folder, with the files of its processor, and `onnx.json`: what it takes.

    model: folder of a model or of a run, or Hub id. modality: which one, of a model of several. Inputs have the names that
    `MMSSLProcessor` gives them; `last_hidden_state`, `pooler_output`, and of models with such heads `embeds` and `logits` come out,
    as the model gives them: of places `[b, k, h, w]` of pictures, `[b, n, k]` of texts, series and sounds.
    Batch and sizes are free, `onnx.json` says which. Before the folder gets its name, onnxruntime runs the graph on batches of
    other sizes, with padding: RuntimeError where an output differs by more than `TOLERANCE`, or where there is no graph.
    """
    for package in PACKAGES:
        try:
            import_module(package)
        except ModuleNotFoundError:
            raise ModuleNotFoundError(
                f"a file of ONNX needs the package {package}: pip install 'mmssl[onnx]'", name=package
            ) from None
    source = model_of(model)
    loaded = load_model(source).eval().float()
    name = modality_of(loaded, modality)
    if loaded.forecasts:
        raise ValueError(
            f"{model} forecasts series, and a graph of ONNX is made of encoders and of heads for labels alone: export it with "
            "--remote-code, which needs transformers and no mmssl"
        )
    processor = MMSSLProcessor.from_settings({name: loaded.config.modalities[name]["processor"]})
    with new_place(folder) as new:
        graph = Graph(loaded, name)
        program = traced(graph)
        heavy = sum(parameter.nbytes for parameter in loaded.parameters()) > LARGEST
        program.save(str(new / GRAPH), external_data=heavy)
        largest = checked(graph, new / GRAPH)
        processor.save_pretrained(new)
        write_auto_files(new, processor)
        files.write_json(new / ABOUT, about(graph, program, largest))
    return Exported(Path(folder), f"onnxruntime runs {GRAPH}, and {ABOUT} says what it takes", largest)


def modality_of(model: MMSSLModel, wanted: str | None) -> str:
    """The modality that is exported. ValueError: there is no such one, or several."""
    known = list(model.config.modalities)
    if wanted is None and len(known) > 1:
        raise ValueError(f"the model has the modalities {', '.join(known)}, and a graph has one: name it with --modality")
    if wanted is not None and wanted not in known:
        raise ValueError(f"the model has no modality {wanted!r}; it has {', '.join(known)}")
    return wanted or known[0]


def axes_of(graph: Graph, inputs: Inputs) -> dict[str, dict[int, Axis]]:
    """The free axes of each input, by number."""
    adapter = graph.model.adapter(graph.modality)
    return {name: {0: Axis("batch"), **adapter.axes.get(name, {})} for name in inputs}


def made_up(graph: Graph, count: int, size: int) -> Inputs:
    """Inputs of `count` samples of up to `size` units, or as many as the model takes."""
    adapter = graph.model.adapter(graph.modality)
    limits = [axis.longest for axes in adapter.axes.values() for axis in axes.values() if axis.longest is not None]
    with torch.random.fork_rng([]):
        torch.manual_seed(count)
        return adapter.made_up(count, min([size, *limits]))


@torch.no_grad()
def traced(graph: Graph) -> Any:
    """The graph as a program of ONNX. RuntimeError for a model that cannot be one."""
    inputs = made_up(graph, *TRACED)
    axes = {name: {number: axis.name for number, axis in found.items()} for name, found in axes_of(graph, inputs).items()}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.onnx.export(
                graph, (), kwargs=inputs, dynamic_shapes={"inputs": axes}, output_names=graph.names, dynamo=True, verbose=False
            )
    except torch.onnx.errors.OnnxExporterError as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        raise RuntimeError(
            f"this model of {graph.modality} cannot become a graph of ONNX: {type(cause).__name__}: {cause}"
        ) from error


@torch.no_grad()
def checked(graph: Graph, file: Path) -> float:
    """The largest difference between onnxruntime's outputs and the model's. RuntimeError if it is more than rounding."""
    import onnxruntime as ort  # of the extra onnx

    options = ort.SessionOptions()
    options.log_severity_level = 3
    session, largest = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"]), 0.0
    for count, size in CHECKED:
        inputs = made_up(graph, count, size)
        sizes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in inputs.items())
        try:
            found = session.run(graph.names, {each.name: inputs[each.name].numpy() for each in session.get_inputs()})
        except Exception as error:  # onnxruntime's own errors have no common class
            raise RuntimeError(f"nothing was exported: onnxruntime does not take {sizes}: {error}") from error
        valid = graph.valid(inputs)
        for name, value, wanted in zip(graph.names, map(torch.from_numpy, found), graph(**inputs), strict=True):
            if name == "last_hidden_state":  # a graph leaves padding behind the longest sample in its place
                value, wanted = value[:, : wanted.shape[1]][valid], wanted[valid]
            largest = max(largest, differing(f"{name} of {sizes}", value, wanted, "in onnxruntime"))
    return largest


def about(graph: Graph, program: Any, largest: float) -> dict[str, Any]:
    """What a user of the graph should know."""
    inputs = made_up(graph, *TRACED)
    axes = axes_of(graph, inputs)
    config = graph.model.config

    def sizes(name: str, tensor: Tensor) -> list[int | str]:
        free = axes[name]
        return [free[number].name if number in free else size for number, size in enumerate(tensor.shape)]

    free = {axis.name: axis for found in axes.values() for axis in found.values()}
    used = {each.name for each in program.model.graph.inputs}
    return {
        "modality": graph.modality,
        "inputs": {
            name: {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": sizes(name, tensor)}
            for name, tensor in inputs.items()
            if name in used
        },
        "axes": {name: {"multiple_of": axis.unit, "at_most": axis.longest} for name, axis in free.items()},
        "outputs": graph.names,
        "labels": {str(number): label for number, label in config.id2label.items()} if graph.labels else None,
        "opset": program.model.opset_imports[""],
        "largest_difference": largest,
    }
