"""A small clip run and its published model are scored by pairs, from the command line."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mmssl.evaluation import PairTable
from mmssl_cli import main

pytestmark = pytest.mark.usefixtures("one_thread", "no_pictures")

RECIPE = """
modalities:
  image: {processor: {size: 8, channels: 1}, adapter: {patch_size: 4}}
  text: {processor: {tokenizer: bytes}}
encoder: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2}
objective: {name: clip, projector: {layers: 1, size: 8, norm: none, bias: false}}
data: {path: "squares", columns: {image: picture, text: caption, label: kind}}
train: {batch_size: 16, max_steps: 4, log_every: 2}
evaluate: {probe: false, retrieval: [test, train], zero_shot: {templates: ["a {} square", "{}"]}, every: 2}
"""
TABLES = ["retrieval_test", "retrieval_train", "zero_shot_test"]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with data and a run; of the captions of the test part two are missing, and one picture."""
    folder = tmp_path_factory.mktemp("pairs")
    (folder / "squares").mkdir()
    (folder / "pictures").mkdir()
    random = np.random.default_rng(0)
    for split, count in (("train", 32), ("test", 24)):
        lines = ["picture,caption,kind,thing"]
        for number in range(count):
            kind, low = (("dark", 0), ("light", 128))[number % 2]
            name = f"pictures/{split}{number}.png"
            Image.fromarray(random.integers(low, low + 128, (8, 8)).astype(np.uint8)).save(folder / name)
            lacks = split == "test" and number in (2, 3)
            picture = "" if split == "test" and number == 7 else name
            lines.append(f"{picture},{'' if lacks else f'{kind} square {number}'},{kind},{number // 2}")
        (folder / "squares" / f"{split}.csv").write_text("\n".join(lines) + "\n")
    (folder / "pairs.yaml").write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("mmssl.training.session.Session.pictures", lambda *given: {})
        main(["train", "pairs.yaml"])
    return folder


@pytest.fixture
def run(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    return trained / "runs" / "pairs"


def tables(file: Path) -> dict[str, PairTable]:
    return {name: PairTable.from_dict(values) for name, values in json.loads(file.read_text()).items()}


def test_a_run_is_scored_by_pairs(run: Path) -> None:
    found = tables(run / "table.json")
    assert list(found) == TABLES
    test, seen, classes = found.values()
    assert [row.name for row in test.rows] == ["pretrained", "random init", "chance"]
    assert [row.name for row in classes.rows] == ["pretrained", "random init", "chance", "most frequent class"]
    assert (test.num_test, classes.num_test) == (21, 23)
    assert "Rows that lack what is scored, and are left out: 3." in test.notes
    assert "Rows that lack what is scored, and are left out: 1." in classes.notes
    assert test.row("chance").scores["image_to_text_5"] == pytest.approx(100 * 5 / 21)
    assert classes.row("chance").scores == {"top_1": 50, "classes": 50}
    assert classes.row("most frequent class").scores["top_1"] == pytest.approx(100 * 12 / 23)
    assert not test.rows[0].seen
    assert seen.rows[0].seen
    assert seen.verdict == "No verdict: pretrained was trained on what is scored."


def test_tables_are_in_the_report_the_card_and_the_log(run: Path) -> None:
    report, card = (run / "report.html").read_text(), (run / "model" / "README.md").read_text()
    for table in tables(run / "table.json").values():
        assert table.title in report
        assert table.to_markdown() in card
    assert "name: to text R@1 (mmssl-pairs-v1)" in card
    assert "name: zero-shot top-1 (mmssl-pairs-v1)" in card
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert set(TABLES) <= rows[-1].keys()


def evaluated(*options: str) -> dict[str, PairTable]:
    main(["evaluate", *options, "--data", "squares", "--output", "scores.json"])
    return tables(Path("scores.json"))


COLUMNS = ("--columns", "image=picture", "text=caption", "label=kind")


def test_a_published_model_is_scored_alike(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the command, from the folder of the run or of its model."""
    kept = tables(run / "table.json")
    Path("templates.txt").write_text("a {} square\n{}\n")
    found = evaluated(str(run), "--retrieval", "--zero-shot", "--templates", "templates.txt", *COLUMNS)
    assert found == {name: kept[name] for name in ("retrieval_test", "zero_shot_test")}
    printed = capsys.readouterr().out
    assert all(table.title in printed and table.verdict in printed for table in found.values())
    (one,) = evaluated(str(run / "model"), "--retrieval", *COLUMNS, "group=thing", "--test-limit", "18").values()
    assert one.num_test == 17
    assert "Rows of equal thing are right answers for each other." in one.notes
    (classes,) = evaluated(str(run / "model"), "--zero-shot", "--label", "thing", *COLUMNS[:3], "--test-split", "train").values()
    assert "image among 16 classes that text reads (0, 1, 2, 3, 4, 5, 6, 7, ...), with the template '{}'." in classes.notes
    assert "top_5" in classes.columns


def test_several_models_stand_in_one_table(run: Path) -> None:
    (one,) = evaluated(str(run), "--retrieval", *COLUMNS, "--compare", f"again={run / 'model'}").values()
    assert one.row("again").scores == one.row("pretrained").scores


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--retrieval", "--columns", "picture"), "--columns takes USE=COLUMN, as in image=picture or label=kind; got 'picture'"),
        (("--templates", "simple_imagenet"), "--templates has no meaning for probes: add --zero-shot or --retrieval"),
        (("--retrieval", "--templates", "simple_imagenet"), "--templates has no meaning for --retrieval: add --zero-shot"),
        (("--zero-shot", *COLUMNS[:3]), "names no label column; it has picture, caption, kind, thing"),
        (("--zero-shot", *COLUMNS, "--templates", "nowhere"), "templates: 'nowhere' is neither a file nor one of openai_imagenet"),
        (("--retrieval", "--columns", "image=picture", "text=title"), "has no column 'title', named for 'text'"),
        (("--zero-shot", "--modality", "audio", *COLUMNS), "'audio' is no modality of the model's space; that holds image, text"),
    ],
)
def test_bad_options_say_why(run: Path, options: tuple[str, ...], message: str) -> None:
    with pytest.raises(SystemExit) as stop:
        evaluated(str(run), *options)
    assert message in str(stop.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("objective={name: masked}", "retrieval and zero_shot need a model that maps modalities into one space"),
        ("evaluate.retrieval=[dev]", "evaluate: squares has no split 'dev'; it has test, train"),
        ("evaluate.zero_shot.templates=[square]", "templates: template 1, 'square', has no {}"),
    ],
)
def test_a_run_that_cannot_be_scored_does_not_begin(run: Path, override: str, message: str) -> None:
    before: Any = sorted(run.parent.iterdir())
    with pytest.raises(SystemExit) as stop:
        main(["train", "pairs.yaml", override])
    assert message in str(stop.value)
    assert sorted(run.parent.iterdir()) == before
