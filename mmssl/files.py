"""Files and folders that are whole or not there, whenever their writer is killed.

What is being written has a hidden name beside its place, `.NAME.PID.partial`; it is flushed to the disk and then renamed. A folder
that is there already is exchanged with the new one in one call of the system, so that its name is never without a folder.
"""

import ctypes
import errno
import io
import json
import os
import re
import shutil
import socket
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from filelock import FileLock, Timeout
from safetensors import SafetensorError

COMPRESSED = (".gz", ".zst")
"""Suffixes of files that `opened` unpacks."""
FULL = (errno.ENOSPC, errno.EDQUOT)
"""What the system calls a full disk, or a used-up quota."""
_HIDDEN = re.compile(r"\.(.+)\.\d+\.(partial|deleted|replaced)")
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)

try:
    _renameat2: Callable[..., int] | None = ctypes.CDLL(None, use_errno=True).renameat2
except AttributeError:  # not Linux, or a C library without it
    _renameat2 = None


@contextmanager
def exclusive(folder: Path, what: str = "run folder", way_out: str = "or start a run of another name") -> Iterator[None]:
    """Hold the lock of a folder. RuntimeError that names the process that holds it already; what: the folder is, way_out: to take.

    The lock is the kernel's: it ends with the process, however that ends, and a forked child does not hold it. The file `lock`
    stays and only tells who took it last.
    """
    file = folder / "lock"
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(file, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        holder = file.read_text(encoding="utf-8").strip() or "another process"
        raise RuntimeError(f"{what} {folder} is in use by {holder}: wait for it or stop it, {way_out}") from None
    try:
        file.write_text(f"process {os.getpid()} on {socket.gethostname()}\n", encoding="utf-8")
        yield
    finally:
        lock.release()


@contextmanager
def telling_full_disk(path: Path) -> Iterator[None]:
    """Turn the error of a full disk into one that names what did not fit, and the way out; others pass."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = error_number(error)
        if number not in FULL:
            raise
        free = shutil.disk_usage(path.parent).free
        how = f"{free / 1e6:,.1f} MB are free. Free some space"
        raise OSError(number, f"{FULL_DISK}: {path.name} did not fit into {path.parent}. {how}") from error


FULL_DISK = "the disk is full"


def error_number(error: OSError | SafetensorError) -> int:
    """The system's number of an error. safetensors, and pyarrow, raise errors that have it in their text only."""
    if isinstance(error, OSError) and error.errno:
        return error.errno
    number = re.search(r"(?:os error|errno) (\d+)", str(error))
    return int(number[1]) if number else errno.EIO


def write_text(path: Path, text: str) -> None:
    """Write a text file so that a reader, or a crash, sees the old contents or the new, never a part."""
    with new_file(path) as part, part.open("w", encoding="utf-8", newline="") as file:
        file.write(text)


def write_json(path: Path, value: Any) -> None:
    """Write a value as indented JSON, like `write_text`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


@contextmanager
def new_file(path: Path) -> Iterator[Path]:
    """A hidden file to write, which takes the name `path` when the block ends, and is removed if the block fails."""
    with telling_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = _hidden(path, "partial")
        try:
            yield part
            _share(part)
            flush(part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        flush(path.parent)


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A hidden folder to fill, which takes the name `path` when the block ends, and is removed if the block fails.

    A folder of that name is replaced. Where the file system cannot exchange two names (Linux's common ones can) there is a moment
    without it between two renames; killed just then, the old one comes back with `sweep`.
    """
    with telling_full_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = _hidden(path, "partial")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        try:
            yield part
            for below in list(part.rglob("*")):
                if below.is_file():
                    _share(below)
                flush(below)
            flush(part)
            _put(part, path)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        flush(path.parent)


def delete(path: Path) -> None:
    """Remove a folder so that its name vanishes at once, not file by file."""
    doomed = _hidden(path, "deleted")
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def sweep(folder: Path, name: str | None = None) -> None:
    """Repair what killed writers left in a folder: put back what had no successor yet, delete the rest.

    name: of the only file or folder to do so for. Call it only while no other process writes there (see `exclusive`).
    """
    for path in folder.glob(".*"):
        match = _HIDDEN.fullmatch(path.name)
        if match is None or name not in (None, match[1]):
            continue
        if match[2] == "replaced" and not (folder / match[1]).exists():
            path.rename(folder / match[1])
        elif path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _put(part: Path, path: Path) -> None:
    """Give the folder `part` the name `path`; what had that name before is then `part`, or gone."""
    if not path.exists():
        part.rename(path)
    elif not _exchanged(part, path):
        before = _hidden(path, "replaced")
        path.rename(before)
        try:
            part.rename(path)
        except BaseException:
            before.rename(path)
            raise
        shutil.rmtree(before, ignore_errors=True)


def _exchanged(a: Path, b: Path) -> bool:
    """Exchange two names in one step; whether the system can."""
    if _renameat2 is None:
        return False
    sys.audit("os.rename", str(a), str(b), -1, -1)  # as os.rename does; ctypes tells nobody
    if _renameat2(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNSUPPORTED:
        return False
    raise OSError(number, os.strerror(number), str(b))


def _hidden(path: Path, state: str) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.{state}")


def _share(path: Path) -> None:
    """Give a file the rights of any new one beside it: safetensors lets nobody but the owner read, whatever the umask."""
    plain = _hidden(path, "partial")
    plain.touch()
    try:
        path.chmod(stat.S_IMODE(plain.stat().st_mode))
    finally:
        plain.unlink()


def flush(path: Path) -> None:
    """Wait until a file, or the entries of a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def opened(path: Path) -> IO[bytes]:
    """A file to be read, unpacked where it is called .gz or .zst. OSError, also in reading, for one that is damaged."""
    file = path.open("rb")
    if path.suffix.lower() not in COMPRESSED:
        return file
    import pyarrow as pa  # only where a file is compressed

    packed = pa.CompressedInputStream(file, {".gz": "gzip", ".zst": "zstd"}[path.suffix.lower()])
    return cast(IO[bytes], io.BufferedReader(packed))


def text_size(path: Path) -> int:
    """Bytes of a file of text, about: a compressed one is some eight times as large when it is unpacked."""
    return path.stat().st_size * (8 if path.suffix.lower() in COMPRESSED else 1)


NO_TEXT = (b"\xff\xfe", b"\xfe\xff", b"PK\x03\x04", b"%PDF", b"\x1f\x8b", b"(\xb5/\xfd")
"""Beginnings of files that are no text in UTF-8, whatever they are called."""
_MARKS = {b"\xff\xfe\0\0": "UTF-32", b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_MARKED = {
    "PK": "a zip archive or an Excel workbook or other document of Office",
    "%PDF": "a PDF document",
    "\x1f\x8b": "gzip",
    "(\xb5/\xfd": "Zstandard",
}


def not_data(start: bytes) -> str | None:
    """A sentence on what came in the place of a data file, by its beginning; None if it may be one."""
    begun = start[:200].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if begun.startswith((b"<!doctype html", b"<html")):
        return "it is a web page, as of a download that failed. Load it again"
    if begun.startswith(b"version https://git-lfs"):
        return "it only points to the file, which Git LFS keeps. Get it with `git lfs pull`"
    return None


def not_utf8(content: bytes, name: str, part: str = "it") -> str:
    """A sentence on what the content of a text file is that is no UTF-8, with the way out.

    content: all of it, or the bad line, which `part` names.
    """
    for start, what in _MARKED.items():
        if content.startswith(start.encode("latin-1")):
            return f"it is {what}, not text. Save it as text in UTF-8, or give it the suffix of what it is"
    encoding = next((encoding for mark, encoding in _MARKS.items() if content.startswith(mark)), None)
    if encoding is not None:
        return f"it is {encoding}, not UTF-8. {_saved(encoding, name)}"
    try:
        content.decode()
    except UnicodeDecodeError as error:
        part = f"{part} is no UTF-8 (byte {content[error.start]:#04x})"
    else:
        part = f"{part} is no UTF-8"
    encoding = "UTF-16LE" if content[1:200:2].count(0) > len(content[:200]) // 4 else _western(content)
    if encoding is None:
        return f"{part}, and of no encoding that is easy to tell. Save the file in UTF-8, or drop it"
    return f"{part}, but seems to be {encoding}. {_saved(encoding, name)}"


def _saved(encoding: str, name: str) -> str:
    return f"Save the file in UTF-8, as by `iconv -f {encoding} -t UTF-8 {name} > NEW`"


_SIGNS = "\u2018\u2019\u201c\u201d\u2013\u2014\u2026\u20ac\xab\xbb\xb0"
"""Quotes, dashes, the euro and the degree."""


def _western(content: bytes) -> str | None:
    """Whether bytes beyond ASCII are letters and signs of Windows-1252, and the others are text."""
    if any(byte < 32 and byte not in b"\t\n\r\f" for byte in content):
        return None
    try:
        signs = [sign for sign in content.decode("windows-1252") if ord(sign) > 127]
    except UnicodeDecodeError:
        return None
    usual = sum(sign.isalpha() or sign in _SIGNS for sign in signs)
    return "WINDOWS-1252" if 2 * usual >= len(signs) else None
