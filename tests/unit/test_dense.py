"""Labels of places: how they are read, how they move with views, what they lose, and how predictions of them are counted."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import f1_score, jaccard_score
from torch.testing import assert_close

from mmssl.data import Labels, Source
from mmssl.draws import Draws, keys
from mmssl.evaluation.dense import Counted, confusion
from mmssl.modality import IGNORED
from mmssl.model import MMSSLConfig, MMSSLModel
from mmssl.objectives.dense import balance, dense_head, dense_terms, named_classes
from mmssl.testing.small import SMALL
from mmssl_modalities.image import ImageAugment, ImageProcessor
from mmssl_modalities.image.dense import DensePatches
from mmssl_modalities.text import TextAugment, TextProcessor


def read(column: list[Any], **known: Any) -> Labels:
    return Labels.read(column, where="column tags", kind="dense", **known)


def test_maps_and_tags_are_read_from_whatever_holds_them(tmp_path: Path) -> None:
    numbers = np.array([[0, 2], [255, 1]], dtype=np.uint8)
    Image.fromarray(numbers).save(tmp_path / "map.png")
    palette = Image.fromarray(numbers, mode="P")
    palette.putpalette([value for value in range(256) for _ in range(3)])
    stored = io.BytesIO()
    palette.save(stored, "PNG")
    cells = [str(tmp_path / "map.png"), {"bytes": stored.getvalue(), "path": None}, numbers, numbers.tolist(), palette]
    labels = read(cells)
    assert labels.names == ["0", "1", "2"] and labels.values.tolist() == [[1, 1, 1]] * 5
    source = Source.from_rows([{"image": 0, "mask": cell} for cell in cells], {"label": "mask"})
    for found in source.dense_labels(range(5), labels.names):
        assert found.tolist() == [[0, 2], [IGNORED, 1]]
    tags = read([["b", "a"], ["a", "a", "a"]])
    assert tags.names == ["a", "b"] and tags.values.tolist() == [[1, 1], [3, 0]]
    named = read([[0, 1, -100], np.array([1, 1])], class_names=["O", "PER"])
    assert named.names == ["O", "PER"] and named.values.tolist() == [[1, 1], [0, 2]]
    assert source.natural_classes("mask") is None
    lacking = read([["b", None, "a"], ["", "a", "a"]])
    assert lacking.names == ["a", "b"] and lacking.values.tolist() == [[1, 1], [2, 0]]
    assert read([[1, None], [0, float("nan"), 0]]).values.tolist() == [[0, 1], [2, 0]]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([["a", "b"], None], "row 1 of column tags: the labels are missing"),
        ([["a", "a"]], "need at least two classes; there is a"),
        ([["a", "b"], [0, 1]], "must all be texts, or all class numbers"),
        ([[0, 1], [-7, 0]], "row 1 of column tags: class numbers are from 0 to 1 .*got -7"),
        ([[0.5, 1.0]], "whole numbers, or texts, one for each"),
        ([[[0, 1], [1]]], "rows of a label map must be equally long"),
        ([3], "a label map .* or a list of labels; got int"),
    ],
)
def test_what_is_no_label_of_places_is_told(column: list[Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read(column)


def test_classes_that_training_lacks_are_told() -> None:
    with pytest.raises(ValueError, match=r"row 0 of column tags: z is no class that is known; there are a, b"):
        read([["a", "z"]], like=read([["a", "b"]]))
    labels = read([[0, 1]])
    assert named_classes(labels, ["no", "yes", "more"]) == ["no", "yes", "more"]
    with pytest.raises(ValueError, match="give a name, each another one"):
        named_classes(labels, ["no", "no"])
    with pytest.raises(ValueError, match="have names already: a, b"):
        named_classes(read([["a", "b"]]), ["no", "yes"])
    assert_close(balance(read([[0, 0, 0, 1]]), 3), torch.tensor([4 / 3 / 2, 4 / 2, 2.0])[[0, 1, 2]], check_stride=False)


@pytest.mark.parametrize("keys_of", [{"flip": 0.5}, {"shift": 3}, {"flip": 0.5, "shift": 2}])
def test_labels_move_with_their_pixels(keys_of: dict[str, Any]) -> None:
    labels = torch.randint(0, 5, (6, 12, 8), generator=torch.Generator().manual_seed(0))
    sizes = torch.tensor([[12, 8], [8, 8], [12, 4], [4, 8], [8, 4], [12, 8]])
    inside = (torch.arange(12)[:, None] < sizes[:, 0, None, None]) & (torch.arange(8) < sizes[:, 1, None, None])
    pixels = (labels * inside)[:, None].float()
    given = {"pixel_values": pixels, "pixel_sizes": sizes, "pixel_labels": labels.masked_fill(~inside, IGNORED)}
    view = ImageAugment(**keys_of)(given, Draws(keys(0, 3, torch.arange(6))))
    moved, shown = view["pixel_labels"], view["pixel_values"][:, 0].long()
    assert not torch.equal(moved, given["pixel_labels"])
    assert torch.equal(moved >= 0, inside) and torch.equal(moved[inside], shown[inside])


def test_a_crop_takes_labels_from_where_it_takes_pixels() -> None:
    columns = torch.arange(32).expand(4, 32, 32)
    given = {"pixel_values": columns[:, None].float(), "pixel_labels": columns.clone()}
    view = ImageAugment(crop=(0.3, 0.6))(given, Draws(keys(0, 1, torch.arange(4))))
    assert (view["pixel_labels"] - view["pixel_values"][:, 0]).abs().max() <= 0.51


def test_views_of_texts_with_tags_are_refused() -> None:
    given = {"input_ids": torch.zeros(2, 3, dtype=torch.int64), "token_labels": torch.zeros(2, 3, dtype=torch.int64)}
    draws = Draws(keys(0, 1, torch.arange(2)))
    assert TextAugment()(given, draws)["token_labels"] is given["token_labels"]
    with pytest.raises(ValueError, match="words that have tags stay where they are"):
        TextAugment(shuffle=2)(given, draws)


def test_a_patch_has_the_label_of_most_of_its_pixels() -> None:
    labels = torch.tensor([[[1, 1, 0, -100], [0, 1, -100, -100], [-100, -100, 2, 0], [-100, -100, 2, 2]]])
    assert DensePatches(2).of_tokens({"pixel_labels": labels}).tolist() == [[1, 0, IGNORED, 2]]


def test_cells_of_a_patch_lie_where_they_belong() -> None:
    """The value of a cell says its row and column in the grid of all cells."""
    dense, p, detail = DensePatches(4), 4, 2
    rows, columns, classes = 2, 3, 2
    given = torch.zeros(1, rows * columns, detail * detail * classes)
    for token in range(rows * columns):
        for cell in range(detail * detail):
            down, right = token // columns * detail + cell // detail, token % columns * detail + cell % detail
            given[0, token, classes * cell] = 10 * down + right
    laid = dense.laid_out(given, {"pixel_values": torch.zeros(1, 3, rows * p, columns * p)}, detail)
    assert laid.shape == (1, classes, rows * detail, columns * detail)
    assert laid[0, 0].tolist() == [[10.0 * down + right for right in range(columns * detail)] for down in range(rows * detail)]


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_the_weighted_cross_entropy_of_labelled_pixels(weighted: bool) -> None:
    processor = ImageProcessor(multiple=4, channels=1, mean=0.0, std=1.0)
    modalities = {"image": {"processor": processor.settings(), "adapter": {"patch_size": 4}}}
    model = MMSSLModel(MMSSLConfig(modalities=modalities, **SMALL)).eval()
    random = np.random.default_rng(0)
    samples = [random.integers(0, 255, shape, dtype=np.uint8) for shape in ((8, 12), (12, 8))]
    maps = [random.integers(0, 3, each.shape) for each in samples]
    maps[0][2:5], maps[1][:, 3] = IGNORED, IGNORED
    inputs = processor.collate([processor.labelled(raw, label) for raw, label in zip(samples, maps, strict=True)])
    model.label(dense_head(read([[0, 1, 2]]), model, ["image"], 3, 2), ["a", "b", "c"])
    weights = torch.tensor([0.5, 1.0, 2.0]) if weighted else None
    encoded = model.encode("image", inputs)
    found = dense_terms(model, "image", inputs, encoded, weights, 0.0)
    assert model.heads is not None
    head: Any = model.heads["label"]
    (own,) = torch.autograd.grad(found.loss(), [head.bias])

    bias = head.bias.detach().double().requires_grad_()
    said = encoded.values[:, model.encoder.num_prefix :].detach().double() @ head.weight.detach().double().T + bias
    total, every = torch.zeros((), dtype=torch.float64), 0.0
    for number, label in enumerate(maps):
        height, width = label.shape
        grid = said[number].reshape(3, 3, 2, 2, 3)[: height // 4, : width // 4]
        cells = grid.permute(4, 0, 2, 1, 3).reshape(1, 3, height // 2, width // 2)
        logits = torch.nn.functional.interpolate(cells, (height, width), mode="bilinear", align_corners=False)[0]
        for (row, column), true in np.ndenumerate(label):
            if true != IGNORED:
                weight = 1.0 if weights is None else weights[true].item()
                total = total - weight * (logits[true, row, column] - logits[:, row, column].logsumexp(0))
                every += weight
    loss = total / every
    (wanted,) = torch.autograd.grad(loss, [bias])
    assert_close(found.loss().double(), loss, atol=1e-5, rtol=1e-5)
    assert_close(own.double(), wanted, atol=1e-5, rtol=1e-4)


def test_scores_are_those_of_scikit_learn() -> None:
    random = np.random.default_rng(0)
    truth, said = random.integers(0, 3, (2, 500))
    truth[:50], hidden = IGNORED, truth[50:]
    counted = Counted(confusion(truth, said, 4, "row 0"), 1)
    assert counted.scores("map")["miou"] == pytest.approx(100 * jaccard_score(hidden, said[50:], average="macro"))
    assert counted.scores("sequence")["f1"] == pytest.approx(100 * f1_score(hidden, said[50:], average="macro"))
    assert counted.scores("map")["accuracy"] == pytest.approx(100 * (hidden == said[50:]).mean())
    silent = Counted(confusion(hidden, np.full(450, -1), 4, "row 0"), 1)
    assert silent.scores("sequence") == {"f1": 0.0, "accuracy": 0.0}
    with pytest.raises(ValueError, match="row 7: labels are needed for 450 places; got 449"):
        confusion(hidden[1:], said[50:], 4, "row 7")


def test_pictures_that_would_be_cut_have_no_label_maps() -> None:
    processor = ImageProcessor(size=8, channels=1, mean=0.0, std=1.0)
    with pytest.raises(ValueError, match=r"8 high and 12 wide, .*resize: crop .*Set resize: squash"):
        processor.labelled(np.zeros((8, 12), dtype=np.uint8), None)
    squashed = ImageProcessor(size=8, channels=1, mean=0.0, std=1.0, resize="squash")
    found = squashed.labelled(np.zeros((8, 12), dtype=np.uint8), np.repeat([[0, 1]], 6, 1).repeat(8, 0))
    assert found["pixel_labels"][0].tolist() == [0, 0, 0, 0, 1, 1, 1, 1] and found["pixel_whole"].tolist() == [8, 12]


@pytest.mark.parametrize("tokenizer", ["bytes", "bpe"])
def test_the_first_token_of_a_word_has_its_label(tokenizer: str) -> None:
    words = ["Jürgen", "sees", "", "the", "猫", "New York"]
    processor = TextProcessor(tokenizer=tokenizer, vocab_size=300, max_tokens=64, captions="words", before=[1], after=[2])
    processor.fit([words, "the sea sees the sea"])
    found = processor.labelled(words, np.array([5, 6, 7, 8, 9, 4]))
    ids, labels, begun = found["input_ids"], found["token_labels"], found["token_words"]
    assert ids[0] == 1 and ids[-1] == 2 and len(ids) == len(labels) == len(begun)
    assert labels[labels >= 0].tolist() == [5, 6, 8, 9, 4] and begun[begun >= 0].tolist() == [0, 1, 3, 4, 5]
    assert torch.equal(ids[1:-1], torch.from_numpy(processor.tokens.encode(" ".join(words))))
    for place in torch.nonzero(begun >= 0)[:, 0].tolist():
        text, begin = " ".join(words), len(" ".join([*words[: begun[place]], ""]))
        assert processor.decode(ids[1:place].tolist()) in (text[:begin], text[: begin - 1])
    long = TextProcessor(tokenizer="bytes", max_tokens=8, captions="words")
    pieces = [long.labelled(piece, np.array([5, 6, 7, 8, 9, 4])) for piece in long.pieces(words)]
    assert [n for piece in pieces for n in piece["token_labels"].tolist() if n >= 0] == [5, 6, 8, 9, 4]
    with pytest.raises(ValueError, match="a tag for each of its words: expected 6, got 2"):
        long.labelled(words, np.array([1, 2]))
    with pytest.raises(TypeError, match="word 1 of 2 is 3"):
        long.labelled(["a", 3], None)
