"""What comes after training: the model is published, then scored, then the report is drawn, so that none is lost with the next."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch import nn

from mmssl import files
from mmssl.data import processes
from mmssl.data.options import ONLY
from mmssl.evaluation import DenseEvaluator, Evaluator, ForecastEvaluator, Judged, PairEvaluator, Shown
from mmssl.evaluation.history import History
from mmssl.model import MMSSLModel, faced, no_weights_bar, without_deepspeed
from mmssl.model.adaptation import merged, save_adapter
from mmssl.model.auto import write_auto_files
from mmssl.model.heads import read_projectors, write_projectors
from mmssl.model.model import PROJECTOR
from mmssl.model.needed import write_needed
from mmssl.model.public import saved_processor
from mmssl.model.sentence import write_sentence_files
from mmssl.objectives import Objective
from mmssl.processor import MMSSLProcessor
from mmssl.recipe import Recipe
from mmssl.report import judged_figures, model_card, write_report
from mmssl.training.run import Run, now

FROM_RECORD = (
    *("parameters", "steps", "samples", "minutes", "skipped", "skipped_messages", "flags"),
    *("command", "commit", "hardware", "versions", "started"),
)
"""What the report says of a run beside its scores and pictures."""

Scorer = Evaluator | ForecastEvaluator | DenseEvaluator | PairEvaluator


def projectors_of(headed: MMSSLModel) -> nn.ModuleDict:
    """The projectors of a model that has them, by modality."""
    return cast(nn.ModuleDict, cast(nn.ModuleDict, headed.heads)[PROJECTOR])


def restore_projectors(objective: Objective, run: Run) -> None:
    """Give an objective the projectors that a trained run has kept, where its checkpoints are gone."""
    headed = objective.headed()
    if headed is not None and run.projector_file.exists():
        projectors_of(headed).load_state_dict(read_projectors(run.projector_file).state_dict())


def check_headed(objective: Objective) -> None:
    """ValueError if there is no projector for `evaluate.heads` to look behind."""
    if objective.headed() is None:
        raise ValueError(
            "evaluate.heads: this objective has no projector, so nothing lies behind it. Leave evaluate.heads out; contrast, "
            "distill and clip have one if objective.projector.layers is above 0 and a loss compares projections"
        )


class Ending:
    """The model of a trained run on its way to people. headed: the same with its projector, if there is one.

    kind: student, teacher or average, as the model and its card say.
    """

    def __init__(
        self,
        recipe: Recipe,
        run: Run,
        model: MMSSLModel,
        processor: MMSSLProcessor,
        history: History,
        headed: MMSSLModel | None = None,
        kind: str | None = None,
    ) -> None:
        self.recipe, self.run, self.processor, self.history = recipe, run, processor, history
        self.model = merged(model)
        self.kind = kind
        self.adapted = None if self.model is model else model
        self.headed = headed
        self.judged: dict[str, Judged] = {}

    def publish(self) -> None:
        """Write the Hugging Face folder: weights as safetensors, configuration, processor, and a card, still without scores.

        A projector that is not part of the model stays in the run, beside it. Of a model with adapters the weights hold what these
        learned, and the adapters alone are a PEFT folder of the run.
        """
        if self.headed is not None and PROJECTOR not in dict(self.model.heads or {}):
            write_projectors(self.run.projector_file, projectors_of(self.headed))
        if self.adapted is not None:
            with files.new_folder(self.run.adapter_folder) as folder:
                self.save_adapter(self.adapted, folder)
        self.write_model(self.run.model_folder)

    def write_model(self, path: Path) -> None:
        """The Hugging Face folder alone."""
        with files.new_folder(path) as folder:
            with no_weights_bar(), without_deepspeed():
                self.model.config.published = self.kind
                faced(self.model).save_pretrained(folder)
            self.processor.save_pretrained(folder)
            write_sentence_files(folder, self.processor.processors)
            write_auto_files(folder, self.processor)
            write_needed(folder, self.model.config)
            self.history.write(folder)
            (folder / "README.md").write_text(self.card([]), encoding="utf-8")

    def save_adapter(self, adapted: MMSSLModel, folder: Path) -> None:
        """Write what was learned beside the weights of the model that `init` names."""
        base = self.recipe.init
        assert base is not None, "adapters have a base"
        known = saved_processor(base, list(self.recipe.modalities)).processors
        fresh = tuple(name for name in self.recipe.modalities if name not in known)
        save_adapter(faced(adapted), self.recipe.section("peft"), base, folder, fresh=fresh)
        self.processor.save_pretrained(folder)
        self.history.write(folder)

    def score(self, evaluators: Mapping[str, Scorer], then: Callable[[], None]) -> list[Shown]:
        """Score the model on every source, by all processes; the first prints the tables and puts them into the run and the card.

        The run's file holds the table of one probe as it is, and several tables by their names.
        then: called between scoring and writing; it may raise.
        """
        tables: dict[str, Shown] = {name: evaluator.table(self.as_asked(evaluator)) for name, evaluator in evaluators.items()}
        then()
        if not processes.is_first():
            return list(tables.values())
        own = {name: each.judged for name, each in evaluators.items() if not isinstance(each, PairEvaluator)}
        judged = {name: found for name, found in own.items() if found is not None}
        if judged:
            self.run.record(judged={name: found.to_dict() for name, found in judged.items()})
            self.judged = judged
        if tables:
            written = {name: table.to_dict() for name, table in tables.items()}
            files.write_json(self.run.table_file, written[ONLY] if list(written) == [ONLY] else written)
            files.sweep(self.run.model_folder, "README.md")
            files.write_text(self.run.model_folder / "README.md", self.card(list(tables.values())))
        for table in tables.values():
            table.print()
        return list(tables.values())

    def as_asked(self, evaluator: Scorer) -> MMSSLModel:
        """The model as it is to be scored: with its projector where a row is about that."""
        with_heads = isinstance(evaluator, Evaluator) and evaluator.options.heads
        return self.headed if with_heads and self.headed is not None else self.model

    def report(
        self, tables: Sequence[Shown], figures: Mapping[str, Any], notes: Sequence[str], tell: Callable[[str], object]
    ) -> None:
        """Write the report; the run is then finished. tell: hears of what could not be drawn."""
        record = self.run.read_record()
        write_report(
            self.run.folder,
            recipe_yaml=self.recipe.to_yaml(),
            tables=tables,
            figures={**judged_figures(self.judged), **figures},
            metrics=self.run.rows(),
            facts={key: record[key] for key in FROM_RECORD} | {"notes": list(notes), "contents": record.get("contents", {})},
            tell=tell,
        )
        self.run.record(finished=now(), notes=list(notes))

    def card(self, tables: Sequence[Shown]) -> str:
        """The card of the model, with the scores that there are."""
        return model_card(
            name=self.run.folder.name,
            modalities=list(self.recipe.modalities),
            tables=tables,
            record=self.run.read_record(),
            recipe_yaml=self.recipe.to_yaml(),
            head=None if self.model.config.label_head is None else self.model.label_head,
            judged=list(self.judged.values()),
            kind=self.kind,
        )
