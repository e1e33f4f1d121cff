"""What a file is by its suffix: a kind of table, or one sample of the modalities that read it."""

from collections.abc import Collection, Sequence
from pathlib import Path

from mmssl.modality import find
from mmssl.plugins import installed

TABLES = {".parquet": "parquet", ".pq": "parquet", ".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".ndjson": "json"}
"""Files that are tables, and the kind of each."""


def suffix_of(name: str) -> str:
    """The suffix of a file's name in lower case, with its dot; empty if there is none."""
    dot = name.rfind(".")
    return name[dot:].lower() if 0 < dot < len(name) - 1 else ""


def is_table(name: str) -> bool:
    """Whether a file is a table by its name."""
    return suffix_of(name) in TABLES


def formats(suffixes: Collection[str]) -> dict[str, tuple[str, ...]]:
    """What files of each suffix are, of these suffixes at least: see `all_formats`.

    Plug-ins are asked, and for that imported, only if any suffix is none of a table.
    """
    return _of_tables() if TABLES.keys() >= set(suffixes) else all_formats()


def all_formats() -> dict[str, tuple[str, ...]]:
    """What files of each suffix are: a kind of table, or one sample each, by the columns of all modalities that read them."""
    known = _of_tables()
    for modality in map(find, installed()):
        for suffix in modality.suffixes:
            known[suffix] = (*known.get(suffix, ()), modality.columns[0])
    return known


def _of_tables() -> dict[str, tuple[str, ...]]:
    return {suffix: (kind,) for suffix, kind in TABLES.items()}


def has_suffix(name: str) -> bool:
    """Whether a name ends like a file's; the last digit of `zephyr-7b-v0.1` is no suffix."""
    suffix = suffix_of(Path(name).name)
    return suffix[1:].isalpha() or (suffix != "" and suffix in formats([suffix]))


def one_format(files: Sequence[Path], path: str) -> tuple[str, ...]:
    """What all of the files are: the kind of table, or the columns of every modality that reads each of them."""
    first: dict[str, Path] = {}
    for file in files:
        first.setdefault(suffix_of(file.name), file)
    known = formats(first)
    examples: dict[tuple[str, ...], Path] = {}
    for suffix, file in first.items():
        if suffix not in known:
            raise ValueError(f"cannot read {file}: its suffix must be one of {', '.join(known)}; got {suffix or 'none'}")
        examples.setdefault(known[suffix], file)
    common = [kind for kind in next(iter(examples)) if all(kind in kinds for kinds in examples)]
    if not common:
        shown = ", ".join(sorted(f"{' or '.join(kinds)} ({file})" for kinds, file in examples.items()))
        raise ValueError(f"{path} mixes formats: {shown}. Choose one with a pattern such as folder/**/*{files[0].suffix}")
    return tuple(common)
