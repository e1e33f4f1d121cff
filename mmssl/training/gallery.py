"""Samples of a run as its trained model sees them: which are neighbours, and a map of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

from mmssl.data import Batch, Labels, Source, batches, cut
from mmssl.data.dense import DENSE
from mmssl.data.loader import holdings
from mmssl.data.source import OnError
from mmssl.evaluation.features import evaluating, merge_pieces
from mmssl.modality import Inputs, Modality, Processor, find
from mmssl.model import MMSSLModel
from mmssl.processor import MMSSLProcessor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SAMPLES = 4
"""Samples whose views, or neighbours, are shown."""
NEAREST = 5
GALLERY = 500
"""Samples among which neighbours are looked for, evenly spaced."""
FEWEST = 20
"""Samples of a map."""
COLOURS = 10
"""Classes of a map that have a colour of their own: the most frequent ones."""
AT_ONCE = 64

Draw = Callable[["Axes"], None]


def placed(draw: Callable[[Any, Inputs, int, Any], None], inputs: Inputs, row: int, processor: Processor) -> Draw:
    """A sample that only wants a place."""
    return lambda axes: draw(axes, inputs, row, processor)


def grid(cells: list[list[tuple[str, Draw]]]) -> "Figure":
    """Samples in rows, each with its title."""
    from matplotlib.figure import Figure  # only where something is drawn

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
        """Some samples of a source, evenly spaced, without rows that lack the modality, or a label where others have one.

        like: what its labels mean.
        """
        if len(rows := source.labelled()) < source.num_rows:
            source = source.select(rows)
        some, modality, own = source.evenly(GALLERY), find(name), processor.processors[name]
        held = [row for row, found in enumerate(holdings(some, {name: (modality, own)})) if found]
        if held:
            some = some.select(np.array([some.row_number(row) for row in held]))
        of_places = some.labels_places if like is None else like.kind == DENSE
        labels = None if of_places else some.labels(like=like)
        return cls(some, labels, modality, own, on_error)

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


def alike(model: MMSSLModel, gallery: Gallery) -> "dict[str, Figure]":
    """What the model finds alike among the samples: neighbours of a few, and a map of all; none where all are few."""
    if gallery.source.num_rows <= NEAREST:
        return {}
    values, rows = vectors(model, gallery)
    return neighbours(gallery, values, rows) | embedding_map(gallery, values, rows)


def neighbours(gallery: Gallery, values: Float[Tensor, "n d"], rows: Int[Tensor, " n"]) -> "dict[str, Figure]":
    """A few samples, and those that are most alike by the cosine of their pooled outputs, which have length 1."""
    draw, name = gallery.modality.draw, gallery.modality.name
    if draw is None or len(rows) <= NEAREST:
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


def embedding_map(gallery: Gallery, values: Float[Tensor, "n d"], rows: Int[Tensor, " n"]) -> "dict[str, Figure]":
    """The samples as dots beside those that are alike, coloured by label: t-SNE (van der Maaten and Hinton, JMLR 2008).

    Only who lies beside whom means something: distances between groups, and their sizes, do not.
    """
    from matplotlib.figure import Figure  # only where something is drawn

    if len(rows) < FEWEST:
        return {}
    from sklearn.manifold import TSNE  # takes a second to import
    from threadpoolctl import threadpool_limits

    fit = TSNE(perplexity=min(30.0, len(rows) / 4), init="pca", metric="cosine", max_iter=500, random_state=0)
    with threadpool_limits(1):  # its threads wait for one another: on a busy machine many are ten times slower than one
        placed = fit.fit_transform(values.numpy())
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    axes.set_xticks([])
    axes.set_yticks([])
    labels, x, y = gallery.labels, placed[:, 0], placed[:, 1]
    if labels is None or labels.values.ndim > 1:
        axes.scatter(x, y, s=10)
    elif labels.kind == "classification":
        classes = labels.values[rows.numpy()]
        common = np.argsort(-np.bincount(classes, minlength=len(labels.names)), kind="stable")[:COLOURS]
        for place, number in enumerate(sorted(common)):
            mine = classes == number
            if mine.any():
                axes.scatter(x[mine], y[mine], s=10, color=f"C{place}", label=labels.names[number][:24])
        if not (others := np.isin(classes, common)).all():
            axes.scatter(x[~others], y[~others], s=10, color="lightgrey", label="other classes", zorder=0)
        axes.legend(fontsize="x-small", loc="center left", bbox_to_anchor=(1.0, 0.5))
    else:
        dots = axes.scatter(x, y, s=10, c=labels.values[rows.numpy()])
        figure.colorbar(dots, label=labels.column or "label")
    return {f"{gallery.modality.name}: map of {len(rows):,} samples by their features (t-SNE)": figure}
