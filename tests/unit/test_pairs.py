"""Recall, chance, modality gap and zero-shot accuracy against slow loops."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from mmssl.data import DataOptions
from mmssl.evaluation import EvaluateOptions, PairEvaluator, PairRow, PairTable, ZeroShotOptions, open_pairs, pairs
from mmssl.evaluation.features import Features
from mmssl.evaluation.history import History
from mmssl.evaluation.pair_data import read_templates
from mmssl.evaluation.paired import ZeroShot
from mmssl.evaluation.spaces import Own
from mmssl.modality import find
from mmssl.model import MMSSLConfig
from mmssl.processor import MMSSLProcessor
from mmssl.testing.small import small_model


def unit(count: int, width: int = 5, seed: int = 0) -> Float[Tensor, "n e"]:
    generator = torch.Generator().manual_seed(seed)
    return normalize(torch.randn(count, width, generator=generator, dtype=torch.float64), dim=-1)


def rank_loop(queries: Tensor, gallery: Tensor, query_group: list[int], gallery_group: list[int]) -> list[int]:
    """For each query the place of the first right answer where all answers are sorted, of equal ones the wrong ones first."""
    found = []
    for query, own in zip(queries.tolist(), query_group, strict=True):
        answers = []
        for key, group in zip(gallery.tolist(), gallery_group, strict=True):
            cosine = sum(a * b for a, b in zip(query, key, strict=True))
            answers.append((-round(cosine, 9), group == own))
        answers.sort()
        places = [place for place, (_, right) in enumerate(answers, 1) if right]
        wrong_before = [sum(not right for _, right in answers[: place - 1]) for place in places]
        found.append(1 + min(wrong_before, default=len(answers)))
    return found


@pytest.mark.parametrize("groups", [1, 4, 40])
def test_ranks_are_those_of_a_loop(groups: int) -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = unit(40), unit(30, seed=1)
    b[7], b[8] = b[3], b[3]
    own, other = (torch.randint(groups, (n,), generator=generator) for n in (40, 30))
    expected = rank_loop(a, b, own.tolist(), other.tolist())
    assert pairs.ranks(a, b, own, other).tolist() == expected
    for cells in (1, 31, 100, 10**6):
        assert pairs.ranks(a, b, own, other, cells).tolist() == expected


def test_a_right_answer_stands_behind_wrong_ones_that_are_as_similar() -> None:
    same = torch.tensor([[1.0, 0.0]] * 4, dtype=torch.float64)
    alone, two = torch.arange(4), torch.tensor([0, 0, 1, 1])
    assert pairs.ranks(same, same, alone, alone).tolist() == [4] * 4
    assert pairs.ranks(same, same, two, two).tolist() == [3] * 4
    nearly = torch.tensor([[1.0, 0.0], [1 - 1e-8, 0.0], [0.5, 0.0], [0.0, 1.0]], dtype=torch.float64)
    assert pairs.ranks(same[:1], nearly, alone[:1], alone).tolist() == [2]


def test_a_query_without_a_right_answer_is_never_found() -> None:
    gallery = unit(12)
    found = pairs.ranks(gallery[:1], gallery, torch.tensor([99]), torch.arange(12))
    assert found.tolist() == [13]
    assert pairs.recall(found, 12) == 0


def test_only_the_best_of_several_right_answers_counts() -> None:
    similarities = torch.tensor([[0.9, 0.8, 0.7, 0.6]])
    assert pairs.block_ranks(similarities, torch.tensor([[True, True, True, False]])).tolist() == [1]
    assert pairs.block_ranks(similarities, torch.tensor([[False, True, False, True]])).tolist() == [2]
    assert pairs.block_ranks(similarities, torch.tensor([[False, False, False, True]])).tolist() == [4]


def test_recall_of_a_perfect_space_and_of_a_shuffled_one() -> None:
    a, alone = unit(400, 64), torch.arange(400)
    assert [pairs.recall(pairs.ranks(a, a, alone, alone), k) for k in pairs.RECALLS] == [100, 100, 100]
    shuffled = a[torch.randperm(400, generator=torch.Generator().manual_seed(0))]
    for k in pairs.RECALLS:
        found, expected = pairs.recall(pairs.ranks(a, shuffled, alone, alone), k), pairs.chance_recall(alone * 0 + 1, 400, k)
        assert found == pytest.approx(expected, abs=2)


@pytest.mark.parametrize("k", [1, 5, 10])
def test_chance_is_that_of_random_orders(k: int) -> None:
    right = torch.tensor([1, 3, 12, 0, 2])
    exact = [1 - math.comb(12 - r, k) / math.comb(12, k) for r in right.tolist()]
    assert pairs.chance_recall(right, 12, k) == pytest.approx(100 * sum(exact) / 5)
    assert pairs.chance_recall(torch.tensor([1]), 3, 5) == 100


def test_right_answers_are_counted() -> None:
    assert pairs.right_answers(torch.tensor([3, -1, 7, 3]), torch.tensor([3, 7, 3, 7, 7])).tolist() == [2, 0, 3, 2]


def test_the_gap_is_that_of_a_loop() -> None:
    a, b, group = unit(9), unit(9, seed=3), torch.tensor([0, 1, 2, 2, 3, 3, 3, 4, 5])
    found = pairs.modality_gap(a, b, group)
    cosines = (a @ b.mT).tolist()
    others = [cosines[i][j] for i in range(9) for j in range(9) if group[i] != group[j]]
    own = [cosines[i][i] for i in range(9)]
    assert found.contrast == pytest.approx(sum(own) / 9 - sum(others) / len(others))
    assert found.distance == pytest.approx(np.linalg.norm(a.numpy().mean(0) - b.numpy().mean(0)))
    assert math.isnan(pairs.modality_gap(a, b, torch.zeros(9, dtype=torch.int64)).contrast)


def test_a_class_is_the_mean_of_unit_vectors_of_its_prompts() -> None:
    prompts = torch.tensor([[[3.0, 0.0], [0.0, 1.0]], [[0.0, -2.0], [0.0, -1.0]]])
    assert torch.allclose(pairs.class_vectors(prompts), torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, -1.0]]))
    assert pairs.filled(["a {}", "{} {{}}"], "{}") == ["a {}", "{} {{}}"]


def test_zero_shot_accuracy_is_that_of_a_loop() -> None:
    samples, classes = unit(60), unit(7, seed=5)
    labels = torch.randint(5, (60,), generator=torch.Generator().manual_seed(0))
    found = pairs.class_ranks(samples, classes, labels)
    right = [max(range(7), key=lambda c, row=row: row[c]) for row in (samples @ classes.mT).tolist()]
    hits = [guess == label for guess, label in zip(right, labels.tolist(), strict=True)]
    assert pairs.recall(found, 1) == pytest.approx(100 * sum(hits) / 60)
    of_class = [[hit for hit, label in zip(hits, labels.tolist(), strict=True) if label == c] for c in set(labels.tolist())]
    assert pairs.mean_of_classes(found, labels) == pytest.approx(100 * sum(sum(h) / len(h) for h in of_class) / len(of_class))
    two_alike = torch.stack([classes[0], classes[0]])
    assert pairs.class_ranks(samples[:1], two_alike, torch.tensor([0])).tolist() == [2]


def pair_table(**changes: Any) -> PairTable:
    rows = (PairRow("pretrained", {"a": 30.0, "b": 50.0}, 8), PairRow("random init", {"a": 1.0, "b": 1.0}, 8))
    given: dict[str, Any] = {"protocol": "p", "task": "retrieval", "data": "d (test)", "num_test": 500, "notes": ("A note.",)}
    given |= {"columns": {"a": "to x R@1", "b": "to y R@1"}, "headline": ("a", "b"), "headline_title": "R@1"}
    return PairTable(**{**given, "rows": (*rows, PairRow("chance", {"a": 0.2, "b": 0.2})), **changes})


def test_a_table_of_pairs_survives_json_and_has_a_verdict() -> None:
    table = pair_table()
    assert PairTable.from_dict(table.to_dict()) == table
    assert table.verdict == "R@1: pretrained reaches 40.0, 39.0 points above random init and 39.8 points above chance."
    assert table.wins
    few = pair_table(num_test=3)
    assert not few.wins
    assert "(within error)" in few.verdict
    seen = pair_table(rows=(PairRow("pretrained", {"a": 30.0, "b": 50.0}, 8, seen=True), *table.rows[1:]))
    assert (seen.verdict, seen.wins) == ("No verdict: pretrained was trained on what is scored.", False)
    assert table.to_markdown().splitlines()[2] == "| pretrained | **30.0** | **50.0** | 8 |"


def test_templates_are_given_named_or_in_a_file(tmp_path: Any) -> None:
    assert read_templates(None) == ["{}"]
    assert read_templates(["a {}", "{}!"]) == ["a {}", "{}!"]
    assert len(read_templates("openai_imagenet")) == 80
    assert read_templates("simple_imagenet")[0] == "itap of a {}."
    file = tmp_path / "templates.txt"
    file.write_text("a {}.\n\n the {} \n")
    assert read_templates(str(file)) == ["a {}.", "the {}"]
    file.write_text("a {}\nnothing\n")
    with pytest.raises(ValueError, match=r"templates.txt: template 2, 'nothing', has no {} for the name of a class"):
        read_templates(str(file))
    with pytest.raises(ValueError, match="templates: there is no template"):
        read_templates([])
    with pytest.raises(FileNotFoundError, match="'imagenet' is neither a file nor one of openai_imagenet, simple_imagenet"):
        read_templates("imagenet")


PROCESSOR = MMSSLProcessor({"text": find("text").processor(tokenizer="bytes"), "timeseries": find("timeseries").processor()})


def config(projections: bool = True, names: tuple[str, ...] = ("text", "timeseries")) -> MMSSLConfig:
    modalities = {name: {"processor": PROCESSOR.settings()[name], "adapter": {}} for name in names}
    head = {"layers": 1, "size": 8, "norm": "none"}
    settings: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    return MMSSLConfig(modalities=modalities, projections=dict.fromkeys(names, head) if projections else None, **settings)


ROWS = [
    {"text": None if i == 3 else f"row {i}", "curve": [float(i)] * 16 if i != 5 else None, "kind": "ab"[i % 2], "same": i // 2}
    for i in range(40)
]
COLUMNS: dict[str, Any] = {"timeseries": "curve", "label": "kind", "group": "same"}


def opened(changes: dict[str, Any], rows: Any = ROWS, columns: Any = COLUMNS, **settings: Any) -> dict[str, PairEvaluator]:
    options = EvaluateOptions(**{"columns": columns, "retrieval": [None], **changes})
    return open_pairs(options, DataOptions(), PROCESSOR, config(**settings), rows=rows, history=History())


@pytest.fixture
def perfect(monkeypatch: pytest.MonkeyPatch) -> torch.Tensor:
    """Every sample is a direction of its own, that of `order` for the second modality; classes are the mean of their samples."""
    order, calls = torch.arange(len(ROWS)), list[str]()

    def extract(model: Any, processor: Any, source: Any, name: str, *, labels: Any, **ignored: Any) -> Features:
        rows = torch.tensor([source.row_number(i) for i in range(len(source))])
        calls.append(name)
        values = torch.eye(len(ROWS))[rows if name == "text" else order[rows]]
        return Features(values, None if labels is None else labels.tensor(), torch.arange(len(source)))

    def embed_texts(self: Any, modality: str, texts: Any, batch_size: int) -> Tensor:
        kinds = [[float(row["kind"] == text) for row in ROWS] for text in texts]
        return torch.tensor(kinds)

    monkeypatch.setattr("mmssl.evaluation.spaces.extract", extract)
    monkeypatch.setattr(Own, "texts", embed_texts)
    return order


def test_perfect_embeddings_score_100_and_shuffled_ones_chance(perfect: Tensor) -> None:
    (retrieval, zero_shot) = opened({"zero_shot": ZeroShotOptions(splits=[None])}).values()
    model = Own(small_model("text"), PROCESSOR, History())
    found = retrieval.measure("perfect", model)
    assert set(found.row.scores.values()) == {100.0}
    assert (found.count, retrieval.lacking, found.skipped) == (38, 2, 0)
    assert found.remark is not None
    assert found.remark.startswith("modality gap 0.000 ")
    # 36 samples have a partner in their group, which has two; of each group that lost a row one is left.
    assert found.chance[0].scores["text_to_timeseries_1"] == pytest.approx(100 * (36 * 2 + 2) / 38 / 38)
    perfect_classes = zero_shot.measure("perfect", model)
    assert set(perfect_classes.row.scores.values()) == {100.0}
    assert perfect_classes.count == 39
    perfect[:] = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    shuffled = retrieval.measure("shuffled", model).row.scores
    assert max(shuffled[f"{way}_1"] for way in ("text_to_timeseries", "timeseries_to_text")) < 16
    assert 20 < zero_shot.measure("shuffled", model).row.scores["top_1"] < 80


def test_groups_make_other_rows_right(perfect: Tensor) -> None:
    model = Own(small_model("text"), PROCESSOR, History())
    perfect[:] = torch.arange(40) ^ 1  # the other row of the group
    ((_, grouped),) = opened({}).items()
    ((_, alone),) = opened({}, columns={"timeseries": "curve"}).items()
    # Two rows lost the other one of their group.
    assert list(grouped.measure("x", model).row.scores.values()) == [pytest.approx(100 * 36 / 38)] * 6
    assert alone.measure("x", model).row.scores["text_to_timeseries_1"] == 0


@pytest.mark.parametrize(
    ("changes", "rows", "columns", "settings", "kind", "message"),
    [
        ({}, ROWS, COLUMNS, {"projections": False}, ValueError, "retrieval needs a model that maps modalities into one space"),
        ({}, ROWS, {}, {}, ValueError, "retrieval needs data that pair two of the model's modalities text, timeseries"),
        ({}, [{**row, "text": ""} for row in ROWS], COLUMNS, {}, ValueError, "no row of rows in memory holds text and timeseries"),
        ({"retrieval": ["test"]}, ROWS, COLUMNS, {}, ValueError, r"no part 'test'; score all of them, as in retrieval: \[null\]"),
        ({"zero_shot": {"splits": [None]}}, ROWS, {"timeseries": "curve"}, {}, ValueError, "names no label column; it has text"),
        (
            {"zero_shot": {"splits": [None], "modality": "smell"}},
            ROWS,
            COLUMNS,
            {},
            LookupError,
            "zero_shot.modality: 'smell' is no",
        ),
        ({"zero_shot": {"splits": [None], "by": "timeseries"}}, ROWS, COLUMNS, {}, ValueError, "and timeseries takes no text"),
        ({"zero_shot": {"splits": [None], "templates": ["a"]}}, ROWS, COLUMNS, {}, ValueError, "template 1, 'a', has no {}"),
        ({"zero_shot": {"splits": [None], "called": {"c": "d"}}}, ROWS, COLUMNS, {}, LookupError, "has no class 'c'; its .* a, b"),
        ({"zero_shot": {"splits": [None]}, "retrieval": None}, ROWS, {"label": "kind"}, {}, ValueError, "has no column for one"),
    ],
)
def test_what_cannot_be_scored_says_why(
    changes: dict[str, Any], rows: Any, columns: Any, settings: dict[str, Any], kind: type[Exception], message: str
) -> None:
    if isinstance(changes.get("zero_shot"), dict):
        changes = {**changes, "zero_shot": ZeroShotOptions(**changes["zero_shot"])}
    with pytest.raises(kind, match=message):
        opened(changes, rows, columns, **settings)


def test_texts_may_be_the_names_of_the_classes_that_are_scored() -> None:
    columns, called = {**COLUMNS, "text": "kind", "label": "kind"}, {"kind": {"a": "alpha", "b": "beta"}}
    options = EvaluateOptions(columns=columns, zero_shot=ZeroShotOptions(splits=[None]))
    found = open_pairs(options, DataOptions(called=called), PROCESSOR, config(), rows=ROWS, history=History())
    scored = found["zero_shot_all"]
    assert isinstance(scored, ZeroShot)
    assert scored.labels.names == ["a", "b"]
    assert scored.names == ["alpha", "beta"]
    with pytest.raises(ValueError, match="named for the labels and for timeseries, which could then read the answer"):
        opened({"zero_shot": ZeroShotOptions(splits=[None])}, columns={"timeseries": "kind", "label": "kind"})
