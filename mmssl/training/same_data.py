"""Whether a run that goes on reads what it was started on, and all of its processes the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mmssl.data import Source, processes
from mmssl.data.identity import files_digits
from mmssl.data.labels import Labels
from mmssl.data.options import Stream
from mmssl.evaluation.history import History
from mmssl.training.run import Run


def begun(run: Run) -> dict[str, str | None] | None:
    """Of a run that goes on, the label columns by which its sources were held out when it began; None for a new run."""
    if known := History.read(run.folder).trained:
        return {entry.source: entry.held_out for entry in known}
    return {} if "data" in run.read_record() else None  # of a version that held nothing out


@dataclass(frozen=True)
class Reads:
    """What a run reads. contents: what its samples hold, as JSON values, to be written down with it."""

    streams: Mapping[str, Stream]
    labels: Labels | None
    history: History
    contents: Mapping[str, Any]


def check_same(run: Run, reads: Reads) -> None:
    """ValueError if the run was started on other data: it could not continue to the weights of an uninterrupted one."""
    sources = {name: stream.source for name, stream in reads.streams.items()}
    found = {name: _facts(source) for name, source in sources.items()}
    processes.by_first(lambda: _check_as_before(run, reads, sources, found))
    first = processes.gathered(found)[0]

    def check() -> None:
        for name, source in sources.items():
            if found[name] != first[name]:
                raise ValueError(
                    f"{processes.name()} does not read the data of process 0: {source} is {found[name]} here, {first[name]} "
                    "there (files: a digest of names and sizes). All processes must see the same files"
                )

    processes.together(check)


def _check_as_before(run: Run, reads: Reads, sources: Mapping[str, Source], found: Mapping[str, Any]) -> None:
    """ValueError if the run was started on other data than is `found`; else that is written down."""
    known = run.read_record().get("data", found)
    for name, source in sources.items():
        before = known.get(name)
        if before and "files" not in before:  # of a version that did not write it down
            before["files"] = found[name]["files"]
        if known.get(name) != found[name]:
            raise ValueError(
                f"cannot resume {run.folder}: {source} is not what it was. Started on {known.get(name)}, it is now "
                f"{found[name]} (files: a digest of names and sizes). Restore the data, or {run.another}"
            )
    entries = {entry.source: entry for entry in History.read(run.folder).trained}
    for entry in reads.history.trained[-len(sources) :]:
        if entry.source in entries and entries[entry.source].labels not in (None, entry.labels):
            raise ValueError(
                f"cannot resume {run.folder}: the labels of {entry.path} are not what they were, and they decide what is "
                f"learned, or which rows are held out. Restore the data, or {run.another}"
            )
    _check_label_names(run, reads.labels)
    reads.history.write(run.folder)
    run.record(data=found, contents=reads.contents)


def _check_label_names(run: Run, labels: Labels | None) -> None:
    """ValueError if the classes that are learned have other names, or another order, than when the run began: they would
    exchange numbers. Else the names are written down."""
    if labels is None:
        return
    names, known = list(labels.names), run.read_record().get("label_names")
    if known is not None and known != names:
        raise ValueError(
            f"cannot resume {run.folder}: its labels were called {', '.join(known)}, and are now {', '.join(names)}: "
            f"their numbers would mean other classes. Restore the data, or {run.another}"
        )
    run.record(label_names=names)


def _facts(source: Source) -> dict[str, Any]:
    """What is written down of a source, so that a run continues only on the same data."""
    return {"samples": len(source), "columns": source.column_names, "files": files_digits(source)}
