"""What a file is by its suffix: a kind of table, or one sample of the modalities that read it."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from mmssl.files import COMPRESSED
from mmssl.modality import find
from mmssl.plugins import installed

_TEXTS = {".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".ndjson": "json", ".json": "json"}
TABLES = {
    **{".parquet": "parquet", ".pq": "parquet"},
    **_TEXTS,
    **{".arrow": "arrow", ".feather": "arrow", ".tar": "tar", ".ts": "ts", ".arff": "arff"},
    **{suffix + packed: kind for suffix, kind in _TEXTS.items() for packed in COMPRESSED},
}
"""Files that are tables, and the kind of each."""
AMBIGUOUS = (".json", *(f".json{packed}" for packed in COMPRESSED))
"""Of files that are tables, but may also be settings or notes beside other data."""


LISTED = 6
"""Suffixes of a modality that a message names."""
_WAYS_OUT: Mapping[str, Sequence[str]] = {
    "save the sheet as csv in UTF-8": (".xlsx", ".xls", ".xlsm", ".xlsb", ".ods", ".numbers"),
    "unpack it, and give the folder": (".zip", ".gz", ".zst", ".7z", ".rar", ".tgz", ".bz2", ".xz"),
    "save the text as .txt or .md": (".pdf", ".doc", ".docx", ".odt", ".rtf", ".epub", ".htm", ".html"),
    "if these are texts, give them the suffix .txt": ("", ".text", ".log", ".tex", ".srt", ".py", ".xml"),
    "if it is a table, give it the suffix .csv or .tsv, and say --no-header if its first line names no columns": (".data", ".dat"),
    "write a parquet file (pandas: frame.to_parquet), or .npy files": (
        *(".h5", ".hdf5", ".hdf", ".mat", ".pkl", ".pickle", ".sqlite", ".sqlite3", ".db", ".rds", ".rda", ".sav", ".dta"),
        *(".pt", ".pth", ".sas7bdat", ".xpt", ".nc", ".zarr"),
    ),
    "save its pictures as .png or .tif": (
        ".svg",
        ".dcm",
        ".nii",
        ".cr2",
        ".nef",
        ".arw",
        ".dng",
        ".mp4",
        ".mov",
        ".avi",
        ".mkv",
        ".webm",
    ),
    "save it as .wav or .flac": (".mid", ".midi", ".pcm", ".amr", ".ra"),
    "save it as .glb, .ply or .obj": (".dae", ".fbx", ".step", ".stp", ".iges", ".3mf", ".blend", ".3ds", ".usdz"),
    "save its points as .npy, .xyz or .ply": (".bin", ".e57", ".rcp", ".pcap"),
}
"""What to do about files that are not read, by their suffixes."""


def suffix_of(name: str) -> str:
    """The suffix of a file's name in lower case, with its dot: `.csv.gz` of a compressed file; empty if there is none."""
    dot = name.rfind(".")
    suffix = name[dot:].lower() if 0 < dot < len(name) - 1 else ""
    return suffix_of(name[:dot]) + suffix if suffix in COMPRESSED else suffix


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


def ambiguous() -> set[str]:
    """Suffixes of files that may be anything: samples where a folder holds nothing else, notes beside other data where it does."""
    return {*AMBIGUOUS, *(suffix for modality in map(find, installed()) for suffix in modality.ambiguous)}


def lined(suffix: str) -> tuple[str, ...]:
    """The columns of the modalities for which such a file, alone, holds a sample in every line."""
    if suffix in TABLES:
        return ()
    return tuple(modality.columns[0] for modality in map(find, installed()) if suffix in modality.lined)


def without_ambiguous(suffixes: Sequence[str]) -> set[str]:
    """Which of the suffixes of a folder's files, one for each file, are those of its samples.

    Ambiguous ones only if there are no others; of these, a table and other files, the kind that most files are.
    """
    found = Counter(suffixes)
    if found.keys() <= TABLES.keys() - {*AMBIGUOUS} or len(found) == 1:
        return {*found}
    sure = found.keys() - ambiguous()
    if sure:
        return {*sure}
    kinds = Counter[bool]()
    for suffix, count in found.items():
        kinds[suffix in TABLES] += count
    tables = kinds[True] >= kinds[False]
    return {suffix for suffix in found if (suffix in TABLES) == tables}


def listed(known: Mapping[str, Sequence[str]]) -> str:
    """The suffixes that are read in words: all of tables, the first of each modality. known: what files of each suffix are."""
    plain = [suffix for suffix in known if not suffix.endswith(COMPRESSED)]
    found = [f"{', '.join(suffix for suffix in plain if suffix in TABLES)} (tables)"]
    media: dict[str, list[str]] = {}
    for suffix in plain:
        if suffix not in TABLES:
            media.setdefault(known[suffix][-1], []).append(suffix)
    for kind, own in media.items():
        more = f" and {len(own) - LISTED} more" if len(own) > LISTED else ""
        found.append(f"{', '.join(own[:LISTED])}{more} ({kind})")
    return ", ".join(found) + ("; those of text also with .gz or .zst" if len(plain) < len(known) else "")


def ways_out(suffixes: Collection[str]) -> str:
    """What to do about files of suffixes that are not read, where it is known; empty if it is not."""
    found = dict.fromkeys(way for suffix in suffixes for way in _WAYS_OUT if _ends(suffix) in _WAYS_OUT[way])
    return "".join(f". {_listed_words(sorted({*map(_ends, suffixes)} & {*_WAYS_OUT[way]}))}: {way}" for way in found)


def _ends(suffix: str) -> str:
    return "." + suffix.rpartition(".")[2] if suffix else suffix


def _listed_words(suffixes: Sequence[str]) -> str:
    return ", ".join(suffix or "files without suffix" for suffix in suffixes)


def _of_tables() -> dict[str, tuple[str, ...]]:
    return {suffix: (kind,) for suffix, kind in TABLES.items()}


def has_suffix(name: str) -> bool:
    """Whether a name ends like a file's; the last digit of `zephyr-7b-v0.1` is no suffix."""
    suffix = suffix_of(Path(name).name)
    return suffix[1:].isalpha() or (suffix != "" and suffix in formats([suffix]))


def one_format(files: Sequence[Path], path: str, counts: Mapping[str, int] | None = None) -> tuple[str, ...]:
    """What all of the files are: the kind of table, or the columns of every modality that reads each of them.

    counts: of files by suffix, where `files` holds but one of each. ValueError that asks which are meant, if they differ.
    """
    counts = Counter(suffix_of(file.name) for file in files) if counts is None else counts
    first: dict[str, Path] = {}
    for file in files:
        first.setdefault(suffix_of(file.name), file)
    known = formats(first)
    examples: dict[tuple[str, ...], Path] = {}
    sizes = Counter[tuple[str, ...]]()
    for suffix, file in first.items():
        if suffix not in known:
            raise ValueError(
                f"cannot read {file}: its suffix must be one of {listed(known)}; got {suffix or 'none'}{ways_out([suffix])}"
            )
        examples.setdefault(known[suffix], file)
        sizes[known[suffix]] += counts[suffix]
    common = [kind for kind in next(iter(examples)) if all(kind in kinds for kinds in examples)]
    if not common:
        more = {kinds: f" and {count - 1:,} more" if count > 1 else "" for kinds, count in sizes.items()}
        shown = ", ".join(sorted(f"{' or '.join(kinds)} ({file}{more[kinds]})" for kinds, file in examples.items()))
        raise ValueError(
            f"{path} mixes formats: {shown}. Choose one with a pattern such as folder/**/*{files[0].suffix}: which are the samples?"
        )
    return tuple(common)
