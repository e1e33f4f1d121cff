"""Files of one series each: numpy's .npy and .npz, EDF and BDF, WFDB."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np

SUFFIXES = (".npy", ".npz", ".edf", ".bdf", ".hea")
MAX_VALUES = 2**28
"""Values that one file may unpack to: 2 GiB of float64."""

_EXTRA = "pip install mmssl[biosignal]"
_KEYS = ("values", "times", "rate")


def is_file(raw: Mapping[Any, Any]) -> bool:
    """Whether a dict is a file as the datasets library stores one."""
    return any(raw.get(key) is not None for key in ("bytes", "path"))


def read_series_file(raw: Mapping[str, Any], signals: Sequence[str] | None) -> Any:
    """The raw series in a file: an array as it is stored, or a dict whose 'values' are a frame with a column for each signal.

    signals: of recordings, which to read, by name; None: all, which must have one rate. FileNotFoundError or ValueError that
    names the file; ImportError that names the extra.
    """
    path, data = raw.get("path"), raw.get("bytes")
    name, suffix = str(path or "the series"), Path(str(path or "")).suffix.lower()
    try:
        if suffix in (".edf", ".bdf", ".hea"):
            if data is not None or path is None:
                raise ValueError("recordings are read from files, not from bytes")
            return _wfdb(Path(path), signals) if suffix == ".hea" else _edf(Path(path), signals)
        content = Path(name).read_bytes() if data is None else bytes(data)
        return _numpy(content)
    except ImportError:
        raise
    except Exception as error:  # what decoders raise for damaged files is as varied as the damage
        if data is not None or Path(name).is_file():
            text = " ".join(str(error).split()) or type(error).__name__
            raise ValueError(f"cannot read {name}: {text:.400}. Replace it or drop it") from error
        raise FileNotFoundError(
            f"no series file {name}; paths are relative to {Path.cwd()}, and in a table first to the table's folder"
        ) from None


def _numpy(data: bytes) -> Any:
    """An array, or those of an archive called values, times and rate; nothing is unpickled."""
    if data[:2] != b"PK":
        if data[:6] != b"\x93NUMPY":
            raise ValueError(f"it is no .npy or .npz file; it starts with {data[:8]!r}")
        return np.load(BytesIO(data), allow_pickle=False)
    with ZipFile(BytesIO(data)) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > 8 * MAX_VALUES:
        raise ValueError(f"it unpacks to {size:,} bytes, more than {8 * MAX_VALUES:,}")
    with np.load(BytesIO(data), allow_pickle=False) as found:
        arrays = {key: found[key] for key in found.files}
    if len(arrays) == 1:
        return next(iter(arrays.values()))
    if "values" not in arrays or arrays.keys() - {*_KEYS}:
        raise ValueError(f"an archive has one array, or 'values' and 'times' or 'rate'; this one has {', '.join(arrays) or 'none'}")
    return {key: array.item() if array.ndim == 0 else array for key, array in arrays.items()}


def _library(name: str, formats: str) -> Any:
    try:
        return import_module(name)
    except ImportError as error:
        raise ImportError(f"reading {formats} files needs {name}: {_EXTRA}", name=name) from error


def _edf(path: Path, signals: Sequence[str] | None) -> Any:
    """The physical values of an EDF or BDF recording."""
    import pandas as pd  # takes half a second, and few need it

    pyedflib = _library("pyedflib", "EDF and BDF")
    with pyedflib.EdfReader(str(path)) as reader:
        names = [str(name).strip() for name in reader.getSignalLabels()]
        rates = dict(zip(names, map(float, reader.getSampleFrequencies()), strict=False))
        chosen = _chosen(names, rates, signals)
        sizes = reader.getNSamples()
        _check_size(sum(int(sizes[names.index(name)]) for name in chosen))
        values = {name: reader.readSignal(names.index(name)) for name in chosen}
    return {"values": pd.DataFrame(values), "rate": rates[chosen[0]]}


def _wfdb(path: Path, signals: Sequence[str] | None) -> Any:
    """The physical values of a WFDB record, of which the header is named."""
    import pandas as pd  # takes half a second, and few need it

    wfdb = _library("wfdb", "WFDB")
    header = wfdb.rdheader(str(path.with_suffix("")))
    names = [str(name) for name in header.sig_name or ()]
    chosen = _chosen(names, dict.fromkeys(names, float(header.fs)), signals)
    _check_size(len(chosen) * int(header.sig_len))
    record = wfdb.rdrecord(str(path.with_suffix("")), channels=[names.index(name) for name in chosen])
    return {"values": pd.DataFrame(record.p_signal, columns=chosen), "rate": float(header.fs)}


def _chosen(names: Sequence[str], rates: Mapping[str, float], signals: Sequence[str] | None) -> list[str]:
    """The signals to read. ValueError for one that is not there, for two of one name, and for different rates."""
    listed = ", ".join(f"{name} ({rates[name]:g})" for name in names)
    found = list(names if signals is None else signals)
    if missing := [name for name in found if name not in names]:
        raise ValueError(f"it has no signal {missing[0]!r}, named in processor.signals; it has (rate) {listed}")
    if twice := [name for name in found if list(names).count(name) > 1]:
        raise ValueError(f"it has several signals called {twice[0]!r}. Rename them, or name others in processor.signals")
    if not found:
        raise ValueError("it has no signal")
    if len({rates[name] for name in found}) > 1:
        raise ValueError(f"its signals have different rates: {listed}. Name some of one rate in processor.signals")
    return found


def _check_size(values: int) -> None:
    if values > MAX_VALUES:
        raise ValueError(f"it has {values:,} values, more than {MAX_VALUES:,}. Cut it into several files")
