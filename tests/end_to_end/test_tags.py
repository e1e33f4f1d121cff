"""A tag for each word of a text, by the command line: train, the scores of the run, a file, the model in a clean interpreter."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import mmssl
from mmssl_cli import main

TAGS = ["animal", "deed", "other"]
ANIMALS, DEEDS, OTHERS = ("dog", "tiger", "mare"), ("runs", "sleepily eats", "sees"), ("the", "a", "über")
RECIPE: dict[str, Any] = {
    "modalities": {"text": {"processor": {"tokenizer": "bpe", "vocab_size": 280, "max_tokens": 24, "captions": "words"}}},
    "encoder": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
    "objective": {"name": "supervised", "kind": "dense"},
    "data": {"path": "data", "columns": {"text": "tokens", "label": "tags"}},
    "train": {"max_steps": 40, "lr": 1e-2, "batch_size": 16},
    "evaluate": {"random_draws": 1},
}
CLEAN = """
import sys, json
import torch
import mmssl
from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

folder, lines = sys.argv[1], json.loads(sys.argv[2])
model = AutoModelForTokenClassification.from_pretrained(folder).eval()
tokenizer = AutoTokenizer.from_pretrained(folder)
served = pipeline("token-classification", model=folder, aggregation_strategy="first")
found = []
for words in lines:
    text = " ".join(words)
    given = tokenizer(text, return_tensors="pt", return_offsets_mapping=True)
    offsets = given.pop("offset_mapping")[0].tolist()
    with torch.no_grad():
        numbers = model(**given).logits[0].argmax(1).tolist()
    begins = [len(" ".join(words[:number])) + (number > 0) for number in range(len(words))]
    own = []
    for begin, word in zip(begins, words):
        first = next(i for i, (a, b) in enumerate(offsets) if a <= begin < b)
        own.append(model.config.id2label[numbers[first]])
    groups = [(each["word"].strip(), each["entity_group"]) for each in served(text)]
    found.append({"tags": own, "groups": groups})
print("FOUND" + json.dumps(found))
"""


def lines(count: int, seed: int) -> dict[str, list[list[str]]]:
    """Words with their tags; some lines are too long for one window, and one word in twenty has no tag that counts."""
    random = np.random.default_rng(seed)
    words, tags = [], []
    for number in range(count):
        kinds = random.integers(0, 3, 30 if number % 8 == 0 else int(random.integers(2, 6)))
        words.append([str(random.choice((ANIMALS, DEEDS, OTHERS)[kind])) for kind in kinds])
        tags.append([TAGS[kind] for kind in kinds])
    return {"tokens": words, "tags": tags}


def write(folder: Path) -> None:
    folder.mkdir()
    for seed, (part, count) in enumerate({"train": 80, "test": 24}.items()):
        pq.write_table(pa.table({"id": list(range(count)), **lines(count, seed)}), folder / f"{part}.parquet")


def scores(predicted: list[list[str]], truth: list[list[str]]) -> tuple[float, float]:
    """Macro F1 and accuracy in percent, word by word."""
    pairs = [pair for mine, true in zip(predicted, truth, strict=True) for pair in zip(mine, true, strict=True)]
    f1 = []
    for tag in TAGS:
        hit = sum(a == b == tag for a, b in pairs)
        f1.append(2 * hit / (sum(a == tag for a, _ in pairs) + sum(b == tag for _, b in pairs)))
    return 100 * sum(f1) / 3, 100 * sum(a == b for a, b in pairs) / len(pairs)


def test_words_from_training_to_a_pipeline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "data")
    Path("recipe.yaml").write_text(json.dumps(RECIPE))
    main(["train", "recipe.yaml", "run.name=tuned"])
    assert "a label for each place, of 3 classes (animal, deed, other)" in capsys.readouterr().out
    data = ["--data", "data", "--split", "test", "--column", "tokens"]
    main(["predict", "runs/tuned", *data, "--output", "p.parquet", "--label", "tags"])
    said = capsys.readouterr().out
    table = pq.read_table("p.parquet")
    assert table.column_names == ["row", "id", "tokens", "tags", "prediction"]
    truth, predicted = table["tags"].to_pylist(), table["prediction"].to_pylist()
    f1, accuracy = scores(predicted, truth)
    assert f1 > 90
    judged = json.loads(Path("runs/tuned/run.json").read_text())["judged"]["data"]
    assert (judged["kind"], judged["num_test"], judged["names"]) == ("token-classification", 24, TAGS)
    assert judged["score"] == pytest.approx(f1) and judged["scores"] == {"token accuracy": pytest.approx(accuracy)}
    assert f"24 lists of tags: macro F1 in %: {f1:.1f}, token accuracy: {accuracy:.1f} %" in said
    rows = {row["name"]: row["scores"] for row in json.loads(Path("runs/tuned/table.json").read_text())["rows"]}
    assert list(rows) == ["its own head", "supervised", "random init", "most frequent class of each word", "most frequent class"]
    assert rows["most frequent class of each word"] == {"f1": 100.0, "accuracy": 100.0}
    known = [tag for tags in lines(80, 0)["tags"] for tag in tags]
    frequent = max(TAGS, key=known.count)
    expected = scores([[frequent] * len(tags) for tags in truth], truth)
    assert (rows["most frequent class"]["f1"], rows["most frequent class"]["accuracy"]) == pytest.approx(expected)

    short = [number for number, words in enumerate(table["tokens"].to_pylist()) if len(words) < 6][:4]
    given = [table["tokens"][number].as_py() for number in short]
    done = subprocess.run(
        [sys.executable, "-c", CLEAN, "runs/tuned/model", json.dumps(given)],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    for number, mine in zip(short, json.loads(done.stdout.partition("FOUND")[2]), strict=True):
        assert mine["tags"] == predicted[number]
        spoken = " ".join(table["tokens"][number].as_py())
        assert " ".join(word for word, _ in mine["groups"]).split() == spoken.split()
        whole = {word: tag for word, tag in zip(table["tokens"][number].as_py(), predicted[number], strict=True) if " " not in word}
        for words, tag in mine["groups"]:
            assert all(whole[word] == tag for word in words.split() if word in whole)

    main(["predict", "runs/tuned", *data, "--output", "p.csv", "--keep", "id"])
    card = Path("runs/tuned/model/README.md").read_text()
    assert "pipeline_tag: token-classification" in card and "MMSSLForTokenClassification" in card


def test_tags_that_do_not_fit_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    own = lines(24, 0)
    rows = [{"tokens": words, "tags": list(tags)} for words, tags in zip(own["tokens"], own["tags"], strict=True)]
    recipe = RECIPE | {"data": {"columns": {"text": "tokens", "label": "tags"}}, "evaluate": None}
    recipe |= {"train": {"max_steps": 1, "batch_size": 8}}
    bad = [*rows[:3], {"tokens": ["the", "dog"], "tags": ["other"]}, *rows[4:]]
    with pytest.raises(
        ValueError, match=r"row 3 of rows in memory, column tokens: a text needs a tag for each .*expected 2, got 1"
    ):
        mmssl.train(recipe, rows=bad, run={"name": "a"}, train={"batch_size": 32})
    bad = [*rows[:3], {"tokens": ["the", "dog"], "tags": None}, *rows[4:]]
    with pytest.raises(ValueError, match=r"row 3 of rows in memory, column tags: the labels are missing"):
        mmssl.train(recipe, rows=bad, run={"name": "b"})
    with pytest.raises(ValueError, match=r"augment: words that have tags stay where they are"):
        mmssl.train(recipe, rows=rows, run={"name": "c"}, modalities={"text": {"augment": {"delete": 0.5}}})
    with pytest.raises(ValueError, match=r"set processor.captions: words"):
        joined = [{**row, "tokens": " ".join(row["tokens"])} for row in rows]
        mmssl.train(recipe, rows=joined, run={"name": "d"}, modalities={"text": {"processor": {"captions": "one"}}})
