"""What of a run is published: its student, its teacher, or the average of its weights, with the scores of just that."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from mmssl import files
from mmssl.data import batches, open_streams, processes
from mmssl.evaluation import Judged, PairEvaluator, Shown, table_of
from mmssl.evaluation.history import History
from mmssl.modality import Inputs, find
from mmssl.model import MMSSLModel, load_model
from mmssl.model.adaptation import merged
from mmssl.processor import MMSSLProcessor
from mmssl.recipe import Recipe, load
from mmssl.training import checkpoint
from mmssl.training.build import cut_stream, modalities_of
from mmssl.training.launch import start
from mmssl.training.run import Run
from mmssl.training.session import Session

Weights = Literal["published", "student", "teacher", "average"]
SAMPLES = 4
"""Samples on which a published model is compared with the trained one."""


@dataclass(frozen=True)
class Chosen:
    """A network of a run, with what is known of it.

    kind: student, teacher or average; None where the run, of an older mmssl, did not write it down.
    """

    model: MMSSLModel
    processor: MMSSLProcessor
    history: History
    kind: str | None
    tables: tuple[Shown, ...]
    judged: tuple[Mapping[str, Any], ...]


def open_run(folder: str | Path) -> Run:
    """The run in a folder. FileNotFoundError, ValueError: there is none, or it has not trained to its end."""
    run = Run(Path(folder))
    if not run.record_file.is_file() or not run.recipe_file.is_file():
        inner = f"; its run is {run.folder.parent}" if (run.folder.parent / "run.json").is_file() else ""
        raise FileNotFoundError(f"{folder} is no folder of a run (no run.json){inner}. Give the folder that mmssl train made")
    if not run.trained:
        raise ValueError(
            f"the run {folder} has not come to its end, so there is no model to publish; go on with:\n  {run.resume_command}"
        )
    return run


def chosen(run: Run, weights: Weights) -> Chosen:
    """The network to publish. `published` is the one that the run published in its end; another one comes from the last checkpoint.

    Whatever is published has been scored: that at the end of the run, another one now. ValueError where the run does not have it.
    """
    own = run.read_record().get("published")
    return at_the_end(run, own) if weights in ("published", own) else from_checkpoint(run, weights)


def at_the_end(run: Run, kind: str | None) -> Chosen:
    """What the run published, with the scores of its end."""
    folder, record = run.model_folder, run.read_record()
    if not run.finished:
        raise ValueError(f"the run {run.folder} is trained, but not scored; score it first:\n  {run.resume_command}")
    tables = read_tables(run.table_file)
    judged = tuple(record.get("judged", {}).values())
    return Chosen(load_model(folder), MMSSLProcessor.from_pretrained(folder), History.read(folder), kind, tables, judged)


def read_tables(file: Path) -> tuple[Shown, ...]:
    """The scores that a run wrote down; none if it has no file of them."""
    if not file.exists():
        return ()
    content = json.loads(file.read_text(encoding="utf-8"))
    found = [content] if "rows" in content else list(content.values())
    return tuple(map(table_of, found))


def from_checkpoint(run: Run, kind: str) -> Chosen:
    """Another network of the run, from its last checkpoint, scored now on the data of the run."""
    recipe, record = load(run.recipe_file), run.read_record()
    last = checkpoint.step_path(run.checkpoints, record["steps"])
    if record.get("rows_in_memory"):
        raise ValueError(
            f"--weights {kind}: the data of {run.folder} were in memory, so that it cannot be scored; leave --weights out"
        )
    if checkpoint.newest(run.checkpoints) != last:
        raise ValueError(
            f"--weights {kind}: the run {run.folder} has kept what it published alone, {record.get('published', 'its model')}: its "
            f"last checkpoint, {last.name}, is gone. Leave --weights out, or train again"
        )
    start(recipe.section("train").timeout)
    with ExitStack() as stack:
        stack.enter_context(processes.one_for_all())
        stack.enter_context(files.exclusive(run.folder))
        session = Session(recipe, run, None, trained=True)
        objective = session.training.objective
        kinds = objective.networks.kinds
        if kind not in kinds:
            raise ValueError(f"--weights {kind}: the run {run.folder} has no {kind}; it has {', '.join(kinds)}")
        model = merged(objective.stripped(kinds[kind])).eval()
        evaluators = dict(session.every_evaluator)
        tables = tuple(evaluator.table(model) for evaluator in evaluators.values())
        judged = tuple(
            each.judged.to_dict()
            for each in evaluators.values()
            if not isinstance(each, PairEvaluator) and isinstance(each.judged, Judged)
        )
    return Chosen(model, session.pieces.processor, History.read(run.folder), kind, tables, judged)


def sample_inputs(run: Run, found: Chosen) -> tuple[dict[str, Inputs], str | None]:
    """Batches by modality to compare models on: of the run's first samples, else made up, with a note that says why.

    ValueError if the data cannot be read and made-up samples do not fit the processor, as with a table's columns.
    """
    recipe = load(run.recipe_file)
    try:
        return read_samples(recipe, found.processor), None
    except (OSError, LookupError, ValueError) as error:
        why = str(error).partition("\n")[0]
    try:
        made = {
            name: processor.batch([piece for raw in find(name).example(SAMPLES, 0) for piece in islice(processor.pieces(raw), 1)])
            for name, processor in found.processor.processors.items()
        }
    except (ValueError, TypeError, LookupError):
        raise ValueError(
            f"the model is compared on samples of its data before it is published, and these cannot be read: {why}\n"
            "Put them where they were when the run trained"
        ) from None
    return made, f"compared on made-up samples, for the data of the run cannot be read: {why}"


def read_samples(recipe: Recipe, processor: MMSSLProcessor) -> dict[str, Inputs]:
    """The first samples of a run's data, of every modality."""
    found: dict[str, Inputs] = {}
    for stream in open_streams(recipe.section("data"), list(recipe.modalities)).values():
        source = cut_stream(stream, processor).source
        for batch in islice(batches(source, modalities_of(stream, processor), SAMPLES, on_error="skip"), 1):
            found |= batch.inputs
    if lacking := [name for name in processor.processors if name not in found]:
        raise LookupError(f"its first samples have nothing of {', '.join(lacking)}")
    return found
