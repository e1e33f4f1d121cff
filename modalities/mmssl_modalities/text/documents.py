"""Text files, one document each."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mmssl.files import COMPRESSED, not_utf8, opened

LINED = (".txt", *(f".txt{packed}" for packed in COMPRESSED))
"""Of files of which a single one holds a text in every line."""
SUFFIXES = (*LINED, *(name + packed for name in (".md", ".markdown", ".rst") for packed in ("", *COMPRESSED)))

MAX_BYTES = 2**30
"""Of one document, unpacked."""


def is_document(raw: Mapping[Any, Any]) -> bool:
    """Whether a dict is a file as the datasets library stores one."""
    return any(raw.get(key) is not None for key in ("bytes", "path"))


def read_document(raw: Mapping[str, Any]) -> str:
    """The text of a file, or of its bytes. FileNotFoundError or ValueError that names it."""
    path, data = raw.get("path"), raw.get("bytes")
    name = str(path or "the document")
    if data is None:
        data = _content(Path(name))
    try:
        return bytes(data).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"cannot read {name}: {not_utf8(bytes(data), name)}") from None


def _content(path: Path) -> bytes:
    try:
        with opened(path) as file:
            data = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise FileNotFoundError(
            f"no text file {path}; paths are relative to {Path.cwd()}, and in a table first to the table's folder"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte
        why = (error.strerror or error) if isinstance(error, OSError) else error
        raise ValueError(f"cannot read the text file {path!s:.100}: {why}. Replace it or drop it") from error
    if len(data) > MAX_BYTES:
        raise ValueError(f"{path} holds more than {MAX_BYTES:,} bytes of text, too much for one document. Cut it up")
    return data
