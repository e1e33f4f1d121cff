"""A first recipe for somebody's data: what they hold, a starter recipe with values that suit them, and how long it trains."""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any

from mmssl import files
from mmssl.data import Source, Track, silent
from mmssl.data.dense import DENSE, are_maps
from mmssl.data.segments import are_segments
from mmssl.data.source import LABEL
from mmssl.data.survey import Passed, Survey, survey
from mmssl.data.table_format import PLAIN, TableFormat
from mmssl.modality import Claim, Content, Modality, are_files, find
from mmssl.plugins import installed
from mmssl.recipe import Recipe, RecipeError, changed_keys, load, override, yaml12
from mmssl.recipe.automatic import leaves
from mmssl.recipe.messages import suggest
from mmssl.recipe.settle import differ
from mmssl.training.build import build, contents_of, cut_stream
from mmssl.training.hints import held_told, holds_numbers, series_hints, ways_out
from mmssl.training.pace import samples_per_second
from mmssl.training.splits import open_splits
from mmssl.training.starters import starter_text

LABELS = ("label", "labels", "target", "class", "category")
"""Columns of a table that hold labels by their name."""
STRETCHES = "segments of time, which a model learns by objective={name: supervised, kind: dense}, see docs/adapt.md"
"""What labels may be by which no encoder is scored."""
EXAMINED = 200
"""Rows, evenly spaced, by which the columns of a table are judged."""
FEWEST = 4
"""Samples without which nothing is written."""
PROCESSOR = "processor."
TRIED = 3
"""Files that a modality has to be able to read."""
NEAR = 0.15
"""Modalities that are sure within this are all meant, or the user is asked."""
ALMOST_SURE = 0.9
SHOWN = 12
"""Columns that a question lists."""

_LINE = re.compile(r"(?P<indent> *)(?P<key>\w+):(?: (?P<value>[^#]*?))?(?P<comment>  #.*)?")


@dataclass(frozen=True)
class Found:
    """What data hold: the modalities with their claims, the column of labels, and what was told of them.

    path: for data.path. given: how the cells of table files are written, as keys of the section `data`. kind: `dense` where labels
    are label maps; None: it is for the objective to say.
    """

    path: str
    claims: Mapping[str, Claim]
    label: str | None
    survey: Survey
    given: Mapping[str, Any]
    known: bool
    """Whether the data themselves know the column of labels."""
    kind: str | None = None
    unscored: str | None = None
    """Of a column of labels by which nothing is scored: its name, and why."""
    group: str | None = None
    """Of pairs the column of texts, or names of files, that rows share: these rows belong together."""
    beside: Mapping[str, Claim] = field(default_factory=dict)
    """Other modalities that columns of their own may be read as, and are not."""

    @property
    def columns(self) -> dict[str, Any]:
        """Keys of data.columns: those that a run would not find by itself."""
        own = {name: claim.columns for name, claim in self.claims.items() if isinstance(claim.columns, str)}
        named = {name: column for name, column in own.items() if _first(find(name).columns, self) != column}
        if self.group is not None:
            named["group"] = self.group
        return named | ({} if self.label is None or self.known else {"label": self.label})

    @property
    def _whole_row(self) -> list[str]:
        """The columns of a modality that reads whole rows."""
        return [name for claim in self.claims.values() if isinstance(claim.columns, list) for name in claim.columns]

    def lines(self) -> list[str]:
        """What was found, in sentences."""
        rows = [] if self.survey.num_rows is None else [f"{self.survey.num_rows:,} samples"]
        unknown = "no labels known: give --label COLUMN to have the encoder scored"
        maps = ", label maps" if self.kind == DENSE else ""
        if self.unscored is not None:
            unknown = f"column {self.unscored}; {unknown.partition(': ')[2]}"
        labels = unknown if self.label is None else f"labels: column {self.label}{maps}"
        found = [*self.survey.lines(), *rows, *(f"{name}: {claim.why}" for name, claim in self.claims.items()), labels]
        if self.group is not None:
            found.append(f"rows of the same {self.group} belong together (data.columns.group): none is told from another")
        both = " ".join(self.claims)
        found += [f"not read: {claim.why}; --modality {both} {name} makes pairs" for name, claim in self.beside.items()]
        whole = {*self._whole_row}
        columns = [column for column in self.survey.columns if column.name in whole]
        return [*found, *([] if "series" in self.given else series_hints(columns, self.survey.num_read))]


def _first(names: Sequence[str], found: Found) -> str | None:
    """The column that a run would take for a modality."""
    columns = [column.name for column in found.survey.columns]
    return next((name for name in names if name in columns), None)


def look(path: str, *, modalities: Sequence[str] = (), label: str | None = None, table_format: TableFormat = PLAIN) -> Found:
    """What data hold.

    modalities: what they are to be read as; needed where several are as likely. label: the column of labels.
    Raises ValueError that asks for what is missing, and what opening the data raises.
    """
    if unknown := [name for name in modalities if name not in installed()]:
        raise ValueError(f"no modality named {unknown[0]!r}; installed: {', '.join(installed())}")
    seen = survey(path, table_format)
    if seen.mixed:
        places = {candidate.modality: candidate.path for candidate in seen.candidates}
        apart = len({*places.values()}) > 1
        if len(modalities) != 1 or not apart:
            said = f" Say --modality {' or '.join(places)}, which leaves the others out" if apart else ""
            raise ValueError(f"{seen.mixed}{'' if seen.mixed.endswith('?') or not said else '.'}{said}")
        if modalities[0] not in places:
            raise ValueError(f"--modality {modalities[0]}: {path} holds files of {', '.join(places)}")
        path = places[modalities[0]]
        seen = _without_others(seen, Path(path).suffix)
    source = Source(path=path, table_format=table_format)
    known = source.columns.get(LABEL)
    if label is not None and label not in source.column_names:
        held = ", ".join(source.column_names[:SHOWN])
        raise LookupError(f"--label {label}: {source} has no such column; it has {held}{suggest(label, source.column_names)}")
    aside, unscored, named = None, None, label
    label = label or (known if isinstance(known, str) else next((n for n in source.column_names if n.lower() in LABELS), None))
    some = source.evenly(EXAMINED)
    rows = some.rows(range(len(some)))
    if label is not None and are_segments([row[label] for row in rows]):
        if named:
            raise ValueError(f"--label {label}: {source} holds {STRETCHES}")
        label, aside, unscored = None, label, f"{label} holds {STRETCHES}"
    elif label is not None and not differ(source, label):
        if named:
            raise ValueError(f"--label {label}: all rows of {source} have one label, or none: there is nothing to score by")
        label, aside, unscored = None, label, f"{label} holds one label for all rows: nothing to score by"
    cells = {name: [row[name] for row in rows] for name in source.column_names if name not in (label, aside)}
    claims = {name: claim for name in modalities or installed() if (claim := find(name).claimed(cells)) is not None}
    if modalities and (lacking := [name for name in modalities if name not in claims]):
        raise ValueError(f"{source} cannot be read as {lacking[0]}: {_reading(cells, source.notes)}")
    readable: Mapping[str, Claim] = {}
    if not modalities:
        unread = {name: why for name, claim in claims.items() if (why := _unread(name, claim, some)) is not None}
        of_others = _of_others(unread, claims, cells)
        claims = {name: claim for name, claim in claims.items() if name not in unread}
        seen = replace(seen, notes=(*seen.notes, *(f"not read {why}" for name, why in unread.items() if name not in of_others)))
        if not claims:
            raise ValueError(
                f"{source} cannot be read by any modality: {'; '.join(unread.values()) or _reading(cells, source.notes)}"
            )
        readable = claims
        claims = _chosen(claims, source)
    if len(source) < FEWEST:
        _check_pieces(source, claims)
    given = {key: _plain(value) for key, value in vars(table_format).items() if value != getattr(PLAIN, key)}
    kind = DENSE if label is not None and are_maps([row[label] for row in rows]) else None
    notes = dict.fromkeys((*seen.notes, *seen.more(source.notes)))
    seen = replace(seen, num_rows=len(source), notes=tuple(notes))
    group = _shared_text(claims, cells, source) if len(claims) > 1 else None
    return Found(path, claims, label, seen, given, label == known, kind, unscored, group, _not_taken(readable, claims))


def _not_taken(readable: Mapping[str, Claim], claims: Mapping[str, Claim]) -> dict[str, Claim]:
    """Modalities that columns of their own may be read as, and that are not chosen. A table reads all columns of a row: none."""
    taken = [claim.columns for claim in claims.values()]
    if not all(isinstance(columns, str) for columns in taken):
        return {}
    return {name: claim for name, claim in readable.items() if isinstance(claim.columns, str) and claim.columns not in taken}


def _shared_text(claims: Mapping[str, Claim], cells: Mapping[str, Sequence[Any]], source: Source) -> str | None:
    """The column of texts, or names of files, that rows share; None where all differ, or there is none."""
    columns = [claim.columns for claim in claims.values() if isinstance(claim.columns, str)]
    for name in columns:
        held = [cell for cell in cells[name] if cell is not None]
        if held and all(isinstance(cell, str) for cell in held) and source.repeats(name):
            return name
    return None


def _without_others(seen: Survey, suffix: str) -> Survey:
    """A survey of files of several kinds, of which those of one suffix are chosen."""
    others = Counter[str]()
    for candidate in seen.candidates:
        others |= Counter(candidate.suffixes)
    del others[suffix]
    return replace(seen, mixed="", passed=(*seen.passed, Passed("files of other kinds, which are left out", dict(others), ())))


def _check_pieces(source: Source, claims: Mapping[str, Claim]) -> None:
    """ValueError for too few samples, unless long ones make enough pieces."""
    pieces = len(source)
    for name, claim in claims.items():
        if isinstance(claim.columns, str) and len(claims) == 1:
            modality = find(name)
            samples = _samples(source, claim.columns, modality)
            processor = modality.processor(**_suited(modality, samples))
            processor.fit(samples)
            pieces = sum(len(processor.pieces(raw)) for raw in samples)
    if pieces < FEWEST:
        held = f"{len(source)} sample{'s' * (len(source) > 1)}"
        arrays = any(str(part).lower().endswith((".npy", ".npz")) for part in source.parts)
        stack = ". If each entry along the first axis of a file is a sample, say --arrays many" if arrays else ""
        raise ValueError(f"{source} holds {held}: to learn takes {FEWEST} or more, best hundreds{stack}")


def _suited(modality: Modality, samples: Sequence[Any]) -> dict[str, Any]:
    """The settings of a processor that suit samples."""
    found = modality.suited(samples).items()
    return {key.removeprefix(PROCESSOR): suited.value for key, suited in found if key.startswith(PROCESSOR)}


def _plain(value: Any) -> Any:
    """An option as a recipe writes it."""
    if is_dataclass(value) and not isinstance(value, type):
        return {key: _plain(held) for key, held in vars(value).items() if held is not None}
    return [*value] if isinstance(value, tuple) else value


def _reading(cells: Mapping[str, Sequence[Any]], notes: Sequence[str] = ()) -> str:
    """The columns of a table with what they hold, and where it says what can be read. notes: of reading."""
    shown = ", ".join([f"{name} ({held_told(held)})" for name, held in cells.items()][:SHOWN])
    more = f" and {len(cells) - SHOWN} more" if len(cells) > SHOWN else ""
    return " ".join(
        [f"its columns are {shown}{more}.", *ways_out(cells), *notes, "The pages of the modalities say what each reads"]
    )


def _samples(some: Source, column: str, modality: Modality) -> list[Any]:
    """The raw samples of some rows that have one; files that a table names lie beside it."""
    own = some if modality.lined else some.located([column])
    return [row[column] for row in own.rows(range(len(own))) if row[column] is not None]


def _of_others(unread: Mapping[str, str], claims: Mapping[str, Claim], cells: Mapping[str, Sequence[Any]]) -> set[str]:
    """Those that cannot read files which may be anything, as .txt, and which another modality reads: that is no news."""
    held = {name: cells[claim.columns] for name, claim in claims.items() if isinstance(claim.columns, str)}
    files = {name: own for name, own in held.items() if are_files(own, find(name).ambiguous)}
    return {
        name for name in files.keys() & unread.keys() if any(files[name] == files[other] for other in files.keys() - unread.keys())
    }


def _unread(name: str, claim: Claim, some: Source) -> str | None:
    """Why a modality cannot read most of the first files that it claims by their suffix, which another may have too; None: it can.

    A few bad files are no reason: a run names them, or skips them.
    """
    if not isinstance(claim.columns, str) or claim.certainty < 1:
        return None
    modality = find(name)
    samples = _samples(some, claim.columns, modality)[:TRIED]
    if modality.lined and sum(map(holds_numbers, samples)) > len(samples) / 2:
        return f"as {name}, {samples[0]['path']} holds numbers in every line"
    suited = _suited(modality, samples)
    reasons = list[str]()
    for raw in samples:
        try:
            processor = modality.processor(**suited)
            processor.fit([raw])
            processor(processor.beginning(raw))
        except (ValueError, TypeError, OSError, ImportError) as error:
            file = raw.get("path") if isinstance(raw, Mapping) else None
            reasons.append(f"{file}: {error}" if file and str(file) not in str(error) else str(error))
    return f"as {name}, {reasons[0]}" if 2 * len(reasons) > len(samples) else None


def _chosen(claims: Mapping[str, Claim], source: Source) -> dict[str, Claim]:
    """The modalities that are meant: the surest, or several of which each has a column. ValueError asks where others may be."""
    best = max(claim.certainty for claim in claims.values())
    near = {name: claim for name, claim in claims.items() if claim.certainty >= best - NEAR}
    if len(near) == 1:
        return near
    places = {claim.columns for claim in near.values() if isinstance(claim.columns, str)}
    if len(places) == len(near) and min(claim.certainty for claim in near.values()) >= ALMOST_SURE:
        return near
    asked = "; ".join(f"--modality {name} ({claim.why})" for name, claim in near.items())
    raise ValueError(f"{source} can be read in {len(near)} ways: say {asked}")


def write(found: Found, output: Path, command: str, overrides: Sequence[str] = ()) -> Recipe:
    """Write the starter recipe for data, nothing left to be taken from them. Returns it, as `load` reads it.

    command: by which it was made. overrides: texts `key=value` for keys of the starter recipe. RecipeError for others.
    """
    starter = starter_text(found.claims, found.kind)
    data = {f"data.{key}": value for key, value in {"path": found.path, **found.given}.items()}
    changes = data | ({"data.columns": found.columns} if found.columns else {})
    changes |= dict(leaves(override({}, overrides)))
    settled = load(yaml12.parse(starter, "the starter recipe"), changes)
    reasons = {key: suited.why for key, suited in settled.settled.items()}
    values = changes | {key: suited.value for key, suited in settled.settled.items()}
    opening = [f"# {line}" for line in (f"Made by: {command}", *found.lines())]
    text = "\n".join([*opening, "#", f"#     mmssl train {output}", *_filled(starter, values, reasons)]) + "\n"
    files.write_text(output, text)
    recipe = load(output)
    if changed := changed_keys(settled.resolved(), recipe.resolved()):
        raise AssertionError(f"{output} was not written as it was meant: {'; '.join(changed)}")
    return recipe


def _filled(starter: str, values: Mapping[str, Any], reasons: Mapping[str, str]) -> Iterator[str]:
    """The lines of a starter recipe, `auto` replaced by values, with why behind them."""
    above, left = list[tuple[int, str]](), dict(values)
    for line in starter.splitlines():
        parts = _LINE.fullmatch(line)
        assert parts is not None, f"a line of a starter recipe is a key with its value, and a comment: {line}"
        depth = len(parts["indent"])
        above = [(level, key) for level, key in above if level < depth]
        key = ".".join([*(key for _, key in above), parts["key"]])
        if parts["value"] is None:
            above.append((depth, parts["key"]))
        if key not in left:
            yield line
            continue
        comment = parts["comment"] or ""
        why = f"{comment or '  #'} ({reasons[key]})" if key in reasons else comment
        yield f"{parts['indent']}{parts['key']}: {yaml12.line(left.pop(key))}{why}"
        if key == "data.path":  # what is new of the section stands behind it
            for other in [other for other in left if other.startswith("data.")]:
                yield f"{parts['indent']}{other.removeprefix('data.')}: {yaml12.line(left.pop(other))}"
    if left:
        raise RecipeError(f"the starter recipe has no {', '.join(left)}: write the recipe without, and add it there")


@dataclass(frozen=True)
class Estimate:
    """How fast a recipe trains here, and what its budget comes to."""

    per_second: float
    samples: int
    minutes: float
    contents: Mapping[str, Sequence[Content]] = field(default_factory=dict)
    """What the modalities took the samples for, part by part."""

    @property
    def passes(self) -> float:
        return self.per_second * self.minutes * 60 / self.samples

    def line(self) -> str:
        budget = f"{self.minutes:g} minute{'s' * (self.minutes != 1)}"
        return (
            f"about {self.per_second:,.0f} samples a second on this machine: in {budget} each of {self.samples:,} samples is seen "
            f"about {self.passes:,.1f} times"
        )


def estimate(recipe: Recipe, track: Track = silent) -> Estimate:
    """Time a few steps of a recipe on this machine."""
    splits = open_splits(recipe)
    pieces = build(recipe, splits.streams, splits.labels, track=track)
    whole = next(iter(splits.streams.values()))
    contents = contents_of(whole, pieces.processor, track)
    stream = cut_stream(whole, pieces.processor, track)
    minutes = recipe.section("train").max_minutes
    assert minutes is not None  # starter recipes have it
    return Estimate(samples_per_second(recipe, pieces, stream, splits.labels), len(stream.source), minutes, contents)
