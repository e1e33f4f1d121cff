"""What bad input gets: a message that names what is wrong, where it is and what to do, from the commands that a user types."""

import json
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import mmssl_cli as cli
from mmssl import api
from mmssl.data import Batch, open_streams
from mmssl.objectives import OBJECTIVES, Output
from mmssl.objectives.base import ALONE, Step
from mmssl.objectives.predict import Masked
from mmssl.training import checkpoint
from mmssl.training.run import Run

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")

Train = Callable[..., Run]
Refused = Callable[..., str]

PICTURES = ("data.path=pictures", "data.split=null", "data.limit=null")
CELLS = [f"{i * 1.5},{i},{'abc'[i % 3]},{'pq'[i % 2]}" for i in range(32)]


@pytest.fixture
def refused(tiny: Path) -> Refused:
    """The message of `mmssl train`, by default of the tiny recipe, which exits with 1."""

    def command(*overrides: str, recipe: Path = tiny) -> str:
        return said("train", str(recipe), *overrides)

    return command


def said(*arguments: str) -> str:
    """The message with which a command exits with 1."""
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert isinstance(caught.value.code, str), "Python prints a text and exits with 1"
    return caught.value.code


def png(image: Image.Image) -> bytes:
    stream = BytesIO()
    image.save(stream, "png")
    return stream.getvalue()


def bomb() -> bytes:
    """A small PNG file that says it has 3.6 billion pixels."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", 60_000, 60_000, 8, 0, 0, 0, 0)),
        (b"IDAT", zlib.compress(bytes(100))),
        (b"IEND", b""),
    ]
    coded = (struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(coded)


@pytest.fixture
def pictures(tiny: Path) -> Path:
    """24 grey images of 8 x 8 pixels in two classes; row 3 is a/03.png."""
    rng = np.random.default_rng(0)
    for name in "ab":
        folder = tiny.parent / "pictures" / name
        folder.mkdir(parents=True)
        for number in range(12):
            (folder / f"{number:02}.png").write_bytes(png(Image.fromarray(rng.integers(0, 255, (8, 8), dtype=np.uint8))))
    return tiny.parent / "pictures"


def csv(name: str, rows: Sequence[str], columns: str = "x,y,kind,target") -> str:
    """Write a table; the override that names it."""
    Path(name).write_text("\n".join([columns, *rows]) + "\n", encoding="utf-8")
    return f"data.path={name}"


# Recipes


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.learning_rate=1", "train.learning_rate: unknown key; did you mean 'lr'? Known keys: batch_size, batch_tokens, "),
        (
            "objective.predictor.hiden_size=8",
            "objective.predictor.hiden_size: unknown key; did you mean 'hidden_size'? Known keys: name, hidden_size, ",
        ),
        (
            "modalities.image.adapter.patch=2",
            "modalities.image.adapter.patch: unknown key; did you mean 'patch_size'? Known keys: ",
        ),
        ("objective.targets=[{name: rw}]", "objective.targets.0.name: unknown name 'rw'; did you mean 'raw'? Known names: raw, "),
        ("trian.lr=1", "trian: unknown key; did you mean 'train'? Known keys: modalities, encoder, objective, data, train, "),
        ("train.lr=fast", "train.lr: expected a number > 0, got 'fast'"),
        ("train.batch_size=0", "train.batch_size: expected a whole number > 0, got 0"),
        ("objective.mask.ratio=2", "objective.mask.ratio: expected a number > 0 and < 1, got 2"),
        ("data.on_error=ignore", "data.on_error: expected one of: raise, skip, got 'ignore'"),
        ("train.max_steps=null", "the run needs a budget: set train.max_steps, train.max_epochs or train.max_minutes"),
        ("train.accumulation=3", "train.batch_size must be a multiple of train.accumulation; got 16 and 3"),
    ],
)
def test_recipe_keys(refused: Refused, override: str, message: str) -> None:
    assert message in refused(override)
    assert not Path("runs").exists(), "nothing was started"


def test_all_problems_of_a_recipe_at_once(refused: Refused, tiny: Path) -> None:
    text = refused("train.lr=fast", "data.limit=0", "encoder.depth=3")
    assert text.splitlines()[0] == f"mmssl: {tiny}: 3 problems"
    assert [line.partition(":")[0].strip() for line in text.splitlines()[1:]] == ["encoder.depth", "data.limit", "train.lr"]


# Data that are not there


def test_missing_data(refused: Refused) -> None:
    Path("digits.csv").write_text("a\n", encoding="utf-8")
    text = refused("data.path=digit.csv")
    assert "data.path: no file or folder digit.csv" in text
    assert "did you mean digits.csv?" in text
    assert "data.path=PATH" in text
    several = "{path: null, sources: {image: {path: digit.csv}}}"
    assert "data.sources.image.path: no file or folder digit.csv" in refused(f"data={several}")
    assert "bundled:digits has no split 'dev'; it has train, test" in refused("data.split=dev")
    message = refused("data.path=bundled:digit")
    assert "no bundled dataset 'digit'; there are breast_cancer, diabetes, digits, docstrings" in message
    assert "Did you mean 'digits'?" in message
    message = "bundled:digits (train) has no column 'pixels', named for 'image' in `columns`; it has image, target."
    assert message in refused("data.columns={image: pixels}")
    assert "batch_size must be between 1 and the 64 rows of bundled:digits (train); got 128" in refused("train.batch_size=128")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("e.csv", "image,label\n", "e.csv (train) has no rows"),
        ("e.csv", "", "cannot read e.csv: "),
        ("e.jsonl", "", "e.jsonl (train) has no rows"),
        ("e.jsonl", "\n", "e.jsonl (train) has no rows"),
        ("e/notes.pdf", "", "folder e holds no data files; looked for .parquet, "),
    ],
)
def test_empty_data(refused: Refused, file: str, text: str, message: str) -> None:
    Path(file).parent.mkdir(exist_ok=True)
    Path(file).write_text(text, encoding="utf-8")
    assert message in refused(f"data.path={Path(file).parts[0]}")


def test_empty_rows_in_memory(train: Train) -> None:
    with pytest.raises(ValueError, match="rows in memory has no rows"):
        train(rows=[])


# Images


@pytest.mark.parametrize(
    ("content", "settings", "message"),
    [
        (
            b"not an image",
            "{}",
            "pictures/a/03.png is no image in a format that Pillow reads; got 12 bytes that start with b'not an i'",
        ),
        (b"", "{}", "pictures/a/03.png is no image in a format that Pillow reads; got no bytes. Replace or drop it"),
        (bomb(), "{}", "pictures/a/03.png is refused: Image size (3600000000 pixels) exceeds limit of 178956970 pixels"),
        (
            png(Image.new("L", (9, 2))),
            "{channels: 1, multiple: 4}",
            "an image must be at least processor.multiple=4 pixels high and wide; this one is 2 high and 9 wide. Drop it, ",
        ),
    ],
    ids=["corrupt", "empty", "bomb", "small"],
)
def test_bad_image_is_named_or_skipped(
    refused: Refused, train: Train, pictures: Path, content: bytes, settings: str, message: str
) -> None:
    (pictures / "a" / "03.png").write_bytes(content)
    processor = () if settings == "{}" else (f"modalities.image.processor={settings}",)
    text = refused(*PICTURES, *processor)
    assert f"row 3 of pictures, column image: {message}" in text
    if "processor" not in message:
        assert text.endswith(("Replace or drop it", "If you trust it, make it smaller first"))
    assert train(*PICTURES, *processor, "data.on_error=skip", "train.max_steps=2").read_record()["skipped"] > 0


def test_skipped_samples_are_counted_and_told(train: Train, pictures: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pictures / "a" / "03.png").write_bytes(b"not an image")
    options = (*PICTURES, "data.on_error=skip", "train.batch_size=12", "train.max_steps=4", "train.log_every=1")
    run = train(*options, "evaluate={train_split: null}")
    assert [row["skipped"] for row in run.rows()] in ([1, 1, 2, 2], [0, 1, 1, 2], [1, 1, 1, 2], [0, 1, 2, 2]), "once in a pass of 2"
    assert [row["samples"] + row["skipped"] for row in run.rows()] == [12, 24, 36, 48]
    record = run.read_record()
    assert record["skipped"] == 2
    (message,) = record["skipped_messages"]
    assert message.startswith("row 3 of pictures, column image: pictures/a/03.png is no image")
    report = run.report_file.read_text(encoding="utf-8")
    assert "2 times a sample could not be read" in report
    assert "pictures/a/03.png is no image" in report
    assert "2 skipped" in capsys.readouterr().out
    assert "Samples that could not be read, and are left out: 1." in json.loads(run.table_file.read_text())["notes"]


def test_mostly_bad_data_stop_also_when_skipping(refused: Refused, pictures: Path) -> None:
    for number in range(13):
        (pictures / "ab"[number % 2] / f"{number // 2:02}.png").write_bytes(b"x")
    text = refused(*PICTURES, "data.on_error=skip", "train.batch_size=24", "train.accumulation=1")
    assert "13 of the first 24 samples were skipped (allowed: 50% of 24); the last one: row " in text


def test_bad_image_at_inference(train: Train, pictures: Path) -> None:
    model = str(train(*PICTURES, "train.max_steps=1").model_folder)
    (pictures / "a" / "03.png").write_bytes(b"not an image")
    for command in (
        ("embed", model, "--data", "pictures", "--output", "out/vectors.parquet"),
        ("evaluate", model, "--data", "pictures"),
    ):
        assert "row 3 of pictures" in said(*command)
    assert [path.name for path in Path("out").iterdir() if not path.name.startswith(".")] == [], "no half a file"
    assert api.embed(model, "pictures", "out/vectors.parquet", on_error="skip") == 23
    assert pq.read_table("out/vectors.parquet")["row"].to_pylist() == [i for i in range(24) if i != 3]


# Tables


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ("inf,3,a,p", "training row 32: column 'x' takes finite numbers; got inf. Pass None if the value is missing"),
        ("-inf,3,a,p", "training row 32: column 'x' takes finite numbers; got -inf"),
    ],
)
def test_infinity_in_a_numeric_column(refused: Refused, table: Path, extra: str, message: str) -> None:
    assert message in refused(csv("data.csv", [*CELLS, extra]), recipe=table)


def test_nan_in_a_numeric_column_is_a_missing_value(train: Train, table: Path) -> None:
    run = train(csv("data.csv", [*CELLS, "nan,3,a,p", ",3,a,p"]), "data.columns={label: target}", recipe=table)
    vectors = embedded(run, ["nan,3,a", ",3,a", "1,3,a"])
    torch.testing.assert_close(vectors[0], vectors[1], rtol=0, atol=0)
    assert not torch.allclose(vectors[0], vectors[2])


def test_column_without_any_value(refused: Refused, table: Path) -> None:
    text = refused(csv("data.csv", [f",{i},a,p" for i in range(32)]), recipe=table)
    assert "column 'x' has no value in any of the 32 training rows. Leave it out: name the columns to use in the recipe" in text


def test_text_in_a_numeric_column(refused: Refused, table: Path) -> None:
    numeric = "modalities.tabular.processor.numeric_columns=[kind]"
    assert "training row 0: column 'kind' takes numbers; got 'a' (str)" in refused(csv("data.csv", CELLS), numeric, recipe=table)


def embedded(run: Run, rows: Sequence[str]) -> torch.Tensor:
    """What `mmssl embed` makes of some rows."""
    csv("rows.csv", rows, "x,y,kind")
    cli.main(["embed", str(run.model_folder), "--data", "rows.csv", "--output", "vectors.parquet"])
    return torch.tensor(pq.read_table("vectors.parquet")["embedding"].to_pylist())


def test_rows_at_inference(train: Train, table: Path) -> None:
    run = train(csv("data.csv", CELLS), "data.columns={label: target}", recipe=table)
    vectors = embedded(run, ["1,2,unseen", "1,2,never", "1,2,a"])
    torch.testing.assert_close(
        vectors[0], vectors[1], rtol=0, atol=0, msg="categories that were not in the training data share a class"
    )
    assert not torch.allclose(vectors[0], vectors[2])
    embed = ("embed", str(run.model_folder), "--output", "vectors.parquet", "--data")
    csv("infinite.csv", ["inf,2,a"], "x,y,kind")
    assert "row 0 of infinite.csv, modality tabular: column 'x' takes finite numbers; got inf." in said(*embed, "infinite.csv")
    csv("short.csv", ["1,2"], "x,y")
    message = "row 0 of short.csv, modality tabular: missing column 'kind'; the model was fitted on x, y, kind, and this has x, y."
    assert message in said(*embed, "short.csv")
    assert "the model has no modality 'image'; it has tabular" in said(*embed, "short.csv", "--modality", "image")
    assert "data.csv has no column 'z', named for 'tabular' in `columns`" in said(*embed, "data.csv", "--column", "x", "z")


def test_an_unseen_category_can_be_an_error(train: Train, table: Path) -> None:
    strict = "modalities.tabular.processor.unseen=raise"
    run = train(csv("data.csv", CELLS), strict, "data.columns={label: target}", recipe=table)
    csv("rows.csv", ["1,2,a", "1,2,z"], "x,y,kind")
    text = said("embed", str(run.model_folder), "--data", "rows.csv", "--output", "vectors.parquet")
    assert "row 1 of rows.csv, modality tabular: column 'kind'" in text
    assert "'z'" in text


# Labels


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        (CELLS, "{}", "the supervised objective needs labels: name their column, data.columns.label=COLUMN"),
        (
            CELLS,
            "{label: tarket}",
            "has no column 'tarket', named for 'label' in `columns`; it has x, y, kind, target. Did you mean 'target'?",
        ),
        (CELLS, "{label: [x, y]}", "column x: several label columns hold 1 where the label applies and 0 where not"),
        (
            [*CELLS, "1,2,a,"],
            "{label: target}",
            "row 32 of data.csv (train), column target: the label is missing; every row needs one",
        ),
        ([row[:-1] + "p" for row in CELLS], "{label: target}", "classification needs at least two classes; every row is 'p'"),
        (
            [*CELLS, "inf,2,a,p"],
            "{label: x}",
            "row 32 of data.csv (train), column x: a label must be a finite float32 number; got inf",
        ),
    ],
    ids=["none", "unknown", "several", "missing", "one class", "infinite"],
)
def test_labels(refused: Refused, table: Path, rows: list[str], columns: str, message: str) -> None:
    assert message in refused(csv("data.csv", rows), "objective={name: supervised}", f"data.columns={columns}", recipe=table)


def test_labels_of_the_wrong_kind(refused: Refused, table: Path, train: Train) -> None:
    text = refused("data.columns={label: image}", "objective={name: supervised}")
    assert "bundled:digits (train), column image: labels are strings, booleans or numbers; got " in text
    numbers = csv("data.csv", [f"{i},{i},a,{i * 0.37}" for i in range(32)])
    smoothed = ("objective={name: supervised, label_smoothing: 0.1}", "data.columns={label: target}")
    assert "objective.label_smoothing is about one class of several, but the labels are for regression; leave it out" in refused(
        numbers, *smoothed, recipe=table
    )
    run = train(csv("data.csv", CELLS), "data.columns={label: target}", recipe=table)
    Path("parts").mkdir()
    csv("parts/train.csv", CELLS)
    csv("parts/test.csv", [*CELLS[:2], "1,2,a,other"])
    evaluate = ("evaluate", str(run.model_folder), "--data")
    text = said(*evaluate, "parts", "--label", "target")
    assert "parts (test), column target: classes that the training labels do not have: 'other'; known: 'p', 'q'" in text
    assert "evaluation needs labels, and data.csv (train) names no label column; it has x, y, kind, target. " in said(
        *evaluate, "data.csv"
    )


# Training that fails


class Hostile(Masked):
    """Masked modelling whose loss, or gradient only, is not finite in the batch that holds a sample."""

    sample = 5

    def forward(self, batch: Batch, step: Step = ALONE) -> Output:
        output = super().forward(batch, step)
        return replace(output, loss=output.loss * torch.nan) if self.sample in batch.ids.tolist() else output


class Steep(Hostile):
    def forward(self, batch: Batch, step: Step = ALONE) -> Output:
        output = Masked.forward(self, batch, step)
        if self.sample not in batch.ids.tolist():
            return output
        # The square root is 0, its slope infinite.
        return replace(output, loss=output.loss + (output.loss - output.loss.detach()).sqrt())


@pytest.mark.parametrize(("objective", "what"), [(Hostile, "the loss is nan"), (Steep, "the gradient's norm is nan")])
def test_a_number_that_is_not_finite_names_step_samples_and_checkpoint(
    refused: Refused, monkeypatch: pytest.MonkeyPatch, objective: type[Masked], what: str
) -> None:
    monkeypatch.setitem(OBJECTIVES.own, "masked", objective)
    text = refused("data.shuffle=false", "data.limit=60", "train.batch_size=10", "train.checkpoint_every=2", "run.name=first")
    assert f"{what} at step 1; its samples are the rows [" in text, "row 5 is in the first batch"
    assert "of bundled:digits (train). Last good checkpoint: none yet. Lower train.lr" in text
    monkeypatch.setattr(objective, "sample", 57)
    text = refused("data.shuffle=false", "data.limit=60", "train.batch_size=10", "train.checkpoint_every=2", "run.name=second")
    assert f"{what} at step 6; its samples are the rows [" in text
    good = "runs/second/checkpoints/step-000000004"
    assert f"Last good checkpoint: {good}, which a new run carries on from with init=runs/second. Lower train.lr" in text
    checkpoint.verify(Path(good))


def test_rows_are_those_of_the_data_under_a_limit(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OBJECTIVES.own, "masked", Hostile)
    text = refused("data.shuffle=false", "data.limit=6", "train.batch_size=6", "train.accumulation=3")
    count = len(open_streams(api.recipes.load("tiny.yaml", ["data.limit=null"]).section("data"), ["tabular"])["data"].source)
    assert f"its samples are the rows {[4 * count // 6, 5 * count // 6]} of bundled:digits (train)" in text


def test_a_learning_rate_that_is_much_too_high(refused: Refused) -> None:
    text = refused("train.lr=1e20", "train.schedule={name: constant, warmup: 0}", "train.checkpoint_every=1")
    assert "is nan at step 2; its samples are the rows [" in text
    assert "Last good checkpoint: none yet. " in text, "the weights after step 1 are those that failed"
