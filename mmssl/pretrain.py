"""One recipe from raw data to a Hugging Face model: open the run, build, train, publish, evaluate, report."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from transformers.utils import logging

from mmssl import checkpoint
from mmssl.build import Pieces, build, run_to_continue
from mmssl.data import Batch, Labels, Order, Source, batches, loader
from mmssl.evaluation import Evaluator, Table
from mmssl.loop import Training, TrainingError, fit
from mmssl.modality import find
from mmssl.processor import MMSSLProcessor
from mmssl.progress import Progress
from mmssl.recipe import Recipe
from mmssl.report import model_card, write_report
from mmssl.run import Interrupted, Run, StopRequest, now, stop_on_signals

SHOWN_SKIPS = 100
"""Different messages of skipped samples that a run remembers; all skips are counted, in every pass over the data."""
PICTURED = 8
"""Samples in the pictures of the report."""


def pretrain(recipe: Recipe, rows: list[dict[str, Any]] | None = None) -> Run:
    """Run a recipe to its end, or continue it; returns the run.

    rows: data in memory in place of the recipe's `data.path`.
    Interrupted on SIGINT or SIGTERM, after a checkpoint; TrainingError if the loss is not finite.
    """
    run = Run.open(recipe, recipe.resume)
    with ExitStack() as stack:
        stack.enter_context(checkpoint.exclusive(run.folder))
        if run.finished:
            print(f"{run.folder} is finished; its model is {run.model_folder}. For another run leave resume=auto out.")
            return run
        session = Session(recipe, run, rows)
        stop = stack.enter_context(stop_on_signals())
        session.train(stop)
        session.finish(stop)
    return run


class Session:
    """A run at work: what it trains, on what, and where it writes."""

    def __init__(self, recipe: Recipe, run: Run, rows: list[dict[str, Any]] | None) -> None:
        self.recipe, self.run, self.rows = recipe, run, rows
        self.options, self.data, self.seed = recipe.section("train"), recipe.section("data"), recipe.section("run").seed
        self.source = Source.from_rows(rows, self.data.columns) if rows is not None else self.data.open()
        self.labels: Labels | None = self.source.labels() if recipe.needs_labels else None
        self.pieces = self.build()
        self.training = Training(self.pieces.objective, self.options, epoch=len(self.source), project_dir=str(run.folder))
        self.skips: list[str] = []
        self.window: list[dict[str, float]] = []
        self.probes: dict[str, float] = {}
        self.saved: int | None = None
        self.restore()
        self.evaluator = self.make_evaluator()

    def build(self) -> Pieces:
        """Processor and objective; the fitted processor is kept with the run, so that resuming fits nothing anew."""
        kept = self.run.folder / "processor"
        before = run_to_continue(self.recipe)
        known = kept if kept.exists() else before / "processor" if before else None
        fitted = MMSSLProcessor.from_pretrained(known) if known else None
        pieces = build(self.recipe, self.source, self.labels, fitted)
        if not kept.exists():
            replace_folder(kept, pieces.processor.save_pretrained)
        return pieces

    def restore(self) -> None:
        """Continue from the run's newest checkpoint, or from that of the run which `init` names."""
        checkpoint.sweep(self.run.folder)
        checkpoint.prune(self.run.checkpoints, self.options.keep_last)
        newest, before = checkpoint.newest(self.run.checkpoints), run_to_continue(self.recipe)
        if newest:
            state = checkpoint.load(newest)
            self.training.restore(state)
            self.window, self.skips, self.saved = state["window"], state["skips"], self.training.counters.step
            print(f"continuing from {newest}, step {self.saved}")
        elif before:
            self.carry_on(before)
        self.run.rewind(self.training.counters.step)

    def carry_on(self, before: Path) -> None:
        """Start with the weights, the optimizer and the counters of another run. ValueError if the budget is used up already."""
        newest = checkpoint.newest(before / "checkpoints")
        if newest is None:
            raise FileNotFoundError(f"init: {before} is a run without a complete checkpoint; give a model folder, or another run")
        self.training.restore(checkpoint.load(newest))
        step = self.training.counters.step
        if self.training.progress >= 1:
            raise ValueError(
                f"init: {before} has made {step} steps, and the budget of this recipe counts them: nothing is left to train. "
                f"Raise train.max_steps (or max_epochs, max_minutes), or start from its model: init={before / 'model'}"
            )
        print(f"carrying on from {newest}, step {step}")

    def feed(self, start_step: int) -> Iterator[Batch]:
        """This process's micro-batches from a step on; messages of skipped samples are kept for the report."""
        accelerator, modalities = self.training.accelerator, self.modalities()
        stream = loader(
            self.source,
            modalities,
            order=Order(len(self.source), self.seed, self.data.shuffle),
            batch_size=self.options.batch_size,
            seed=self.seed,
            start_step=start_step,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
            micro_batches=self.options.accumulation,
            workers=self.data.workers,
            labels=self.labels,
            on_error=self.data.on_error,
            pin_memory=accelerator.device.type == "cuda",
            cache=self.data.cache,
        )
        for batch in stream:
            fresh = [message for message in batch.skipped if message not in self.skips]
            self.skips += fresh[: SHOWN_SKIPS - len(self.skips)]
            yield batch

    def modalities(self) -> dict[str, Any]:
        return {name: (find(name), processor) for name, processor in self.pieces.processor.processors.items()}

    def train(self, stop: StopRequest) -> None:
        """Train to the end of the budget. On a signal: checkpoint, then Interrupted with the command that continues."""
        total, unit = (self.options.max_minutes * 60, "seconds") if self.options.max_minutes else (self.total_steps(), "steps")
        trackers = self.training.accelerator
        if self.options.trackers:
            trackers.init_trackers(self.run.folder.name, config=flat(self.recipe.resolved()))
        with Progress(self.run.folder.name, total, unit) as bar:
            self.show(bar, {})

            def on_step(row: dict[str, float]) -> bool:
                self.after_step(row, bar)
                return stop.signum is not None

            try:
                fit(self.training, self.feed, on_step)
            except TrainingError as error:
                raise TrainingError(self.explain(error), error.samples) from None
            finally:
                if self.options.trackers:
                    trackers.end_training()
        self.save()
        self.heed(stop)

    def explain(self, error: TrainingError) -> str:
        """What to tell of a loss or gradient that is not finite: where, with which rows, and how to go on."""
        rows = [self.source.row_number(i) for i in error.samples]
        # The checkpoint right before the failure holds the very weights that failed: perhaps they are broken already.
        good = checkpoint.newest(self.run.checkpoints, below=self.training.counters.step)
        how = f", which a new run carries on from with init={self.run.folder}" if good else ""
        return (
            f"{error}; its samples are the rows {rows} of {self.source}. Last good checkpoint: {good or 'none yet'}{how}. "
            "Lower train.lr or train.clip_norm, train with train.precision=fp32, or look at those samples"
        )

    def heed(self, stop: StopRequest) -> None:
        """Interrupted if a signal asked for it; call it when a checkpoint is written."""
        if stop.signum is not None:
            how = f"Continue with:\n  {self.run.resume_command}"
            raise Interrupted(f"stopped after step {self.saved}; a checkpoint is written. {how}", stop.signum)

    def total_steps(self) -> int:
        """Optimizer steps of the budget, where it counts steps or epochs."""
        options = self.options
        epochs = [round(options.max_epochs * len(self.source) / options.batch_size)] if options.max_epochs else []
        return min([*epochs, *([options.max_steps] if options.max_steps else [])])

    def after_step(self, row: dict[str, float], bar: Progress) -> None:
        """Whatever is due after a step: probe, log, checkpoint, and the bar."""
        step, done = self.training.counters.step, self.training.progress >= 1
        self.window.append(row)
        probe = self.evaluator is not None and self.evaluator.options.every and step % self.evaluator.options.every == 0
        if probe:
            self.probes = self.probe()
        if step % self.options.log_every == 0 or probe or done:
            self.log(self.probes if probe else {})
        if step % self.options.checkpoint_every == 0 and not done:
            self.save()
        self.show(bar, row)

    def show(self, bar: Progress, row: dict[str, float]) -> None:
        counters = self.training.counters
        metrics = {key: row[key] for key in ("loss", "lr") if key in row} | self.probes
        done = counters.seconds if bar.unit == "seconds" else counters.step
        bar.update(done, metrics=metrics, samples=counters.samples, skipped=counters.skipped)

    def log(self, extra: dict[str, float]) -> None:
        """A row of metrics.jsonl: means over the steps since the last one."""
        counters, options = self.training.counters, self.options
        rows, self.window = self.window, []
        means = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
        epoch = counters.step * options.batch_size / len(self.source)
        rate = len(rows) * options.batch_size / sum(row["step_seconds"] for row in rows)
        row = {"step": counters.step, "epoch": round(epoch, 4), "samples": counters.samples, "seconds": round(counters.seconds, 3)}
        means.pop("step_seconds")
        row |= means | {"samples_per_second": rate, "skipped": counters.skipped} | extra
        self.run.log(row)
        if options.trackers:
            self.training.accelerator.log(row, step=counters.step)

    def save(self) -> None:
        """Write a checkpoint, and drop those beyond `keep_last`."""
        step = self.training.counters.step
        if step != self.saved:
            unlogged = {"window": self.window, "skips": self.skips}
            checkpoint.save(checkpoint.step_path(self.run.checkpoints, step), self.training.state() | unlogged)
            self.saved = step
        checkpoint.prune(self.run.checkpoints, self.options.keep_last)

    def probe(self) -> dict[str, float]:
        """Scores of the model as it is now."""
        assert self.evaluator is not None
        return self.evaluator.score(self.training.published())

    def make_evaluator(self) -> Evaluator | None:
        """What scores the model, if the recipe has an `evaluate` section."""
        options = self.recipe.section("evaluate")
        if options is None:
            return None
        return Evaluator(options, self.data, self.pieces.processor, self.pieces.objective.model.config, rows=self.rows)

    def finish(self, stop: StopRequest) -> None:
        """Score the model, publish it, write the report. Interrupted on a signal that came while it was scored."""
        model = self.training.published().eval()
        table = self.evaluator.table(model) if self.evaluator else None
        self.heed(stop)
        if table is not None:
            checkpoint.write_json_atomic(self.run.table_file, table.to_dict())
            table.print()
        self.publish(table)
        counters = self.training.counters
        facts = {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "steps": counters.step,
            "samples": counters.samples,
            "minutes": round(counters.seconds / 60, 2),
            "skipped": counters.skipped,
            "skipped_messages": self.skips,
        }
        record = self.run.read_record()
        write_report(
            self.run.folder,
            recipe_yaml=self.recipe.to_yaml(),
            table=table,
            figures=self.pictures(),
            metrics=self.run.rows(),
            facts=facts | {key: record[key] for key in ("command", "commit", "hardware", "versions", "started")},
        )
        self.run.record(finished=now(), **facts)
        print(f"model:  {self.run.model_folder}\nreport: {self.run.report_file}")

    def publish(self, table: Table | None) -> None:
        """Write the Hugging Face folder: weights as safetensors, configuration, processor, card."""
        model, record = self.training.published(), self.run.read_record()

        def write(folder: Path) -> None:
            with no_shard_bar():
                model.save_pretrained(folder)
            self.pieces.processor.save_pretrained(folder)
            card = model_card(
                name=self.run.folder.name,
                modalities=list(self.recipe.modalities),
                table=table,
                record=record,
                recipe_yaml=self.recipe.to_yaml(),
            )
            (folder / "README.md").write_text(card, encoding="utf-8")

        replace_folder(self.run.model_folder, write)

    def pictures(self) -> dict[str, Any]:
        """The objective's pictures of the first samples."""
        first = next(batches(self.source, self.modalities(), PICTURED, labels=self.labels, on_error=self.data.on_error))
        self.training.objective.eval()
        return self.training.objective.pictures(first.to(self.training.device))


def replace_folder(folder: Path, write: Callable[[Path], Any]) -> None:
    """Let `write` fill a new folder, then put it in the place of `folder`: a kill leaves the old one or the new one."""
    part = folder.with_name(f".{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    write(part)
    shutil.rmtree(folder, ignore_errors=True)
    part.rename(folder)


@contextmanager
def no_shard_bar() -> Iterator[None]:
    """Keep transformers' own progress bar off the screen."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys and values that every tracker takes."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: str(value)}
    return out
