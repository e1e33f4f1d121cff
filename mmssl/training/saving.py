"""Checkpoints that are written beside the training: between two steps the state is copied, and a thread writes the copy.

The thread of each process writes its file; that of the first one waits for the others, writes the manifest and gives the folder its
name, so that it is visible when all is there. Threads speak by words in the store alone: a collective would mix with those of the
steps. Data workers may be forked meanwhile: the thread holds no lock that they need, it only writes, hashes and waits.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any

from torch.distributed import DistError

from mmssl import files
from mmssl.data import processes
from mmssl.data.processes import OtherFailed, Words
from mmssl.training import checkpoint
from mmssl.training.checkpoint import FORMAT, SHARDED, TENSORS, Packed

MOMENT = 0.1
"""Seconds."""


class Saver:
    """Writes the checkpoints of a run, one at a time. Every process of the run has one, and calls it at the same steps.

    folder: where they are kept, and `keep` how many. beside: whether training goes on while one is written; else it waits, and
    nothing is copied. timeout: seconds to wait for a process that is gone, or hangs, where the run ends with an error.
    """

    def __init__(self, folder: Path, *, keep: int, beside: bool, timeout: float) -> None:
        self.folder, self.keep, self.beside, self.timeout = folder, keep, beside, timeout
        self.writing: Writing | None = None
        self.stood_still: list[float] = []
        """Seconds that training waited for each checkpoint."""

    @property
    def failed(self) -> bool:
        """Whether this process could not do its part: the next `settle` raises the error, so the run should come to it."""
        return self.writing is not None and self.writing.error is not None

    def save(self, step: int, state: Callable[[], dict[str, Any]], *, in_pieces: bool) -> None:
        """Let the state of a step be written, after the checkpoint before it. Raises like `settle`, of that one.

        in_pieces: whether each process has its own `Piece` of some tensors; else the first one writes all.
        """
        begin = time.perf_counter()
        self.settle()
        path = checkpoint.step_path(self.folder, step)
        self.writing = Writing(path, state(), in_pieces=in_pieces, copied=self.beside, keep=self.keep)
        self.writing.start()
        if not self.beside:
            self.settle()
        self.stood_still.append(time.perf_counter() - begin)

    def settle(self) -> None:
        """Wait until the checkpoint that is being written is visible.

        OSError if it cannot be written, MemoryError if there was no room for the copy; OtherFailed on the other processes.
        """
        if self.writing is None:
            return
        # However long it takes: no time-out counts, but who is lost is noticed.
        while processes.gathered_numbers([self.writing.busy()]).any():
            pass
        processes.together(self.writing.result)
        self.writing = None

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """A block that waits, where it fails, for what is being written; unless it is to stop at once (a second Ctrl-C)."""
        try:
            yield
        except KeyboardInterrupt:
            raise
        except BaseException as error:
            try:
                self.finish(error)
            except RuntimeError as later:  # torch tells of a killed worker once, wherever we are: here as well
                self.finish(later)
                raise
            raise

    def finish(self, error: BaseException) -> None:
        """Wait without a word to the others, as the run ends with an error; one of the writer becomes a note of that."""
        if self.writing is None:
            return
        later = self.writing.ended(error.lost if isinstance(error, OtherFailed) else (), self.timeout)
        if later not in (None, error) and not isinstance(later, OtherFailed | DistError):
            error.add_note(f"The checkpoint that was being written is not complete: {later}")


class Writing:
    """A checkpoint that is written once it is told to `start`.

    The interpreter does not wait for it when it ends: what is not complete by then is not visible. copied: see `checkpoint.packed`.
    """

    def __init__(self, path: Path, state: dict[str, Any], *, in_pieces: bool, copied: bool, keep: int) -> None:
        self.path, self.keep, self.form = path, keep, SHARDED if in_pieces else FORMAT
        self.place, self.facts = Words(), Words()
        self.rank, self.world = self.facts.rank, self.facts.world if in_pieces else 1
        self.file = f"tensors-{self.rank:05}-of-{self.world:05}.safetensors" if in_pieces else TENSORS
        self.ready = Packed("", {})
        self.error: Exception | None = None
        self.done = Event()  # not Thread.join: an error that a signal raises in that one ends it for good (Python 3.11, 3.12)
        if self.rank < self.world:
            try:
                self.ready = checkpoint.packed(state, first=self.rank == 0, copied=copied)
            except MemoryError as error:
                self.error = error

    def start(self) -> None:
        """Begin to write."""
        if self.rank < self.world:
            Thread(target=self._run, name=f"writing {self.path.name}", daemon=True).start()
        else:
            self.done.set()

    def busy(self) -> bool:
        """Whether this process is still at it, a moment later."""
        return not self.done.wait(MOMENT)

    def result(self) -> None:
        """Raises why this process could not do its part, once it is not busy any more."""
        assert self.done.is_set()
        if self.error is not None:
            raise self.error

    def ended(self, lost: Sequence[int], timeout: float) -> Exception | None:
        """Wait, for other processes so many seconds at most, and for those that are lost not at all; why it is not complete."""
        for words in (self.place, self.facts):
            words.lost, words.until = lost, time.monotonic() + timeout
        self.done.wait()
        return self.error

    def _run(self) -> None:
        try:
            self._lead() if self.rank == 0 else self._take_part()
        except Exception as error:
            self.error = error
        finally:
            self.ready = Packed("", {})  # the copy is needed no more
            self.done.set()

    def _lead(self) -> None:
        """Write what the first process does."""
        others, told = range(1, self.world), False
        try:
            with checkpoint.telling(self.path, self.ready.size), files.new_folder(self.path) as folder:
                if others:
                    self.place.say(str(folder))
                told = True
                try:
                    facts = {self.file: self._written(folder)}
                finally:  # nobody writes there any more when the folder goes
                    found = [self.facts.of(other) for other in others]
                for other, word in zip(others, found, strict=True):
                    if word is None:
                        raise OtherFailed(
                            f"process {other} of {self.world} cannot write its part of the checkpoint {self.path}; it says why"
                        )
                    facts |= word
                checkpoint.complete(folder, facts, self.ready.text, self.form)
        except BaseException:
            if others and not told:
                self.place.say(None)
            raise
        checkpoint.prune(self.path.parent, self.keep)

    def _take_part(self) -> None:
        """Write what another process does, and tell the first one."""
        folder, facts = self.place.of(0), None
        if folder is None:
            return  # the first one says why
        try:
            with checkpoint.telling(self.path, self.ready.size):
                facts = {self.file: self._written(Path(folder))}
        finally:
            self.facts.say(facts)

    def _written(self, folder: Path) -> dict[str, Any]:
        """Write the tensors of this process, to the disk; size and hash of the file."""
        if self.error is not None:
            raise self.error
        facts = checkpoint.write_tensors(folder / self.file, self.ready.tensors)
        files.flush(folder / self.file)
        return facts
