"""Long samples are cut into pieces: training reads all of them, evaluation averages them, the processor says whose they are."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from mmssl.data import Batch, Labels, Order, Source, batches, cut, loader
from mmssl.evaluation.features import extract, raw_features
from mmssl.modality import Inputs, Modality, Processor, find
from mmssl.processor import MMSSLProcessor
from mmssl.testing import small_model

LIMIT = 3
ROWS = [{"series": list(range(start, start + size)), "label": size % 2} for start, size in ((0, 2), (10, 7), (20, 3), (30, 10))]
COUNTS = [1, 3, 1, 4]
PAIR: dict[str, dict[str, Any]] = {"image": {"mean": 0.5, "std": 0.2}, "text": {"max_tokens": 64}}


class Cutter(Processor):
    """Lists of at most LIMIT numbers; longer ones are cut."""

    @property
    def windowed(self) -> bool:
        return True

    def settings(self) -> dict[str, Any]:
        return {}

    def pieces(self, raw: Any) -> list[Any]:
        if len(raw) == 0:
            raise ValueError("nothing to cut")
        return [raw[i : i + LIMIT] for i in range(0, len(raw), LIMIT)]

    def __call__(self, raw: Any) -> Inputs:
        if len(raw) > LIMIT:
            raise ValueError("too long")
        return {"numbers": torch.tensor([float(np.sum(raw)), float(len(raw))])}

    def collate(self, samples: Sequence[Inputs]) -> Inputs:
        return {"numbers": torch.stack([sample["numbers"] for sample in samples])}

    def features(self, inputs: Inputs) -> Any:
        return inputs["numbers"].numpy()


@pytest.fixture
def modality() -> Modality:
    return replace(find("image"), name="image", columns=("series",), processor=Cutter)


@pytest.fixture
def modalities(modality: Modality) -> dict[str, tuple[Modality, Processor]]:
    return {"image": (modality, Cutter())}


def test_every_piece_is_a_sample(modalities: Any) -> None:
    source = cut(Source.from_rows(ROWS), modalities)
    assert len(source) == sum(COUNTS)
    assert [source.row_number(i) for i in range(len(source))] == [row for row, count in enumerate(COUNTS) for _ in range(count)]
    assert [source.piece(i) for i in range(len(source))] == [k for count in COUNTS for k in range(count)]
    labels = Labels("classification", ["even", "odd"], np.array([0, 1, 1, 0]))
    reading = loader(source, modalities, order=Order(len(source), 0), batch_size=3, seed=0, end_step=3, labels=labels)
    found = list(reading)
    assert sum(batch.inputs["image"]["numbers"][:, 0].sum().item() for batch in found) == sum(sum(row["series"]) for row in ROWS)
    for batch in found:
        assert batch.labels is not None
        rows = [source.row_number(i) for i in batch.ids.tolist()]
        assert batch.labels.tolist() == [int(labels.values[row]) for row in rows]


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_evaluation_keeps_the_pieces_of_a_row_together(modalities: Any, size: int) -> None:
    source = cut(Source.from_rows(ROWS), modalities)
    found = list(batches(source, modalities, size))
    assert torch.cat([batch.ids for batch in found]).tolist() == list(range(sum(COUNTS)))
    for batch in found:
        rows = {source.kept_row(i) for i in batch.ids.tolist()}
        assert len(batch) == sum(COUNTS[row] for row in rows)
        assert len(batch) <= max(size, max(COUNTS))


def test_features_of_a_row_are_the_mean_of_its_pieces(monkeypatch: pytest.MonkeyPatch, modality: Modality) -> None:
    monkeypatch.setattr("mmssl.evaluation.features.find", lambda name: modality)
    model, processor = small_model("image"), MMSSLProcessor({"image": Cutter()})
    monkeypatch.setattr(type(model), "encode", lambda self, name, inputs: inputs["numbers"])
    monkeypatch.setattr(type(model), "pool", lambda self, values: values)
    expected = [[float(sum(row["series"])) / count, len(row["series"]) / count] for row, count in zip(ROWS, COUNTS, strict=True)]
    labels = Labels("classification", ["a", "b"], np.array([0, 1, 1, 0]))
    for size in (1, 3, 100):
        found = extract(model, processor, Source.from_rows(ROWS), "image", labels=labels, batch_size=size)
        torch.testing.assert_close(found.values, torch.tensor(expected))
        assert found.ids.tolist() == [0, 1, 2, 3]
        assert found.labels is not None
        assert found.labels.tolist() == [0, 1, 1, 0]
        raw = raw_features(Source.from_rows(ROWS), "image", Cutter(), batch_size=size)
        torch.testing.assert_close(raw.values, torch.tensor(expected))


def test_rows_under_a_limit_keep_their_numbers(modalities: Any) -> None:
    source = Source.from_rows(ROWS)
    source._keep(2)
    pieced = cut(source, modalities)
    assert [pieced.row_number(i) for i in range(len(pieced))] == [0, 2]


def test_a_row_that_cannot_be_cut_is_one_bad_sample(modalities: Any) -> None:
    rows = [*ROWS, {"series": [], "label": 0}]
    source = cut(Source.from_rows(rows), modalities)
    assert len(source) == sum(COUNTS) + 1
    with pytest.raises(ValueError, match=r"row 4 of rows in memory, column series: nothing to cut"):
        list(batches(source, modalities, 100))
    skipped = [message for batch in batches(source, modalities, 100, on_error="skip") for message in batch.skipped]
    assert len(skipped) == 1


def test_long_samples_of_pairs_are_refused_and_named(modalities: Any, modality: Modality) -> None:
    pairs = {**modalities, "other": (modality, Cutter())}
    message = "row 1 of rows in memory pairs image and other, but its image is so long that it is cut into 3 pieces, and they would"
    with pytest.raises(ValueError, match=rf"{message} have no partner \(2 of 4 rows\)\. Leave such rows out"):
        cut(Source.from_rows(ROWS), pairs)


def captioned(*texts: str) -> Source:
    return Source.from_rows(
        [{"image": image, "text": text} for image, text in zip(find("image").example(9, 0), texts, strict=False)]
    )


def test_pairs_with_short_texts_load_and_a_long_one_says_the_way_out() -> None:
    pair = {name: (find(name), find(name).processor(**keys)) for name, keys in PAIR.items()}
    texts = ["a disc", "a red disc", "two discs", "none"]
    source = cut(captioned(*texts), pair)
    assert not source.is_cut
    (batch,) = loader(source, pair, order=Order(4, 0), batch_size=4, seed=0, end_step=1)
    assert batch.inputs.keys() == PAIR.keys()
    lengths = [len(texts[i]) for i in batch.ids.tolist()]
    assert batch.inputs["text"]["text_lengths"].flatten().tolist() == lengths
    (whole,) = batches(source, pair, 4)
    assert torch.equal(whole.inputs["text"]["input_ids"][1, :10], torch.tensor(list(b"a red disc")))
    long = captioned(*texts, 40 * "a disc ")
    message = r"row 4 of rows in memory pairs image and text, but its text .* cut into 5 pieces, .* \(1 of 5 rows\)\. "
    with pytest.raises(
        ValueError, match=message + r"Set modalities\.text\.processor\.long_texts: truncate, or leave such rows out"
    ):
        cut(long, pair)
    with pytest.raises(ValueError, match=r"row 4 of rows in memory, column text: this text has 280 tokens, more than"):
        list(batches(long, pair, 5))
    shortened = pair | {"text": (find("text"), find("text").processor(max_tokens=64, long_texts="truncate"))}
    assert not cut(long, shortened).is_cut


def test_the_processor_says_whose_pieces_its_rows_are() -> None:
    processor = MMSSLProcessor({"image": Cutter()})
    batch = processor(images=[row["series"] for row in ROWS])
    assert batch["images_sample"].tolist() == [[row, count] for row, count in enumerate(COUNTS) for _ in range(count)]
    assert processor(images=[[1], [2, 3]])["images_sample"].tolist() == [[0, 1], [1, 1]]
    alone = processor(images=[row["series"] for row in ROWS], windows=False)
    assert list(alone) == ["numbers"]
    assert alone["numbers"].tolist() == [[1, 2], [33, 3], [63, 3], [93, 3]]


def test_a_batch_keeps_its_source() -> None:
    ids = torch.arange(2)
    assert Batch({}, ids, ids, source="a").to("cpu").source == "a"


def test_the_caller_is_told_how_far_cutting_is(modalities: Any, capsys: pytest.CaptureFixture[str]) -> None:
    told = []

    def track(items: Iterable[Any], what: str, total: int | None = None, /, *, unit: str = "items") -> Iterable[Any]:
        told.append((list(items), what, total, unit))
        return told[-1][0]

    assert len(cut(Source.from_rows(ROWS), modalities, track=track)) == len(cut(Source.from_rows(ROWS), modalities))
    assert told == [([0], "cutting image", None, "reads")]
    assert capsys.readouterr() == ("", "")
