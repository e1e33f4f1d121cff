"""WebDataset shards: tar files whose members of one name, but for the suffix, are one sample; and folders of classes in them."""

import json
import tarfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from mmssl.data.folder import by_folders, classes_of
from mmssl.data.formats import all_formats, suffix_of
from mmssl.data.split_names import Named
from mmssl.data.tables import Row, Table
from mmssl.data.walk import told

CLASS, JSON, LABEL = ".cls", ".json", "label"
"""Members that hold a class number, and those that hold further columns."""

_SPLITS = "cannot read {}: its members lie in folders of which some are called after a part of the data"


class Member(NamedTuple):
    """Where the bytes of a member lie."""

    shard: int
    start: int
    size: int
    name: str


class TarTable(Table):
    """A row for each sample: the files of a sample by what modalities call them, `label` of .cls, and the keys of .json.

    Where no sample has a .cls, or a label in its .json, members lie in folders of classes, as files of a folder do.

    Files are read from where they lie in the tar file when a row is asked for; nothing is unpacked to disk.
    ValueError naming the tar file for one that is damaged, holds two members of one name, or folders that are called after splits.
    """

    def __init__(self, shards: Sequence[Path], path: str) -> None:
        self._shards = list(shards)
        self._rows: list[dict[str, Member]] = []
        over = Counter[str]()
        known = {suffix: kinds for suffix, kinds in all_formats().items() if suffix != JSON}
        for number, shard in enumerate(self._shards):
            self._index(number, shard, known, over)
        if not self._rows:
            raise ValueError(f"{path} has no rows: no member of its tar files is a sample")
        first = next((row[JSON] for row in self._rows if JSON in row), None)
        own = dict.fromkeys(name for row in self._rows for name in row if name not in (JSON, CLASS))
        classes = any(CLASS in row for row in self._rows)
        self._keys = (
            [] if first is None else [key for key in self._json(first) if key not in own and not (classes and key == LABEL)]
        )
        self._folders = None if classes or LABEL in self._keys or LABEL in own else self._classes(path)
        self.columns = [*own, *([LABEL] if classes or self._folders else []), *self._keys]
        self.label = LABEL if LABEL in self.columns else None
        self.notes = [f"{path}: {told(over)}."] if over else []

    def _classes(self, path: str) -> list[str | None] | None:
        """The class of each sample by its folder; None if no folder names any: numbered folders, one a shard, are no classes."""
        members = [next(iter(row.values())) for row in self._rows]
        inside = [tuple(part for part in PurePosixPath(each.name).parts if part not in ("/", "..")) for each in members]
        try:
            found: Sequence[tuple[Named | None, str | None]] = by_folders(inside, (), path) or [
                (None, label) for label in classes_of(inside)
            ]
        except ValueError:
            raise ValueError(f"{_SPLITS.format(path)}, and others are not. Unpack it, and give the folder") from None
        if len(words := dict.fromkeys(named.word for named, _ in found if named)) > 1:
            first, *others = words
            way_out = f"Unpack it and give the folder, or write a file for each, such as {first}.tar"
            raise ValueError(
                f"{_SPLITS.format(path)}: {', '.join([first, *others])}. A tar file is one part of the data. {way_out}"
            )
        labels = [label for _, label in found]
        shards = {(label, member.shard) for label, member in zip(labels, members, strict=True)}
        numbered = len(self._shards) > 1 and len(shards) == len({*labels}) and all(map(str.isdigit, map(str, labels)))
        return None if numbered or not any(labels) else labels

    def _index(self, number: int, shard: Path, known: dict[str, tuple[str, ...]], over: Counter[str]) -> None:
        rows: dict[str, dict[str, Member]] = {}
        try:
            with tarfile.open(shard, "r:") as tar:
                for member in tar:
                    if member.isfile():
                        self._place(Member(number, member.offset_data, member.size, member.name), rows, known, over)
        except (tarfile.TarError, OSError, EOFError) as error:
            raise ValueError(f"cannot read {shard}: {error}. A shard is a tar file that is not compressed; replace it") from error
        size = shard.stat().st_size
        for row in rows.values():
            for found in row.values():
                if found.start + found.size > size:
                    raise ValueError(f"cannot read {shard}: it ends within {found.name}. Replace it")
        self._rows += rows.values()

    def _place(
        self, member: Member, rows: dict[str, dict[str, Member]], known: dict[str, tuple[str, ...]], over: Counter[str]
    ) -> None:
        folder, _, name = member.name.rpartition("/")
        stem, _, rest = name.partition(".")
        if not stem:  # hidden
            return
        suffix = suffix_of(name)
        names = [suffix] if suffix in (CLASS, JSON) else list(known.get(suffix, ()))
        if not names:
            over[suffix] += 1
            return
        if "." + rest.lower() != suffix:
            names = [rest]
        row = rows.setdefault(f"{folder}/{stem}", {})
        for each in names:
            if each in row:
                both = f"{row[each].name} and {member.name}"
                raise ValueError(f"cannot read {self._shards[member.shard]}: {both} are both the {each} of one sample")
            row[each] = member

    def __len__(self) -> int:
        return len(self._rows)

    def rows(self, indices: Sequence[int]) -> list[Row]:
        return [self._row(i, self.columns) for i in indices]

    def column(self, name: str) -> list[Any]:
        return [self._row(i, [name])[name] for i in range(len(self))]

    def select(self, names: Sequence[str]) -> "TarTable":
        narrow = object.__new__(TarTable)
        narrow.__dict__ |= self.__dict__ | {"columns": list(names), "label": self.label if self.label in names else None}
        return narrow

    def _row(self, number: int, names: Sequence[str]) -> Row:
        row = self._rows[number]
        keys = self._json(row[JSON]) if JSON in row and any(name in self._keys for name in names) else {}
        found = {name: keys.get(name) if name in self._keys else self._cell(row, name) for name in names}
        return found | {LABEL: self._folders[number]} if self._folders and LABEL in names else found

    def _cell(self, row: dict[str, Member], name: str) -> Any:
        if name == LABEL and name not in row:
            return self._class(row[CLASS]) if CLASS in row else None
        if name not in row:
            return None
        member = row[name]
        return {"path": f"{self._shards[member.shard]}/{member.name}", "bytes": self._bytes(member)}

    def _bytes(self, member: Member) -> bytes:
        with self._shards[member.shard].open("rb") as file:
            file.seek(member.start)
            return file.read(member.size)

    def _class(self, member: Member) -> int | str:
        text = self._bytes(member).decode(errors="replace").strip()
        return int(text) if text.lstrip("-").isdigit() else text

    def _json(self, member: Member) -> dict[str, Any]:
        where = f"cannot read {self._shards[member.shard]}, {member.name}"
        try:
            found = json.loads(self._bytes(member))
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None
        if not isinstance(found, dict):
            raise ValueError(f"{where}: it holds a {type(found).__name__}, not an object")
        return found
