"""What the report shows of samples: what the network saw of them, and which of them the trained model finds alike."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import normalize

from mmssl.data import Batch, Labels, Source, Stream, batches, cut
from mmssl.data.loader import holdings
from mmssl.data.source import OnError
from mmssl.evaluation import Evaluator, ForecastEvaluator
from mmssl.evaluation.features import evaluating, merge_pieces
from mmssl.modality import Inputs, Modality, Processor, find
from mmssl.model import MMSSLModel
from mmssl.objectives import Objective
from mmssl.objectives.views import numbered
from mmssl.processor import MMSSLProcessor
from mmssl.report import forecast_figure
from mmssl.training.build import modalities_of

PICTURED = 8
"""Samples in an objective's pictures."""
SAMPLES = 4
"""Samples whose views, or neighbours, are shown."""
VIEWS = 8
"""Views of a sample that are shown."""
NEAREST = 5
GALLERY = 500
"""Samples among which neighbours are looked for, evenly spaced."""
AT_ONCE = 64

Draw = Callable[[Axes], None]


@dataclass(frozen=True)
class Samples:
    """What a run reads of one source. labels: those that its objective learns, if it does."""

    stream: Stream
    processor: MMSSLProcessor
    labels: Labels | None
    on_error: OnError


def pictures_of(
    samples: Samples, objective: Objective | None, model: MMSSLModel, evaluators: Sequence[Evaluator | ForecastEvaluator]
) -> Iterator[tuple[str, Any]]:
    """Pictures by title: views and the objective's own (without the objective: none of them), then neighbours.

    Neighbours are looked for among labelled samples where one of `evaluators` reads the modality, else among those of the source.
    """
    processor, labels, on_error = samples.processor, samples.labels, samples.on_error
    modalities = modalities_of(samples.stream, processor)
    if objective is not None:
        first = next(batches(samples.stream.source, modalities, PICTURED, labels=labels, on_error=on_error))
        first = first.to(objective.model.device)
        yield from seen_views(objective, first, processor.processors).items()
        yield from objective.pictures(first, processor.processors).items()
    for each in evaluators:
        if isinstance(each, ForecastEvaluator):
            yield "forecasts of held-out windows", forecast_figure(each.examples())
    for name in modalities:
        scored = next((each.sources for each in evaluators if each.modality == name), None)
        source, known = (samples.stream.source, labels) if scored is None else (scored.train, scored.train_labels)
        yield from neighbours(model, Gallery.of(source, name, processor, on_error, known)).items()


def seen_views(objective: Objective, batch: Batch, processors: Mapping[str, Processor]) -> dict[str, Figure]:
    """The views of the first samples of a batch beside the samples as they are stored; of each modality that makes any."""
    found, encodings = dict[str, Figure](), objective.encodings(batch)
    for name, stored in batch.inputs.items():
        views = numbered(name, encodings.views[name])[:VIEWS]
        made = {f"{view.kind} {view.number}": encodings.inputs(view) for view in views}
        draw = find(name).draw
        if draw is None or all(same(stored, inputs) for inputs in made.values()):
            continue
        columns = {"stored": stored, **made}
        rows = range(min(SAMPLES, len(batch.held(name))))
        cells = [
            [("" if row else title, placed(draw, inputs, row, processors[name])) for title, inputs in columns.items()]
            for row in rows
        ]
        found[f"{name}: what the network saw"] = grid(cells)
    return found


def same(a: Inputs, b: Inputs) -> bool:
    """Whether a view is its sample."""
    return a.keys() == b.keys() and all(x.shape == b[key].shape and torch.equal(x, b[key]) for key, x in a.items())


def placed(draw: Callable[[Any, Inputs, int, Any], None], inputs: Inputs, row: int, processor: Processor) -> Draw:
    """A sample that only wants a place."""
    return lambda axes: draw(axes, inputs, row, processor)


def grid(cells: list[list[tuple[str, Draw]]]) -> Figure:
    """Samples in rows, each with its title."""
    figure = Figure(figsize=(1.5 * len(cells[0]), 1.6 * len(cells)), layout="constrained")
    all_axes = figure.subplots(len(cells), len(cells[0]), squeeze=False)
    for axes, (title, draw) in zip(all_axes.flat, chain.from_iterable(cells), strict=True):
        draw(axes)
        axes.set_title(title, fontsize="x-small", parse_math=False)
    return figure


@dataclass(frozen=True)
class Gallery:
    """Samples of one modality among which neighbours are looked for. labels: of each row; None: there are none."""

    source: Source
    labels: Labels | None
    modality: Modality
    processor: Processor
    on_error: OnError

    @classmethod
    def of(cls, source: Source, name: str, processor: MMSSLProcessor, on_error: OnError, like: Labels | None = None) -> "Gallery":
        """Some samples of a source, evenly spaced, without rows that lack the modality; `like`: what its labels mean."""
        some, modality, own = source.evenly(GALLERY), find(name), processor.processors[name]
        held = [row for row, found in enumerate(holdings(some, {name: (modality, own)})) if found]
        if held:
            some = some.select(np.array([some.row_number(row) for row in held]))
        return cls(some, some.labels(like=like), modality, own, on_error)

    def read(self, source: Source, size: int) -> Iterator[Batch]:
        """Batches of the modality."""
        modalities = {self.modality.name: (self.modality, self.processor)}
        return batches(cut(source, modalities), modalities, size, on_error=self.on_error)

    def called(self, row: int) -> str:
        """The label of a row in words."""
        if self.labels is None:
            return ""
        value = self.labels.values[row]
        if self.labels.kind == "multi_label":
            return ", ".join(name for name, has in zip(self.labels.names, value, strict=True) if has)[:16]
        return self.labels.names[value][:16] if self.labels.names else ", ".join(f"{each:.3g}" for each in np.ravel(value)[:3])[:16]


@torch.no_grad()
def vectors(model: MMSSLModel, gallery: Gallery) -> tuple[Float[Tensor, "n d"], Int[Tensor, " n"]]:
    """Pooled outputs of the samples that can be read, of length 1, on the CPU, and their rows."""
    name, values, rows = gallery.modality.name, [], []
    source = cut(gallery.source, {name: (gallery.modality, gallery.processor)})
    with evaluating(model):
        for batch in gallery.read(source, AT_ONCE):
            if len(batch):
                pooled = model.pool(model.encode(name, batch.to(model.device).inputs[name])).float().cpu()
                found, merged = merge_pieces(pooled, batch, source)
                values.append(normalize(found, dim=-1))
                rows.append(merged.ids)
    return torch.cat(values), torch.cat(rows)


def neighbours(model: MMSSLModel, gallery: Gallery) -> dict[str, Figure]:
    """A few samples, and those that the model finds most alike by the cosine of their pooled outputs; none where all are few."""
    draw, name = gallery.modality.draw, gallery.modality.name
    if draw is None or gallery.source.num_rows <= NEAREST:
        return {}
    values, rows = vectors(model, gallery)
    if len(rows) <= NEAREST:
        return {}
    queries = torch.linspace(0, len(rows) - 1, min(SAMPLES, len(rows))).long()
    cosines = values[queries] @ values.T
    cosines[torch.arange(len(queries)), queries] = 2.0  # the query itself comes first
    best = cosines.topk(NEAREST + 1)
    cells = list[list[tuple[str, Draw]]]()
    for places, near in zip(best.indices, best.values, strict=True):
        shown = rows[places].tolist()
        drawn = [next(gallery.read(gallery.source.select(np.array([gallery.source.row_number(row)])), 1)) for row in shown]
        said = ["sample", *(f"{value:.2f}" for value in near[1:].tolist())]
        titles = [f"{word} {gallery.called(row)}".rstrip() for word, row in zip(said, shown, strict=True)]
        draws = [placed(draw, batch.inputs[name], 0, gallery.processor) for batch in drawn]
        cells.append(list(zip(titles, draws, strict=True)))
    return {f"{name}: nearest neighbours, by cosine": grid(cells)}
