"""What a data path names: a bundled set, files, a folder, or a dataset on the Hub. What exists on disk wins."""

import re
from collections.abc import Collection
from dataclasses import dataclass
from difflib import get_close_matches
from importlib.util import find_spec
from itertools import takewhile
from pathlib import Path

from mmssl.data.formats import PLAIN, TableFormat
from mmssl.data.tables import MediaTable, Table
from mmssl.modality import find
from mmssl.plugins import installed

BUNDLED = "bundled:"

_BUILDERS = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".ndjson": "json"}
"""Files that are tables, and what reads them: see `mmssl.data.local_tables.READERS`."""

_MAGIC = re.compile(r"[*?\[]")
_HUB_ID = re.compile(r"(\w[\w.-]*(?:/[\w.-]+)?)(?::([\w.-]+))?")
_FILE_SPLIT = re.compile(r"train|test|valid|val(?![a-z])", re.IGNORECASE)
_SPLITS = {"train": "train", "test": "test", "val": "validation", "valid": "validation", "validation": "validation"}
_SHOWN = 8


@dataclass(frozen=True)
class _File:
    path: Path
    split: str | None = "train"
    label: str | None = None


def open_table(path: str, split: str | None, table_format: TableFormat = PLAIN) -> Table:
    """The table that `path` names; `split` None: all its rows. table_format: how the cells of table files are written.

    Raises FileNotFoundError for a missing file or folder, LookupError for an unknown split, ValueError for what cannot be read.
    """
    if path.startswith(BUNDLED):
        from mmssl.data.bundled import bundled_table

        return bundled_table(path.removeprefix(BUNDLED), split)
    local = Path(path).expanduser()
    if local.is_file():
        return _read([_File(local)], path, split, table_format)
    if local.is_dir():
        return _read(_in_folder(local, path), path, split, table_format)
    if _MAGIC.search(path):
        return _read(_matching(local, path), path, split, table_format)
    hub = _HUB_ID.fullmatch(path)
    if hub is None or _has_suffix(hub[1]):
        raise _missing(local)
    _require_datasets(path)
    from mmssl.data.arrow import hub_table

    return hub_table(hub[1], hub[2], split)


def _formats(suffixes: Collection[str]) -> dict[str, tuple[str, ...]]:
    """What files of each suffix are, of these suffixes at least: see `_all_formats`.

    Plug-ins are asked, and for that imported, only if any suffix is none of a table.
    """
    tables: dict[str, tuple[str, ...]] = {suffix: (builder,) for suffix, builder in _BUILDERS.items()}
    return tables if all(suffix in tables for suffix in suffixes) else _all_formats()


def _all_formats() -> dict[str, tuple[str, ...]]:
    """What files of each suffix are: a kind of table, or one sample each, by the columns of all modalities that read them."""
    known: dict[str, tuple[str, ...]] = {suffix: (builder,) for suffix, builder in _BUILDERS.items()}
    for modality in map(find, installed()):
        for suffix in modality.suffixes:
            known[suffix] = (*known.get(suffix, ()), modality.columns[0])
    return known


def _has_suffix(name: str) -> bool:
    """Whether a name ends like a file's; the last digit of `zephyr-7b-v0.1` is no suffix."""
    suffix = Path(name).suffix.lower()
    return suffix[1:].isalpha() or (suffix != "" and suffix in _formats([suffix]))


def _require_datasets(path: str) -> None:
    if find_spec("datasets") is None:
        raise ModuleNotFoundError(
            f"reading {path} needs the package `datasets`: pip install datasets. Rows in memory and bundled: data do without it",
            name="datasets",
        )


def _missing(path: Path) -> FileNotFoundError:
    """An error that says what lies where the path stops existing."""
    parent = next(folder for folder in path.parents if folder.is_dir())
    siblings = sorted(child.name for child in parent.iterdir())
    near = get_close_matches(path.relative_to(parent).parts[0], siblings, n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it holds {', '.join(siblings[:_SHOWN]) or 'nothing'}"
    return FileNotFoundError(f"no file or folder {path}; in the folder {parent.absolute()}, {hint}")


def _class_of(relative: Path) -> str | None:
    """The first sub-folder that a media file lies in names its class."""
    return relative.parts[0] if len(relative.parts) > 1 else None


def _matching(pattern: Path, path: str) -> list[_File]:
    root = Path(*takewhile(lambda part: not _MAGIC.search(part), pattern.parts))
    found = sorted(file for file in root.glob(str(pattern.relative_to(root))) if file.is_file())
    if not found:
        raise FileNotFoundError(f"no file matches {path}; searched {root.absolute()}")
    return [_File(file, label=_class_of(file.relative_to(root))) for file in found]


def _in_folder(folder: Path, path: str) -> list[_File]:
    """The data files of a folder, at any depth; hidden files and those of other types are passed over."""
    found = sorted(file.relative_to(folder) for file in folder.rglob("*") if file.suffix)
    found = [file for file in found if not any(part.startswith(".") for part in file.parts)]
    formats = _formats({file.suffix.lower() for file in found})
    inside = [file for file in found if file.suffix.lower() in formats and (folder / file).is_file()]
    if not inside:
        raise FileNotFoundError(f"folder {path} holds no data files; looked for {', '.join(_all_formats())}")
    _one_format(inside, path)
    return _table_files(folder, inside, path) if _is_table(inside[0]) else _media_files(folder, inside)


def _media_files(folder: Path, inside: list[Path]) -> list[_File]:
    """Splits are the top folders if all of them are called after one: a class may be called `train`, too."""
    if not {file.parts[0].lower() for file in inside} <= _SPLITS.keys():
        return [_File(folder / file, label=_class_of(file)) for file in inside]
    return [_File(folder / file, _SPLITS[file.parts[0].lower()], _class_of(Path(*file.parts[1:]))) for file in inside]


def _table_files(folder: Path, inside: list[Path], path: str) -> list[_File]:
    """Splits come from file or folder names, on all files or on none: a nameless file might hold the test rows again."""
    files = [_File(folder / file, _split_of(file)) for file in inside]
    nameless = [str(file) for file, found in zip(inside, files, strict=True) if found.split is None]
    if len(nameless) == len(files):
        return [_File(file.path) for file in files]
    if nameless:
        raise ValueError(
            f"folder {path}: some files are named after a split (train*, test*, validation*), but these are not: "
            f"{', '.join(nameless[:_SHOWN])}. Rename or move them, or give a pattern such as folder/train*.parquet"
        )
    return files


def _split_of(relative: Path) -> str | None:
    found = next((match for part in relative.parts if (match := _FILE_SPLIT.match(part))), None)
    return None if found is None else _SPLITS[found[0].lower()]


def _is_table(file: Path) -> bool:
    return file.suffix.lower() in _BUILDERS


def _one_format(files: list[Path], path: str) -> tuple[str, ...]:
    """What all of the files are: the kind of table, or the columns of every modality that reads each of them."""
    formats = _formats({file.suffix.lower() for file in files})
    examples: dict[tuple[str, ...], Path] = {}
    for file in files:
        suffix = file.suffix.lower()
        if suffix not in formats:
            raise ValueError(f"cannot read {file}: its suffix must be one of {', '.join(formats)}; got {suffix or 'none'}")
        examples.setdefault(formats[suffix], file)
    common = [kind for kind in next(iter(examples)) if all(kind in kinds for kinds in examples)]
    if not common:
        shown = ", ".join(sorted(f"{' or '.join(kinds)} ({file})" for kinds, file in examples.items()))
        raise ValueError(f"{path} mixes formats: {shown}. Choose one with a pattern such as folder/**/*{files[0].suffix}")
    return tuple(common)


def _read(files: list[_File], path: str, split: str | None, table_format: TableFormat) -> Table:
    kinds = _one_format([file.path for file in files], path)
    chosen = files if split is None else [file for file in files if file.split == split]
    if not chosen:
        raise LookupError(f"{path} has no split {split!r}; it has {', '.join(sorted({str(file.split) for file in files}))}")
    paths = [file.path for file in chosen]
    table: Table
    if not _is_table(paths[0]):
        table = MediaTable(kinds, [str(file) for file in paths], [file.label for file in chosen])
    else:
        _require_datasets(path)
        from mmssl.data.local_tables import files_table

        table = files_table(kinds[0], paths, path, [file.path for file in files], table_format)
    table.parts = paths
    return table
