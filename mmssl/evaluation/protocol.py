"""How a frozen model is scored: one protocol with a version, printed beside every score."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from mmssl.data import DataOptions, Labels, Source, Track, processes, raw_samples, silent
from mmssl.evaluation import probes
from mmssl.evaluation.features import Features, Then, evaluating, extract, random_init, raw_features
from mmssl.evaluation.history import Exposure, History, label_column
from mmssl.evaluation.judged import Judged, class_names, logits_of, renumbered, unlike
from mmssl.evaluation.scorable import check_readable, check_scorable
from mmssl.evaluation.sources import SPLIT_SEED, EvaluateOptions, Sources, open_sources
from mmssl.evaluation.table import BEHIND, MAP, OWN, PRETRAINED, RANDOM, RAW, SCORES, TUNED, Row, Table
from mmssl.modality import find
from mmssl.model import MMSSLConfig, MMSSLModel, load_model
from mmssl.model.public import saved_processor
from mmssl.processor import MMSSLProcessor

PROTOCOL = "mmssl-frozen-v3"
"""Version of everything below: scores of different versions must not stand in one table.

Features: `pooler_output` in evaluation mode, float32, of samples without augmentation. Limits keep rows evenly spaced over a split.
20-NN: cosine similarity s, votes weighted by exp(s / 0.07) (arXiv 1805.01978); for values, their weighted mean.
Linear probe: features standardised by the training samples; multinomial logistic regression, or ridge regression for values, with
an L2 penalty 1 / C from C = 1e-4, 1e-3, ..., 100, the best on a fifth of the training samples (stratified by class, seeded), then
fitted on all of them. The search ends after two values of C in a row that are worse than the best.
Score: accuracy in percent, or R2, on the test samples; of several labels a row mean average precision in percent, of the share of
neighbours that have a label, and of a binary logistic regression for each label, all with one penalty, chosen by the same score.
Data without a test split: a fifth of the training rows (stratified, by the rarest of several labels; the same for every seed and
limit), which a model that learned their labels must not have been trained on.
Rows: the model; where it predicts these labels, its own predictions; where asked for, what its projector makes of its features;
the same architecture with random weights, the mean of several draws; `Processor.features` of the raw samples;
`Processor.reference`, a method without pretraining, where the modality has one; the most frequent class, or the mean, of the
training labels.

Version 1 scored rows that a run had been trained on with their labels, and chose the fifth after limits and after samples that
could not be read were left out. On data with a test split, and on all rows of others, the two versions give the same score.
Version 2 drew random weights once, and had no reference. All other scores are the same.
"""

METRICS = {"classification": "accuracy", "regression": "R2", "multi_label": MAP}
"""The score of each kind of labels."""
DRAW = 1_000_003
"""From the seed of one draw of random weights to that of the next: far from the seeds 0, 1, 2 of other runs."""


@dataclass(frozen=True)
class Split:
    """Features and labels of the training and of the test samples, and how many samples could not be read."""

    train: Float[Tensor, "n d"]
    train_labels: Shaped[Tensor, " n *k"]
    test: Float[Tensor, "m d"]
    test_labels: Shaped[Tensor, " m *k"]
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

    Opens the data at once, so that a wrong path, column or modality, or labels that cannot be scored, fail before training.
    rows: data in memory in place of `data.path`. sources: the data, if they are open already.
    history: what the scored model was trained on; by default that is not known, and the table says so. track: the progress display.
    ValueError for data without labels, or such as cannot be scored; LookupError for a modality or a column that is not there.
    """

    def __init__(
        self,
        options: EvaluateOptions,
        data: DataOptions,
        processor: MMSSLProcessor,
        config: MMSSLConfig,
        *,
        rows: Sequence[Mapping[str, Any]] | None = None,
        sources: Sources | None = None,
        history: History | None = None,
        track: Track = silent,
    ) -> None:
        self.options, self.data, self.processor, self.config, self.track = options, data, processor, config, track
        self.modality = choose_modality(options.modality, processor)
        self.history = History(complete=False) if history is None else history
        self.sources = open_sources(options, data, rows, self.history) if sources is None else sources
        check_scorable(self.sources, options.seed)
        inputs = {name for entry in self.history.trained for name in entry.inputs}
        for source in (self.sources.train, self.sources.test):
            check_readable(source, self.modality, processor.processors[self.modality], data.on_error, inputs)
        self.kind = self.sources.train_labels.kind
        self._baselines: Baselines | None = None
        self.judged: Judged | None = None

    def score(self, model: MMSSLModel) -> dict[str, float]:
        """The scores of `model` as it is now, by the names in `SCORES`."""
        row = vars(self.row(PRETRAINED, model))
        return {score: row[score] for score in SCORES}

    def exposure(self, history: History) -> Exposure:
        """What a model of that history saw of the test samples."""
        column, fifth = label_column(self.sources.test), self.sources.fifth
        assert column is not None, "labels were read from it"
        return history.exposure(self.sources.test, column, None if fifth is None else fifth.column)

    def table(self, model: MMSSLModel, *, name: str | None = None, others: Mapping[str, str | Path] | None = None) -> Table:
        """A row for `model`, for other saved models (name: folder or Hub id), and for each baseline.

        name: of the model's row; None: by what it is. A model that predicts these labels has a row for its own predictions, and
        `judged` holds what they are worth; one that predicts others has a note. With `options.heads` there is a row behind the
        model's projector; LookupError if it has none.
        """
        name = name or (PRETRAINED if model.config.label_head is None else TUNED)
        first, test = self.row_and_test(name, model)
        rows, histories = [first], [self.history]
        for other, path in (others or {}).items():
            loaded = load_model(path, wanted=[self.modality]).to(model.device)
            rows.append(self.row(other, loaded, saved_processor(path, list(self.config.modalities))))
            histories.append(History.read(path))
        rows, told = self._with_exposure(rows, histories)
        if self.options.heads:
            rows.insert(1, replace(self.row(BEHIND, model, then=partial(model.projected, self.modality)), seen=rows[0].seen))
        self.judged, said = self.judge(model, test)
        if self.judged is not None:
            rows.insert(1, Row(OWN, None, self.judged.score, seen=rows[0].seen))
            said = [f"{OWN}: {', '.join(self.judged.lines)}."]
        self._baselines = baselines = self._baselines or self._measure_baselines(model.device)
        lacking = [f"{line}." for line in self.sources.lacking()]
        notes = [*([] if self.sources.note is None else [self.sources.note]), *lacking, *told, *said]
        if baselines.skipped:
            notes.append(f"Samples that could not be read, and are left out: {baselines.skipped:,}.")
        return Table(
            protocol=PROTOCOL,
            metric=METRICS[self.kind],
            data=self.sources.train.path,
            num_train=baselines.num_train,
            num_test=baselines.num_test,
            rows=(*rows, *baselines.rows),
            notes=tuple(notes),
        )

    def _with_exposure(self, rows: Sequence[Row], histories: Sequence[History]) -> tuple[list[Row], list[str]]:
        """The rows with what their models saw of the test samples, and notes that say so."""
        exposures = [self.exposure(history) for history in histories]
        marked = [replace(row, seen=exposure.labelled) for row, exposure in zip(rows, exposures, strict=True)]
        told = [(row.name, sentence(exposure)) for row, exposure in zip(rows, exposures, strict=True)]
        return marked, [f"{name}: {text}." for name, text in told if text is not None]

    def judge(self, model: MMSSLModel, test: Features) -> tuple[Judged | None, list[str]]:
        """What a model's own predictions of the test labels are worth, from its features of these samples; None, and perhaps why,
        where it predicts none of these."""
        if model.config.label_head is None or model.label_head.modality not in (None, self.modality):
            return None, []
        labels = self.sources.test_labels
        if wrong := unlike(model, labels):
            return None, [f"{OWN} is not scored: {wrong}."]

        @torch.no_grad()
        def measured() -> Judged:
            assert test.labels is not None
            logits = logits_of(model, test.values.to(model.device)).cpu()
            return Judged.of(model.label_head, class_names(model), logits, renumbered(test.labels, labels, model))

        with evaluating(model):
            return processes.by_first(measured), []

    def row(self, name: str, model: MMSSLModel, processor: MMSSLProcessor | None = None, *, then: Then | None = None) -> Row:
        """Scores of a model; `processor` if it is not the evaluator's. ValueError if its features are not finite.

        then: score what a head makes of the model's features.
        """
        return self.row_and_test(name, model, processor, then=then)[0]

    def row_and_test(
        self, name: str, model: MMSSLModel, processor: MMSSLProcessor | None = None, *, then: Then | None = None
    ) -> tuple[Row, Features]:
        """As `row`, with the features of the test samples; they are empty on all processes but the first."""
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
                then=then,
                title=f"{name}: features",
                track=self.track,
            )

        train, test = read(self.sources.train, self.sources.train_labels), read(self.sources.test, self.sources.test_labels)
        return Row(**processes.by_first(lambda: asdict(self._probe(name, self._split(train, test), model.device)))), test

    def _measure_baselines(self, device: torch.device) -> Baselines:
        options, data = self.options, self.data
        seeds = [options.seed + draw * DRAW for draw in range(options.random_draws)]
        random = Row.mean([self.row(RANDOM, random_init(self.config, seed).to(device)) for seed in seeds])

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

        def measured() -> tuple[list[dict[str, Any]], int, int, int]:
            train, test = read(sources.train, sources.train_labels), read(sources.test, sources.test_labels)
            split = self._split(train, test)
            rows = self._probe(RAW, split, device), *self._reference(train, test), self._constant(split)
            return [asdict(row) for row in rows], len(split.train), len(split.test), split.skipped

        sources = self.sources
        rows, num_train, num_test, skipped = processes.by_first(measured)
        return Baselines((random, *(Row(**row) for row in rows)), num_train, num_test, skipped)

    def _split(self, train: Features, test: Features) -> Split:
        sources = self.sources
        assert train.labels is not None
        assert test.labels is not None
        skipped = len(sources.train) - len(train) + len(sources.test) - len(test)
        return Split(train.values, train.labels, test.values, test.labels, skipped)

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
        if self.kind == "multi_label":
            linear = probes.linear_labels(train, labels, test, seed=seed)
            near = probes.mean_average_precision(probes.knn_labels(train, labels, test), truth)
            probed = probes.mean_average_precision(linear.predicted, truth)
            return Row(name, near, probed, width, linear.strength, linear.converged)
        if self.kind == "classification":
            linear = probes.linear_classify(train, labels, test, seed=seed)
            knn = probes.accuracy(probes.knn_classify(train, labels, test), truth)
            return Row(name, knn, probes.accuracy(linear.predicted, truth), width, linear.strength, linear.converged)
        linear = probes.linear_regress(train, labels, test, seed=seed)
        knn = probes.r2(probes.knn_regress(train, labels, test), truth)
        return Row(name, knn, probes.r2(linear.predicted, truth), width, linear.strength, linear.converged)

    def _reference(self, train: Features, test: Features) -> list[Row]:
        """The score of the modality's method without pretraining, if it has one, on the samples that could be read."""
        reference = self.processor.processors[self.modality].reference()
        if reference is None or self.kind == "multi_label":  # these methods tell one class of several, or a number
            return []
        assert train.labels is not None
        assert test.labels is not None
        from sklearn.multioutput import MultiOutputRegressor  # takes a second, and few need it
        from sklearn.utils import get_tags

        classes = self.kind == "classification"

        def given(source: Source, ids: Int[Tensor, " n"]) -> list[Any]:
            raws = raw_samples(source, find(self.modality), reference.title, ids=ids.tolist(), track=self.track)
            return [reference.sample(raw) for raw in raws]

        estimator = reference.estimator(classes, self.options.seed)
        if train.labels.dim() > 1 and not get_tags(estimator).target_tags.multi_output:
            estimator = MultiOutputRegressor(estimator)
        estimator.fit(given(self.sources.train, train.ids), train.labels.numpy())
        predicted = torch.from_numpy(estimator.predict(given(self.sources.test, test.ids)))
        score = probes.accuracy(predicted, test.labels) if classes else probes.r2(predicted.float(), test.labels)
        return [Row(reference.title, None, score, reference=True)]

    def _constant(self, split: Split) -> Row:
        """The score of always saying the same."""
        train, test = split.train_labels, split.test_labels
        if self.kind == "multi_label":
            score = probes.mean_average_precision(train.mean(0).expand(len(test), -1), test)
            return Row("share of each label", score, score)
        if self.kind == "classification":
            score = probes.accuracy(train.mode().values.expand(len(test)), test)
            return Row("most frequent class", score, score)
        score = probes.r2(train.mean(0).expand_as(test), test)
        return Row("mean label", score, score)


def sentence(exposure: Exposure) -> str | None:
    """What a reader of a model's scores should know of the test samples; None: nothing."""
    if exposure.labelled:
        return "test samples were trained on with their labels, so its scores say nothing about unseen ones"
    if not exposure.known:
        return "what it was trained on is not recorded, or not from the beginning; the test samples may be among it"
    if exposure.held_out:
        kept = f"the test samples were held out of training, seed {SPLIT_SEED}"
        return f"{kept}, though an earlier run saw them without labels" if exposure.unlabelled else kept
    return "the test samples were seen in training, without their labels" if exposure.unlabelled else None


def choose_modality(name: str | None, processor: MMSSLProcessor) -> str:
    """`name`, or the only modality of a processor; LookupError if it has others, ValueError if it has several."""
    known = list(processor.processors)
    if name is None and len(known) > 1:
        raise ValueError(f"the model has the modalities {', '.join(known)}; choose one with evaluate.modality={known[0]}")
    if name is not None and name not in known:
        raise LookupError(f"the model has no modality {name!r}; it has {', '.join(known)}")
    return name or known[0]
