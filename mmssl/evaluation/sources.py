"""The labelled rows that a model is scored on, and those that its readers are fitted on."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any

import numpy as np
import torch
from jaxtyping import Int
from pydantic import Field

from mmssl.data import DataOptions, Labels, Source
from mmssl.data.dense import DENSE
from mmssl.data.forecast import TEST
from mmssl.data.identity import content_digits, parts_of, share_rows
from mmssl.data.label_values import differ
from mmssl.data.labels import Kind
from mmssl.data.source import GROUP, LABEL, Columns
from mmssl.evaluation import probes
from mmssl.evaluation.history import History, label_column
from mmssl.modality import find

SPLIT_SEED = 0
FEWEST_OF_A_CLASS = 3
"""Rows of a class of which one can be held out, and two are left: one to fit a probe on, one to choose its penalty by."""
FEWEST_VALUES = 7
"""Rows with values of which two can be held out."""


@dataclass(frozen=True, kw_only=True)
class ZeroShotOptions:
    """Classify samples by the names of their classes, with nothing fitted on labels (CLIP, arXiv 2103.00020, section 3.1).

    splits: parts of the data that are scored; null among them: all of it.
    modality: whose samples are classified; null: the only one that the data pair with the one that reads names.
    by: the modality that reads the names of classes; null: the only one whose processor takes a text.
    templates: sentences with {} in the place of the name, over which a class is averaged: a list; a file with one in each line;
        openai_imagenet (80) or simple_imagenet (7), which are about pictures; null: the name alone.
    called: what classes are called, where their labels are no words, as in {Lu: capital letter}; null: as data.called says.
    """

    splits: list[str | None] = field(default_factory=lambda: ["test"])
    modality: str | None = None
    by: str | None = None
    templates: list[str] | str | None = None
    called: dict[str, str] | None = None


@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What to score a model on: labelled data, a training and a test part.

    every: steps between scores during training; 0: only at the end.
    probe: fit nearest neighbours and a linear probe on labels; false: data for the other scores need none.
    heads: score what the projector makes of the features as well, in a row of its own at the end of the run: what losses compare
        need not be the best that an encoder has (arXiv 2403.11391).
    retrieval: parts of the data in which samples of one modality are to find their partners of another; needs a model that maps
        them into one space, as clip does. null among them: all of the data; null: no such scores.
    zero_shot: classify by the names of the classes, with such a model; null: do not.
    path: data as in data.path; null: those of the section data.
    train_split: part on which nearest neighbours and linear probe are fitted; null: all parts, of which a fifth is then scored.
    test_split: part that is scored; null: `test` if the data have it, else a fifth of train_split, on which a run that learns
        labels does not train.
    columns: columns as in data.columns; with the data of the section data they add to its columns.
    kind: what the labels are: classification, regression (a number or a list of them a row), multi_label (a list of labels a
        row), or dense (a label map or a list of labels a row), of a model that predicts such; null: as the objective takes them, if
        it learns the same column, else lists of decimals are regressed, other lists are several labels, text, booleans and few
        distinct whole numbers are classes, other numbers are regressed.
    modality: which of the model's modalities to score; null: the only one.
    train_limit: keep that many training rows, evenly spaced.
    test_limit: keep that many test rows, evenly spaced; of each part for retrieval and zero_shot.
    batch_size: samples that are encoded at a time; on a CPU fewer where they are large, as more would be slower.
    seed: seed of the random weights and of the held-out training samples.
    random_draws: draws of random weights whose mean is the row "random init"; their spread says what is above it.
    """

    every: Annotated[int, Field(ge=0)] = 0
    probe: bool = True
    heads: bool = False
    retrieval: list[str | None] | None = None
    zero_shot: ZeroShotOptions | None = None
    path: str | None = None
    train_split: str | None = "train"
    test_split: str | None = None
    columns: Columns | None = None
    kind: Kind | None = None
    modality: str | None = None
    train_limit: Annotated[int, Field(gt=0)] | None = None
    test_limit: Annotated[int, Field(gt=0)] | None = None
    batch_size: Annotated[int, Field(gt=0)] = 256
    seed: Annotated[int, Field(ge=0)] = 0
    random_draws: Annotated[int, Field(gt=0)] = 3


@dataclass(frozen=True)
class Fifth:
    """The rows of a dataset that are scored where it has no test part: by their numbers, and the label column that they go by."""

    rows: Int[np.ndarray, " k"]
    column: str


@dataclass(frozen=True)
class Sources:
    """Labelled rows: `train`, that readers are fitted on, and `test`, that are scored.

    fifth: how they were parted where both are of one dataset. note: what a reader of the scores should know of it.
    unlabelled: rows without a label, which neither part has, by the source that they are of: so many, of how many.
    """

    train: Source
    train_labels: Labels
    test: Source
    test_labels: Labels
    fifth: Fifth | None = None
    note: str | None = None
    unlabelled: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    def lacking(self, trained: Collection[str] = ()) -> list[str]:
        """What is told of rows without a label, a line for each source; `trained`: the sources that a run trains on."""
        return [
            f"label {label_column(self.train)}: {count:,} of {total:,} rows of {name} have none: they "
            + ("train, and are not scored" if name in trained else "are not scored")
            for name, (count, total) in self.unlabelled.items()
        ]


def fifth_of(source: Source, column: str) -> Fifth:
    """A fifth of all labelled rows of the dataset of a source, of every class of a label column: the same for every limit, run and
    model.

    Whatever kind a user says: what one run held out as classes, another may score as numbers.
    """
    rows = source.whole().labelled(column)
    classes = source.select(rows).natural_classes(column)
    groups = torch.zeros(len(rows)) if classes is None else torch.from_numpy(classes)
    return Fifth(rows[probes.held_out(groups, SPLIT_SEED).numpy()], column)


def check_parts(source: Source, labels: Labels, rows: Int[np.ndarray, " k"]) -> None:
    """ValueError if `rows`, places among the labels of a whole dataset, cannot be scored by what the others teach."""
    if labels.kind == "classification":
        counts = np.bincount(labels.values, minlength=len(labels.names))
        enough = int((counts >= FEWEST_OF_A_CLASS).sum()) >= 2
        need = f"two classes of at least {FEWEST_OF_A_CLASS} rows each"
        has = ", ".join(f"{count} of {name!r}" for name, count in zip(labels.names[:8], counts, strict=False))
    elif labels.kind == "multi_label":
        held, counts = labels.values[rows], labels.values.sum(0)
        enough = bool((held.any(0) & (held.sum(0) < counts)).any())
        need = f"a label that at least {FEWEST_OF_A_CLASS} rows have"
        has = ", ".join(f"{count:.0f} of {name!r}" for name, count in zip(labels.names[:8], counts, strict=False))
    elif labels.kind == DENSE:
        enough, need, has = len(labels) >= FEWEST_VALUES, f"at least {FEWEST_VALUES} rows", f"{len(labels)} rows"
    else:
        enough = len(labels) >= FEWEST_VALUES and differ(labels.values[rows])
        need = f"at least {FEWEST_VALUES} rows whose values differ"
        held = ", ".join(f"{value:g}" for value in labels.values[rows].ravel()[:8])
        has = f"{len(labels)} rows, of which it would hold out the values {held or 'of none'}"
    if not enough:
        raise ValueError(
            f"{source} has too few labelled rows to hold a fifth of them out for scores: that takes {need}, and it has {has}. Add "
            "rows, name a test split or other data to score on, or do without scores (evaluate=null)"
        )


def open_sources(
    options: EvaluateOptions, data: DataOptions, rows: Sequence[Mapping[str, Any]] | None = None, history: History | None = None
) -> Sources:
    """The data that `options` name; what they leave open is as in `data`, or in `rows` if those are given in its place.

    history: of the model that will be scored: a fifth of rows that it was not trained on is then the one that is scored.
    Classes are those of all training rows: with a limit some may have no training sample. Rows without a label are left out.
    ValueError for data without labels, for too few of them, and if the test part has rows of the training part.
    """
    columns, path = options.columns, options.path or data.path
    if options.path is None:
        columns = {**(data.columns or {}), **(columns or {})} or None
        if rows is not None:
            known: dict[str, Any] = {"called": data.called, "series": data.series, "forecast": data.forecast}
            known["background"] = data.background
            own = [dict(row) for row in rows]
            whole = Source.from_rows(own, columns, split=options.train_split, **known)
            if data.forecast is not None:
                split, limit = options.test_split or TEST, options.test_limit
                return in_parts(whole, Source.from_rows(own, columns, limit, split=split, **known), options)
            return in_fifths(whole, options, history, "Rows in memory: a fifth of them are the test samples.")
    if path is None:
        raise ValueError("evaluate.path is needed where data.sources mixes several; give the data to score on")
    cells: dict[str, Any] = {"table_format": data.table_format, "called": data.called if options.path is None else None}
    whole = Source(path=path, split=options.train_split, columns=columns, **cells)
    if options.train_split is None and options.test_split is None:
        return in_fifths(whole, options, history, "A fifth of the rows are the test samples (train_split: null).")
    required_labels(whole.select(whole.labelled()), kind=options.kind)
    try:
        test = Source(path=path, split=options.test_split or "test", columns=columns, limit=options.test_limit, **cells)
    except LookupError as error:
        if options.test_split is not None:
            raise
        return in_fifths(whole, options, history, f"A fifth of the training rows are the test samples ({error}).")
    return in_parts(whole, test, options)


def in_parts(whole: Source, test: Source, options: EvaluateOptions) -> Sources:
    """Two parts of the data. ValueError if one has rows of the other."""
    rows, scored = whole.labelled(), test.whole().labelled()
    classes, column = required_labels(whole.select(rows), kind=options.kind), label_column(whole)
    inputs = [name for name in whole.column_names if name != column]
    if share_rows(parts_of(whole), parts_of(test)) or content_digits(whole, inputs) == content_digits(test, inputs):
        raise ValueError(
            f"evaluate: {test} has rows of {whole}, on which the readers are fitted, so they would be asked what they were told. "
            "Name another test_split, or leave it out: then a fifth of the rows is held out and scored, if there is no split 'test'"
        )
    train, part = whole.select(rows, options.train_limit), test.select(scored, options.test_limit)
    without = lacking(whole, rows) | lacking(test, scored)
    return Sources(train, required_labels(train, classes), part, required_labels(part, classes), unlabelled=without)


def in_fifths(whole: Source, options: EvaluateOptions, history: History | None, note: str) -> Sources:
    """Four fifths of the rows of a dataset, and one that is scored."""
    rows = whole.labelled()
    labelled = whole.select(rows)
    labels, own = required_labels(labelled, kind=options.kind), label_column(whole)
    assert own is not None, "labels were read from it"
    fifth = fifth_of(whole, (history or History()).held_out_by(whole) or own)
    scored = np.isin(rows, fifth.rows)
    check_parts(labelled, labels, np.flatnonzero(scored))
    train, test = whole.select(rows[~scored], options.train_limit), whole.select(rows[scored], options.test_limit)
    without = lacking(whole, rows)
    return Sources(train, required_labels(train, labels), test, required_labels(test, labels), fifth, note, without)


def lacking(source: Source, rows: Int[np.ndarray, " k"]) -> dict[str, tuple[int, int]]:
    """How many rows of a dataset are not among its labelled `rows`, and how many it has; empty if all are."""
    total = len(source.whole())
    return {str(source): (total - len(rows), total)} if len(rows) < total else {}


def required_labels(source: Source, like: Labels | None = None, *, kind: Kind | None = None, scored: str | None = None) -> Labels:
    """The labels of a source, its classes numbered as in `like`; ValueError if it has none, or reads them as samples too.

    scored: the modality whose samples are scored; others may read the label, as names of classes. None: any.
    """
    labels = source.labels(kind=kind, like=like)
    if labels is None:
        raise ValueError(
            f"evaluation needs labels, and {source} names no label column; it has {', '.join(source.column_names)}. "
            "Name one, as in columns: {label: " + source.column_names[-1] + "}, or do without such scores (evaluate.probe=false)"
        )
    column = source.columns[LABEL]
    for use, names in source.columns.items():
        read = {names} if isinstance(names, str) else set(names)
        if use not in (LABEL, GROUP) and scored in (None, use) and read & set(source.made_from(str(column))):
            raise ValueError(f"{source}: column {column!r} is named for the labels and for {use}, which could then read the answer")
    return labels


def columns_of(source: Source, name: str) -> list[str]:
    """The columns that a modality is read from; LookupError if there are none."""
    place = source.places(find(name))
    return [place] if isinstance(place, str) else place
