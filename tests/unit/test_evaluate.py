import json
import math
from dataclasses import replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pytest
import torch
from jaxtyping import Float, Int
from sklearn.datasets import load_diabetes, load_digits
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from mmssl.data import DataOptions, Source, open_streams
from mmssl.evaluation import (
    EvaluateOptions,
    Evaluator,
    Row,
    Table,
    choose_modality,
    extract,
    probes,
    random_init,
    raw_features,
)
from mmssl.evaluation.history import History
from mmssl.evaluation.protocol import DRAW
from mmssl.modality import find
from mmssl.model import MMSSLConfig, MMSSLModel
from mmssl.model.config import encoder_settings
from mmssl.processor import MMSSLProcessor

DIGITS = DataOptions(path="bundled:digits")


def fitted(name: str, data: DataOptions, **settings: Any) -> MMSSLProcessor:
    modality, source = find(name), open_streams(data, [name])["data"].source
    processor = modality.processor(**settings)
    processor.fit(source.raw(modality, row) for row in source.rows(range(len(source))))
    return MMSSLProcessor({name: processor})


def small_model(processor: MMSSLProcessor, seed: int = 1, **adapter: Any) -> MMSSLModel:
    modalities = {name: {"processor": settings, "adapter": adapter} for name, settings in processor.settings().items()}
    encoder = encoder_settings(hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    torch.manual_seed(seed)
    return MMSSLModel(MMSSLConfig(modalities=modalities, **encoder))


@pytest.fixture(scope="module")
def images() -> MMSSLProcessor:
    return fitted("image", DIGITS, size=8, channels=1)


@pytest.fixture(scope="module")
def model(images: MMSSLProcessor) -> MMSSLModel:
    return small_model(images, patch_size=4)


UNRECORDED = "pretrained: what it was trained on is not recorded, or not from the beginning; the test samples may be among it."


def rows_of(source: Source) -> set[int]:
    """The rows of the dataset that a source keeps."""
    return {source.row_number(i) for i in range(len(source))}


def digits(
    num_train: int = 400, num_test: int = 150
) -> tuple[Float[Tensor, "n d"], Int[Tensor, " n"], Float[Tensor, "m d"], Int[Tensor, " m"]]:
    x, y = load_digits(return_X_y=True)
    x, y = torch.from_numpy(x).float(), torch.from_numpy(y)
    end = num_train + num_test
    return x[:num_train], y[:num_train], x[num_train:end], y[num_train:end]


def neighbours_loop(train: Tensor, values: Tensor, test: Tensor, k: int, temperature: float) -> Float[np.ndarray, "m c"]:
    """Weighted mean of the values of the nearest samples, one at a time in float64."""
    a, v, b = (tensor.double().numpy() for tensor in (train, values, test))
    means = []
    for sample in b:
        similarity = np.array([sample @ other / math.sqrt((sample @ sample) * (other @ other)) for other in a])
        near = np.argsort(-similarity)[:k]
        weight = np.exp(similarity[near] / temperature)
        means.append((weight[:, None] * v[near]).sum(0) / weight.sum())
    return np.array(means)


@pytest.mark.parametrize(("k", "temperature"), [(20, 0.07), (1, 0.07), (5, 1.0), (1000, 0.2)])
def test_knn_matches_a_float64_loop(k: int, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "CHUNK", 7)
    random = torch.Generator().manual_seed(0)
    train, test = torch.randn(60, 9, generator=random), torch.randn(33, 9, generator=random)
    classes, values = torch.randint(4, (60,), generator=random), torch.randn(60, generator=random)
    votes = neighbours_loop(train, torch.eye(4)[classes], test, k, temperature)
    assert probes.knn_classify(train, classes, test, k=k, temperature=temperature).tolist() == votes.argmax(1).tolist()
    expected = neighbours_loop(train, values[:, None], test, k, temperature)[:, 0]
    found = probes.knn_regress(train, values, test, k=k, temperature=temperature)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_held_out_takes_a_fifth_of_each_class_and_leaves_every_class_in_training() -> None:
    groups = torch.tensor([0] * 50 + [1] * 10 + [2] * 3 + [3] * 2 + [7])[
        torch.randperm(66, generator=torch.Generator().manual_seed(0))
    ]
    out = probes.held_out(groups, seed=0)
    assert {g: int(out[groups == g].sum()) for g in (0, 1, 2, 3, 7)} == {0: 10, 1: 2, 2: 1, 3: 1, 7: 0}
    assert torch.equal(out, probes.held_out(groups, seed=0))
    assert not torch.equal(out, probes.held_out(groups, seed=1))


@pytest.mark.parametrize("rotated", [True, False])
@pytest.mark.parametrize("strength", [1e-3, 1.0])
def test_logistic_regression_finds_the_minimum_that_scikit_learn_finds(
    strength: float, rotated: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probes, "GRADIENT_TOLERANCE", 1e-7)
    x, y, _, _ = digits(300)
    x = torch.from_numpy(StandardScaler().fit_transform(x.double().numpy()))
    reference = LogisticRegression(C=strength, tol=1e-8, max_iter=10_000).fit(x.numpy(), y.numpy())
    basis, variances = probes._principal_axes(x) if rotated else (torch.eye(64, dtype=x.dtype), x.square().mean(0))
    problem = probes._Logistic(x @ basis, y, variances)
    problem.fit(strength)
    assert problem.converged
    np.testing.assert_allclose((basis @ problem.weight).T, reference.coef_, atol=1e-4)
    np.testing.assert_allclose(problem.bias, reference.intercept_, atol=1e-3)


def reference_strength(x: Tensor, y: Tensor, scaled: Tensor) -> float:
    """The strength that scikit-learn would choose on the same held-out samples."""
    out = probes.held_out(y, seed=0).numpy()
    scores = [
        LogisticRegression(C=c, max_iter=10_000).fit(scaled[~out], y[~out]).score(scaled[out], y[out]) for c in probes.STRENGTHS
    ]
    return probes.STRENGTHS[int(np.argmax(scores))]


def test_linear_probe_matches_a_scikit_learn_pipeline() -> None:
    x, y, test, truth = digits()
    probe = probes.linear_classify(x, y, test)
    assert probe.converged
    assert probe.strength == reference_strength(x, y, StandardScaler().fit_transform(x.numpy()))
    pipeline = make_pipeline(StandardScaler(), LogisticRegression(C=probe.strength, tol=1e-8, max_iter=10_000)).fit(x, y)
    assert probe.predicted.tolist() == pipeline.predict(test).tolist()
    assert probes.accuracy(probe.predicted, truth) == pytest.approx(100 * pipeline.score(test, truth))


def test_penalty_is_chosen_on_groups_that_are_held_out() -> None:
    x, y, test, _ = digits()
    groups = torch.arange(len(y)) % 3
    scaled = StandardScaler().fit_transform(x.numpy())
    scores = []
    for c in probes.STRENGTHS:
        folds = [(groups != group).numpy() for group in range(3)]
        fitted = [LogisticRegression(C=c, max_iter=10_000).fit(scaled[part], y[part]) for part in folds]
        scores.append(sum(model.score(scaled[~part], y[~part]) for model, part in zip(fitted, folds, strict=True)))
    probe = probes.linear_classify(x, y, test, groups=groups)
    assert probe.strength == probes.STRENGTHS[int(np.argmax(scores))]
    with pytest.raises(ValueError, match="two groups or more; got one"):
        probes.linear_classify(x, y, test, groups=torch.zeros(len(y)))


def test_linear_probe_repeats_and_ignores_units_and_constant_features() -> None:
    x, y, test, _ = digits()
    first, again = probes.linear_classify(x, y, test), probes.linear_classify(x, y, test)
    assert torch.equal(first.predicted, again.predicted)
    assert first.strength == again.strength
    scale = torch.logspace(-3, 3, 64)
    wide, wide_test = (torch.cat([part * scale + 5, torch.full((len(part), 1), 0.1)], 1) for part in (x, test))
    other = probes.linear_classify(wide, y, wide_test)
    assert (other.predicted == first.predicted).float().mean() > 0.98


def test_two_classes_are_penalised_as_the_softmax_of_both() -> None:
    x, y, test, _ = digits()
    probe = probes.linear_classify(x, (y > 4).long(), test)
    binary = make_pipeline(StandardScaler(), LogisticRegression(C=2 * probe.strength, tol=1e-8, max_iter=10_000)).fit(x, y > 4)
    assert probe.predicted.bool().tolist() == binary.predict(test).tolist()


def test_ridge_matches_scikit_learn() -> None:
    x, y = (torch.from_numpy(part).float() for part in load_diabetes(return_X_y=True))
    probe = probes.linear_regress(x[:300], y[:300], x[300:])
    reference = make_pipeline(StandardScaler(), Ridge(alpha=1 / probe.strength)).fit(x[:300], y[:300])
    np.testing.assert_allclose(probe.predicted, reference.predict(x[300:]), rtol=1e-3)
    assert probes.r2(probe.predicted, y[300:]) == pytest.approx(reference.score(x[300:], y[300:]), abs=1e-4)


def test_the_search_for_the_penalty_ends_after_two_that_are_worse() -> None:
    tried = []

    def score(strength: float) -> float:
        tried.append(strength)
        return [1.0, 3.0, 3.0, 2.0, 2.9, 9.0][len(tried) - 1]

    assert probes._best_strength(score) == 1e-3
    assert tried == [1e-4, 1e-3, 1e-2, 1e-1, 1.0]


def test_impossible_probes_say_why() -> None:
    with pytest.raises(ValueError, match="needs labels that differ; all 3 test labels are 2"):
        probes.r2(torch.zeros(3), torch.full((3,), 2.0))
    with pytest.raises(ValueError, match="two training samples of at least one class; got 3 of different classes"):
        probes.linear_classify(torch.randn(3, 2), torch.arange(3), torch.randn(1, 2))


def test_features_are_the_pooled_output_of_each_sample(images: MMSSLProcessor, model: MMSSLModel) -> None:
    source = Source(path="bundled:digits", split="test", limit=60)
    state = torch.get_rng_state()
    model.train()
    found = extract(model, images, source, "image", labels=source.labels(), batch_size=25)
    assert model.training
    assert torch.equal(torch.get_rng_state(), state)
    rows = source.rows(range(60))
    with torch.no_grad():
        each = [model.eval()(**images(images=row["image"])).pooler_output[0] for row in rows]
    torch.testing.assert_close(found.values, torch.stack(each))
    assert not found.values.requires_grad
    assert found.ids.tolist() == list(range(60))
    assert found.labels is not None
    assert found.labels.tolist() == [row["target"] for row in rows]


def test_features_are_those_of_evaluation_mode(images: MMSSLProcessor) -> None:
    """In training mode stochastic depth would leave out layers, each time others."""
    model = small_model(images, patch_size=4)
    model = MMSSLModel(model.config.derive(drop_path_rate=0.9, num_hidden_layers=6)).train()
    source = Source(path="bundled:digits", split="test", limit=40)
    inputs = images(images=[row["image"] for row in source.rows(range(40))])
    with torch.no_grad():
        assert not torch.equal(model(**inputs).pooler_output, model(**inputs).pooler_output), "training mode does not repeat"
        expected = model.eval()(**inputs).pooler_output
    first, again = (extract(model.train(), images, source, "image").values for _ in range(2))
    assert torch.equal(first, again)
    torch.testing.assert_close(first, expected)
    assert model.training, "the model is given back as it was"


def test_raw_features_are_those_of_the_processor(images: MMSSLProcessor) -> None:
    source, processor = Source(path="bundled:digits", split="test", limit=9), images.processors["image"]
    found = raw_features(source, "image", processor, batch_size=4)
    each = [processor.features(processor(row["image"])) for row in source.rows(range(9))]
    np.testing.assert_array_equal(found.values, np.stack(each))
    assert found.labels is None


def test_random_init_depends_on_the_seed_alone(model: MMSSLModel) -> None:
    state = torch.get_rng_state()
    weights = [torch.cat([p.detach().flatten() for p in random_init(model.config, seed).parameters()]) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_table_has_a_row_for_the_model_and_each_baseline(images: MMSSLProcessor, model: MMSSLModel, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    images.save_pretrained(tmp_path)
    options = EvaluateOptions(train_limit=300, test_limit=100)
    evaluator = Evaluator(options, DIGITS, images, model.config, history=History())
    table = evaluator.table(model, others={"the same": tmp_path})
    assert [row.name for row in table.rows] == ["pretrained", "the same", "random init", "raw features", "most frequent class"]
    first, same, random, raw, constant = table.rows
    assert (first.knn, first.probe) == (same.knn, same.probe)
    assert evaluator.score(model) == {"knn": first.knn, "probe": first.probe}
    assert raw.probe > 85 > random.probe > constant.probe == constant.knn
    assert (table.metric, table.num_train, table.num_test, table.protocol) == ("accuracy", 300, 100, "mmssl-frozen-v3")
    assert table.notes == (UNRECORDED.replace("pretrained", "the same"),)
    drawn = [evaluator.row("one draw", random_init(model.config, DRAW * number)).probe for number in range(3)]
    assert (random.draws, random.probe, random.probe_spread) == (3, mean(drawn), stdev(drawn))


def test_baselines_are_computed_once(images: MMSSLProcessor, model: MMSSLModel, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = Evaluator(EvaluateOptions(train_limit=100, test_limit=50), DIGITS, images, model.config)
    first = evaluator.table(model)
    monkeypatch.setattr("mmssl.evaluation.protocol.random_init", None)
    monkeypatch.setattr("mmssl.evaluation.protocol.raw_features", None)
    assert evaluator.table(model) == first


def test_values_are_scored_by_r2() -> None:
    data = DataOptions(path="bundled:diabetes")
    processor = fitted("tabular", data)
    model = small_model(processor)
    table = Evaluator(EvaluateOptions(), data, processor, model.config).table(model)
    assert table.metric == "R2"
    assert table.row("raw features").probe > 0.3
    assert abs(table.row("mean label").probe) < 0.02


def test_without_a_test_split_a_fifth_of_the_training_rows_is_held_out(tmp_path: Path) -> None:
    path = tmp_path / "cells.csv"
    path.write_text("size,kind\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(50)))
    data = DataOptions(path=str(path), columns={"label": "kind"})
    processor = fitted("tabular", data)
    config = small_model(processor).config
    table = Evaluator(EvaluateOptions(), data, processor, config).table(small_model(processor))
    assert (table.num_train, table.num_test) == (40, 10)
    assert table.row("most frequent class").probe == 50
    note = f"A fifth of the training rows are the test samples ({path} has no split 'test'; it has train)."
    assert table.notes == (note, UNRECORDED)
    limited = Evaluator(EvaluateOptions(train_limit=8, test_limit=4), data, processor, config).sources
    assert (len(limited.train), len(limited.test)) == (8, 4)
    assert rows_of(limited.test) <= rows_of(Evaluator(EvaluateOptions(), data, processor, config).sources.test)
    with pytest.raises(LookupError, match="has no split 'tset'; it has train"):
        Evaluator(EvaluateOptions(test_split="tset"), data, processor, config)


def test_rows_in_memory_replace_the_data_and_bad_ones_can_be_skipped(images: MMSSLProcessor, model: MMSSLModel) -> None:
    rows = Source(path="bundled:digits").rows(range(120))
    rows[30]["image"] = b"no image"
    data = DataOptions(path="unused", columns={"label": "target"}, on_error="skip")
    evaluator = Evaluator(EvaluateOptions(), data, images, model.config, rows=rows)
    table = evaluator.table(model)
    assert table.num_train + table.num_test == 119
    good = Evaluator(EvaluateOptions(), data, images, model.config, rows=Source(path="bundled:digits").rows(range(120)))
    assert rows_of(good.sources.test) == rows_of(evaluator.sources.test), "a bad sample moves no other one"
    assert table.notes[-1] == "Samples that could not be read, and are left out: 1."


def test_bad_requests_fail_before_any_work(images: MMSSLProcessor, model: MMSSLModel) -> None:
    rows = [{"image": 1, "kind": 2}]
    with pytest.raises(ValueError, match="rows in memory names no label column; it has image, kind"):
        Evaluator(EvaluateOptions(), DIGITS, images, model.config, rows=rows)
    with pytest.raises(LookupError, match="the model has no modality 'sound'; it has image"):
        Evaluator(EvaluateOptions(modality="sound"), DIGITS, images, model.config)
    both = MMSSLProcessor({**images.processors, "tabular": images.processors["image"]})
    with pytest.raises(ValueError, match=r"the model has the modalities image, tabular; choose one with evaluate\.modality=image"):
        choose_modality(None, both)


def test_a_limit_may_leave_a_class_without_training_samples(images: MMSSLProcessor, model: MMSSLModel) -> None:
    table = Evaluator(EvaluateOptions(train_limit=12), DIGITS, images, model.config).table(model)
    assert (table.num_train, table.num_test) == (12, 360)


def test_a_model_that_has_diverged_is_not_scored(images: MMSSLProcessor) -> None:
    model = small_model(images, patch_size=4)
    with torch.no_grad():
        next(model.encoder.parameters()).fill_(torch.nan)
    evaluator = Evaluator(EvaluateOptions(train_limit=30, test_limit=30), DIGITS, images, model.config)
    with pytest.raises(ValueError, match="the features of 'pretrained' are not finite for 30 of 30 samples"):
        evaluator.score(model)


def example_table(**changes: Any) -> Table:
    rows = (
        Row("pretrained", 95.83, 97.24, 64, 0.1),
        Row("random init", 57.2, 81.4, 64, 1.0),
        Row("raw features", 97.5, 96.9, 64, 1.0, converged=False),
        Row("most frequent class", 10.0, 10.0),
    )
    values: dict[str, Any] = {
        "protocol": "p-v1",
        "metric": "accuracy",
        "data": "bundled:digits",
        "num_train": 1437,
        "num_test": 360,
    }
    return Table(**{**values, "rows": rows, "notes": ("A note.",), **changes})


def test_a_table_survives_json() -> None:
    table = example_table()
    assert Table.from_dict(json.loads(json.dumps(table.to_dict()))) == table
    with pytest.raises(ValueError, match=r"not a table of scores: expected the keys .*got \['rows'\]"):
        Table.from_dict({"rows": []})
    with pytest.raises(LookupError, match="no row 'x'; it has pretrained, random init"):
        table.row("x")


def test_a_table_in_markdown() -> None:
    assert example_table().to_markdown().splitlines() == [
        "| | 20-NN | linear probe | features |",
        "|---|---:|---:|---:|",
        "| pretrained | 95.8 | **97.2** | 64 |",
        "| random init | 57.2 | 81.4 | 64 |",
        "| raw features | **97.5** | 96.9 | 64 |",
        "| most frequent class | 10.0 | 10.0 | - |",
        "",
        "bundled:digits: accuracy in %, 1,437 train and 360 test samples, p-v1.",
        "A note.",
        "The linear probe of raw features stopped before it had converged.",
    ]


def test_the_verdict_knows_sampling_error() -> None:
    few, many = example_table(), example_table(num_test=1_000_000)
    seen = example_table(num_test=1_000_000, rows=(replace(few.rows[0], seen=True), *few.rows[1:]))
    assert (seen.verdict, seen.wins) == ("No verdict: pretrained was trained on test samples with their labels.", False)
    text = "Linear probe: pretrained reaches 97.2, 15.8 points above random init and 0.3 points above raw features"
    assert (few.verdict, few.wins) == (f"{text} (within error).", False)
    assert (many.verdict, many.wins) == (f"{text}.", True)
    values = example_table(metric="R2", rows=(Row("a", 0.1, 0.25), Row("random init", 0.1, 0.5), Row("raw features", 0.1, 0.125)))
    assert values.verdict == ("Linear probe: a reaches 0.250, 0.250 below random init and 0.125 above raw features (within error).")
    assert not values.wins


def test_what_draws_alone_may_make_is_no_win() -> None:
    """t(2) = 4.303: one more draw beside the mean of three lies within 4.303 s sqrt(4 / 3) of it, 95 times of 100."""
    first, random, *rest = example_table().rows
    drawn = replace(random, probe=96.2, draws=3, probe_spread=0.2)
    table = example_table(num_test=10**9, rows=(first, drawn, *rest))
    assert table.error(first, drawn) == pytest.approx(4.3027 * 0.2 * (4 / 3) ** 0.5, rel=1e-3)
    assert "1.0 points above random init (within error)" not in table.verdict and table.wins
    wide = example_table(num_test=10**9, rows=(first, replace(drawn, probe_spread=0.3), *rest))
    assert "1.0 points above random init (within error)" in wide.verdict and not wide.wins
    assert table.cell(drawn, "probe") == "96.2 ± 0.2"
    assert "random init: mean and standard deviation of 3 draws." in table.remarks


def test_a_reference_is_beaten_or_not() -> None:
    first, *rest = example_table().rows
    ahead = Row("counting", None, 99.0, reference=True)
    table = example_table(num_test=10**9, rows=(first, *rest, ahead))
    assert "1.8 points below counting" in table.verdict and not table.wins
    assert (table.cell(ahead, "knn"), table.best("knn"), table.share(ahead, "knn")) == ("-", 97.5, 0)
    assert [table.is_best(row, "probe") for row in table.rows] == [False] * (len(rest) + 1) + [True]
    assert Table.from_dict(table.to_dict()) == table


def test_a_printed_table(capsys: pytest.CaptureFixture[str]) -> None:
    example_table().print()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "bundled:digits: accuracy in %, 1,437 train and 360 test samples, p-v1"
    assert lines[1] == "model                20-NN  linear probe  features"
    assert lines[2] == "pretrained            95.8          97.2        64"
    assert lines[5].split() == ["most", "frequent", "class", "10.0", "10.0", "-"]
    assert lines[-1].startswith("Linear probe: pretrained reaches 97.2")


@pytest.mark.parametrize("num_test", [7, 20, 60, 500])
def test_guessed_values_are_no_evidence(num_test: int) -> None:
    """Of two readers who guess values, one is rarely above the other by more than sampling error."""
    random = np.random.default_rng(0)
    table, rows = example_table(num_test=num_test, metric="R2"), [Row(name, 0.0, 0.0) for name in ("pretrained", "random init")]
    wrong = 0
    for _ in range(1000):
        labels, *guesses = torch.from_numpy(random.normal(size=(3, num_test)))
        a, b = (replace(row, probe=probes.r2(0.3 * guess, labels)) for row, guess in zip(rows, guesses, strict=True))
        wrong += abs(a.probe - b.probe) > table.sampling_error(a, b)
    assert wrong / 1000 < 0.07


@pytest.mark.parametrize("num_test", [2, 3, 20, 60])
def test_few_test_samples_are_no_evidence(num_test: int) -> None:
    """Of two readers who toss coins, one is rarely above the other by more than sampling error, however few the samples."""
    random = np.random.default_rng(0)
    table, rows = example_table(num_test=num_test), [Row(name, 0.0, 0.0) for name in ("pretrained", "random init")]
    wrong = 0
    for _ in range(2000):
        scores = 100 * random.binomial(num_test, 0.5, size=2) / num_test
        a, b = (replace(row, probe=float(score)) for row, score in zip(rows, scores, strict=True))
        wrong += abs(a.probe - b.probe) > table.sampling_error(a, b)
    assert wrong / 2000 < 0.07


def test_bad_rows_among_those_that_are_sized_are_told_only_by_the_reading(images: MMSSLProcessor, model: MMSSLModel) -> None:
    """How many are encoded at a time goes by eight rows, evenly spaced; here all of these are bad, and no other one."""
    pictures = find("image").example(64, 0)
    good = Source.from_rows([{"image": picture} for picture in pictures])
    looked_at = {good.evenly(8).row_number(i) for i in range(8)}
    bad = Source.from_rows([{"image": b"no picture" if i in looked_at else picture} for i, picture in enumerate(pictures)])
    found = extract(model, images, bad, "image", on_error="skip")
    assert found.ids.tolist() == [i for i in range(64) if i not in looked_at]
    whole = extract(model, images, good, "image").values
    torch.testing.assert_close(found.values, whole[found.ids], rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match="row 0 of rows in memory, column image: the image is no image"):
        extract(model, images, bad, "image")
