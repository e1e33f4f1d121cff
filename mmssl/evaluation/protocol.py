"""How a frozen model is scored: one protocol with a version, printed beside every score."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from jaxtyping import Float, Shaped
from pydantic import Field
from torch import Tensor

from mmssl.config import MMSSLConfig
from mmssl.data import DataOptions, Labels, Source, Track, silent
from mmssl.data.source import Columns
from mmssl.evaluation import probes
from mmssl.evaluation.features import Features, extract, random_init, raw_features
from mmssl.evaluation.table import PRETRAINED, RANDOM, RAW, Row, Table
from mmssl.model import MMSSLModel, load_model
from mmssl.processor import MMSSLProcessor

PROTOCOL = "mmssl-frozen-v1"
"""Version of everything below: scores of different versions must not stand in one table.

Features: `pooler_output` in evaluation mode, float32, of samples without augmentation. Limits keep rows evenly spaced over a split.
20-NN: cosine similarity s, votes weighted by exp(s / 0.07) (arXiv 1805.01978); for values, their weighted mean.
Linear probe: features standardised by the training samples; multinomial logistic regression, or ridge regression for values, with
an L2 penalty 1 / C from C = 1e-4, 1e-3, ..., 100, the best on a fifth of the training samples (stratified by class, seeded), then
fitted on all of them. The search ends after two values of C in a row that are worse than the best.
Score: accuracy in percent, or R2, on the test samples. Data without a test split: a fifth of the training rows (stratified, the
same for every seed).
Rows: the model; the same architecture with random weights; `Processor.features` of the raw samples; the most frequent class, or
the mean, of the training labels.
"""

SPLIT_SEED = 0


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What to score a model on: labelled data, a training and a test part.

    every: steps between scores during training; 0: only at the end.
    path: data as in data.path; null: those of the section data.
    train_split: part on which nearest neighbours and linear probe are fitted.
    test_split: part that is scored; null: `test` if the data have it, else a fifth of train_split.
    columns: columns as in data.columns; with the data of the section data they add to its columns.
    modality: which of the model's modalities to score; null: the only one.
    train_limit: keep that many training rows, evenly spaced.
    test_limit: keep that many test rows, evenly spaced.
    batch_size: samples that are encoded at a time.
    seed: seed of the random weights and of the held-out training samples.
    """

    every: Annotated[int, Field(ge=0)] = 0
    path: str | None = None
    train_split: str | None = "train"
    test_split: str | None = None
    columns: Columns | None = None
    modality: str | None = None
    train_limit: Annotated[int, Field(gt=0)] | None = None
    test_limit: Annotated[int, Field(gt=0)] | None = None
    batch_size: Annotated[int, Field(gt=0)] = 256
    seed: Annotated[int, Field(ge=0)] = 0


@dataclass(frozen=True)
class Sources:
    """Labelled rows; `test` is None where a fifth of `train` takes its place."""

    train: Source
    train_labels: Labels
    test: Source | None
    test_labels: Labels | None
    note: str | None


def open_sources(options: EvaluateOptions, data: DataOptions, rows: Sequence[Mapping[str, Any]] | None = None) -> Sources:
    """The data that `options` name; what they leave open is as in `data`, or in `rows` if those are given in its place.

    Classes are those of all training rows: with a limit some may have no training sample.
    """
    columns = options.columns
    if options.path is None:
        columns = {**(data.columns or {}), **(columns or {})} or None
        if rows is not None:
            return _in_memory(rows, columns, options.train_limit)
    path, limit = options.path or data.path, options.train_limit
    if path is None:
        raise ValueError("evaluate.path is needed where data.sources mixes several; give the data to score on")
    whole = Source(path=path, split=options.train_split, columns=columns)
    classes = required_labels(whole)
    train = whole if limit is None else Source(path=path, split=options.train_split, columns=columns, limit=limit)
    train_labels = required_labels(train, classes)
    try:
        test = Source(path=path, split=options.test_split or "test", columns=columns, limit=options.test_limit)
    except LookupError as error:
        if options.test_split is not None:
            raise
        return Sources(train, train_labels, None, None, f"A fifth of the training rows are the test samples ({error}).")
    return Sources(train, train_labels, test, required_labels(test, classes), None)


def _in_memory(rows: Sequence[Mapping[str, Any]], columns: Columns | None, limit: int | None) -> Sources:
    kept = min(limit or len(rows), len(rows))
    train = Source.from_rows([dict(rows[i * len(rows) // kept]) for i in range(kept)], columns)
    return Sources(train, required_labels(train), None, None, "Rows in memory: a fifth of them are the test samples.")


def required_labels(source: Source, like: Labels | None = None) -> Labels:
    """The labels of a source, its classes numbered as in `like`; ValueError if it has none."""
    labels = source.labels(like=like)
    if labels is None:
        raise ValueError(
            f"evaluation needs labels, and {source} names no label column; it has {', '.join(source.column_names)}. "
            "Name one, as in columns: {label: " + source.column_names[-1] + "}"
        )
    return labels


@dataclass(frozen=True)
class Split:
    """Features and labels of the training and of the test samples, and how many samples could not be read."""

    train: Float[Tensor, "n d"]
    train_labels: Shaped[Tensor, " n"]
    test: Float[Tensor, "m d"]
    test_labels: Shaped[Tensor, " m"]
    skipped: int


@dataclass(frozen=True)
class Baselines:
    """What does not depend on the weights of the scored model."""

    rows: tuple[Row, ...]
    num_train: int
    num_test: int
    skipped: int


class Evaluator:
    """Scores models of one architecture on one dataset; the baselines are computed once.

    Opens the data at once, so that a wrong path, column or modality fails before training.
    rows: data in memory in place of `data.path`. track: the progress display.
    ValueError for data without labels, LookupError for a modality that the processor lacks.
    """

    def __init__(
        self,
        options: EvaluateOptions,
        data: DataOptions,
        processor: MMSSLProcessor,
        config: MMSSLConfig,
        *,
        rows: Sequence[Mapping[str, Any]] | None = None,
        track: Track = silent,
    ) -> None:
        self.options, self.data, self.processor, self.config, self.track = options, data, processor, config, track
        self.modality = choose_modality(options.modality, processor)
        self.sources = open_sources(options, data, rows)
        self.classes = self.sources.train_labels.kind == "classification"
        self._baselines: Baselines | None = None

    def score(self, model: MMSSLModel) -> dict[str, float]:
        """The scores of `model` as it is now, by the names in `SCORES`."""
        row = self.row(PRETRAINED, model)
        return {"knn": row.knn, "probe": row.probe}

    def table(self, model: MMSSLModel, *, name: str = PRETRAINED, others: Mapping[str, str | Path] | None = None) -> Table:
        """A row for `model`, for other saved models (name: folder or Hub id), and for each baseline."""
        rows = [self.row(name, model)]
        for other, path in (others or {}).items():
            loaded = load_model(path).to(model.device)
            rows.append(self.row(other, loaded, MMSSLProcessor.from_pretrained(path)))
        self._baselines = baselines = self._baselines or self._measure_baselines(model.device)
        notes = [] if self.sources.note is None else [self.sources.note]
        if baselines.skipped:
            notes.append(f"Samples that could not be read, and are left out: {baselines.skipped:,}.")
        return Table(
            protocol=PROTOCOL,
            metric="accuracy" if self.classes else "R2",
            data=self.sources.train.path,
            num_train=baselines.num_train,
            num_test=baselines.num_test,
            rows=(*rows, *baselines.rows),
            notes=tuple(notes),
        )

    def row(self, name: str, model: MMSSLModel, processor: MMSSLProcessor | None = None) -> Row:
        """Scores of a model; `processor` if it is not the evaluator's. ValueError if its features are not finite."""
        options, data = self.options, self.data

        def read(source: Source, labels: Labels) -> Features:
            return extract(
                model,
                processor or self.processor,
                source,
                self.modality,
                labels=labels,
                batch_size=options.batch_size,
                on_error=data.on_error,
                workers=data.workers,
                title=f"{name}: features",
                track=self.track,
            )

        return self._probe(name, self._split(read), model.device)

    def _measure_baselines(self, device: torch.device) -> Baselines:
        options, data = self.options, self.data
        random = self.row(RANDOM, random_init(self.config, options.seed).to(device))

        def read(source: Source, labels: Labels) -> Features:
            return raw_features(
                source,
                self.modality,
                self.processor.processors[self.modality],
                labels=labels,
                batch_size=options.batch_size,
                on_error=data.on_error,
                workers=data.workers,
                track=self.track,
            )

        split = self._split(read)
        rows = (random, self._probe(RAW, split, device), self._constant(split))
        return Baselines(rows, len(split.train), len(split.test), split.skipped)

    def _split(self, read: Callable[[Source, Labels], Features]) -> Split:
        sources = self.sources
        train = read(sources.train, sources.train_labels)
        assert train.labels is not None
        skipped = len(sources.train) - len(train)
        if sources.test is None or sources.test_labels is None:
            groups = train.labels if self.classes else torch.zeros(len(train))
            out = probes.held_out(groups, SPLIT_SEED)
            return Split(train.values[~out], train.labels[~out], train.values[out], train.labels[out], skipped)
        test = read(sources.test, sources.test_labels)
        assert test.labels is not None
        return Split(train.values, train.labels, test.values, test.labels, skipped + len(sources.test) - len(test))

    def _probe(self, name: str, split: Split, device: torch.device) -> Row:
        for values in (split.train, split.test):
            bad = int((~values.isfinite()).any(1).sum())
            if bad:
                raise ValueError(
                    f"the features of {name!r} are not finite for {bad} of {len(values)} samples: the model has diverged, "
                    "or its processor lets NaN through"
                )
        if device.type == "mps":  # has no float64
            device = torch.device("cpu")
        train, test = split.train.to(device), split.test.to(device)
        labels, truth = split.train_labels.to(device), split.test_labels.to(device)
        seed, width = self.options.seed, train.shape[1]
        if self.classes:
            linear = probes.linear_classify(train, labels, test, seed=seed)
            knn = probes.accuracy(probes.knn_classify(train, labels, test), truth)
            return Row(name, knn, probes.accuracy(linear.predicted, truth), width, linear.strength, linear.converged)
        linear = probes.linear_regress(train, labels, test, seed=seed)
        knn = probes.r2(probes.knn_regress(train, labels, test), truth)
        return Row(name, knn, probes.r2(linear.predicted, truth), width, linear.strength, linear.converged)

    def _constant(self, split: Split) -> Row:
        """The score of always saying the same."""
        train, test = split.train_labels, split.test_labels
        if self.classes:
            score = probes.accuracy(train.mode().values.expand(len(test)), test)
            return Row("most frequent class", score, score)
        score = probes.r2(train.mean().expand(len(test)), test)
        return Row("mean label", score, score)


def choose_modality(name: str | None, processor: MMSSLProcessor) -> str:
    """`name`, or the only modality of a processor; LookupError if it has others, ValueError if it has several."""
    known = list(processor.processors)
    if name is None and len(known) > 1:
        raise ValueError(f"the model has the modalities {', '.join(known)}; choose one with evaluate.modality={known[0]}")
    if name is not None and name not in known:
        raise LookupError(f"the model has no modality {name!r}; it has {', '.join(known)}")
    return name or known[0]
