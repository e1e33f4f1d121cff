"""What a model was trained on: a record that travels with it, so that no score on rows whose labels it has seen counts."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from mmssl import files
from mmssl.data import Source, Stream
from mmssl.data.identity import column_digits, content_digits, listed, parts_of, share_rows
from mmssl.data.source import LABEL
from mmssl.modality import find

FILE = "training.json"


@dataclass(frozen=True, kw_only=True)
class Trained:
    """The rows of one source that one run trained on.

    objective: its name. source: name of the source in the run. path, split: as the recipe names them.
    rows: of the whole dataset; a limit may have left some out. inputs: columns that samples were read from.
    label: column whose labels were learned; None: none were.
    held_out: label column by which a fifth of the rows was chosen and not trained on; None: any row may have been trained on.
    content, labels, parts: what the dataset is known by, whatever it is called: digests of its rows and of the column that `label`
        or `held_out` names, and what it is read from.
    """

    objective: str
    source: str
    path: str
    split: str | None
    rows: int
    inputs: tuple[str, ...]
    label: str | None
    held_out: str | None
    content: str
    labels: str | None
    parts: tuple[str, ...]

    @classmethod
    def of(cls, stream: Stream, objective: str, *, label: str | None, held_out: str | None) -> "Trained":
        """The record of a source of a run; `label` and `held_out` as above."""
        source, column = stream.source, label if held_out is None else held_out
        places = [source.places(find(name)) for name in stream.modalities]
        inputs = tuple(dict.fromkeys(name for place in places for name in ([place] if isinstance(place, str) else place)))
        content = content_digits(source, inputs)
        assert content is not None, "the source has the columns that it is read from"
        return cls(
            objective=objective,
            source=stream.name,
            path=source.path,
            split=source.split,
            rows=len(source.whole()),
            inputs=inputs,
            label=label,
            held_out=held_out,
            content=content,
            labels=None if column is None else column_digits(source, column),
            parts=listed(parts_of(source)),
        )

    def same(self, source: Source) -> bool:
        """Whether the dataset of `source` is the one that was trained on, row by row: it itself or a copy."""
        if content_digits(source, self.inputs) != self.content:
            return False
        column = self.label if self.held_out is None else self.held_out
        return column is None or column_digits(source, column) == self.labels

    def overlaps(self, source: Source) -> bool:
        """Whether the dataset of `source` may have rows that were trained on. Shuffled and partial copies are not recognised."""
        return share_rows(self.parts, parts_of(source)) or self.same(source)


@dataclass(frozen=True)
class Exposure:
    """What a model saw of the samples that it is scored on.

    labelled: some were trained on with their labels. held_out: they are the rows that were held out of training.
    unlabelled: they were trained on, without their labels. known: whether the record goes back to the first weights.
    """

    labelled: bool = False
    held_out: bool = False
    unlabelled: bool = False
    known: bool = True


@dataclass(frozen=True)
class History:
    """All that a model was trained on, oldest first, its teachers' training included.

    complete: whether the record goes back to random weights.
    """

    trained: tuple[Trained, ...] = ()
    complete: bool = True

    @classmethod
    def read(cls, model: str | Path) -> "History":
        """The record of a model (folder or Hub id), or of a run (its folder); an incomplete one if it has none."""
        file = _file_of(model)
        if file is None:
            return cls(complete=False)
        content = json.loads(Path(file).read_text(encoding="utf-8"))
        known = {field.name for field in fields(Trained)}
        if content.keys() != {"complete", "trained"} or any(entry.keys() != known for entry in content["trained"]):
            raise ValueError(f"{file} is no record of training that this version of mmssl reads; update mmssl, or delete the file")
        return cls(tuple(_entry(entry) for entry in content["trained"]), content["complete"])

    def write(self, folder: Path) -> None:
        """Write the record into the folder of a model or a run."""
        files.write_json(folder / FILE, {"complete": self.complete, "trained": [asdict(entry) for entry in self.trained]})

    def then(self, *trained: Trained) -> "History":
        """This and later training."""
        return replace(self, trained=(*self.trained, *trained))

    @property
    def learned_labels(self) -> bool:
        """Whether labels were learned at any time."""
        return any(entry.label is not None for entry in self.trained)

    def held_out_by(self, source: Source) -> str | None:
        """The label column by which rows of this very dataset were first held out of training; None: none were."""
        return next((entry.held_out for entry in self.trained if entry.held_out is not None and entry.same(source)), None)

    def exposure(self, scored: Source, label: str, fifth: str | None) -> Exposure:
        """What was seen of the test samples: all rows of `scored`, or the fifth of its dataset that goes by the column `fifth`.

        label: the column that is scored.
        """
        found = Exposure(known=self.complete)
        for entry in self.trained:
            if not entry.overlaps(scored):
                continue
            if fifth is not None and entry.held_out == fifth and entry.same(scored):
                found = replace(found, held_out=True)
            elif entry.label is None and not set(scored.made_from(label)) & set(entry.inputs):
                found = replace(found, unlabelled=True)
            else:
                return replace(found, labelled=True)
        return found

    def exposure_of_pairs(self, scored: Source, places: Sequence[Collection[str]]) -> Exposure:
        """What was seen of the pairs that a source holds, in the columns of each modality: `labelled` says that of the pairs."""
        found = Exposure(known=self.complete)
        for entry in self.trained:
            if entry.overlaps(scored):
                seen = [not set(entry.inputs).isdisjoint(columns) for columns in places]
                found = replace(found, labelled=found.labelled or all(seen), unlabelled=found.unlabelled or any(seen))
        return found


def label_column(source: Source) -> str | None:
    """The one column that a source names for its labels; None if it names none, or several."""
    name = source.columns.get(LABEL)
    return name if isinstance(name, str) else None


def _file_of(model: str | Path) -> Path | None:
    """The record in a folder, or of a model on the Hub; None if there is none."""
    if Path(model).is_dir():
        file = Path(model) / FILE
        return file if file.is_file() else None
    try:
        found = cached_file(str(model), FILE, _raise_exceptions_for_missing_entries=False)
    except OSError:  # no such model, or no connection: whoever loads its weights will say so
        return None
    return None if found is None else Path(found)


def _entry(values: Mapping[str, Any]) -> Trained:
    return Trained(**dict(values) | {"inputs": tuple(values["inputs"]), "parts": tuple(values["parts"])})
