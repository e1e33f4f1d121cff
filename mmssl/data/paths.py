"""What a data path names: a bundled set, files, a folder, or a dataset on the Hub. What exists on disk wins."""

import re
from collections.abc import Sequence
from difflib import get_close_matches
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from mmssl.data.archives import KINDS as ARCHIVES
from mmssl.data.archives import archive_table
from mmssl.data.array_files import array_table
from mmssl.data.beside import Beside
from mmssl.data.captions import captioned
from mmssl.data.folder import DataFile, below_classes, in_classes, media_files, table_files
from mmssl.data.formats import all_formats, has_suffix, is_table, lined, listed, one_format, suffix_of, ways_out
from mmssl.data.inside import look
from mmssl.data.label_maps import Mapped, mapped
from mmssl.data.label_tracks import Tracks, tracks
from mmssl.data.lines import lines_table
from mmssl.data.listed import listed_table
from mmssl.data.split_names import inside as inside_split
from mmssl.data.table_format import PLAIN, TableFormat
from mmssl.data.tables import MediaTable, Table
from mmssl.data.walk import MAGIC, SHOWN, Parts, match, more

BUNDLED, SYNTHETIC = "bundled:", "synthetic:"

_HUB_ID = re.compile(r"(\w[\w.-]*(?:/[\w.-]+)?)(?::([\w.-]+))?")


def open_table(path: str, split: str | None, table_format: TableFormat = PLAIN) -> Table:
    """The table that `path` names; `split` None: all its rows. table_format: how the cells of table files are written.

    Raises FileNotFoundError for a missing file or folder, LookupError for an unknown split, ValueError for what cannot be read.
    """
    if table_format.arrays is not None and path.startswith((BUNDLED, SYNTHETIC)):
        raise ValueError(f"data.arrays={table_format.arrays} is for .npy and .npz files, and {path} is none. Leave it out")
    if path.startswith(BUNDLED):
        from mmssl.data.bundled import bundled_table

        return bundled_table(path.removeprefix(BUNDLED), split)
    if path.startswith(SYNTHETIC):
        from mmssl.data.synthetic import synthetic_table

        return synthetic_table(path.removeprefix(SYNTHETIC), split)
    local = Path(path).expanduser()
    if local.is_file():
        return _read([DataFile(local)], path, split, table_format)
    if (local.is_dir() and (local / "dataset_info.json").is_file()) or (local / "dataset_dict.json").is_file():
        _require_datasets(path)
        from mmssl.data.arrow_files import is_saved, saved_table

        if is_saved(local):
            return saved_table(local, path, split)
    if local.is_dir():
        return _in_folder(local, path, split, table_format)
    if MAGIC.search(path):
        return _matching(local, path, split, table_format)
    hub = _HUB_ID.fullmatch(path)
    if hub is None or has_suffix(hub[1]):
        raise _missing(local)
    _require_datasets(path)
    from mmssl.data.arrow import hub_table

    return hub_table(hub[1], hub[2], split, _beside(local)[2])


def _require_datasets(path: str) -> None:
    if find_spec("datasets") is None:
        raise ModuleNotFoundError(
            f"reading {path} needs the package `datasets`: pip install datasets. Rows in memory and bundled: data do without it",
            name="datasets",
        )


def _missing(path: Path) -> FileNotFoundError:
    """An error that says what lies where the path stops existing."""
    parent, siblings, near = _beside(path)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it holds {', '.join(siblings[:SHOWN]) or 'nothing'}"
    return FileNotFoundError(f"no file or folder {path}; in the folder {parent.absolute()}, {hint}")


def _beside(path: Path) -> tuple[Path, list[str], list[str]]:
    """The last folder of a path that exists, the names in it, and those of them that are like the one that is missing."""
    parent = next(folder for folder in path.parents if folder.is_dir())
    siblings = sorted(child.name for child in parent.iterdir())
    return parent, siblings, get_close_matches(path.relative_to(parent).parts[0], siblings, n=3)


def _matching(pattern: Path, path: str, split: str | None, table_format: TableFormat) -> Table:
    """The files that a pattern matches; of media files the first sub-folder below its beginning names the class."""
    root, found = match(pattern)
    if not found.files:
        raise FileNotFoundError(" ".join([f"no file matches {path}; searched {root.absolute()}", *found.notes(path, ())]))
    table = _read(in_classes(root, found.files), path, split, table_format)
    table.notes = [*table.notes, *found.notes(path, {suffix_of(parts[-1]) for parts in found.files})]
    return table


def _in_folder(folder: Path, path: str, split: str | None, table_format: TableFormat) -> Table:
    """The data files of a folder, at any depth; hidden files are left out, those of other types passed over and told."""
    inside = look(folder)
    tables, media, notes = inside.tables, inside.media, inside.notes(path)
    if not inside.counts:
        over = {suffix_of(parts[-1]) for parts in inside.over}
        told = [
            f"folder {path} holds no data files; looked for {listed(all_formats())}.",
            *notes,
            ways_out(over).removeprefix(". "),
        ]
        raise FileNotFoundError(" ".join(told).strip())
    if tables and media:
        table = listed_table(folder, tables, media, lambda files: _read(list(files), path, None, table_format), path, split)
    elif (both := mapped(media, path)) is not None:
        table = _with_maps(folder, both, path, split)
        notes += both.notes(path)
        notes += [f"{path}: {len(inside.captions):,} texts beside pictures are not read."] if inside.captions else []
    elif (labelled := tracks(folder, media, [*inside.over, *inside.captions.values()], path)) is not None:
        table = _with_tracks(folder, media, labelled, path, split)
        notes = inside.without(labelled.files.values()).notes(path)
    else:
        each_file = table_format.series is not None and table_format.series.chosen == "files"  # so that folders name classes
        one_format(sorted(inside.first().values()), path, inside.counts)
        files = table_files(folder, tables, path) if tables and not each_file else media_files(folder, tables or media, path)
        table = _read(files, path, split, table_format)
        if inside.captions and isinstance(table, MediaTable):
            table = captioned(table, folder, inside.captions, path)
        if each_file or inside.media:
            notes += _unread_classes(folder, files, path)
        else:
            notes = [*_unread_folders(tables, path), *notes]
    table.notes = [*table.notes, *notes]
    return table


def _with_maps(folder: Path, both: Mapped, path: str, split: str | None) -> Table:
    """Pictures with their label maps for labels."""
    files = both.files(folder, path)
    maps = {file.path: str(folder.joinpath(*parts)) for file, parts in zip(files, both.maps, strict=True)}
    columns, chosen = one_format([file.path for file in files], path), _within(files, split, path)
    table = MediaTable(columns, [str(file.path) for file in chosen], [maps[file.path] for file in chosen])
    table.parts = [file.path for file in chosen]
    return table


def _with_tracks(folder: Path, media: list[Parts], labelled: Tracks, path: str, split: str | None) -> Table:
    """Samples with the segments in the text files beside them for labels."""
    files = media_files(folder, media, path)
    columns, chosen = one_format([file.path for file in files], path), _within(files, split, path)
    labels = [labelled.labels(folder, file.path.relative_to(folder).parts) for file in chosen]
    table = MediaTable(columns, [str(file.path) for file in chosen], labels)
    table.parts = [file.path for file in chosen]
    return table


def _within(files: list[DataFile], split: str | None, path: str) -> list[DataFile]:
    """The files of a split. LookupError if there are none."""
    chosen = [file for file in files if file.within(split)]
    if not chosen:
        raise LookupError(f"{path} has no split {split!r}; it has {', '.join(sorted({file.split for file in files}))}")
    return chosen


def _unread_classes(folder: Path, files: Sequence[DataFile], path: str) -> list[str]:
    """A note where folders of classes hold folders, whose names may be classes as well."""
    inner = below_classes(folder, files)
    if not inner:
        return []
    classes = list(dict.fromkeys(name.partition("/")[0] for name in inner))
    shown, inside = ", ".join(classes[:SHOWN]) + more(classes), ", ".join(inner[:SHOWN]) + more(inner)
    way_out = f"for these as labels give {path.rstrip('/')}/{classes[0]}, or a table beside with the columns file_name and label"
    return [f"{path}: labels are the folders {shown}; those below them, {inside}, are not read: {way_out}."]


def _unread_folders(tables: Sequence[Parts], path: str) -> list[str]:
    """A note where tables lie in several folders, whose names may say what the rows are, and are not read."""
    folders = sorted({part for parts in tables for part in parts[:-1] if inside_split(part) is None})
    if len(folders) < 2:
        return []
    shown = ", ".join(folders[:SHOWN]) + more(folders)
    lost = "and these names are not read: write them into a column if they say what rows are"
    return [f"{path}: the tables lie in folders called {shown}, {lost}."]


def _rows_in(kind: str, path: str, table_format: TableFormat, file: Path) -> int:
    from mmssl.data.local_tables import files_table

    return len(files_table(kind, [file], path, [file], table_format))


def _read(files: list[DataFile], path: str, split: str | None, table_format: TableFormat) -> Table:
    kinds = one_format([file.path for file in files], path)
    if (arrays := array_table(files, path, split, table_format.arrays)) is not None:
        return arrays
    chosen = _within(files, split, path)
    paths = [file.path for file in chosen]
    table: Table
    if _by_lines(files) and (columns := [name for name in kinds if all(name in lined(suffix_of(file.name)) for file in paths)]):
        table = lines_table(columns, paths, path)
    elif kinds[0] == "tar":
        from mmssl.data.tar_files import TarTable

        table = TarTable(paths, path)
    elif kinds[0] in ARCHIVES:
        table = archive_table(kinds[0], paths, path)
    elif not is_table(paths[0].name):
        table = MediaTable(kinds, [str(file) for file in paths], [file.label for file in chosen])
    else:
        _require_datasets(path)
        from mmssl.data.local_tables import files_table

        table = files_table(kinds[0], paths, path, [file.path for file in files], table_format)
        table.beside = Beside(paths, partial(_rows_in, kinds[0], path, table_format), [file.label for file in chosen])
    table.parts = paths
    return table


def _by_lines(files: Sequence[DataFile]) -> bool:
    """Whether files may hold a sample in every line: there is one alone, or one for each split, called so itself."""
    return len({file.split for file in files}) == len(files) and all(file.label is None for file in files)
