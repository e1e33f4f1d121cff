"""What the report shows of samples: views beside what is stored, nearest neighbours, and a map."""

import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from mmssl.data import Source
from mmssl.modality import find
from mmssl.objectives import Contrast, Masked, Setup
from mmssl.objectives.views import Views
from mmssl.plugins import installed
from mmssl.processor import MMSSLProcessor
from mmssl.testing import batch_of, small_model, small_processor
from mmssl.training.gallery import COLOURS, NEAREST, Gallery, alike, embedding_map, neighbours, vectors
from mmssl.training.pictures import seen_views


def titles(figures: dict[str, Figure]) -> list[str]:
    (figure,) = figures.values()
    return [axes.get_title() for axes in figure.axes]


@pytest.mark.parametrize("name", installed())
def test_views_stand_beside_their_samples(name: str) -> None:
    modality, processors = find(name), {name: small_processor(name)}
    views = {"global": Views(2, modality.augment(**modality.strong[0])), "local": Views(1, modality.augment(**modality.strong[-1]))}
    objective = Contrast(small_model(name), Setup(views={name: views})).eval()
    figures = seen_views(objective, batch_of(name), processors)
    if modality.draw is None:
        assert figures == {}
        return
    assert titles(figures) == ["stored", "global 0", "global 1", "local 2", *[""] * 12]
    next(iter(figures.values())).draw_without_rendering()


def test_the_stored_sample_and_the_view_are_what_is_drawn() -> None:
    processor, batch = small_processor("image"), batch_of("image")
    augment = find("image").augment(flip=1.0)
    (figure,) = seen_views(Masked(small_model("image"), Setup({"image": augment})), batch, {"image": processor}).values()
    stored, seen = (axes.images[0].get_array() for axes in figure.axes[:2])
    np.testing.assert_array_equal(seen, stored[:, ::-1])
    assert not np.array_equal(seen, stored)


def test_views_that_are_the_samples_are_not_shown() -> None:
    assert seen_views(Masked(small_model("image"), Setup()), batch_of("image"), {"image": small_processor("image")}) == {}


def gallery(count: int = 9, **columns: Any) -> Gallery:
    rows = [{"image": image, "kind": "ab"[i % 2]} for i, image in enumerate(find("image").example(count, 0))]
    source = Source.from_rows(rows, columns or None)
    return Gallery.of(source, "image", MMSSLProcessor({"image": small_processor("image")}), "raise")


def test_neighbours_are_the_most_similar_in_order() -> None:
    model, found = small_model("image"), gallery(label="kind")
    figures = alike(model, found)
    processor = small_processor("image")
    with torch.no_grad():
        inputs = [processor.collate([processor(raw)]) for raw in find("image").example(9, 0)]
        vectors = np.concatenate([model.pool(model.encode("image", each)).numpy() for each in inputs]).astype(np.float64)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = titles(figures)
    for number, query in enumerate((0, 2, 5, 8)):
        cosines = vectors @ vectors[query]
        cosines[query] = 2
        order = np.argsort(-cosines)[: NEAREST + 1]
        own = rows[number * (NEAREST + 1) : (number + 1) * (NEAREST + 1)]
        assert own[0] == f"sample {'ab'[query % 2]}"
        assert [float(re.split(" ", title)[0]) for title in own[1:]] == pytest.approx(cosines[order[1:]].tolist(), abs=0.006)
        assert [title.split(" ")[1] for title in own[1:]] == ["ab"[row % 2] for row in order[1:]]


def test_neighbours_without_labels_and_with_too_few_samples() -> None:
    model = small_model("image")
    assert titles(alike(model, gallery()))[0] == "sample"
    assert alike(model, gallery(NEAREST)) == {}
    hidden = gallery()
    assert alike(model, replace(hidden, modality=replace(hidden.modality, draw=None))) == {}


def test_rows_that_lack_the_modality_are_no_neighbours() -> None:
    rows = [{"text": "" if i % 2 else f"number {i}"} for i in range(14)]
    found = Gallery.of(Source.from_rows(rows), "text", MMSSLProcessor({"text": small_processor("text")}), "raise")
    assert len(titles(alike(small_model("text"), found))) == 4 * (NEAREST + 1)


def dots(figure: Figure) -> tuple[np.ndarray, list[str]]:
    """Where the dots of a map are, group by group, and the names of the groups."""
    axes = figure.axes[0]
    legend = axes.get_legend()
    return np.concatenate([np.asarray(each.get_offsets()) for each in axes.collections]), [
        text.get_text() for text in (legend.get_texts() if legend else [])
    ]


def mapped(columns: dict[str, Any], cells: list[Any], names: dict[str, Any] | None = None) -> Figure:
    """A map of samples that lie in two clouds, far apart; labels are the cells."""
    rows = [{"image": image, "kind": cell} for image, cell in zip(find("image").example(len(cells), 0), cells, strict=True)]
    source = Source.from_rows(rows, columns or None, **(names or {}))
    found = Gallery.of(source, "image", MMSSLProcessor({"image": small_processor("image")}), "raise")
    clouds = torch.eye(16)[torch.arange(len(cells)) % 2] + 0.05 * torch.randn(len(cells), 16, generator=torch.manual_seed(0))
    (figure,) = embedding_map(found, torch.nn.functional.normalize(clouds, dim=-1), torch.arange(len(cells))).values()
    figure.draw_without_rendering()
    return figure


def test_what_is_alike_lies_together_on_the_map() -> None:
    figure = mapped({"label": "kind"}, ["a", "b"] * 30)
    (left, right), (_, names) = [np.asarray(each.get_offsets()) for each in figure.axes[0].collections], dots(figure)
    assert names == ["a", "b"]
    assert len(left) == len(right) == 30
    apart = np.linalg.norm(left.mean(0) - right.mean(0))
    assert apart > 2 * max(left.std(0).max(), right.std(0).max())


def test_a_map_of_many_classes_names_the_frequent_ones() -> None:
    cells = ["rare"] + [f"class {i % (COLOURS)}" for i in range(60)]
    where, names = dots(mapped({"label": "kind"}, cells))
    assert names == [f"class {i}" for i in range(COLOURS)] + ["other classes"]
    assert len(where) == 61


def test_a_map_of_values_has_a_scale_and_one_without_labels_has_none() -> None:
    figure = mapped({"label": "kind"}, [i / 7 for i in range(40)])
    assert [axes.get_ylabel() for axes in figure.axes] == ["", "kind"]
    where, names = dots(mapped({}, ["a", "b"] * 20))
    assert (len(where), names) == (40, [])


def test_a_map_of_a_run_shows_the_samples_of_its_gallery() -> None:
    model, found = small_model("image"), gallery(30, label="kind")
    values, rows = vectors(model, found)
    assert list(alike(model, found)) == [*neighbours(found, values, rows), *embedding_map(found, values, rows)]
    assert list(alike(model, found))[-1] == "image: map of 30 samples by their features (t-SNE)"
