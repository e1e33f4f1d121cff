"""What the report shows of samples: what the network saw of them, and which of them the trained model finds alike."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from mmssl.data import Batch, Labels, Stream, batches
from mmssl.data.source import OnError
from mmssl.evaluation import DenseEvaluator, Evaluator, ForecastEvaluator
from mmssl.evaluation.judged import class_names
from mmssl.modality import Inputs, Processor, find
from mmssl.model import MMSSLModel
from mmssl.objectives import Objective
from mmssl.objectives.views import numbered
from mmssl.processor import MMSSLProcessor
from mmssl.report import forecast_figure, places_figure, tagged
from mmssl.training.build import modalities_of
from mmssl.training.gallery import SAMPLES, Gallery, alike, grid, placed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURED = 8
"""Samples in an objective's pictures."""
VIEWS = 8
"""Views of a sample that are shown."""


@dataclass(frozen=True)
class Samples:
    """What a run reads of one source. labels: those that its objective learns, if it does."""

    stream: Stream
    processor: MMSSLProcessor
    labels: Labels | None
    on_error: OnError


def pictures_of(
    samples: Samples,
    objective: Objective | None,
    model: MMSSLModel,
    evaluators: Sequence[Evaluator | ForecastEvaluator | DenseEvaluator],
) -> Iterator[tuple[str, Any]]:
    """Pictures by title: views and the objective's own (without the objective: none of them), then neighbours and a map.

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
        if isinstance(each, DenseEvaluator) and (shown := each.examples(model)):
            title, names = f"{each.modality}: labels of held-out samples, and what the model says", class_names(model)
            yield title, tagged(shown, names) if shown[0].words is not None else places_figure(shown, names)
    for name in modalities:
        scored = next((each.sources for each in evaluators if each.modality == name), None)
        source, known = (samples.stream.source, labels) if scored is None else (scored.train, scored.train_labels)
        yield from alike(model, Gallery.of(source, name, processor, on_error, known)).items()


def seen_views(objective: Objective, batch: Batch, processors: Mapping[str, Processor]) -> "dict[str, Figure]":
    """The views of the first samples of a batch beside the samples as they are stored; of each modality that makes any."""
    from matplotlib.figure import Figure  # only where something is drawn

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
