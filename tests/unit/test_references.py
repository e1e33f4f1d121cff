"""Methods without pretraining that stand in a table of scores beside encoders."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from jaxtyping import Float

from mmssl.data import DataOptions
from mmssl.evaluation import EvaluateOptions, Evaluator
from mmssl.modality import Processor, find
from mmssl.model import MMSSLConfig, MMSSLModel
from mmssl.plugins import installed
from mmssl.processor import MMSSLProcessor
from mmssl.testing.small import small_processor
from mmssl_modalities.timeseries.reference import RandomConvolutions


def predicted(processor: Processor, raws: Sequence[Any], labels: Sequence[Any], classes: bool = True) -> list[Any]:
    """What the reference, fitted on the first half, says of the second."""
    reference = processor.reference()
    assert reference is not None
    given = [reference.sample(raw) for raw in raws]
    half = len(raws) // 2
    estimator = reference.estimator(classes, 0)
    estimator.fit(given[:half], np.array(labels[:half]))
    return list(estimator.predict(given[half:]))


def fitted(name: str, raws: Sequence[Any], **keys: Any) -> Processor:
    processor = find(name).processor(**keys)
    processor.fit(raws)
    return processor


@pytest.mark.parametrize("classes", [True, False], ids=["classes", "values"])
@pytest.mark.parametrize("name", [name for name in installed() if small_processor(name).reference()])
def test_every_reference_reads_what_its_processor_makes(name: str, classes: bool) -> None:
    processor, raws = small_processor(name), find(name).example(40, 0)
    found = predicted(processor, raws, [row % 2 for row in range(40)] if classes else np.linspace(0, 1, 40), classes)
    assert len(found) == 20 and np.isfinite(found).all()


def test_words_are_counted() -> None:
    random = np.random.default_rng(0)
    others = ["film", "plot", "the", "a", "of", "scene"]
    labels = random.integers(2, size=80)
    raws = [" ".join([*random.choice(others, 9), ["bad", "good"][label]]) for label in labels]
    assert np.mean(predicted(fitted("text", raws), raws, labels) == labels[40:]) > 0.95
    windows = fitted("text", raws, max_tokens=16)
    assert len(windows.pieces(raws[0])) > 1
    assert np.mean(predicted(windows, raws, labels) == labels[40:]) > 0.9


def test_trees_find_what_no_linear_model_does() -> None:
    """Whether a number is high, the other way round for one of two categories; with gaps, a date and a text beside them."""
    random = np.random.default_rng(0)
    numbers, kinds = random.normal(size=600), random.integers(2, size=600)
    rows = [
        {"size": number, "gap": None, "kind": "ab"[kind], "day": f"2020-01-{1 + row % 28:02d}", "text": f"row number {row} of many"}
        for row, (number, kind) in enumerate(zip(numbers, kinds, strict=True))
    ]
    rows[0]["gap"] = 1.0
    labels = (numbers > 0) ^ (kinds == 1)
    processor = fitted("tabular", rows)
    assert np.mean(predicted(processor, rows, labels.astype(int)) == labels[300:]) > 0.95
    values = predicted(processor, rows, np.where(labels, 1.0, -1.0) * np.abs(numbers), classes=False)
    assert np.corrcoef(values, np.where(labels, 1.0, -1.0)[300:] * np.abs(numbers)[300:])[0, 1] > 0.8


def waves(count: int, channels: int, ragged: bool) -> tuple[list[Float[np.ndarray, "c t"]], list[int]]:
    """Noise with a short square or round bump somewhere in the last channel."""
    random = np.random.default_rng(0)
    raws, labels = [], []
    for row in range(count):
        size = int(random.integers(60, 90)) if ragged else 64
        series, start = 0.1 * random.normal(size=(channels, size)), int(random.integers(size - 20))
        series[-1, start : start + 20] += 1 if row % 2 else np.sin(np.linspace(0, np.pi, 20))
        raws.append(series)
        labels.append(row % 2)
    return raws, labels


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("ragged", [False, True], ids=["equal", "ragged"])
def test_convolutions_find_shapes(channels: int, ragged: bool) -> None:
    raws, labels = waves(120, channels, ragged)
    assert np.mean(np.array(predicted(fitted("timeseries", raws), raws, labels)) == labels[60:]) > 0.9
    if ragged:
        windows = fitted("timeseries", raws, window=32)
        assert np.mean(np.array(predicted(windows, raws, labels)) == labels[60:]) > 0.9


@pytest.mark.parametrize(("channels", "size"), [(1, 64), (3, 40), (2, 9), (1, 5)])
def test_features_of_convolutions(channels: int, size: int) -> None:
    """By the sums of the definition, one kernel and one place at a time."""
    x = np.random.default_rng(0).normal(size=(3, channels, size))
    transform = RandomConvolutions(kernels=20, seed=1).fit(x)
    found = transform.transform(x)
    assert found.shape == (3, 40) and sum(len(bank.bias) for bank in transform.banks_.values()) == 20
    standard = (x - x.mean(2, keepdims=True)) / x.std(2, keepdims=True)
    expected: list[list[float]] = [[] for _ in x]
    for kernel, bank in transform.banks_.items():
        weight, reach = bank.weight.numpy(), (kernel.length - 1) * kernel.dilation
        assert reach < size and np.allclose(weight.mean(2), 0, atol=1e-6) and np.abs(bank.bias.numpy()).max() <= 1
        pad = reach // 2 if kernel.padded else 0
        wide = np.pad(standard, ((0, 0), (0, 0), (pad, pad)))
        for row, series in enumerate(wide):
            outs = [
                [
                    float((series[:, place : place + reach + 1 : kernel.dilation] * each).sum() + bias)
                    for place in range(series.shape[1] - reach)
                ]
                for each, bias in zip(weight, bank.bias.numpy(), strict=True)
            ]
            expected[row] += [max(out) for out in outs] + [float(np.mean(np.array(out) > 0)) for out in outs]
    np.testing.assert_allclose(found, np.array(expected), atol=1e-4)
    again = RandomConvolutions(kernels=20, seed=2).fit(x).transform(x)
    assert not np.allclose(found, again), "another seed draws other kernels"


def test_a_table_scores_the_reference_on_the_samples_that_could_be_read() -> None:
    words = ["good", "bad"]
    rows: list[dict[str, Any]] = [{"text": f"{words[row % 2]} film {row}", "label": words[row % 2]} for row in range(60)]
    rows[3]["text"] = None
    data = DataOptions(path="rows", columns={"label": "label"}, on_error="skip")
    processor = MMSSLProcessor({"text": fitted("text", [row["text"] for row in rows[4:]])})
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = MMSSLConfig(modalities={"text": {"processor": processor.processors["text"].settings(), "adapter": {}}}, **shape)
    evaluator = Evaluator(EvaluateOptions(random_draws=1), data, processor, config, rows=rows)
    table = evaluator.table(MMSSLModel(config))
    named = {row.name: row for row in table.rows}
    assert list(named) == ["pretrained", "random init", "raw features", "TF-IDF of words", "most frequent class"]
    assert named["TF-IDF of words"].probe == 100 and "TF-IDF of words" in table.margins
    assert "Samples that could not be read, and are left out: 1." in table.notes
    assert named["random init"].probe_spread == 0
