"""Atomic, complete, verified state on disk, without pickle.

A checkpoint is a folder `step-000000123` with three files: `tensors.safetensors` (all tensors and arrays), `state.json` (the tree
that they hang in) and `manifest.json` (size and SHA-256 of the other two). Of processes that shard a model each writes a file of
tensors of its own, `tensors-00001-of-00004.safetensors`: the first one what all have alike, and every one its pieces of the rest,
from which any other number of processes, or one alone, puts the tensors together. A folder with its final name is complete,
whenever a writer was killed (see `mmssl.files`).
"""

import hashlib
import json
import logging
import random
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mmssl import files
from mmssl.training.pieces import Part, Parts, Piece, whole

logger = logging.getLogger(__name__)

FORMAT, SHARDED = 1, 2
TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"

_STEP = re.compile(r"step-(\d{9,})")
_PIECE = re.compile(r"piece (\d+):(.*)", re.DOTALL)
_TENSORS = re.compile(r"tensors(-\d{5}-of-\d{5})?\.safetensors")

Scalar = None | bool | int | float | str


@dataclass(frozen=True)
class Packed:
    """A state as it is written: the tree as JSON, and the tensors that this process writes, each in memory of its own."""

    text: str
    tensors: dict[str, torch.Tensor]

    @property
    def size(self) -> int:
        """Bytes."""
        return len(self.text) + sum(tensor.nbytes for tensor in self.tensors.values())


def packed(state: dict[str, Any], *, first: bool = True, copied: bool = False) -> Packed:
    """A state that is ready to be written. TypeError that names the place of a value which cannot be; MemoryError: see below.

    first: whether this process writes what all have alike, and not its pieces only.
    copied: whether tensors that lie on the CPU are copied as well, so that what becomes of the state does not count any more.
        MemoryError if there is no room for that.
    """
    tensors: dict[str, torch.Tensor] = {}
    text = json.dumps(_encode(state, "state", tensors))
    own = {name: tensor for name, tensor in tensors.items() if (tensor.numel() if _PIECE.fullmatch(name) else first)}
    if not copied:
        own = {name: tensor.cpu().resolve_neg().contiguous() for name, tensor in own.items()}
        _separate(own)
        return Packed(text, own)
    try:
        return Packed(text, _copies(own))
    except (RuntimeError, MemoryError) as error:
        size = sum(tensor.nbytes for tensor in own.values())
        raise MemoryError(
            f"the copy of {size / 1e6:,.1f} MB from which a checkpoint is written beside the training does not fit into main "
            f"memory ({str(error).splitlines()[0]}). Write without a copy: train.async_save=false"
        ) from error


def save(path: Path, state: dict[str, Any]) -> None:
    """Write `state` to the folder `path`, atomically; a checkpoint that is already there is replaced.

    state: nested dicts, lists and tuples of tensors and numpy arrays of any shape and dtype, and None, bool, int, float and str;
        the keys of a dict are such scalars too. Tensors that share memory are written one by one, each with what it shows.
    TypeError that names the place of any other value. OSError if the disk is full; it names the folder, the bytes needed and free,
    the last good checkpoint and the way out, and nothing of this one is left behind.
    """
    ready = packed(state)
    with telling(path, ready.size), files.new_folder(path) as folder:
        complete(folder, {TENSORS: write_tensors(folder / TENSORS, ready.tensors)}, ready.text, FORMAT)


def load(path: Path) -> dict[str, Any]:
    """The state in the folder `path`, on the CPU; dict subclasses come back as dict, named tuples as tuple.

    FileNotFoundError if there is no such folder. ValueError that names the file if one is missing, damaged or of another format.
    """
    verify(path)
    # A clone owns its memory: what safe_open returns is a view of the file, which would stay open and on disk.
    return opened(path, lambda tensor: whole(tensor) if isinstance(tensor, Parts) else tensor.clone())


def opened(path: Path, change: Callable[[Any], Any] = lambda tensor: tensor) -> dict[str, Any]:
    """The state in a folder that `newest` found good, of which only that is read that is asked for.

    Its tensors are views of a file, or `Parts` of them in several. change: what is made of each.
    """
    tensors: dict[str, Any] = {}
    for name in _manifest(path):
        if name != STATE:
            with safe_open(path / name, framework="pt") as file:
                for key in file.keys():  # noqa: SIM118, not a dict
                    if (piece := _PIECE.fullmatch(key)) is None:
                        tensors[key] = file.get_tensor(key)
                    else:
                        values = file.get_tensor(key)
                        tensors.setdefault(piece[2], []).append(Part(int(piece[1]), int(piece[1]) + len(values), values))
    state = _decode(json.loads((path / STATE).read_text(encoding="utf-8")), tensors, change)
    assert isinstance(state, dict)
    return state


def verify(path: Path) -> None:
    """Compare every file with the manifest. Raises like `load`."""
    for name, recorded in _manifest(path).items():
        if not (path / name).is_file():
            raise ValueError(f"{path / name} is missing: the checkpoint is incomplete. Use another one, or delete it")
        found = _facts(path / name)
        if found != recorded:
            raise ValueError(f"{path / name} is damaged: expected {recorded}, found {found}. Use another checkpoint, or delete it")


def step_path(folder: Path, step: int) -> Path:
    """Where the checkpoint of a step is kept."""
    return folder / f"step-{step:09d}"


def newest(folder: Path, *, below: int | None = None) -> Path | None:
    """The checkpoint of the highest step in `folder` that verifies, or None; each damaged one above it is reported by a warning.

    below: look at lower steps than this only.
    """
    for path in reversed(_steps(folder, below)):
        try:
            verify(path)
        except (ValueError, OSError) as error:
            logger.warning("ignoring a damaged checkpoint: %s", error)
        else:
            return path
    return None


def has_any(folder: Path) -> bool:
    """Whether anything in `folder` has the name of a checkpoint, good or not."""
    return bool(_steps(folder))


def has_complete(folder: Path) -> bool:
    """Whether `folder` has a checkpoint whose files are there, with the sizes that they should have."""
    return any(map(_sizes_match, _steps(folder)))


def prune(folder: Path, keep: int) -> None:
    """Delete all but the last `keep` complete checkpoints, and what killed writers left behind.

    Damaged checkpoints do not count as kept. Call it only while no other process writes there (see `files.exclusive`).
    """
    assert keep > 0
    steps = _steps(folder)
    complete = [path for path in steps if _sizes_match(path)]
    if len(complete) > keep:
        for path in steps[: steps.index(complete[-keep])]:
            files.delete(path)
    files.sweep(folder)


def rng_state() -> dict[str, Any]:
    """State of the global random generators: Python, numpy, torch on the CPU and on each CUDA device; `save` takes it."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_rng_state(state: dict[str, Any]) -> None:
    """Restore `rng_state()`. Of the CUDA devices, those that both machines have."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    for device, cuda in zip(range(torch.cuda.device_count()), state["cuda"], strict=False):
        torch.cuda.set_rng_state(cuda, device)


def _encode(value: Any, place: str, tensors: dict[str, torch.Tensor]) -> Any:
    """`value` as JSON; its tensors go to `tensors`, under their place in the tree.

    Scalars and lists stand for themselves; everything else is an object with one key, which says what it is.
    """
    if isinstance(value, torch.Tensor):
        return _encode_tensor(value, place, tensors)
    if isinstance(value, Piece):
        name = f"{len(tensors)}:{place}"
        tensors[f"piece {value.start}:{name}"] = value.values.detach()
        return {"pieces": [name, list(value.shape), str(value.values.dtype).removeprefix("torch.")]}
    if isinstance(value, np.ndarray):
        return {"array": _encode_tensor(_from_numpy(value, place), place, tensors)}
    if isinstance(value, dict):
        return {"dict": [[_key(key, place), _encode(item, f"{place}.{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, list | tuple):
        items = [_encode(item, f"{place}.{i}", tensors) for i, item in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    if isinstance(value, Scalar):
        return value
    raise TypeError(
        f"{place} is {type(value).__name__}; a checkpoint holds tensors, numpy arrays, dicts, lists, tuples, None, bool, int, "
        "float and str. Convert it"
    )


def _key(key: Any, place: str) -> Scalar:
    if isinstance(key, Scalar):
        return key
    raise TypeError(f"{place} has a key that is {type(key).__name__}: {key!r}; keys must be str, int, float, bool or None")


def _from_numpy(array: np.ndarray, place: str) -> torch.Tensor:
    try:
        # A copy, for torch takes neither negative strides nor, without a warning, read-only memory.
        return torch.from_numpy(np.array(array, order="C"))
    except (TypeError, ValueError) as error:
        raise TypeError(f"{place} is a numpy array of {array.dtype}, which torch cannot hold: {error}") from None


def _encode_tensor(tensor: torch.Tensor, place: str, tensors: dict[str, torch.Tensor]) -> Any:
    """Put a tensor into `tensors`, as it lies. Complex numbers are written as pairs."""
    if tensor.layout is not torch.strided or tensor.is_meta or tensor.is_quantized:
        raise TypeError(f"{place} is a {tensor.layout} tensor on {tensor.device}, {tensor.dtype}; only dense tensors can be saved")
    tensor = tensor.detach()
    if tensor.is_complex():
        return {"complex": _encode_tensor(torch.view_as_real(tensor.resolve_conj()), place, tensors)}
    name = f"{len(tensors)}:{place}"
    tensors[name] = tensor
    return {"tensor": name}


def _separate(tensors: dict[str, torch.Tensor]) -> None:
    """Give every tensor memory of its own: safetensors writes none that share it."""
    seen: set[int] = set()
    for name, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        if storage in seen:
            tensors[name] = tensor.clone()
        seen.add(storage)


def _copies(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies in main memory; of what lies on an accelerator in page-locked memory, which takes them at the full rate of the bus."""
    found, waiting = dict[str, torch.Tensor](), False
    for name, tensor in tensors.items():
        there = tensor.device.type != "cpu"
        copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=there)
        found[name] = copy.copy_(tensor, non_blocking=there)
        waiting |= there
    if waiting:
        torch.accelerator.synchronize()
    return found


def _decode(value: Any, tensors: dict[str, Any], change: Callable[[Any], Any]) -> Any:
    """The inverse of `_encode`; change: what is made of each tensor, or `Parts` of one."""
    if isinstance(value, list):
        return [_decode(item, tensors, change) for item in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    match kind:
        case "tensor":
            return change(tensors[content])
        case "pieces":
            name, shape, number = content
            dtype = getattr(torch, number, None)
            if not isinstance(dtype, torch.dtype):
                raise ValueError(f"{name} has the dtype {number!r}, which is none of torch: the checkpoint is damaged")
            return change(Parts(name.partition(":")[2], shape, dtype, tensors.get(name, [])))
        case "complex":
            return torch.view_as_complex(_decode(content, tensors, change))
        case "array":
            return _decode(content, tensors, change).numpy()
        case "tuple":
            return tuple(_decode(item, tensors, change) for item in content)
        case _:
            return {key: _decode(item, tensors, change) for key, item in content}


@contextmanager
def telling(path: Path, needed: int) -> Iterator[None]:
    """Say of an error of the disk which checkpoint it was, and how to go on; needed: its bytes."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        number = files.error_number(error)
        if number in files.FULL:
            raise OSError(number, _full_disk(path, needed)) from error
        raise OSError(number, f"cannot write checkpoint {path}: {error}") from error


def write_tensors(file: Path, tensors: dict[str, torch.Tensor]) -> dict[str, Any]:
    """Write a file of tensors; its size and hash, as a manifest has them."""
    save_file(tensors, file)
    return _facts(file)


def complete(folder: Path, facts: Mapping[str, Any], text: str, form: int) -> None:
    """Write what is beside the tensors. facts: of their files; text: the tree; form: `FORMAT`, or `SHARDED` for several files."""
    (folder / STATE).write_text(text, encoding="utf-8")
    facts = {**facts, STATE: _facts(folder / STATE)}
    (folder / MANIFEST).write_text(json.dumps({"format": form, "files": facts}, indent=2) + "\n", encoding="utf-8")


def _facts(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        return {"size": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _manifest(path: Path) -> dict[str, dict[str, Any]]:
    """Size and hash of each file, as recorded. Raises like `load`."""
    if not path.is_dir():
        raise FileNotFoundError(f"no checkpoint at {path}: no such folder")
    file = path / MANIFEST
    if not file.is_file():
        raise ValueError(f"{file} is missing: the checkpoint is incomplete. Use another one, or delete it")
    try:
        manifest = json.loads(file.read_bytes())
        form, facts = manifest["format"], dict(manifest["files"])
        whole_files = facts.keys() == {TENSORS, STATE} if form == FORMAT else STATE in facts and all(map(_is_part, facts))
        if form in (FORMAT, SHARDED) and not whole_files:
            raise ValueError
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{file} is damaged: it is not a manifest. Use another checkpoint, or delete it") from None
    if form not in (FORMAT, SHARDED):
        raise ValueError(
            f"{file} has format {form!r}; this mmssl reads formats {FORMAT} and {SHARDED}. Use the mmssl that wrote it"
        )
    return facts


def _is_part(name: str) -> bool:
    """Whether a file may belong to a checkpoint: nothing outside of its folder does."""
    return name == STATE or _TENSORS.fullmatch(name) is not None


def _sizes_match(path: Path) -> bool:
    """Whether the files are there with their recorded sizes: what `verify` checks, without reading them."""
    try:
        return all((path / name).stat().st_size == facts["size"] for name, facts in _manifest(path).items())
    except (ValueError, KeyError, TypeError, OSError):
        return False


def _steps(folder: Path, below: int | None = None) -> list[Path]:
    """Folders named like checkpoints, of all steps or of those below one, in their order."""
    if not folder.is_dir():
        return []
    found = {int(match[1]): path for path in folder.iterdir() if (match := _STEP.fullmatch(path.name)) and path.is_dir()}
    return [found[step] for step in sorted(found) if below is None or step < below]


def _full_disk(path: Path, needed: int) -> str:
    free, last = shutil.disk_usage(path.parent).free, newest(path.parent)
    return (
        f"{files.FULL_DISK}: {path.name} did not fit into {path.parent}. "
        f"It needs {needed / 1e6:,.1f} MB, {free / 1e6:,.1f} MB are free. The last good checkpoint there: "
        f"{last.name if last else 'none'}. Free some space or keep fewer checkpoints, then resume"
    )
