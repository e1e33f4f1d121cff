"""One recipe from raw data to a Hugging Face model: open the run, build, train, publish, evaluate, report."""

import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mmssl import checkpoint
from mmssl.build import Pieces, build
from mmssl.data import Batch, Labels, Order, Source, loader
from mmssl.evaluation import Evaluator, Table
from mmssl.loop import Training, TrainingError, fit
from mmssl.modality import find
from mmssl.processor import MMSSLProcessor
from mmssl.progress import Progress
from mmssl.recipe import Recipe
from mmssl.report import model_card, write_report
from mmssl.run import Interrupted, Run, StopRequest, now, stop_on_signals


def pretrain(recipe: Recipe, rows: list[dict[str, Any]] | None = None) -> Run:
    """Run a recipe to its end, or continue it; returns the run. See `Session` for what can go wrong on the way.

    rows: data in memory in place of the recipe's `data.path`.
    """
    run = Run.open(recipe, recipe.resume)
    with ExitStack() as stack:
        stack.enter_context(checkpoint.exclusive(run.folder))
        if run.finished:
            print(f"{run.folder} is finished; its model is {run.model_folder}. For another run leave resume=auto out.")
            return run
        session = Session(recipe, run, rows)
        session.train(stack.enter_context(stop_on_signals()))
        session.finish()
    return run


class Session:
    """A run at work: what it trains, on what, and where it writes."""

    def __init__(self, recipe: Recipe, run: Run, rows: list[dict[str, Any]] | None) -> None:
        self.recipe, self.run = recipe, run
        self.options, self.data, self.seed = recipe.section("train"), recipe.section("data"), recipe.section("run").seed
        self.source = Source.from_rows(rows, self.data.columns) if rows is not None else self.data.open()
        self.labels: Labels | None = self.source.labels() if recipe.needs_labels else None
        self.pieces = self.build()
        self.training = Training(self.pieces.objective, self.options, epoch=len(self.source), project_dir=str(run.folder))
        self.restore()
        self.evaluator = self.make_evaluator()
        self.skipped: list[str] = []
        self.window: list[dict[str, float]] = []
        self.best: float | None = None

    def build(self) -> Pieces:
        """Processors, model and objective; the fitted processors are kept with the run, so that resuming fits nothing anew."""
        kept = self.run.folder / "processor"
        fitted = MMSSLProcessor.from_pretrained(kept) if kept.exists() else None
        pieces = build(self.recipe, self.source, self.labels, fitted)
        if fitted is None:
            part = self.run.folder / ".processor"
            pieces.processor.save_pretrained(part)
            part.rename(kept)
        return pieces
