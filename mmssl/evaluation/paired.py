"""How a model that maps modalities into one space is scored: partners are retrieved, and samples classified by names of classes."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from mmssl.data import DataOptions, Labels, Source, Track, processes
from mmssl.evaluation import pairs
from mmssl.evaluation.features import Features, random_init
from mmssl.evaluation.history import Exposure, History, label_column
from mmssl.evaluation.sources import EvaluateOptions, columns_of
from mmssl.evaluation.spaces import Own, Space, check_space, open_space
from mmssl.evaluation.table import CHANCE, FREQUENT, PRETRAINED, RANDOM, RETRIEVAL, ZERO_SHOT, PairRow, PairTable
from mmssl.model import MMSSLConfig, MMSSLModel
from mmssl.processor import MMSSLProcessor

PAIR_PROTOCOL = "mmssl-pairs-v1"
"""Version of everything below: scores of different versions must not stand in one table.

Features: `pooler_output` in evaluation mode, float32, of samples without augmentation, projected, of length 1; cosines in float64.
Limits keep rows evenly spaced over a part of the data. Rows that lack a modality, or that cannot be read, are left out and counted.
Retrieval, each way: all samples of one modality are queries, all of the other one the gallery. R@k is the share of queries with a
right answer among the first k; right are the partner and all rows of its group (`columns.group`). Wrong answers that are as similar
as the best right one (to 1e-6) stand before it.
Zero-shot: a class is the mean over templates of the unit vectors of its prompts, of length 1 again; a sample is of the most similar
one. Ties count as above.
Rows: the model; models of open_clip that are named, on the same samples, with their own preparation of pictures, tokenizer and
normalisation; the same architecture with random weights; chance (a random order, or a random class), worked out; for classes the
most frequent one of the samples.
"""
TOP = 5


@dataclass(frozen=True)
class Measured:
    """Scores of a model, how many samples they are of, how many could not be read, and what to say of the space."""

    row: PairRow
    count: int
    skipped: int
    chance: tuple[PairRow, ...]
    remark: str | None = None


@dataclass(frozen=True)
class Part:
    """A part of the data that is scored, and of what.

    name: of the table among others. data: how samples are read. source: its rows that lack nothing. lacking: how many others there
        are. history: what the scored model was trained on.
    """

    name: str
    options: EvaluateOptions
    data: DataOptions
    processor: MMSSLProcessor
    config: MMSSLConfig
    source: Source
    lacking: int
    history: History
    track: Track


class PairEvaluator(ABC):
    """Scores models of one architecture on one part of the data; baselines are computed once."""

    task: str

    def __init__(self, part: Part) -> None:
        self.name, self.options, self.data = part.name, part.options, part.data
        self.processor, self.config = part.processor, part.config
        self.source, self.lacking, self.history, self.track = part.source, part.lacking, part.history, part.track
        self.random: Measured | None = None

    @property
    @abstractmethod
    def columns(self) -> dict[str, str]:
        """Title of each score."""

    @property
    @abstractmethod
    def headline(self) -> dict[str, tuple[str, ...]]:
        """What the verdict is about: the scores whose mean it is, by what to call it."""

    @property
    @abstractmethod
    def scored(self) -> tuple[str, ...]:
        """The modalities that a model must read."""

    def own(self, model: MMSSLModel) -> Space:
        """A model of this architecture, as what is measured."""
        return Own(model, self.processor, self.history)

    def check(self, others: Mapping[str, str | Path]) -> None:
        """ValueError for a model of open_clip that is not there, or that does not read what is scored."""
        for name, path in others.items():
            check_space(name, path, self.scored)

    @abstractmethod
    def exposure(self, history: History) -> Exposure:
        """What a model of that history saw of what is scored."""

    @abstractmethod
    def told(self, exposure: Exposure) -> str | None:
        """What a reader should know of it."""

    @abstractmethod
    def measure(self, name: str, space: Space) -> Measured:
        """Score a model. Processes share reading and encoding; the first one compares, and all are told."""

    def score(self, model: MMSSLModel) -> dict[str, float]:
        """The headline score of a model as it is now, by the name of the evaluator."""
        row = self.measure(PRETRAINED, self.own(model)).row
        keys = next(iter(self.headline.values()))
        return {self.name: sum(row.scores[key] for key in keys) / len(keys)}

    def table(self, model: MMSSLModel, *, name: str = PRETRAINED, others: Mapping[str, str | Path] | None = None) -> PairTable:
        """A row for `model`, for others (name: what `open_space` takes), and for each baseline. ValueError as of `check`."""
        self.check(others or {})
        found, histories = [self.measure(name, self.own(model))], [self.history]
        for other, path in (others or {}).items():
            space = open_space(other, path, self.processor, model.device)
            found.append(self.measure(other, space))
            histories.append(space.history)
        if self.random is None:
            fresh = random_init(self.config, self.options.seed).to(model.device)
            self.random = self.measure(RANDOM, self.own(fresh))
        exposures = [self.exposure(history) for history in histories]
        rows = [PairRow(**asdict(each.row) | {"seen": seen.labelled}) for each, seen in zip(found, exposures, strict=True)]
        told = [(row.name, self.told(seen)) for row, seen in zip(rows, exposures, strict=True)]
        notes = [f"{row}: {text}." for row, text in told if text is not None]
        notes += [f"{each.row.name}: {each.remark}." for each in (*found, self.random) if each.remark is not None]
        if self.lacking:
            notes.append(f"Rows that lack what is scored, and are left out: {self.lacking:,}.")
        if found[0].skipped:
            notes.append(f"Samples that could not be read, and are left out: {found[0].skipped:,}.")
        ((headline_title, headline),) = self.headline.items()
        return PairTable(
            protocol=PAIR_PROTOCOL,
            task=self.task,
            data=str(self.source),
            num_test=found[0].count,
            columns=self.columns,
            headline=headline,
            headline_title=headline_title,
            rows=(*rows, self.random.row, *found[0].chance),
            notes=(*notes, *self.own_notes()),
        )

    def own_notes(self) -> Iterator[str]:
        """More to say below the table."""
        yield from ()

    def vectors(self, name: str, space: Space, modality: str, labels: Labels | None) -> Features:
        """Vectors of the samples of a modality."""
        return space.samples(
            self.source,
            modality,
            labels=labels,
            batch_size=self.options.batch_size,
            on_error=self.data.on_error,
            workers=self.data.workers,
            title=f"{name}: {modality}",
            track=self.track,
        )

    def unit(self, name: str, modality: str, values: Float[Tensor, "n e"], device: torch.device) -> Float[Tensor, "n e"]:
        """Vectors of length 1 in float64. ValueError if some are not finite, or there are none."""
        if not len(values):
            raise ValueError(f"no sample of {self.source} could be read, so there is nothing to score")
        if bad := int((~values.isfinite()).any(1).sum()):
            raise ValueError(
                f"the projected {modality} features of {name!r} are not finite for {bad} of {len(values)} samples: the model has "
                "diverged, or its processor lets NaN through"
            )
        return normalize(values.to(_with_float64(device), torch.float64), dim=-1)


def _with_float64(device: torch.device) -> torch.device:
    return torch.device("cpu") if device.type == "mps" else device


def shared(work: Any) -> Measured:
    """What the first process measures, for all."""
    found = processes.by_first(lambda: asdict(work()))
    chance = tuple(PairRow(**row) for row in found["chance"])
    return Measured(**{**found, "row": PairRow(**found["row"]), "chance": chance})


class Retrieval(PairEvaluator):
    """Samples of each of two modalities find their partners of the other one."""

    task = RETRIEVAL

    def __init__(self, part: Part, modalities: tuple[str, str]) -> None:
        super().__init__(part)
        self.modalities = modalities
        groups = self.source.groups(shared=False)
        self.groups = torch.arange(len(self.source)) if groups is None else torch.from_numpy(groups)

    @property
    def scored(self) -> tuple[str, ...]:
        return self.modalities

    @property
    def ways(self) -> list[tuple[str, str]]:
        a, b = self.modalities
        return [(a, b), (b, a)]

    @property
    def columns(self) -> dict[str, str]:
        return {f"{a}_to_{b}_{k}": f"to {b} R@{k}" for a, b in self.ways for k in pairs.RECALLS}

    @property
    def headline(self) -> dict[str, tuple[str, ...]]:
        return {"R@1, mean of both ways": tuple(f"{a}_to_{b}_1" for a, b in self.ways)}

    def exposure(self, history: History) -> Exposure:
        return history.exposure_of_pairs(self.source, [columns_of(self.source, name) for name in self.modalities])

    def told(self, exposure: Exposure) -> str | None:
        if exposure.labelled:
            return "it was trained on these pairs, so its scores say nothing about unseen ones"
        if not exposure.known:
            return "what it was trained on is not recorded, or not from the beginning; the pairs may be among it"
        return "one side of the pairs was seen in training, without its partners" if exposure.unlabelled else None

    def measure(self, name: str, space: Space) -> Measured:
        a, b = (self.vectors(name, space, modality, None) for modality in self.modalities)
        return shared(lambda: self._compared(name, a, b, space.device))

    def _compared(self, name: str, a: Features, b: Features, device: torch.device) -> Measured:
        """Only pairs whose both sides could be read."""
        ids = a.ids[torch.isin(a.ids, b.ids)]
        sides = [
            self.unit(name, modality, side.values[torch.isin(side.ids, ids)], device)
            for modality, side in zip(self.modalities, (a, b), strict=True)
        ]
        group = self.groups[ids].to(sides[0].device)
        right, scores, chance = pairs.right_answers(group, group), dict[str, float](), dict[str, float]()
        for (first, second), (queries, gallery) in zip(self.ways, (sides, sides[::-1]), strict=True):
            found = pairs.ranks(queries, gallery, group, group)
            for k in pairs.RECALLS:
                key = f"{first}_to_{second}_{k}"
                scores[key], chance[key] = pairs.recall(found, k), pairs.chance_recall(right, len(gallery), k)
        gap = pairs.modality_gap(sides[0], sides[1], group)
        remark = (
            f"modality gap {gap.distance:.3f} (distance between the means of {' and '.join(self.modalities)}); the cosine of pairs "
            f"is {round(gap.contrast, 3) + 0.0:.3f} above that of others"
        )
        row = PairRow(name, scores, sides[0].shape[1])
        return Measured(row, len(ids), len(self.source) - len(ids), (PairRow(CHANCE, chance),), remark)

    def own_notes(self) -> Iterator[str]:
        a, b = self.modalities
        yield f"To {b}: each {a} sample looks for its partner among all {b} samples; to {a}: the other way."
        if len(self.groups.unique()) < len(self.groups):
            column = self.source.columns["group"]
            yield f"Rows of equal {column} are right answers for each other."


class ZeroShot(PairEvaluator):
    """Samples of one modality are classified by the names of their classes, which another one reads."""

    task = ZERO_SHOT

    def __init__(self, part: Part, modality: str, by: str, templates: Sequence[str], labels: Labels, names: Sequence[str]) -> None:
        super().__init__(part)
        self.modality, self.by, self.templates, self.labels, self.names = modality, by, list(templates), labels, list(names)

    @property
    def scored(self) -> tuple[str, ...]:
        return self.modality, self.by

    @property
    def columns(self) -> dict[str, str]:
        top = {f"top_{TOP}": f"top-{TOP}"} if len(self.names) > TOP else {}
        return {"top_1": "top-1", **top, "classes": "mean of classes"}

    @property
    def headline(self) -> dict[str, tuple[str, ...]]:
        return {"Zero-shot top-1": ("top_1",)}

    def exposure(self, history: History) -> Exposure:
        column = label_column(self.source)
        assert column is not None, "labels were read from it"
        return history.exposure(self.source, column, None)

    def told(self, exposure: Exposure) -> str | None:
        if exposure.labelled:
            return "these samples were trained on with their labels, so its scores say nothing about unseen ones"
        if not exposure.known:
            return "what it was trained on is not recorded, or not from the beginning; these samples may be among it"
        return "these samples were seen in training, without their labels" if exposure.unlabelled else None

    def measure(self, name: str, space: Space) -> Measured:
        samples = self.vectors(name, space, self.modality, self.labels)
        return shared(lambda: self._compared(name, samples, space))

    def _compared(self, name: str, samples: Features, space: Space) -> Measured:
        unit = self.unit(name, self.modality, samples.values, space.device)
        assert samples.labels is not None
        labels = samples.labels.to(unit.device)
        prompts = [prompt for called in self.names for prompt in pairs.filled(self.templates, called)]
        texts = space.texts(self.by, prompts, self.options.batch_size)
        classes = pairs.class_vectors(self.unit(name, self.by, texts, space.device).view(len(self.names), len(self.templates), -1))
        found = pairs.class_ranks(unit, classes, labels)
        counts, number = torch.bincount(labels, minlength=len(self.names)).sort(descending=True).values, len(self.names)
        scores = {"top_1": pairs.recall(found, 1), f"top_{TOP}": pairs.recall(found, TOP)}
        scores["classes"] = pairs.mean_of_classes(found, labels)
        chance = {"top_1": 100 / number, f"top_{TOP}": 100 * min(1, TOP / number), "classes": 100 / number}
        share = [100 * counts[:k].sum().item() / len(labels) for k in (1, TOP)]
        frequent = {"top_1": share[0], f"top_{TOP}": share[1], "classes": 100 / int((counts > 0).sum())}
        constant = tuple(PairRow(key, self._kept(values)) for key, values in ((CHANCE, chance), (FREQUENT, frequent)))
        row = PairRow(name, self._kept(scores), unit.shape[1])
        return Measured(row, len(unit), len(self.source) - len(unit), constant)

    def _kept(self, scores: Mapping[str, float]) -> dict[str, float]:
        return {key: scores[key] for key in self.columns}

    def own_notes(self) -> Iterator[str]:
        shown = ", ".join(self.names[:8]) + (", ..." if len(self.names) > 8 else "")
        count = len(self.templates)
        how = f"the template {self.templates[0]!r}" if count == 1 else f"{count} templates, such as {self.templates[0]!r}"
        yield f"{self.modality} among {len(self.names)} classes that {self.by} reads ({shown}), with {how}."
