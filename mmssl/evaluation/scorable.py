"""What can be known of labelled data before anything is trained: whether scores on them will have a meaning."""

from collections.abc import Collection
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool

from mmssl.data import Labels, Source, batches, cut
from mmssl.data.label_lists import rarest
from mmssl.data.label_values import differ
from mmssl.data.source import LABEL, OnError
from mmssl.evaluation import probes
from mmssl.evaluation.sources import Sources
from mmssl.modality import Processor, find

TRIED = 4
"""Rows at the beginning of a part that are read before training."""


def check_scorable(sources: Sources, seed: int) -> None:
    """ValueError if the labels that are kept of both parts are such that a probe cannot be fitted, or its score says nothing.

    seed: of the rows that a linear probe holds out of fitting.
    """
    for part, labels in ((sources.train, sources.train_labels), (sources.test, sources.test_labels)):
        if labels.kind == "multi_label" and not ((labels.values.any(0)) & (~labels.values.all(0))).any():
            raise ValueError(
                f"evaluate: no label of {part}, column {part.columns[LABEL]}, is one that some of its {len(labels)} rows have and "
                f"others have not: scores need such labels. {WAY_OUT}"
            )
        if labels.kind != "multi_label" and not differ(labels.values):
            first = labels.values[0]
            only = labels.names[first] if labels.names else ", ".join(f"{value:g}" for value in np.ravel(first))
            raise ValueError(
                f"evaluate: all {len(labels)} labels of {part}, column {part.columns[LABEL]}, are {only!r}: scores need labels "
                f"that differ. {WAY_OUT}"
            )
    train, labels = sources.train, sources.train_labels
    out = chosen_by(labels, seed)
    if labels.kind != "regression" and not out.any():
        raise ValueError(
            f"evaluate: no class of {train}, column {train.columns[LABEL]}, has two rows, of which a linear probe needs one to "
            f"choose its penalty by; there are {len(labels)} rows. {WAY_OUT}"
        )
    if labels.kind == "regression" and not differ(labels.values[out]):
        raise ValueError(
            f"evaluate: {train} has {len(labels)} rows, of which the linear probe holds {int(out.sum())} out to choose its penalty "
            f"by: that takes two values of column {train.columns[LABEL]} that differ. {WAY_OUT}"
        )


WAY_OUT = "Add rows, raise a limit, name another part or other data to score on, or do without scores (evaluate=null)"


def chosen_by(labels: Labels, seed: int) -> Bool[np.ndarray, " n"]:
    """The training rows that a linear probe holds out, where all can be read."""
    if labels.kind == "multi_label":
        groups = torch.from_numpy(rarest(labels.values))
    else:
        groups = labels.tensor() if labels.kind == "classification" else torch.zeros(len(labels))
    return probes.held_out(groups, seed).numpy()


def check_readable(
    source: Source,
    name: str,
    processor: Processor,
    on_error: OnError,
    inputs: Collection[str] = (),
    labels: Labels | None = None,
) -> None:
    """Read the first rows of a source. ValueError if they are not what the model reads, or hold the answer as well.

    on_error: "skip" wants only one of them to be readable. inputs: columns that the model was trained on.
    labels: of all rows, where they have to fit the samples: those of places.
    """
    modality, label = find(name), source.columns[LABEL]
    place = source.places(modality)
    if not set(source.made_from(str(label))).isdisjoint([place] if isinstance(place, str) else place):
        raise ValueError(
            f"evaluate: column {label!r} of {source} is the label, and {name} would be read from it: name another column"
        )
    modalities, failed = {name: (modality, processor)}, list[ValueError]()
    for number in range(min(TRIED, source.num_rows)):
        one = source.select(np.array([source.row_number(number)]))
        try:
            known = None if labels is None else replace(labels, values=labels.values[number : number + 1])
            next(batches(cut(one, modalities), modalities, 1, labels=known))
        except ValueError as error:
            failed.append(error)
            continue
        if on_error == "skip":
            return
    if failed:
        told = f". The model was trained on column {label!r}, the label: leave it out (data.columns)"
        hint = told if set(inputs) & set(source.made_from(str(label))) else ""
        raise ValueError(f"evaluate: {failed[0]}{hint}")
