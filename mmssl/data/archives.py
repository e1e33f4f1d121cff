"""Files of the time series archive of UCR and UEA: .ts and .arff, a labelled series in every line."""

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mmssl.data.lines import decoded
from mmssl.data.tables import Row, RowTable, Table
from mmssl.files import not_utf8

KINDS = ("ts", "arff")
SERIES, LABEL = "series", "label"


def archive_table(kind: str, files: Sequence[Path], path: str) -> Table:
    """The series of files, one after another, with a label where they have one. ValueError naming the file and line."""
    read: Callable[[Path], list[Row]] = {"ts": _read_ts, "arff": _read_arff}[kind]
    rows: list[Row] = []
    for file in files:
        found = read(file)
        if rows and found and found[0].keys() != rows[0].keys():
            raise ValueError(
                f"the files do not fit together: {files[0]} has {', '.join(rows[0])}; {file} has {', '.join(found[0])}"
            )
        rows += found
    if not rows:
        raise ValueError(f"{path} has no rows: no series follows @data")
    return RowTable(rows, LABEL if LABEL in rows[0] else None)


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, with their numbers."""
    with file.open("rb") as content:
        for number, line in enumerate(content, 1):
            if text := decoded(line, file, number).strip():
                yield number, text


def _read_ts(file: Path) -> list[Row]:
    """Dimensions between colons, values between commas, ? where one is missing; the label stands behind the last colon."""
    rows: list[Row] = []
    keys: dict[str, list[str]] = {}
    data = False
    for number, line in _lines(file):
        if data:
            rows.append(_ts_row(line, keys, f"{file}, line {number}"))
        elif line.startswith("@"):
            key, *values = line[1:].split()
            keys[key.lower()] = values
            data = key.lower() == "data"
            if data and keys.get("timestamps", ["false"])[0].lower() == "true":
                raise ValueError(
                    f"cannot read {file}: its values have time stamps. Write a long table: columns id, time and values"
                )
        elif not line.startswith("#"):
            raise ValueError(f"cannot read {file}, line {number}: expected a key such as @data; got {line!r:.60}")
    if not data:
        raise ValueError(f"cannot read {file}: it has no line @data. Replace it")
    return rows


def _ts_row(line: str, keys: dict[str, list[str]], where: str) -> Row:
    parts = line.split(":")
    classes, target = (keys.get(key, ["false"]) for key in ("classlabel", "targetlabel"))
    label: str | float | None = None
    labelled = "true" in (classes[0].lower(), target[0].lower())
    if labelled:
        label = parts.pop().strip()
        if classes[0].lower() == "true" and len(classes) > 1 and label not in classes[1:]:
            raise ValueError(f"cannot read {where}: {label!r:.40} is none of the classes {', '.join(classes[1:9])}")
        if target[0].lower() == "true":
            label = _floats([label], where)[0]
    if not parts:
        raise ValueError(f"cannot read {where}: it has a label, but no values")
    channels = [_floats(part.split(","), where) for part in parts]
    return {SERIES: _padded(channels), **({LABEL: label} if labelled else {})}


def _floats(texts: Sequence[str], where: str) -> list[float]:
    try:
        return [math.nan if text.strip() == "?" else float(text) for text in texts]
    except ValueError as error:
        raise ValueError(f"cannot read {where}: {error}. Correct it") from None


def _padded(channels: Sequence[Sequence[float]]) -> Any:
    """A frame of channels, of which those that are shorter filled up with missing values, as the archive's own readers do."""
    import pandas as pd  # takes half a second, and few need it

    length = max(map(len, channels))
    found: Float[np.ndarray, "t c"] = np.full((length, len(channels)), np.nan)
    for number, channel in enumerate(channels):
        found[: len(channel), number] = channel
    return {"values": pd.DataFrame(found)}


def _read_arff(file: Path) -> list[Row]:
    """By scipy: columns of numbers are the samples, one of names is the label; relational attributes hold several channels."""
    from scipy.io import arff

    try:
        with file.open(encoding="utf-8") as content:
            data, meta = arff.loadarff(content)
    except UnicodeDecodeError:
        raise ValueError(f"cannot read {file}: {not_utf8(file.read_bytes(), str(file))}") from None
    except Exception as error:  # scipy raises StopIteration, IndexError and more for damaged files
        raise ValueError(f"cannot read {file}: {' '.join(str(error).split()) or type(error).__name__:.200}. Replace it") from error
    kinds = dict(zip(meta.names(), meta.types(), strict=True))
    names = [name for name, kind in kinds.items() if kind == "nominal"]
    numbers = [name for name, kind in kinds.items() if kind == "numeric"]
    relations = [name for name, kind in kinds.items() if kind == "relational"]
    if len(names) > 1 or (not numbers and not relations):
        raise ValueError(f"cannot read {file}: a series has numbers and one label; its attributes are {', '.join(kinds)}"[:300])
    rows = []
    for row in data:
        if relations:
            channels = [[float(cell) for cell in channel] for channel in row[relations[0]].tolist()]
        else:
            channels = [[float(row[name]) for name in numbers]]
        rows.append({SERIES: _padded(channels), **({LABEL: row[names[0]].decode()} if names else {})})
    return rows
