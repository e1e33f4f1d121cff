"""What comes after training: the model is published, then scored, then the report is drawn, so that none is lost with the next."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mmssl import files
from mmssl.data import processes
from mmssl.data.options import ONLY
from mmssl.evaluation import Evaluator, PairEvaluator, Shown
from mmssl.evaluation.history import History
from mmssl.model import MMSSLModel, no_weights_bar
from mmssl.model.sentence import write_sentence_files
from mmssl.processor import MMSSLProcessor
from mmssl.recipe import Recipe
from mmssl.report import model_card, write_report
from mmssl.training.run import Run, now

FROM_RECORD = (
    *("parameters", "steps", "samples", "minutes", "skipped", "skipped_messages", "flags"),
    *("command", "commit", "hardware", "versions", "started"),
)
"""What the report says of a run beside its scores and pictures."""


class Ending:
    """The model of a trained run on its way to people."""

    def __init__(self, recipe: Recipe, run: Run, model: MMSSLModel, processor: MMSSLProcessor, history: History) -> None:
        self.recipe, self.run, self.model, self.processor, self.history = recipe, run, model, processor, history

    def publish(self) -> None:
        """Write the Hugging Face folder: weights as safetensors, configuration, processor, and a card, still without scores."""
        with files.new_folder(self.run.model_folder) as folder:
            with no_weights_bar():
                self.model.save_pretrained(folder)
            self.processor.save_pretrained(folder)
            write_sentence_files(folder, self.processor.processors)
            self.history.write(folder)
            (folder / "README.md").write_text(self.card([]), encoding="utf-8")

    def score(self, evaluators: Mapping[str, Evaluator | PairEvaluator], then: Callable[[], None]) -> list[Shown]:
        """Score the model on every source, by all processes; the first prints the tables and puts them into the run and the card.

        The run's file holds the table of one probe as it is, and several tables by their names.
        then: called between scoring and writing; it may raise.
        """
        tables: dict[str, Shown] = {name: evaluator.table(self.model) for name, evaluator in evaluators.items()}
        then()
        if not processes.is_first():
            return list(tables.values())
        if tables:
            written = {name: table.to_dict() for name, table in tables.items()}
            files.write_json(self.run.table_file, written[ONLY] if list(written) == [ONLY] else written)
            files.sweep(self.run.model_folder, "README.md")
            files.write_text(self.run.model_folder / "README.md", self.card(list(tables.values())))
        for table in tables.values():
            table.print()
        return list(tables.values())

    def report(
        self, tables: Sequence[Shown], figures: Mapping[str, Any], notes: Sequence[str], tell: Callable[[str], object]
    ) -> None:
        """Write the report; the run is then finished. tell: hears of what could not be drawn."""
        record = self.run.read_record()
        write_report(
            self.run.folder,
            recipe_yaml=self.recipe.to_yaml(),
            tables=tables,
            figures=figures,
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
        )
