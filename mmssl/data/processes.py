"""The processes that share a run: who they are, what they know together, and how one hears that another is lost.

Inside a step they speak by collectives, which end with an error after a time-out. Around it, where one may work for an hour while
the others wait, they leave words in the store of the process group: whoever waits there has no time-out, but hears of failures.
"""

import json
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import count
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

T = TypeVar("T")

POLL = 0.02
"""Seconds between two looks at the store."""
GRACE = 5.0
"""Seconds that a process which lost contact gives the others to say what they know."""

PARTING = 30.0
"""Seconds that the first process waits at the end of a run for the others."""

_meetings, _block, _group, _alone = count(), 0, dict[str, Any](), False
asked_to_stop: Callable[[], bool] = bool
"""Whether this process has a signal to stop: then it waits for others no longer than `GRACE`."""


class OtherFailed(RuntimeError):
    """Another process of the run failed, or is gone. It says itself why, where it can. lost: numbers of those that are gone."""

    def __init__(self, message: str, lost: Sequence[int] = ()) -> None:
        super().__init__(message)
        self.lost = lost


class FirstGone(OtherFailed):
    """The first process, which else speaks for the run, is gone: the others do."""


def world() -> int:
    """How many processes share the run."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() and not _alone else 1


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if world() > 1 else 0


def is_first() -> bool:
    """Whether this process is the one that writes, logs, scores and reports."""
    return rank() == 0


@contextmanager
def alone() -> Iterator[None]:
    """A block in which this process works as if there were no others; they wait for it (see `by_first`)."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


def name(number: int | None = None) -> str:
    """`process 1 of 4`."""
    return f"process {rank() if number is None else number} of {world()}"


def gather_rows(rows: Tensor) -> Tensor:
    """The rows of all processes, which may have different numbers of them, in the order of their ranks; without gradient."""
    if world() == 1:
        return rows
    own = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(own) for _ in range(world())]
    dist.all_gather(counts, own)
    sizes = [int(size) for size in counts]
    padded = rows.new_zeros((max(sizes), *rows.shape[1:]))
    padded[: len(rows)] = rows
    found = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(found, padded)
    return torch.cat([part[:size] for part, size in zip(found, sizes, strict=True)])


def gathered(value: T) -> list[T]:
    """A value of every process, in the order of their ranks; any that can be pickled, of processes that trust each other."""
    if world() == 1:
        return [value]
    found: list[Any] = [None] * world()
    dist.all_gather_object(found, value, group=_control())
    return found


def told_by(number: int, value: T | None) -> T:
    """A value of one process, for all; any that can be pickled, of processes that trust each other. Others give None."""
    if world() == 1:
        return cast(T, value)
    found: list[Any] = [value]
    dist.broadcast_object_list(found, src=number, group=_control())
    return cast(T, found[0])


def gathered_numbers(values: Sequence[int | float]) -> Float[Tensor, "p k"]:
    """A few numbers of every process. They lie on the CPU: no process waits for its accelerator."""
    own = torch.tensor(values, dtype=torch.float64)
    if world() == 1:
        return own[None]
    found = [torch.empty_like(own) for _ in range(world())]
    dist.all_gather(found, own, group=_control())
    return torch.stack(found)


def in_turn(own: Iterator[T | None]) -> Iterator[T]:
    """What the processes find by turns, one thing each and then the next, for the first one; the others are given none.

    The iterators may differ by one in their length; None is left out. Where one fails, so do all.
    """
    if world() == 1:
        yield from (thing for thing in own if thing is not None)
        return
    while True:
        thing, error, ended = None, None, False
        try:
            thing = next(own)
        except StopIteration:
            ended = True
        except Exception as raised:
            error = raised
        found = gathered((thing if error is None else _failed(error), error is not None, ended))
        if error is not None:
            raise error
        for number, (word, failed, _) in enumerate(found):
            if failed:
                raise OtherFailed(_told(number, cast(dict[str, Any], word)))
        if is_first():
            yield from (cast(T, each) for each, _, _ in found if each is not None)
        if any(end for _, _, end in found):
            return


def by_first(work: Callable[[], T]) -> T:
    """What the first process finds, a JSON value; the others wait for it, however long it takes, and get it too.

    OtherFailed on the others where it fails.
    """
    if world() == 1:
        return work()
    if not is_first():
        (word, *_) = meet(None)
        if "failed" in word:
            raise OtherFailed(_told(0, word))
        found: T = word["value"]
        return found
    try:
        value = work()
    except Exception as error:
        meet(_failed(error))
        raise
    meet({"value": value})
    return value


def together(work: Callable[[], T], *, first_before: bool = False) -> T:
    """What `work` finds here, if it succeeds on every process.

    Where it fails, that process raises its error, and the others OtherFailed. Of several that fail with the same words the first
    one says them.

    first_before: the first process works alone, then the others together: they find what it left on the disk.
    """
    if world() == 1:
        return work()
    if first_before and not is_first() and (word := meet(None)[0]) is not None:
        raise OtherFailed(_told(0, word))
    value, error = None, None
    try:
        value = work()
    except Exception as raised:
        error = raised
    if first_before and is_first():
        meet(None if error is None else _failed(error))
        if error is not None:
            raise error
    words = meet(None if error is None else _failed(error))
    failed = [number for number, word in enumerate(words) if word is not None]
    if error is not None and all(words[number]["failed"] != str(error) for number in failed if number < rank()):
        raise error
    if failed:
        raise OtherFailed(_told(failed[0], words[failed[0]])) from error
    return value  # type: ignore[return-value]


def meet(word: Any) -> list[Any]:
    """Wait until every process is here; the words (JSON values) of all of them. OtherFailed if one ends before."""
    if world() == 1:
        return [word]
    store, number = _store(), next(_meetings)
    store.set(f"{number}/{rank()}", json.dumps(word))
    return [json.loads(_wait_for(store, f"{number}/{other}", other)) for other in range(world())]


class Words:
    """One word of each process to all others, said and heard in any thread: the steps go on meanwhile, and no collective is needed.

    All processes make one at the same place. lost: processes whose words nobody waits for any more. until: nor for any after that
    time, of `time.monotonic`.
    """

    def __init__(self) -> None:
        self.rank, self.world, self.number = rank(), world(), next(_meetings)
        self.lost: Sequence[int] = ()
        self.until = float("inf")

    def say(self, word: Any) -> None:
        """A JSON value."""
        _store().set(f"{self.number}/{self.rank}", json.dumps(word))

    def of(self, other: int) -> Any:
        """What another process says, once it has. OtherFailed if it never will."""
        store, key = _store(), f"{self.number}/{other}"
        while not store.check([key]):
            over = other in self.lost or time.monotonic() > self.until
            if (over or store.check([_key("failed", other)])) and not store.check([key]):
                raise OtherFailed(f"process {other} of {self.world} is gone")
            time.sleep(POLL)
        return json.loads(store.get(key))


def leave() -> None:
    """Part from the others. The first process, which may hold the store, goes last: who still waits there would lose contact.

    It waits `PARTING` seconds at most: all work is done, and one that was killed just then never comes.
    """
    if world() == 1:
        return
    store, number = _store(), next(_meetings)
    store.set(f"{number}/{rank()}", "null")
    end = time.monotonic() + PARTING * is_first()
    while time.monotonic() < end and not all(store.check([f"{number}/{other}"]) for other in range(world())):
        time.sleep(POLL)


@contextmanager
def one_for_all() -> Iterator[None]:
    """A block that all processes leave with an error where one of them does.

    What fails is told to the others; they hear it where they wait, or when their next collective breaks off.
    """
    global _block
    _block += 1  # what failed in an earlier one is no more
    try:
        with naming_the_lost(str):
            yield
            leave()
    except BaseException as error:
        if world() > 1:
            with suppress(Exception):
                _leave_word(_failed(error))
        raise


@contextmanager
def naming_the_lost(where: Callable[[], str]) -> Iterator[None]:
    """OtherFailed in the place of an error that says that contact between the processes is lost. where: what to add to it."""
    try:
        yield
    except Exception as error:
        if world() == 1 or not _is_lost_contact(error):
            raise
        lost, told = _who_is_lost(error)
        raise (FirstGone if 0 in lost else OtherFailed)(told + where(), lost) from error


def _leave_word(word: dict[str, Any]) -> None:
    """Tell the others that this process failed. The first one, which may hold the store, waits a little until they know."""
    store = _store()
    store.set(_key("failed", rank()), json.dumps(word))
    end = time.monotonic() + GRACE * is_first()
    while time.monotonic() < end and not all(store.check([_key("failed", other)]) for other in range(world())):
        time.sleep(POLL)


def _key(state: str, number: int) -> str:
    return f"{state}/{_block}/{number}"


def _wait_for(store: Any, key: str, other: int) -> bytes:
    """What another process leaves in the store."""
    stop_at = float("inf")
    while not store.check([key]):
        for number in range(world()):
            if number != rank() and store.check([_key("failed", number)]) and not store.check([key]):
                raise OtherFailed(_told(number, json.loads(store.get(_key("failed", number)))))
        if asked_to_stop():
            stop_at = min(stop_at, time.monotonic() + GRACE)
        if time.monotonic() > stop_at:
            raise OtherFailed(f"stopped while it waited for {name(other)}, which may be gone")
        time.sleep(POLL)
    found: bytes = store.get(key)
    return found


def _failed(error: BaseException) -> dict[str, Any]:
    kind = type(error).__name__
    return {"failed": str(error) or kind, "host": socket.gethostname(), "quiet": isinstance(error, OtherFailed)}


def _told(number: int, word: dict[str, Any]) -> str:
    """In a line; that process says the rest itself."""
    return f"{name(number)} on {word['host']} failed: {word['failed'].splitlines()[0]}"


def _is_lost_contact(error: BaseException) -> bool:
    """Whether a collective, or the store, broke off; gloo says so in the message only."""
    words = (
        "gloo",
        "NCCL",
        "Connection reset by peer",
        "Connection closed by peer",
        "Broken pipe",
        "Timed out waiting",
        "Timeout waiting",
    )
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and any(word in str(error) for word in words))


def _who_is_lost(error: BaseException) -> tuple[list[int], str]:
    """Which processes are gone, and what to say of it.

    Which one failed: one that said so, else those that do not notice that contact is lost.
    """
    silent: list[int] = []
    try:
        store = _store()
        store.set(_key("noticed", rank()), "")
        others = [number for number in range(world()) if number != rank()]
        end = time.monotonic() + GRACE
        while time.monotonic() < end:
            for number in others:
                if store.check([_key("failed", number)]):
                    word = json.loads(store.get(_key("failed", number)))
                    if not word["quiet"]:
                        return [], _told(number, word)
            silent = [n for n in others if not store.check([_key("noticed", n)]) and not store.check([_key("failed", n)])]
            if not silent:
                break
            time.sleep(POLL)
    except Exception:  # the store is gone with the process, or the launcher, that held it
        return [0], f"contact to {name(0)} is lost: it, or the launcher of all of them, is gone"
    if silent:
        gone = ", ".join(name(number) for number in silent)
        return silent, f"{gone} is gone, or hangs: no sign of it within the time-out (train.timeout) and {GRACE:.0f} s"
    return [], f"contact between the processes was lost: {str(error).splitlines()[0]}"


def _store() -> Any:
    store = dist.distributed_c10d._get_default_store()
    return dist.distributed_c10d.PrefixStore("mmssl", store)


def _control() -> Any:
    """The group by which processes exchange what lies on the CPU: that of all of them where it can, else one of its own."""
    whole = dist.group.WORLD
    backend = dist.get_backend_config(whole)
    if "gloo" in backend:
        return whole
    key = str(id(whole))
    if key not in _group:
        _group[key] = dist.new_group(backend="gloo", timeout=timedelta(minutes=10))
    return _group[key]
