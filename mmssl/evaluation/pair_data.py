"""What models are scored on by pairs: parts of the data whose rows hold what is paired, classes with their names, templates."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from mmssl.data import DataOptions, Source, Track, silent
from mmssl.data.loader import holdings
from mmssl.evaluation.history import History, label_column
from mmssl.evaluation.paired import PairEvaluator, Part, Retrieval, ZeroShot
from mmssl.evaluation.sources import EvaluateOptions, ZeroShotOptions, columns_of, required_labels
from mmssl.modality import find
from mmssl.model import MMSSLConfig
from mmssl.processor import READING_ERRORS, MMSSLProcessor

TEMPLATES = {"openai_imagenet": "OPENAI_IMAGENET_TEMPLATES", "simple_imagenet": "SIMPLE_IMAGENET_TEMPLATES"}
"""Templates that open_clip ships: their names here and there."""
NAME_ALONE = ("{}",)
TRIED_TEXT = "a photo of a cat"
"""What a processor is given to find out whether it reads text; the others look for a file of that name, at most."""


def asked_pairs(options: EvaluateOptions) -> list[str]:
    """The scores by pairs that are asked for."""
    return [key for key, value in (("retrieval", options.retrieval), ("zero_shot", options.zero_shot)) if value is not None]


def open_pairs(
    options: EvaluateOptions,
    data: DataOptions,
    processor: MMSSLProcessor,
    config: MMSSLConfig,
    *,
    rows: Sequence[Mapping[str, Any]] | None = None,
    history: History | None = None,
    prefix: str = "",
    track: Track = silent,
) -> dict[str, PairEvaluator]:
    """What scores a model by pairs, by its name, as `options.retrieval` and `options.zero_shot` say; opens all data at once.

    rows: data in memory in place of `data.path`. prefix: of the names, where several sources are scored.
    ValueError for a model without projections, data without pairs or without labels, and bad templates; LookupError for a modality
    or a part of the data that is not there.
    """
    asked = asked_pairs(options)
    if not asked:
        return {}
    if not config.projections:
        raise ValueError(
            f"evaluate: {' and '.join(asked)} {'need' if len(asked) > 1 else 'needs'} a model that maps modalities into one space, "
            f"and this one, of {', '.join(config.modalities)}, has no projections. Train one with the objective clip, or leave "
            f"{' and '.join(asked)} out"
        )
    opener = _Opener(options, data, processor, config, rows, History(complete=False) if history is None else history, prefix, track)
    found: dict[str, PairEvaluator] = {}
    for split in options.retrieval or ():
        found |= opener.retrieval(split)
    if options.zero_shot is not None:
        for split in options.zero_shot.splits:
            found |= opener.zero_shot(split, options.zero_shot)
    return found


@dataclass(frozen=True)
class _Opener:
    """Data of one source for the evaluators."""

    options: EvaluateOptions
    data: DataOptions
    processor: MMSSLProcessor
    config: MMSSLConfig
    rows: Sequence[Mapping[str, Any]] | None
    history: History
    prefix: str
    track: Track

    @property
    def known(self) -> list[str]:
        """The modalities that share the model's space."""
        return list(self.config.projections or {})

    def source(self, split: str | None) -> Source:
        """A part of the data, with the limit."""
        options, data = self.options, self.data
        path, columns, limit = options.path or data.path, options.columns, options.test_limit
        if options.path is None:
            columns = {**(data.columns or {}), **(columns or {})} or None
            if self.rows is not None:
                if split is not None:
                    raise ValueError(
                        f"evaluate: rows in memory have no part {split!r}; score all of them, as in retrieval: [null], or name "
                        "other data (evaluate.path)"
                    )
                return Source.from_rows([dict(row) for row in self.rows], columns, limit, data.called)
        if path is None:
            raise ValueError("evaluate.path is needed where data.sources mixes several; give the data to score on")
        called = data.called if options.path is None else None
        try:
            return Source(path=path, split=split, columns=columns, limit=limit, table_format=data.table_format, called=called)
        except LookupError as error:
            raise LookupError(f"evaluate: {error.args[0]}") from None

    def part(self, name: str, source: Source, names: Sequence[str]) -> Part:
        """The rows of a source that hold all these modalities."""
        held, lacking = self.holding(source, names)
        given = (self.options, self.data, self.processor, self.config)
        return Part(self.prefix + name, *given, held, lacking, self.history, self.track)

    def retrieval(self, split: str | None) -> dict[str, PairEvaluator]:
        """Every two modalities that a part of the data holds."""
        source = self.source(split)
        held = [name for name in self.known if holds(source, name)]
        if len(held) < 2:
            raise ValueError(
                f"evaluate: retrieval needs data that pair two of the model's modalities {', '.join(self.known)}, and {source} has "
                f"columns for {', '.join(held) or 'none'} of them; it has {', '.join(source.column_names)}. Name the others, as in "
                f"columns: {{{next(name for name in self.known if name not in held)}: {source.column_names[0]}}}"
            )
        found = dict[str, PairEvaluator]()
        for pair in combinations(held, 2):
            part = self.part(f"retrieval_{split or 'all'}" + (f"_{pair[0]}_{pair[1]}" if len(held) > 2 else ""), source, pair)
            found[part.name] = Retrieval(part, pair)
        return found

    def zero_shot(self, split: str | None, asked: ZeroShotOptions) -> dict[str, PairEvaluator]:
        """Classes of the label column of a part of the data."""
        source, templates, by = self.source(split), read_templates(asked.templates), self.reader(asked.by)
        modality = self.classified(asked.modality, by, source)
        part = self.part(f"zero_shot_{split or 'all'}", source, [modality])
        labels = required_labels(part.source, kind="classification", scored=modality)
        if label_column(source) in columns_of(source, modality):
            raise ValueError(
                f"evaluate: column {label_column(source)!r} of {source} is the label, and {modality} would be read from it: name "
                "another column"
            )
        called = source.called.get(label_column(source) or "", {}) if asked.called is None else asked.called
        if unknown := [name for name in called if name not in labels.names]:
            raise LookupError(
                f"evaluate.zero_shot.called: {source} has no class {unknown[0]!r}; its classes are {', '.join(labels.names[:20])}"
            )
        names = [called.get(name, name) for name in labels.names]
        return {part.name: ZeroShot(part, modality, by, templates, labels, names)}

    def reader(self, by: str | None) -> str:
        """The modality that reads names of classes."""
        if by is not None:
            self.check_known(by, "by")
        reading = [name for name in self.known if reads_text(self.processor, name)]
        if by is None and len(reading) > 1:
            raise ValueError(
                f"evaluate: several modalities read text, {', '.join(reading)}; choose one with evaluate.zero_shot.by={reading[0]}"
            )
        if not reading or (by is not None and by not in reading):
            raise ValueError(
                f"evaluate: zero_shot needs a modality in the model's space that reads the names of classes, and "
                f"{by or ', '.join(self.known)} takes no text. Train a model that pairs samples with texts, or leave zero_shot out"
            )
        return by or reading[0]

    def classified(self, modality: str | None, by: str, source: Source) -> str:
        """The modality whose samples are classified."""
        if modality is not None:
            self.check_known(modality, "modality")
            columns_of(source, modality)
            return modality
        others = [name for name in self.known if name != by and holds(source, name)]
        if len(others) > 1:
            raise ValueError(
                f"evaluate: {source} holds {', '.join(others)}; choose what to classify: evaluate.zero_shot.modality={others[0]} "
                "(--modality)"
            )
        if not others:
            raise ValueError(
                f"evaluate: zero_shot needs samples of a modality beside {by} that shares the model's space "
                f"({', '.join(self.known)}), and {source} has no column for one; it has {', '.join(source.column_names)}. Name it "
                "in columns"
            )
        return others[0]

    def check_known(self, name: str, key: str) -> None:
        if name not in self.known:
            raise LookupError(
                f"evaluate.zero_shot.{key}: {name!r} is no modality of the model's space; that holds {', '.join(self.known)}"
            )

    def holding(self, source: Source, names: Sequence[str]) -> tuple[Source, int]:
        """The rows of a source that hold all these modalities, and how many do not. ValueError if none does."""
        modalities = {name: (find(name), self.processor.processors[name]) for name in names}
        found = enumerate(holdings(source, modalities, track=self.track))
        kept = [source.row_number(number) for number, held in found if len(held) == len(names)]
        if not kept:
            raise ValueError(f"evaluate: no row of {source} holds {' and '.join(names)}, of {len(source):,} rows. Score other data")
        return source.select(np.array(kept)), len(source) - len(kept)


def holds(source: Source, name: str) -> bool:
    """Whether a source has columns for a modality."""
    try:
        return bool(source.places(find(name)))
    except LookupError:
        return False


def reads_text(processor: MMSSLProcessor, name: str) -> bool:
    """Whether a sample of a modality may be a text."""
    try:
        processor.processors[name](TRIED_TEXT)
    except (*READING_ERRORS, LookupError):
        return False
    return True


def read_templates(templates: Sequence[str] | str | None) -> list[str]:
    """Templates that are given, named, or in a file with one in each line. ValueError for one without {}."""
    if templates is None:
        return list(NAME_ALONE)
    if not isinstance(templates, str):
        found, where = list(templates), "templates"
    elif templates in TEMPLATES:
        import open_clip

        return [template("{}") for template in getattr(open_clip, TEMPLATES[templates])]
    else:
        where = templates
        if not Path(templates).is_file():
            raise FileNotFoundError(
                f"templates: {templates!r} is neither a file nor one of {', '.join(TEMPLATES)}. Write a file with a template in "
                "each line, as in: a photo of a {}"
            )
        lines = Path(templates).read_text(encoding="utf-8").splitlines()
        found = [line.strip() for line in lines if line.strip()]
    for number, template in enumerate(found, 1):
        if "{}" not in template:
            raise ValueError(
                f"{where}: template {number}, {template!r}, has no {{}} for the name of a class; write it as in: a photo of a {{}}"
            )
    if not found:
        raise ValueError(f"{where}: there is no template; write one, as in: a photo of a {{}}")
    return found
