"""One recipe from raw data to a Hugging Face model: open the run, build, train, publish, evaluate, report."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TypeVar

from mmssl import files
from mmssl.data import processes, silent
from mmssl.data.options import ONLY, Rows
from mmssl.data.processes import OtherFailed
from mmssl.evaluation import PairEvaluator
from mmssl.evaluation.history import History
from mmssl.modality import Content
from mmssl.model import MMSSLModel, load_model
from mmssl.model.adaptation import is_adapted, restore_adapter
from mmssl.objectives import Objective
from mmssl.processor import MMSSLProcessor
from mmssl.recipe import Recipe
from mmssl.report import contents, verdict
from mmssl.training import checkpoint
from mmssl.training.build import Pieces, build, contents_of, cut_stream
from mmssl.training.convert import describe
from mmssl.training.ending import Ending, Scorer, restore_projectors
from mmssl.training.feed import Feed
from mmssl.training.launch import check_alike, check_trackers, start
from mmssl.training.loop import Made, Training, TrainingError, load_weights, run_steps
from mmssl.training.measured import Measured
from mmssl.training.pictures import Samples, pictures_of
from mmssl.training.progress import Progress, track
from mmssl.training.run import (
    Interrupted,
    Run,
    StopRequest,
    check_run_to_continue,
    check_seen,
    now,
    open_together,
    stop_on_signals,
    told,
    unfinished,
)
from mmssl.training.same_data import Reads, begun, check_same
from mmssl.training.saving import Saver
from mmssl.training.scoring import evaluator_of, scores_of
from mmssl.training.splits import open_pair_scores, open_splits
from mmssl.training.start import run_to_continue

T = TypeVar("T")


def say(text: str) -> None:
    """Print, once for all processes."""
    if processes.is_first():
        print(text)


def pretrain(recipe: Recipe, rows: Rows | None = None) -> Run:
    """Run a recipe to its end, or continue it; returns the run.

    rows: data in memory in place of `data.path`, or by source in place of the paths of `data.sources`.
    A run that is trained already, but not scored, is scored: nothing is trained again.
    Of several processes (see `mmssl.training.launch`) the first one writes, scores and reports; all return the run.
    Interrupted on SIGINT or SIGTERM, after a checkpoint; TrainingError if the loss is not finite; NotScored if something fails when
    the model is published; OtherFailed where another process failed. Other errors that end the training say in a note how to go on.
    """
    start(recipe.section("train").timeout)
    with ExitStack() as stack:
        stack.enter_context(processes.one_for_all())
        check_alike(recipe)
        processes.together(lambda: check_trackers(recipe.section("train").trackers))
        left = processes.by_first(lambda: unfinished(recipe))
        run, record = open_together(recipe, stack)
        if left is not None:
            say(left)
        with run.dropped_if_useless():
            processes.together(lambda: check_seen(run, record))
        if processes.world() > 1:
            machines = run.read_record().get("machines", 1)
            say(f"{processes.world()} processes on {machines} machine{'s' * (machines > 1)} share each step")
        finished, trained = processes.by_first(lambda: (run.finished, run.trained))
        if finished:
            say(f"{run.folder} is finished; its model is {run.model_folder}. For another run leave resume=auto out.")
            return run
        if trained:
            say(f"{run.folder} is trained; its model is {run.model_folder}. It is scored now, and the report is written")
        try:
            with run.dropped_if_useless(), run.after_training("scored") if trained else nullcontext():
                session = Session(recipe, run, rows, trained=trained)
                stop = stack.enter_context(stop_on_signals())
                if not trained:
                    session.train(stop)
            session.finish(stop)
        except KeyboardInterrupt as stopped:
            if trained or checkpoint.has_complete(run.checkpoints):
                stopped.add_note(f"stopped at once. Continue with:\n  {run.resume_command}")
            raise
    return run


@contextmanager
def rehearsal(recipe: Recipe) -> Iterator[tuple["Session", list[str]]]:
    """The session that `pretrain` would train, in a folder that goes away again, and what it tells: it refuses what a run does."""
    check_trackers(recipe.section("train").trackers)
    Run.to_resume(recipe, recipe.resume)
    told: list[str] = []
    with TemporaryDirectory(prefix="mmssl-check-") as folder:
        yield Session(recipe, Run.start(Path(folder, "run"), recipe), None, tell=told.append), told


class Session:
    """A run at work: what it trains, on what, and where it writes.

    What a run refuses before its first step is refused when its session is made: `mmssl check` makes one too, see `rehearsal`.
    tell: how a user is told what should be known.
    """

    def __init__(
        self, recipe: Recipe, run: Run, rows: Rows | None, *, trained: bool = False, tell: Callable[[str], None] = say
    ) -> None:
        self.recipe, self.run, self.trained, self.tell = recipe, run, trained, tell
        self.options, self.data, self.seed = recipe.section("train"), recipe.section("data"), recipe.section("run").seed
        self.track = track if processes.is_first() else silent
        if rows is not None:
            run.record(rows_in_memory=True)
        if processes.by_first(lambda: not checkpoint.has_complete(run.checkpoints)):
            check_run_to_continue(recipe)
        known = processes.by_first(lambda: begun(run))
        splits = processes.together(lambda: open_splits(recipe, rows, known), first_before=True)
        self.streams, self.labels, self.history = splits.streams, splits.labels, splits.history
        self.notes = (*recipe.notes, *splits.notes)
        for note in self.notes:
            tell(f"note: {note}")
        self.pieces = processes.together(self.build, first_before=True)
        self.odd: tuple[str, ...] = ()
        self.seen: dict[str, dict[str, list[Content]]] = {}
        self.contents = self.look_at_samples() if processes.is_first() else {}
        self.uncut = self.streams
        self.streams = {name: cut_stream(stream, self.pieces.processor, self.track) for name, stream in self.streams.items()}
        if trained:  # it reads them no more, and may be scored on data that were mended since
            self.history = History.read(run.folder)
        else:
            check_same(run, Reads(self.streams, self.labels, self.history, self.contents))
        self.training = self.make_training()
        if not trained:
            run.record(model=describe(self.pieces.objective))
        self.feed = self.opened_feed()
        self.training.steps_per_epoch = self.feed.steps_per_epoch
        self.measured = Measured(self.training, self.streams)
        self.probes: dict[str, float] = {}
        self.shown: dict[str, float] = {}
        self.saver = Saver(
            run.checkpoints, keep=self.options.keep_last, beside=self.options.async_save, timeout=self.options.timeout
        )
        self.saved: int | None = None
        self.can_draw, self.untold = True, set[str]()
        self.restore()
        self.evaluators = {
            name: evaluator_of(scored, self.pieces, self.history, self.track, tell) for name, scored in splits.scored.items()
        }
        self.pair_evaluators = processes.together(lambda: self.open_pair_scores(rows), first_before=True)

    def make_training(self) -> Training:
        """The objective with its optimizer."""
        objective, brought = self.pieces.objective, self.pieces.brought
        return Training(objective, self.options, brought=brought, project_dir=str(self.run.folder), shard=not self.trained)

    def opened_feed(self) -> Feed:
        """What the run reads; the first process counts tokens, where they are, and needs a whole model for that."""
        if self.options.batch_tokens is None or not self.training.strategy.sharded:
            return processes.together(self.make_feed, first_before=True)
        with self.training.strategy.whole() as objective:
            return processes.together(lambda: self.make_feed(objective), first_before=True)

    def make_feed(self, whole: Objective | None = None) -> Feed:
        """What the run reads. whole: the objective, where that of the training is sharded."""
        training, processor = self.training, self.pieces.processor
        model = None if whole is None else whole.model
        return Feed(self.recipe, self.streams, processor, training, self.labels, self.run.folder, self.track, model)

    def build(self) -> Pieces:
        """Processor and objective; the fitted processor is kept with the run, so that resuming fits nothing anew."""
        kept = self.run.folder / "processor"
        before = run_to_continue(self.recipe)
        known = kept if kept.exists() else before / "processor" if before else None
        fitted = MMSSLProcessor.from_pretrained(known) if known else None
        pieces = build(self.recipe, self.streams, self.labels, fitted, track=self.track)
        for note in pieces.notes:
            self.tell(note)
        if not kept.exists():
            with files.new_folder(kept) as folder:
                pieces.processor.save_pretrained(folder)
        return pieces

    def look_at_samples(self) -> dict[str, list[dict[str, Any]]]:
        """What the samples hold, by modality (and source, of several), as JSON values; what looks odd is told and noted."""
        found = self.seen = {name: contents_of(stream, self.pieces.processor, track) for name, stream in self.streams.items()}
        self.odd = tuple(
            dict.fromkeys(note for parts in found.values() for told in parts.values() for note in contents.notes(told))
        )
        for note in self.odd:
            self.tell(f"note: {note}")
        self.notes = tuple(dict.fromkeys((*self.notes, *self.odd)))
        several = len(found) > 1
        return {
            f"{source}: {name}" if several and source != name else name: [contents.record(content) for content in told]
            for source, parts in found.items()
            for name, told in parts.items()
            if told
        }

    def restore(self) -> None:
        """Continue from the run's newest checkpoint, or from that of the run which `init` names."""
        newest, before = self.newest(self.run.checkpoints), run_to_continue(self.recipe)
        if newest:
            state = self.read(newest)
            self.training.restore(state)
            self.feed.restore(state["feed"])
            self.measured.restore(state)
            self.saved = self.training.counters.step
            say(f"continuing from {newest}, step {self.saved}")
        elif self.trained:
            if is_adapted(self.training.published()):
                restore_adapter(self.training.published(), self.run.adapter_folder)
            else:
                load_weights(self.training.published(), load_model(str(self.run.model_folder)).state_dict())
            restore_projectors(self.training.objective, self.run)
            self.can_draw = False  # the other heads of the objective are gone with the checkpoints
            return
        elif before:
            self.continue_from(before)
        self.run.truncate(self.training.counters.step)
        self.run.record(flags=self.measured.flags())

    def newest(self, folder: Path) -> Path | None:
        """The newest good checkpoint, as the first process finds it; in the run's own folder the others are pruned.

        ValueError if there are some, and none is good: training would begin anew, and drop what was measured.
        """

        def found() -> str | None:
            if folder == self.run.checkpoints:
                checkpoint.prune(folder, self.options.keep_last)
            newest = checkpoint.newest(folder)
            if newest is None and checkpoint.has_any(folder):
                raise ValueError(
                    f"no checkpoint in {folder} is good, and what is wrong with each is told above. Restore one of them; or remove "
                    "that folder, and training begins at step 0"
                )
            return str(newest) if newest else None

        path = processes.by_first(found)
        return Path(path) if path else None

    def read(self, path: Path) -> dict[str, Any]:
        """A checkpoint that was found good; of one of many processes each reads what it needs of it."""
        return checkpoint.opened(path) if self.training.strategy.in_pieces else checkpoint.load(path)

    def continue_from(self, before: Path) -> None:
        """Start with the weights, the optimizer and the counters of another run. ValueError if the budget is used up already."""
        newest = self.newest(before / "checkpoints")
        if newest is None:
            raise FileNotFoundError(f"init: {before} is a run without a complete checkpoint; give a model folder, or another run")
        state = self.read(newest)
        self.training.restore(state)
        step = self.training.counters.step
        self.feed.continue_from(state["feed"])
        self.measured.samples_logged = self.training.counters.samples
        if self.training.progress >= 1:
            raise ValueError(
                f"init: {before} has made {step} steps, and the budget of this recipe counts them: nothing is left to train. "
                f"Raise train.max_steps (or max_epochs, max_minutes), or start from its model: init={before / 'model'}"
            )
        say(f"carrying on from {newest}, step {step}")

    def train(self, stop: StopRequest) -> None:
        """Train to the end of the budget. On a signal: checkpoint, then Interrupted with the command that continues."""
        self.tell_micro_batches()
        total, unit = (self.options.max_minutes * 60, "seconds") if self.options.max_minutes else (self.total_steps(), "steps")
        trackers = self.training.accelerator
        if self.options.trackers:
            trackers.init_trackers(self.run.folder.name, config=flat(self.recipe.resolved()))
        with Progress(self.run.folder.name, total, unit) if processes.is_first() else nullcontext() as bar:
            self.show_progress(bar, {})

            def on_step(made: Made) -> bool:
                self.after_step(made, bar)
                return stop.signum is not None or self.saver.failed

            try:
                with (
                    self.run.telling_how_to_go_on(unless=TrainingError),
                    self.saver.finishing(),
                    processes.naming_the_lost(self.at_step),
                ):
                    try:
                        run_steps(self.training, iter(self.feed), on_step)
                        self.save(bar)
                        self.saver.settle()
                    except Exception as error:
                        self.save_what_was_done(error, bar)
                        raise
            except TrainingError as error:
                if not processes.is_first():
                    raise OtherFailed(str(error)) from error
                raise TrainingError(self.explain(error), error.samples) from None
            finally:
                if self.options.trackers:
                    trackers.end_training()
        self.stop_if_asked(stop)

    def at_step(self) -> str:
        """Where training is, for a message."""
        return f" (step {self.training.counters.step + 1})"

    def save_what_was_done(self, error: Exception, bar: Progress | None) -> None:
        """Where reading fails nothing of that step was trained on: a checkpoint keeps all before it."""
        if not self.training.reading_failed or not self.training.counters.step:
            return
        with suppress(OSError):  # then the last checkpoint is an earlier one
            self.save(bar)
        if isinstance(error, ValueError) and self.data.on_error == "raise":
            error.add_note("Mend the data, or leave out what cannot be read with data.on_error=skip")

    def tell_micro_batches(self) -> None:
        """Say which parts of the objective are about the samples of a micro-batch, where a step has several."""
        parts, options = self.pieces.objective.over_batch, self.options
        if parts and options.accumulation > 1:
            size = "" if options.batch_tokens else f" of {options.batch_size // options.accumulation} samples"
            say(
                f"note: {', '.join(parts)} compare samples with each other: with train.accumulation={options.accumulation} "
                f"those of each micro-batch{size}, not of the whole step"
            )

    def explain(self, error: TrainingError) -> str:
        """What to tell of a loss or gradient that is not finite: where, with which rows, and how to go on."""
        source = self.streams[self.feed.current].source
        rows = [source.row_number(i) for i in error.samples]
        # The checkpoint right before the failure holds the very weights that failed: perhaps they are broken already.
        good = checkpoint.newest(self.run.checkpoints, below=self.training.counters.step)
        how = f", which a new run carries on from with init={self.run.folder}" if good else ""
        return (
            f"{error}; its samples are the rows {rows} of {source}. Last good checkpoint: {good or 'none yet'}{how}. "
            "Lower train.lr or train.clip_norm, train with train.precision=fp32, or look at those samples"
        )

    def stop_if_asked(self, stop: StopRequest) -> None:
        """Interrupted if a signal asked a process for it; call it when a checkpoint is written."""
        stop.signum = max(processes.gathered(stop.signum or 0)) or None
        if stop.signum is not None:
            how = f"Continue with:\n  {self.run.resume_command}"
            raise Interrupted(f"stopped after step {self.saved}; a checkpoint is written. {how}", stop.signum)

    def total_steps(self) -> int:
        """Optimizer steps of the budget, where it counts steps or epochs."""
        options = self.options
        epochs = [round(options.max_epochs * self.training.steps_per_epoch)] if options.max_epochs else []
        return min([*epochs, *([options.max_steps] if options.max_steps else [])])

    def after_step(self, made: Made, bar: Progress | None) -> None:
        """Whatever is due after a step: probe, log, checkpoint, and the bar."""
        step, done = made.clock.step, self.training.progress >= 1
        self.measured.unread.append((self.feed.current, made))
        every = max((evaluator.options.every for _, evaluator in self.every_evaluator), default=0)
        probe, save = every > 0 and step % every == 0, step % self.options.checkpoint_every == 0 and not done
        log = step % self.options.log_every == 0 or probe or done
        row = self.read_measured(bar) if log or save or not self.measured.can_wait else {}
        self.feed.learn(row["loss"] if len(self.streams) > 1 else 0.0)  # of one source there is nothing to learn
        if probe:
            self.probes = self.probe()
        if log:
            self.log(self.probes if probe else {})
        if save:
            self.save(bar)
        self.show_progress(bar, row)

    def read_measured(self, bar: Progress | None) -> dict[str, float]:
        """Read what was measured; the last row. Signs that the run goes wrong are told once: on the screen and in run.json."""
        rows, raised = self.measured.read()
        for flag in raised:
            if bar is not None:
                bar.message(f"warning: {flag.name} at step {flag.step}: {flag.message}")
        if raised:
            self.run.record(flags=self.measured.flags())
        return rows[-1] if rows else {}

    def show_progress(self, bar: Progress | None, row: dict[str, float]) -> None:
        if bar is None:
            return
        counters = self.training.counters
        self.shown = {key: row[key] for key in ("loss", "lr") if key in row} or self.shown
        metrics = self.shown | self.probes
        done = counters.seconds if bar.unit == "seconds" else counters.step
        bar.update(done, metrics=metrics, samples=counters.samples, skipped=counters.skipped)

    def log(self, extra: dict[str, float]) -> None:
        """A row of metrics.jsonl: means over the steps since the last one."""
        row = self.measured.row() | extra
        if flags := self.measured.flags():
            row["flags"] = ", ".join(dict.fromkeys(flag["name"] for flag in flags))
        self.run.log(row)
        if self.options.trackers:
            self.training.accelerator.log(row, step=self.training.counters.step)

    def save(self, bar: Progress | None) -> None:
        """Let a checkpoint be written, and those beyond `keep_last` be dropped. What is not finite never is: TrainingError."""
        step = self.training.counters.step
        self.read_measured(bar)
        if step != self.saved:
            self.saver.save(step, self.state, in_pieces=self.training.strategy.in_pieces)
            self.saved = step

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        self.feed.share_skips()
        return self.training.state() | self.measured.state() | {"feed": self.feed.state()}

    @property
    def every_evaluator(self) -> list[tuple[str, Scorer]]:
        """All that scores the model, by name."""
        return [*self.evaluators.items(), *self.pair_evaluators.items()]

    def probe(self) -> dict[str, float]:
        """Scores of the model as it is now; those of several sources carry their names.

        Where something fails that is told: scores on the way are no reason to end a run.
        """
        return self.with_whole(self.scores)

    def with_whole(self, work: Callable[[Objective], T]) -> T:
        """What `work` finds with the whole objective, a JSON value: all processes share in it, or where the model is sharded the
        first one does it alone, with a copy that the others help to put together, tensor by tensor."""
        with self.training.strategy.whole() as objective:
            if not self.training.strategy.sharded:
                assert objective is not None
                return work(objective)

            def found() -> T:
                assert objective is not None
                with processes.alone():
                    return work(objective)

            return processes.by_first(found)

    def scores(self, objective: Objective) -> dict[str, float]:
        """Scores of the model of an objective, by name."""
        return scores_of(objective.published(), self.every_evaluator, self.tell_not_scored)

    def tell_not_scored(self, text: str) -> None:
        """Warn, once, that scores are missing."""
        if text not in self.untold:
            say(f"warning: no scores at step {self.training.counters.step}: {text}. Training goes on; mend it before it ends")
        self.untold.add(text)

    def open_pair_scores(self, rows: Rows | None) -> dict[str, PairEvaluator]:
        """What scores the model by pairs."""
        return open_pair_scores(self.recipe, self.streams, rows, self.history, self.pieces, self.track)

    def finish(self, stop: StopRequest) -> None:
        """Publish the model, then score it, then draw the report. Interrupted on a signal that came while it was scored.

        NotScored if scoring or the report fails: the model is there.
        """
        if not self.training.strategy.sharded:
            self.end(self.training.objective, stop)
            return
        with self.run.after_training("scored") if not processes.is_first() else nullcontext():
            self.with_whole(lambda objective: self.end(objective, stop))

    def end(self, objective: Objective, stop: StopRequest) -> None:
        """As `finish`, with the whole objective."""
        model = objective.published().eval()
        own = (self.recipe, self.run, model, self.pieces.processor, self.history)
        kind = objective.networks.publishes(objective.publish)
        ending = Ending(*own, objective.headed(), kind)
        if not self.trained:

            def publish() -> None:
                ending.publish()
                self.run.record(trained=now(), published=kind, **self.facts(model))

            with self.run.telling_how_to_go_on(unless=TrainingError):
                processes.by_first(publish)
        with self.run.after_training("scored"):
            tables = ending.score(dict(self.every_evaluator), lambda: self.stop_if_asked(stop))
        with self.run.after_training("reported"):
            processes.by_first(lambda: ending.report(tables, self.pictures(objective), self.notes, print))
        say(verdict(tables, self.measured.flags()).beside(tables))
        say(f"model:  {self.run.model_folder}\nreport: {self.run.report_file}")

    def facts(self, model: MMSSLModel) -> dict[str, Any]:
        """What the training came to; model: that it publishes."""
        counters = self.training.counters
        return {
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "steps": counters.step,
            "samples": counters.samples,
            "minutes": round(counters.seconds / 60, 2),
            "skipped": counters.skipped,
            "skipped_messages": self.feed.skips,
            "flags": self.measured.flags(),
        }

    def pictures(self, whole: Objective) -> dict[str, Any]:
        """Pictures of every source. Whatever fails there is told, and leaves a picture out."""
        objective, found = whole.eval() if self.can_draw else None, dict[str, Any]()
        if objective is None:
            print(f"the report has no pictures of the training: {self.run.checkpoints} has no checkpoint any more")
        for name, stream in self.streams.items():
            samples = Samples(stream, self.pieces.processor, self.labels, self.data.on_error)
            scored = [evaluator for key, evaluator in self.evaluators.items() if key in (name, ONLY)]
            try:
                found.update(pictures_of(samples, objective, whole.published(), scored))
            except Exception as error:
                print(f"the report has no pictures of {stream.source}: {told(error)}")
        return found


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Dotted keys and values that every tracker takes."""
    out: dict[str, Any] = {}
    for key, value in tree.items():
        out |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: str(value)}
    return out
