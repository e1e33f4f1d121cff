"""Files of numpy's that hold many samples, along the first axis of their arrays, with labels beside them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import IO, Any
from zipfile import BadZipFile, ZipFile

import numpy as np
from jaxtyping import Shaped

from mmssl.data.folder import DataFile
from mmssl.data.formats import suffix_of
from mmssl.data.split_names import inside
from mmssl.data.table_format import Arrays
from mmssl.data.tables import Row, Table
from mmssl.modality import find
from mmssl.plugins import installed

NPY, NPZ = ".npy", ".npz"
ONLY, LABEL = "array", "label"
LABELS = ("y", "label", "labels", "target", "targets")
"""What arrays of labels are called, in lower case, beside the name of a split."""
OF_ONE = ("times", "rate")
"""Arrays of an archive that say of one series when it was measured."""
FEW = 16
"""Along an axis: so many are channels of one sample, or coordinates with features."""
MOST = 2**33
"""Bytes that an archive may unpack to."""
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


@dataclass(frozen=True)
class Stored:
    """An array in a file; key: of an archive, what it is called there. shape and kind (as numpy has it) by its header."""

    file: Path
    key: str | None
    shape: tuple[int, ...]
    kind: str

    def load(self) -> Shaped[np.ndarray, "..."]:
        """The array, mapped to the file where it is no archive."""
        try:
            if self.key is None:
                mapped: np.ndarray = np.load(self.file, mmap_mode="r", allow_pickle=False)
                return mapped
            with np.load(self.file, allow_pickle=False) as archive:
                found: np.ndarray = archive[self.key]
                return found
        except Exception as error:  # of damaged files
            text = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"cannot read {self}: {text:.300}. Replace it") from error

    @property
    def told(self) -> str:
        """Its shape in words."""
        return " x ".join(f"{size:,}" for size in self.shape)

    def __str__(self) -> str:
        return str(self.file) if self.key is None else f"{self.file}, array {self.key}"


@dataclass(frozen=True)
class Part:
    """Samples of a split: the entries of arrays, by what these are called. labels: theirs; label: that of all of them."""

    split: str
    arrays: Mapping[str, Stored]
    labels: Stored | None
    label: str | None

    @property
    def stored(self) -> list[Stored]:
        """All of its arrays."""
        return [*self.arrays.values(), *([] if self.labels is None else [self.labels])]

    @property
    def count(self) -> int:
        """How many samples there are. ValueError for arrays that differ in that."""
        for each in self.stored:
            if each.kind == "O":
                raise ValueError(f"cannot read {each}: it holds Python objects, which are not unpickled. Save it with .astype(str)")
        counts = {each.shape[:1] for each in self.stored}
        if len(counts) > 1 or not min(counts):
            told = "; ".join(f"{each} has {each.told or 'one value'}" for each in self.stored)
            raise ValueError(f"the first axis of arrays of many samples is that of the samples, equal in all: {told}. Correct it")
        return int(min(counts)[0])


class ArrayTable(Table):
    """A row for each entry along the first axis of arrays.

    One array with more axes than that goes by what all modalities that read arrays call their samples; others by their names.
    """

    def __init__(self, parts: Sequence[Part], path: str) -> None:
        self._parts, self._loaded = list(parts), dict[Stored, np.ndarray]()
        if strange := next((part for part in parts if part.arrays.keys() != parts[0].arrays.keys()), None):
            names = " and ".join(", ".join(part.arrays) for part in (parts[0], strange))
            raise ValueError(f"the files of {path} do not fit together: they hold the arrays {names}. Choose files with a pattern")
        self._ends = np.cumsum([part.count for part in parts])
        first = parts[0].arrays
        samples = [name for name, each in first.items() if len(each.shape) > 1]
        self._names = {name: name for name in first}
        if len(samples) == 1:
            called = dict.fromkeys(columns_of_arrays(), samples[0])
            self._names = called | {name: name for name in first if name != samples[0]}
        if any(part.labels is not None or part.label is not None for part in parts):
            self.label = LABEL
        self.columns = [*self._names, *([LABEL] if self.label else [])]
        self.parts = list(dict.fromkeys(each.file for part in parts for each in part.stored))
        shown = ", ".join(f"{name} {each.told}" for name, each in first.items())
        self.notes = [f"{path}: each of {len(self):,} entries along the first axis of {shown} is a sample."]

    def __getstate__(self) -> dict[str, Any]:
        """What a worker process gets: the files, which it reads itself."""
        return self.__dict__ | {"_loaded": {}}

    def __len__(self) -> int:
        return int(self._ends[-1])

    def rows(self, indices: Sequence[int]) -> list[Row]:
        return [{name: self._cell(name, int(i)) for name in self.columns} for i in indices]

    def column(self, name: str) -> list[Any]:
        return [self._cell(name, i) for i in range(len(self))]

    def select(self, names: Sequence[str]) -> "ArrayTable":
        narrow = object.__new__(ArrayTable)
        narrow.__dict__ |= self.__dict__ | {"columns": list(names), "label": self.label if self.label in names else None}
        return narrow

    def _cell(self, name: str, row: int) -> Any:
        number = int(np.searchsorted(self._ends, row, side="right"))
        part = self._parts[number]
        entry = row - (int(self._ends[number - 1]) if number else 0)
        if name != LABEL or LABEL in self._names:
            return self._entry(part.arrays[self._names[name]], entry)
        return part.label if part.labels is None else self._entry(part.labels, entry)

    def _entry(self, stored: Stored, entry: int) -> Any:
        """A value, or an array."""
        if stored not in self._loaded:
            self._loaded[stored] = stored.load()
        found = self._loaded[stored][entry]
        return np.array(found) if len(stored.shape) > 1 else found.item()


def columns_of_arrays() -> list[str]:
    """What the modalities that read arrays call their samples."""
    return [modality.columns[0] for modality in map(find, installed()) if modality.arrays]


def array_table(files: Sequence[DataFile], path: str, split: str | None, how: Arrays | None) -> ArrayTable | None:
    """The samples in files of which each holds many; None where each is one sample. how: as `TableFormat.arrays`.

    ValueError naming the file where either may be meant, or where arrays do not fit together; LookupError for an unknown split.
    """
    kinds = {suffix_of(file.path.name) for file in files}
    if not kinds <= {NPY, NPZ}:
        if how is not None:
            raise ValueError(
                f"data.arrays={how} is for .npy and .npz files, and {path} has {', '.join(sorted(kinds))}. Leave it out"
            )
        return None
    if how == "one":
        return None
    alone = all(count == 1 for count in Counter(file.split for file in files).values())
    named = kinds == {NPY} and not alone and len({file.path.parent for file in files}) == 1 and _beside(files)
    if not (named or alone or how):
        shapes = [each.shape for each in _headers(files[0].path, quiet=True).values()]
        if max(map(len, shapes), default=0) < 3:
            return None
    parts = _named(files) if named else [part for file in files for part in _of_file(file, quiet=how is None)]
    if not parts or (how is None and not named and not all(_are_many(part, path) for part in parts)):
        return None
    chosen = [part for part in parts if split is None or part.split == split]
    if not chosen:
        raise LookupError(f"{path} has no split {split!r}; it has {', '.join(sorted({part.split for part in parts}))}")
    table = ArrayTable(chosen, path)
    if {each.file for part in chosen for each in part.stored} & {
        each.file for part in parts if part not in chosen for each in part.stored
    }:
        table.span = f"[{split}]"  # of files that hold others too
    return table


def _are_many(part: Part, path: str) -> bool:
    """Whether arrays hold many samples. ValueError where one sample may as well be meant."""
    if part.arrays.keys() & {*OF_ONE} or any(not each.shape for each in part.stored):
        return False
    sizes = max((each.shape for each in part.arrays.values()), key=len)
    alike = len({each.shape[0] for each in part.stored}) == 1
    if len(sizes) > 2:
        return alike or part.labels is not None
    known = part.labels is not None
    narrow = (sizes[1] if known and alike else min(sizes)) <= FEW if len(sizes) == 2 else True
    if len(sizes) < 2 or (narrow and not (known and alike)):
        return False
    if known and not narrow:
        return True
    told = " and ".join(f"{each} ({each.told})" for each in part.stored)
    raise ValueError(
        f"{told} may be {sizes[0]:,} samples, or one. Say data.arrays=many if each entry along the first axis is a sample, "
        f"data.arrays=one if {path} is one (--arrays in commands); rows of a table with columns of their own belong in a csv file"
    )


def _of_file(file: DataFile, *, quiet: bool) -> list[Part]:
    """The arrays of a file by splits: names such as x_train and x_test say them. quiet: none of a file that cannot be read."""
    found = _headers(file.path, quiet=quiet)
    return _by_split([(ONLY if each.key is None else name, each, file) for name, each in found.items()])


def _named(files: Sequence[DataFile]) -> list[Part]:
    """Files called X.npy and y.npy, or X_train.npy and so on, by splits."""
    return _by_split([(name, each, file) for file in files for name, each in _headers(file.path, quiet=False).items()])


def _by_split(found: Sequence[tuple[str, Stored, DataFile]]) -> list[Part]:
    """Arrays put together, those of each split, those of labels apart."""
    named = [(*_parsed(name), each, file) for name, each, file in found]
    parts = []
    for split, own in groupby(sorted(named, key=lambda each: each[1] or each[3].split), key=lambda each: each[1] or each[3].split):
        held = list(own)
        labels = next((each for name, _, each, _ in held if len(held) > 1 and name.lower() in LABELS), None)
        arrays = {name: each for name, _, each, _ in held if each is not labels}
        parts.append(Part(split, arrays, labels, held[0][3].label))
    return parts


def _parsed(name: str) -> tuple[str, str | None]:
    """The name of an array without that of a split, and the split."""
    found = inside(name)
    if found is None:
        return name, None
    place = name.lower().index(found.word)
    return (name[:place] + name[place + len(found.word) :]).strip("_-. ") or name, found.split


def _beside(files: Sequence[DataFile]) -> bool:
    """Whether files are called after samples and their labels."""
    names = [_parsed(file.path.stem)[0].lower() for file in files]
    return bool({*names} & {*LABELS}) and bool({*names} - {*LABELS}) and len({*names}) <= 3


def _headers(file: Path, *, quiet: bool) -> dict[str, Stored]:
    """The arrays of a file by their names, of a .npy file its own. ValueError for one that is damaged; quiet: none of such."""
    try:
        if suffix_of(file.name) == NPY:
            with file.open("rb") as content:
                return {file.stem: Stored(file, None, *_header(content))}
        with ZipFile(file) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
            if size > MOST:
                raise ValueError(f"it unpacks to {size:,} bytes, more than {MOST:,}: save its arrays as .npy files")
            found = {}
            for name in archive.namelist():
                with archive.open(name) as content:
                    key = name.removesuffix(NPY)
                    found[key] = Stored(file, key, *_header(content))
            return found
    except (ValueError, OSError, EOFError, BadZipFile, NotImplementedError, RuntimeError) as error:
        if quiet:  # whoever reads the sample says what is wrong
            return {}
        raise ValueError(f"cannot read {file}: {error}. Replace it") from error


def _header(content: IO[bytes]) -> tuple[tuple[int, ...], str]:
    version = np.lib.format.read_magic(content)
    if version not in _HEADERS:
        raise ValueError(f"it is of version {version} of numpy's format; versions 1 and 2 are read")
    shape, _, dtype = _HEADERS[version](content)
    return shape, dtype.kind
