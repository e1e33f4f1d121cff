"""How predictions of labels of places are made and scored: of the pixels of pictures, the words of texts, steps in time."""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mmssl.data import Batch, DataOptions, Source, Track, batches, cut, processes, silent
from mmssl.data.dense import DENSE, Places
from mmssl.data.source import OnError
from mmssl.evaluation import probes
from mmssl.evaluation.features import Reading, answers, evaluating, random_init, rows_of_pieces
from mmssl.evaluation.history import Exposure, History, label_column
from mmssl.evaluation.judged import Judged, class_names
from mmssl.evaluation.placed import PlacedExample, example_of, shown_rows
from mmssl.evaluation.protocol import DRAW, sentence
from mmssl.evaluation.scorable import check_readable
from mmssl.evaluation.sources import EvaluateOptions, Sources
from mmssl.evaluation.table import FREQUENT, OWN, RANDOM, RAW, TUNED, PairRow, PairTable
from mmssl.evaluation.truth import Truth
from mmssl.modality import IGNORED, Dense, Inputs, Processor, find
from mmssl.model import MMSSLModel
from mmssl.model.model import labels_of_places
from mmssl.model.tasks import load_predictor
from mmssl.processor import MMSSLProcessor

DENSE_PROTOCOL = "mmssl-dense-v1"
"""Version of everything below: scores of different versions must not stand in one table.

All places of the test samples that have a label count alike, at the size at which samples and labels were given. Mean IoU and
macro F1 are means over the classes that these places have or were taken for.
Rows: the model's own predictions; a linear probe of its tokens; the same of the architecture with random weights, the mean of
several draws; the same of what tokens hold before any network, or where places are words the most frequent class of each word;
the most frequent class of the training places. A token's label is the most frequent one of its places. Probes are those of the
frozen protocol, fitted on up to 20,000 tokens, evenly spaced, of up to 1,000 training samples.
"""
MOST_TOKENS = 20_000
MOST_ROWS = 1_000
TITLES: Mapping[str, Mapping[str, str]] = {
    "map": {"miou": "mean IoU", "accuracy": "pixel accuracy"},
    "sequence": {"f1": "macro F1", "accuracy": "token accuracy"},
    "steps": {"f1": "macro F1", "accuracy": "frame accuracy"},
}
"""Scores by what places are; the first is what verdicts are about."""
BY_WORD = "most frequent class of each word"

Say = Callable[[Inputs], Float[Tensor, "b k *places"]]
"""Logits for the places of a batch."""


class Placed(Reading):
    """A processor that reads samples whose places are to be predicted."""

    def __call__(self, raw: Any) -> Inputs:
        return self.processor.labelled(raw, None)


@dataclass(frozen=True)
class Told:
    """What is said of the places of one row, by its place in the source: class numbers, -1 where nothing is.

    sure: the probability of each of these classes, where it was asked for.
    """

    row: int
    places: Places
    sure: Float[np.ndarray, "*places"] | None = None


def told(
    model: MMSSLModel,
    processor: Processor,
    source: Source,
    name: str,
    say: Say,
    *,
    batch_size: int = 256,
    on_error: OnError = "raise",
    track: Track = silent,
    title: str = "predictions",
    sure: bool = False,
) -> Iterator[Told]:
    """What is said of each row of a source, in their order, on the first process; see `mmssl.evaluation.features.answers`.

    sure: with the probability of each class that is said.

    ValueError that names the first row whose logits are not finite.
    """
    dense = labels_of_places(model.adapter(name), name)

    def answer(batch: Batch, source: Source) -> list[Told]:
        inputs = batch.to(model.device).inputs[name]
        logits = say(inputs)
        ids, place = rows_of_pieces(batch, source)
        bad = (~logits.isfinite()).flatten(1).any(1).cpu()
        if bad.any():
            row = source.row_number(int(batch.ids[bad][0]))
            raise ValueError(
                f"row {row} of {source}: the prediction is not finite; the model has diverged, or the sample is extreme"
            )
        pieces, shares = dict[int, Places](), dict[int, Any]()
        known = dense.sureness(logits, inputs) if sure else repeat(None, len(logits))
        for number, found, share in zip(place.tolist(), dense.answers(logits, inputs), known, strict=True):
            before = pieces.get(number)
            pieces[number] = found if before is None else np.where(before >= 0, before, found)
            shares[number] = share if before is None or share is None else np.where(before >= 0, shares[number], share)
        return [Told(int(ids[number]), places, shares[number]) for number, places in pieces.items()]

    options: dict[str, Any] = {"batch_size": batch_size, "on_error": on_error, "track": track, "title": title}
    with evaluating(model):
        for found in answers(source, name, Placed(processor), answer, model.device, **options):
            yield from found


def own_words(model: MMSSLModel, name: str) -> Say:
    """What a model's own label head says."""
    return lambda inputs: model.dense(name, encoded(model, name, inputs), inputs).float()


def encoded(model: MMSSLModel, name: str, inputs: Inputs) -> Any:
    """Encoded tokens of what the adapter reads of inputs with labels."""
    known = model.adapter(name).input_names
    return model.encode(name, {key: inputs[key] for key in known if key in inputs})


@dataclass(frozen=True)
class Counted:
    """Places of each class (row) by the class that they were taken for (column; the last: none). samples: rows counted."""

    counts: Int[np.ndarray, "k k1"]
    samples: int

    @classmethod
    def of(cls, predicted: Iterator[Told], truth: Truth) -> "Counted":
        """From what is said of rows, beside their labels in the source."""
        found = cls(np.zeros((len(truth.names), len(truth.names) + 1), dtype=np.int64), 0)
        for one in predicted:
            found = found.with_row(one, truth)
        return found

    def with_row(self, one: Told, truth: Truth) -> "Counted":
        """With what is said of one more row."""
        source = truth.source
        more = confusion(truth(one.row), one.places, len(truth.names), f"row {source.row_number(one.row)} of {source}")
        return Counted(self.counts + more, self.samples + 1)

    def scores(self, shape: str) -> dict[str, float]:
        """In percent, by the keys of `TITLES`."""
        right = np.diag(self.counts).astype(np.float64)
        true, taken = self.counts.sum(1), self.counts[:, :-1].sum(0)
        there = true + taken > 0
        main = right / (true + taken - right).clip(1) if shape == "map" else 2 * right / (true + taken).clip(1)
        means = 100 * float(main[there].mean()), 100 * float(right.sum() / max(1, true.sum()))
        return dict(zip(TITLES[shape], means, strict=True))

    def judged(self, kind: str, shape: str, names: Sequence[str]) -> Judged:
        """What the predictions are worth."""
        scores, titles = self.scores(shape), TITLES[shape]
        headline, *others = titles
        square = tuple(tuple(row) for row in self.counts[:, :-1].tolist())
        return Judged(kind, self.samples, scores[headline], {titles[key]: scores[key] for key in others}, tuple(names), square)


def confusion(truth: Places, predicted: Int[np.ndarray, "..."], classes: int, place: str) -> Int[np.ndarray, "k k1"]:
    """Counts of the places of one sample. ValueError where there are not as many labels as places."""
    if truth.shape != predicted.shape:
        got, expected = (" x ".join(map(str, each.shape)) for each in (truth, predicted))
        raise ValueError(f"{place}: labels are needed for {expected} places; got {got}. Correct them, or drop the row")
    there = truth != IGNORED
    taken = np.where(predicted[there] >= 0, predicted[there], classes)
    return np.bincount(truth[there] * (classes + 1) + taken, minlength=classes * (classes + 1)).reshape(classes, classes + 1)


class DenseEvaluator:
    """Scores what models say of the places of the test samples of one dataset; the baselines are computed once.

    sources: training and test rows. history: what the scored model was trained on.
    ValueError for labels that do not fit their samples, as far as the first rows show.
    """

    def __init__(
        self,
        options: EvaluateOptions,
        data: DataOptions,
        processor: MMSSLProcessor,
        name: str,
        sources: Sources,
        history: History,
        track: Track = silent,
    ) -> None:
        self.options, self.data, self.processor, self.track = options, data, processor, track
        self.sources = sources = in_steps(sources, name, processor)
        self.modality, self.history = name, history
        self.judged: Judged | None = None
        self._baselines: list[PairRow] | None = None
        self._truth: Truth | None = None
        self._said = dict[int, Places]()
        for source, labels in ((sources.train, sources.train_labels), (sources.test, sources.test_labels)):
            check_readable(source, name, processor.processors[name], data.on_error, labels=labels)

    def exposure(self, history: History) -> Exposure:
        """What a model of that history saw of the test samples."""
        column, fifth = label_column(self.sources.test), self.sources.fifth
        assert column is not None, "labels were read from it"
        return history.exposure(self.sources.test, column, None if fifth is None else fifth.column)

    def score(self, model: MMSSLModel) -> dict[str, float]:
        """The scores of `model` as it is now; accuracy under a name that training has not."""
        shape = model.label_head.places
        assert shape is not None, "it labels places"
        found = self.counted(model, own_words(model, self.modality)).scores(shape)
        return {"held_out_accuracy" if key == "accuracy" else key: value for key, value in found.items()}

    def counted(self, model: MMSSLModel, say: Say, title: str = OWN, processor: MMSSLProcessor | None = None) -> Counted:
        """What is said of the test samples, beside their labels; the same on all processes."""
        options: dict[str, Any] = {"batch_size": self.options.batch_size, "on_error": self.data.on_error, "track": self.track}
        own = (processor or self.processor).processors[self.modality]
        said = told(model, own, self.sources.test, self.modality, say, title=title, **options)
        found = Counted.of(self.kept(said) if title == OWN else said, self.truth(model))
        return counted_by_first(lambda: found)

    def kept(self, said: Iterator[Told]) -> Iterator[Told]:
        """The same, of which some are kept for `examples`."""
        rows, self._said = shown_rows(self.sources.test), {}
        for one in said:
            if one.row in rows:
                self._said[one.row] = one.places
            yield one

    def examples(self, model: MMSSLModel) -> list[PlacedExample]:
        """Some test samples with what `model`, which was scored last, says of their places; on the first process."""
        test, truth, own = self.sources.test, self.truth(model), self.processor.processors[self.modality]
        return [example_of(test, self.modality, own, row, truth(row), said) for row, said in self._said.items()]

    def truth(self, model: MMSSLModel) -> Truth:
        """The labels of the test samples as numbers of a model's classes, which are read once for all rows of a table."""
        names = class_names(model)
        if self._truth is None or self._truth.names != names:
            self._truth = Truth(self.sources.test, names)
        return self._truth

    def table(self, model: MMSSLModel, *, name: str | None = None, others: Mapping[str, str | Path] | None = None) -> PairTable:
        """A row for the predictions of `model`, for those of other saved models (name: folder or Hub id), and for each baseline."""
        head, names = model.label_head, class_names(model)
        shape = head.places
        assert shape is not None, "it labels places"
        own = self.counted(model, own_words(model, self.modality))
        self.judged = own.judged(head.task, shape, names)
        exposure = self.exposure(self.history)
        rows = [PairRow(name or OWN, own.scores(shape), seen=exposure.labelled)]
        for other, path in (others or {}).items():
            loaded, processor = load_predictor(path).to(model.device), MMSSLProcessor.from_pretrained(path)
            if class_names(loaded) != names:
                raise ValueError(f"{path} tells the classes {', '.join(class_names(loaded)[:8])}; expected {', '.join(names[:8])}")
            said = self.counted(loaded, own_words(loaded, self.modality), other, processor)
            rows.append(PairRow(other, said.scores(shape), seen=self.exposure(History.read(path)).labelled))
        rows.append(self.probed(model, TUNED, exposure.labelled))
        if self._baselines is None:
            self._baselines = self._measured(model)
        text = sentence(exposure)
        first = next(iter(TITLES[shape]))
        return PairTable(
            protocol=DENSE_PROTOCOL,
            task=f"{TITLES[shape][first]} and {TITLES[shape]['accuracy']}",
            data=self.sources.test.path,
            num_test=own.samples,
            columns=dict(TITLES[shape]),
            headline=(first,),
            headline_title=f"{TITLES[shape][first][0].upper()}{TITLES[shape][first][1:]}",
            rows=(*rows, *self._baselines),
            notes=(*([self.sources.note] if self.sources.note else []), *([f"{rows[0].name}: {text}."] if text else [])),
        )

    def probed(self, model: MMSSLModel, title: str, seen: bool = False) -> PairRow:
        """The scores of a linear probe of a model's tokens."""

        def tokens(inputs: Inputs) -> Float[Tensor, "b n d"]:
            return encoded(model, self.modality, inputs).values[:, model.encoder.num_prefix :].float()

        return self.by_tokens(model, title, tokens, seen)

    def by_tokens(
        self, model: MMSSLModel, title: str, tokens: Callable[[Inputs], Float[Tensor, "b n d"]], seen: bool = False
    ) -> PairRow:
        """The scores of a linear probe of some vectors of each token."""
        shape, dense = model.label_head.places, labels_of_places(model.adapter(self.modality), self.modality)
        assert shape is not None, "it labels places"
        features, labels = self.training_tokens(model, dense, tokens)
        classify, classes = probes.classifier(features, labels, seed=self.options.seed), model.label_head.size

        def say(inputs: Inputs) -> Float[Tensor, "b k *places"]:
            values = tokens(inputs)
            sure = F.one_hot(classify(values.flatten(0, 1).nan_to_num()), classes).float()
            return dense.laid_out(sure.unflatten(0, values.shape[:2]), inputs, 1)

        return PairRow(title, self.counted(model, say, title).scores(shape), features.shape[1], seen=seen)

    def training_tokens(
        self, model: MMSSLModel, dense: Dense, tokens: Callable[[Inputs], Float[Tensor, "b n d"]]
    ) -> tuple[Float[Tensor, "n d"], Int[Tensor, " n"]]:
        """Vectors and labels of tokens of training samples."""
        train, labels = self.sources.train, self.sources.train_labels
        if train.num_rows > MOST_ROWS:
            train = train.evenly(MOST_ROWS)
            found = train.labels(like=labels)
            assert found is not None, "it had labels before"
            labels = found
        known = {self.modality: (find(self.modality), self.processor.processors[self.modality])}
        stream = batches(cut(train, known), known, self.options.batch_size, labels=labels, on_error=self.data.on_error)
        features, truth = [], []
        with evaluating(model), torch.no_grad():
            for batch in stream:
                inputs = batch.to(model.device).inputs[self.modality]
                values, numbers = tokens(inputs).flatten(0, 1), dense.of_tokens(inputs).flatten()
                kept = (numbers >= 0) & values.isfinite().all(1)
                features.append(values[kept])
                truth.append(numbers[kept])
        every, numbers = torch.cat(features), torch.cat(truth)
        place = torch.arange(min(len(every), MOST_TOKENS), device=every.device) * len(every) // min(len(every), MOST_TOKENS)
        return every[place], numbers[place]

    def _measured(self, model: MMSSLModel) -> list[PairRow]:
        """The rows of the baselines."""
        seeds = [self.options.seed + draw * DRAW for draw in range(self.options.random_draws)]
        drawn = [self.probed(drawn_model(model, seed), RANDOM) for seed in seeds]
        random = PairRow(RANDOM, {key: mean(row.scores[key] for row in drawn) for key in drawn[0].scores}, drawn[0].num_features)
        counts = self.sources.train_labels.values.sum(0)
        shape, frequent = model.label_head.places, int(counts.argmax())
        assert shape is not None, "it labels places"
        adapter = model.adapter(self.modality)
        target = next(iter(adapter.target_sizes))

        def held(inputs: Inputs) -> Float[Tensor, "b n d"]:
            known = {key: inputs[key] for key in adapter.input_names if key in inputs}
            return adapter.target(known)[target].float()

        by_word = self.by_word(frequent, self.truth(model))
        cheap = self.by_tokens(model, RAW, held) if by_word is None else PairRow(BY_WORD, by_word.scores(shape))
        true = self.sources.test_labels.values.sum(0)
        every = np.zeros((model.label_head.size, model.label_head.size + 1), dtype=np.int64)
        every[: len(true), frequent] = true
        return [random, cheap, PairRow(FREQUENT, Counted(every, len(self.sources.test_labels)).scores(shape))]

    def by_word(self, frequent: int, truth: Truth) -> Counted | None:
        """The most frequent class of each word, where places are words; those that training samples lack: of all places."""
        modality, processor = find(self.modality), self.processor.processors[self.modality]

        def words_of(source: Source) -> Iterator[list[str] | None]:
            narrow = source.only([modality])
            return (processor.words(narrow.raw(modality, narrow.rows([row])[0])) for row in range(source.num_rows))

        train, test = self.sources.train, self.sources.test
        if next(words_of(train)) is None:
            return None

        def measured() -> Counted:
            seen = defaultdict[str, Counter[int]](Counter)
            for row, words in enumerate(words_of(train)):
                (labels,) = train.dense_labels([row], truth.names)
                for word, number in zip(words or [], labels.tolist(), strict=False):
                    seen[word][number] += number != IGNORED
            best = {word: max(found, key=lambda number: (found[number], -number)) for word, found in seen.items()}
            said = (
                Told(row, np.array([best.get(word, frequent) for word in words or []], dtype=np.int64))
                for row, words in enumerate(words_of(test))
            )
            return Counted.of(said, truth)

        return counted_by_first(measured)


def in_steps(sources: Sources, name: str, processor: MMSSLProcessor) -> Sources:
    """The same sources, steps counted where labels are segments of time."""
    if not sources.train_labels.segments:
        return sources
    train, test = (part.in_steps(find(name), processor.processors[name]) for part in (sources.train, sources.test))
    labels = [part.labels(like=sources.train_labels) for part in (train, test)]
    assert labels[0] is not None and labels[1] is not None, "they had labels before"
    return replace(sources, train=train, train_labels=labels[0], test=test, test_labels=labels[1])


def counted_by_first(measure: Callable[[], Counted]) -> Counted:
    """What the first process counts, on all of them."""

    def plain() -> tuple[list[list[int]], int]:
        found = measure()
        return found.counts.tolist(), found.samples

    counts, samples = processes.by_first(plain)
    return Counted(np.array(counts, dtype=np.int64), samples)


def labels_places(model: MMSSLModel, sources: Sources) -> bool:
    """Whether labels are of places, and the model tells such. ValueError where only one of both is so."""
    told = model.config.label_head is not None and model.label_head.dense
    if told != (sources.train_labels.kind == DENSE):
        what = "labels places of samples" if told else "has no head that labels places of samples"
        raise ValueError(
            f"evaluate.kind: the model {what}, and the labels of {sources.train} are read for {sources.train_labels.kind}. Train "
            "with objective={name: supervised, kind: dense}, score with the same kind, or do without these scores (evaluate=null)"
        )
    return told


def drawn_model(model: MMSSLModel, seed: int) -> MMSSLModel:
    """The same architecture with random weights."""
    return random_init(model.config, seed).to(model.device)
