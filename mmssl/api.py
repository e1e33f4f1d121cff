"""The Python face of the commands: `mmssl.train`, `mmssl.evaluate`, `mmssl.embed`, `mmssl.search`, `mmssl.check`."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mmssl.data import DataOptions, Labels, Source, Track, processes, silent
from mmssl.data.dense import DENSE
from mmssl.data.forecast import NEXT
from mmssl.data.labels import Kind
from mmssl.data.options import Rows
from mmssl.data.source import OnError
from mmssl.data.table_format import PLAIN, TableFormat
from mmssl.evaluation import (
    DenseEvaluator,
    EvaluateOptions,
    Evaluator,
    ForecastEvaluator,
    ForecastTable,
    Judged,
    PairEvaluator,
    PairTable,
    Table,
    ZeroShotOptions,
    choose_modality,
    dense_file,
    forecast_file,
    labels_places,
    open_pairs,
    open_sources,
    predictions,
    vectors,
)
from mmssl.evaluation.embedding import Embedding
from mmssl.evaluation.history import History
from mmssl.evaluation.judged import unlike
from mmssl.evaluation.nearest import Kind as SearchKind
from mmssl.evaluation.parts import Parts
from mmssl.evaluation.readout import LAST, Readout, layers_of
from mmssl.evaluation.search import Hits, Query, Search
from mmssl.evaluation.spaces import refuse_open_clip
from mmssl.evaluation.stamp import Stamp
from mmssl.model import MMSSLModel, load_model, load_predictor
from mmssl.model.heads import read_projectors
from mmssl.model.loading import model_of
from mmssl.model.model import PROJECTOR, with_projectors
from mmssl.model.public import saved_processor
from mmssl.processor import MMSSLProcessor
from mmssl.recipe import recipe as recipes
from mmssl.report.hits import PAGE, write_hits
from mmssl.training.beginning import estimate, look, write
from mmssl.training.checking import content_lines, summary
from mmssl.training.launch import TIMEOUT, joined, start
from mmssl.training.progress import track
from mmssl.training.run import Run
from mmssl.training.session import pretrain, rehearsal
from mmssl.training.sizing.cost import sized
from mmssl.training.sizing.devices import fleet
from mmssl.training.sizing.lines import report
from mmssl.training.sizing.verdict import check_divides

logger = logging.getLogger(__name__)

RecipeLike = str | Path | Mapping[str, Any]
Overrides = Mapping[str, Any] | Sequence[str]


def train(recipe: RecipeLike, overrides: Overrides = (), *, rows: Rows | None = None, **sections: Any) -> Run:
    """Run a recipe; returns the run, whose `model_folder`, `report_file` and `table_file` say where things are.

    recipe: a file, the name of a recipe that comes with mmssl, or the recipe as a dict.
    overrides: texts `train.lr=1e-3`, or a dict with dotted keys; sections: `train={"lr": 1e-3}`, merged into the recipe.
    rows: data in memory in place of `data.path`, or by source in place of the paths of `data.sources`.

    RecipeError (a ValueError) for a recipe that is wrong; see `mmssl.training.session.pretrain` for the rest.
    """
    return pretrain(joined(lambda: read(recipe, overrides, sections, rows)), rows)


def read(recipe: RecipeLike, overrides: Overrides, sections: Mapping[str, Any], rows: Rows | None = None) -> recipes.Recipe:
    """A checked recipe with the overrides of both kinds. rows: data in memory."""
    if isinstance(overrides, Mapping):
        return recipes.load(recipe, {**overrides, **sections}, rows)
    if sections and overrides:
        raise TypeError("give overrides as texts, or as keyword arguments, not both")
    return recipes.load(recipe, sections or overrides, rows)


@dataclass(frozen=True)
class New:
    """A recipe that was written for somebody's data. lines: what they hold, and how long it trains."""

    recipe: recipes.Recipe
    lines: tuple[str, ...]


def new(
    data: str,
    output: str | Path = "recipe.yaml",
    *,
    modality: str | Sequence[str] = (),
    label: str | None = None,
    table_format: TableFormat = PLAIN,
    overrides: Sequence[str] = (),
) -> New:
    """Look at data, write the starter recipe that suits them, every value with its reason, and time a few steps of it.

    data: as `data.path` of a recipe. modality: what they are to be read as, one or a pair; needed where several are
        as likely.
    label: the column of labels, to score by; None: that which the data know, or a column that is called so.

    overrides: texts `key=value` for keys of the starter recipe.

    FileExistsError if there is an `output`; ValueError that asks for what the data do not say.
    """
    if Path(output).exists():
        raise FileExistsError(f"{output} is there already: give another --output, or remove it")
    names = [modality] if isinstance(modality, str) else [*modality]
    found = look(data, modalities=names, label=label, table_format=table_format)
    flags = {"--modality": " ".join(names), "--label": label}
    said = [f"{flag} {value}" for flag, value in flags.items() if value]
    recipe = write(
        found, Path(output), " ".join(["mmssl new", data, *said, *(["--set", *overrides] if overrides else [])]), overrides
    )
    timed = estimate(recipe, track)
    return New(recipe, (*found.lines(), *content_lines(timed.contents, found.survey.num_rows or 0), timed.line()))


def check(recipe: RecipeLike, overrides: Overrides = (), *, devices: str | None = None, **sections: Any) -> str:
    """Validate a recipe and build what it describes without training; returns a summary.

    devices: such as 64xH100: whether it would fit on these, in the place of the summary: memory of each strategy on a device, what
        is sent in a step, bounds on the speed, and what to type; nothing of the model takes memory here.

    The summary shows what the samples hold (the columns of a table, their kinds, and what looks odd), parameters, tokens per
    sample, the shapes of one batch, the loss of the untrained model, and the memory of a step.

    ValueError for what would train in vain: masks that leave nothing to see, a teacher that never moves, a schedule that the budget
    does not last for, parts of no parameter; for devices that are not known, or that cannot share the recipe's batch.
    """
    asked = None if devices is None else fleet(devices)
    checked = read(recipe, overrides, sections)
    if asked is not None:
        check_divides(checked.section("train"), asked)
        typed = [*overrides] if isinstance(overrides, Sequence) else []
        return "\n".join(report(sized(checked), asked, str(recipe) if isinstance(recipe, str | Path) else "RECIPE", typed))
    with rehearsal(checked) as (session, told):
        return "\n".join(summary(session, told))


def evaluate(
    model: str | Path,
    data: str,
    *,
    modality: str | None = None,
    column: str | Sequence[str] | None = None,
    label: str | Sequence[str] | None = None,
    kind: Kind | None = None,
    train_split: str | None = "train",
    test_split: str | None = None,
    train_limit: int | None = None,
    test_limit: int | None = None,
    heads: bool = False,
    batch_size: int = 256,
    on_error: OnError = "raise",
    table_format: TableFormat = PLAIN,
    compare: Mapping[str, str] | None = None,
) -> Table | ForecastTable | PairTable:
    """Probe a saved model on labelled data beside raw features and random weights; `mmssl.evaluation.PROTOCOL` says how.

    Of a model that forecasts, the forecasts of held-out windows beside naive ones; `mmssl.evaluation.FORECAST_PROTOCOL` says how.
    Of one that labels places, with kind="dense", what it says of them; `mmssl.evaluation.DENSE_PROTOCOL` says how.

    The table says what the model saw of the test samples, as far as its folder records what it was trained on.

    model: folder of a model or of a run, or Hub id. data: as `data.path` of a recipe.
    modality: needed if the model has several. column: the dataset's column of it, several for a table. label: the label column,
        or several of 0 and 1.
    table_format: how the cells of csv, jsonl and parquet files are written.
    kind: what the labels are; None: text, booleans and few distinct whole numbers are classes, other numbers are regressed.
    heads: score what the projector makes of the features as well, of the folder of a run or of a model that `clip` trained.
    compare: more models, folders or Hub ids, by the name of their row.
    """

    def opened() -> tuple[MMSSLModel, Evaluator | ForecastEvaluator | DenseEvaluator]:
        refuse_open_clip(compare or {})
        folder = model_of(model)
        processor, loaded = load(folder)
        loaded = headed(loaded, Path(model)) if heads else loaded
        name = choose_modality(modality, processor)
        options = EvaluateOptions(
            heads=heads,
            train_split=train_split,
            test_split=test_split,
            kind=kind,
            modality=name,
            train_limit=train_limit,
            test_limit=test_limit,
            batch_size=batch_size,
        )
        columns, history = column_map(name, column, label), History.read(folder)
        known = table_format
        if loaded.forecasts:
            forecast_file.refuse(label, None)
            known = forecast_file.as_trained(loaded.label_head, table_format)
        head = loaded.config.label_head and loaded.label_head
        if head and head.segments:
            known = replace(known, background=known.background or head.background)
        where = DataOptions(path=data, split=train_split, columns=columns, on_error=on_error, **vars(known))
        if loaded.forecasts:
            sources = open_sources(options, where, None, history)
            return loaded, ForecastEvaluator(options, where, processor, name, sources, history, track_once())
        if kind == DENSE or (kind is None and head and head.dense and label in (None, head.column)):
            options = replace(options, kind="dense")
            sources = open_sources(options, where, None, history)
            labels_places(loaded, sources)
            return loaded, DenseEvaluator(options, where, processor, name, sources, history, track_once())
        return loaded, Evaluator(options, where, processor, loaded.config, history=history, track=track_once())

    start(TIMEOUT)
    with processes.one_for_all():
        loaded, evaluator = processes.together(opened, first_before=True)
        tell(evaluator.sources.train, evaluator.sources.test)
        return evaluator.table(loaded, others=compare)


def evaluate_pairs(
    model: str | Path,
    data: str,
    *,
    retrieval: bool = False,
    zero_shot: bool = False,
    templates: str | Sequence[str] | None = None,
    modality: str | None = None,
    columns: Mapping[str, str | list[str]] | None = None,
    split: str | None = None,
    limit: int | None = None,
    batch_size: int = 256,
    on_error: OnError = "raise",
    table_format: TableFormat = PLAIN,
    compare: Mapping[str, str] | None = None,
) -> dict[str, PairTable]:
    """Score a saved model that maps modalities into one space, by the names of the scores; `PAIR_PROTOCOL` says how.

    model: folder of a model or of a run, or Hub id. data: as `data.path` of a recipe.
    retrieval: samples of one modality find their partners of another. zero_shot: samples are classified by the names of their
        classes, those of the label column.
    templates: as `evaluate.zero_shot.templates`. modality: what is classified, where the data hold several.
    columns: as `data.columns`: of modalities, label and group. split: what is scored; None: `test` if the data have it, else all.
    compare: more models, folders, Hub ids or open_clip:MODEL/PRETRAINED, by the name of their row.
    """
    if not (retrieval or zero_shot):
        raise ValueError("nothing to score: ask for retrieval, for zero_shot, or for both")

    def opened() -> tuple[MMSSLModel, dict[str, PairEvaluator]]:
        folder = model_of(model)
        processor, loaded = load(folder)
        where = DataOptions(path=data, columns=None if columns is None else dict(columns), on_error=on_error, **vars(table_format))
        scored = split_to_score(data, split, table_format)
        asked = templates if templates is None or isinstance(templates, str) else list(templates)
        shot = ZeroShotOptions(splits=[scored], modality=modality, templates=asked) if zero_shot else None
        options = EvaluateOptions(
            retrieval=[scored] if retrieval else None, zero_shot=shot, test_limit=limit, batch_size=batch_size
        )
        history = History.read(folder)
        found = open_pairs(options, where, processor, loaded.config, history=history, track=track_once())
        for evaluator in found.values():
            evaluator.check(compare or {})
        return loaded, found

    start(TIMEOUT)
    with processes.one_for_all():
        loaded, evaluators = processes.together(opened, first_before=True)
        tell(*(evaluator.source for evaluator in evaluators.values()))
        return {name: evaluator.table(loaded, others=compare) for name, evaluator in evaluators.items()}


def split_to_score(data: str, split: str | None, table_format: TableFormat) -> str | None:
    """The part that is named, or `test` if the data have it; None: all of them."""
    if split is not None:
        return split
    try:
        return Source(path=data, split="test", table_format=table_format).split
    except LookupError:
        return None


def headed(model: MMSSLModel, folder: Path) -> MMSSLModel:
    """A model with the projector that it has, or that the run in `folder` kept beside it. ValueError if there is none."""
    if PROJECTOR in dict(model.heads or {}):
        return model
    file = Run(folder).projector_file
    if not file.exists():
        raise ValueError(
            f"--heads needs the projector of a run, and there is none at {file}: give the folder of a run (RUN, not RUN/model) "
            "whose objective has one (contrast, distill, clip), or leave it out"
        )
    return with_projectors(model, read_projectors(file).to(model.device))


def embed(
    model: str | Path,
    data: str,
    output: str | Path,
    *,
    split: str | None = None,
    modality: str | None = None,
    column: str | Sequence[str] | None = None,
    keep: Sequence[str] | None = None,
    layers: Sequence[int | str] = (LAST,),
    tokens: bool = False,
    project: bool = False,
    batch_size: int = 256,
    on_error: OnError = "raise",
    table_format: TableFormat = PLAIN,
) -> int:
    """Write the pooled output of every sample, beside `row` and columns of the data; returns their number.

    output: a parquet file, columns `row`, those kept, `embedding`; an npy file of the vectors, the others in `NAME.rows.parquet`;
    or a new folder, a dataset for `datasets.load_from_disk`. It remembers the model, for `search`.
    keep: columns of the data to write; None: the path of each file, and its label, where the data are media files.
    layers: numbers from 1 on, whose pooled outputs, without the final norm, become columns `embedding_<number>`, and "last".
    tokens: also the tokens of the last layer, without CLS, registers and padding, as a list of vectors in the column `tokens`, and
    where they lie, (time, depth, height, width), in `coordinates`.
    project: into the space that the modalities of a model share, which `clip` trains.
    Other arguments as in `evaluate`. The output appears when it is complete. Until then what is done is kept in a hidden folder
    beside it, so that the same call goes on where one was stopped; vectors never are in memory all at once.
    ValueError or LookupError, before anything is embedded, for an output or a column that cannot be written; ValueError that names
    the row of a vector that is not finite.
    """
    output, readout = Path(output), Readout(layers_of([str(layer) for layer in layers]), tokens, project)
    vectors.check_output(output, readout)

    def opened() -> tuple[Embedding, Parts]:
        folder = model_of(model)
        processor, loaded = load(folder)
        name = choose_modality(modality, processor)
        readout.check(loaded, name)
        source = Source(path=data, split=split, columns=column_map(name, column, None), table_format=table_format)
        stamp = Stamp.of(folder, loaded, processor, name, source, readout, table_format)
        kept = vectors.to_keep(source, name, keep)
        options = {"batch_size": batch_size, "on_error": on_error}
        work = Embedding(loaded, processor, name, source, readout, kept, stamp, options)
        return work, work.parts(output)

    start(TIMEOUT)
    with processes.one_for_all():
        work, parts = processes.together(opened, first_before=True)
        tell(work.source)
        if parts.done and processes.is_first():
            logger.warning("note: going on after %s of %s rows", f"{parts.done:,}", f"{work.source.num_rows:,}")
        count = work.write(parts, output, track) if processes.is_first() else work.help(parts)
        return processes.by_first(lambda: count)


@dataclass(frozen=True)
class Predicted:
    """What `predict` did. rows: in the file; unread: of these without a prediction, as they could not be read.

    judged: what the predictions are worth, where a label column was named, and note: what a reader of these scores should know. Of
        data on which a run trained, a fifth held out, that fifth is scored.
    """

    rows: int
    unread: int
    judged: Judged | None = None
    note: str | None = None


def predict(
    model: str | Path,
    data: str,
    output: str | Path,
    *,
    split: str | None = None,
    modality: str | None = None,
    column: str | Sequence[str] | None = None,
    label: str | Sequence[str] | None = None,
    keep: Sequence[str] | None = None,
    batch_size: int = 256,
    on_error: OnError = "raise",
    table_format: TableFormat = PLAIN,
) -> Predicted:
    """Predict the label of every row with a model that was trained on labels, and write a parquet or csv file.

    Its columns: `row`, those of the data, `prediction`, and `probability_<class>` for each class; of the data of a run that held a
    fifth out, `held_out` as well. A row that cannot be read stands there without a prediction (`on_error="skip"`).

    model: folder of a model or of a run, or Hub id; the other arguments as in `evaluate`. split: None: all of the data.
    label: a column of true labels, by which the predictions are scored. keep: columns of the data to write; None: all of them.

    A model that forecasts writes a row for each series, variable and step: the next steps of each series, or those of held-out
    windows (split="test"), beside what came; see `mmssl.evaluation.forecast_file.forecast_source`. Series are made of rows as in
    training, unless `table_format` says otherwise.

    A model that labels places writes a list of classes for each text, label maps of pictures into a folder beside the table, or
    segments of time, as it learned them; see `mmssl.evaluation.dense_file.dense_source`.
    ValueError for an encoder without a label head, labels that it does not predict, or an output that is no such file.
    """
    output = Path(output)
    predictions.check_output(output)
    options: dict[str, Any] = {"batch_size": batch_size, "on_error": on_error, "track": track_once()}

    def opened() -> tuple[MMSSLProcessor, MMSSLModel, str, Source, list[str], Labels | None, predictions.Unseen]:
        folder = model_of(model)
        processor = MMSSLProcessor.from_pretrained(folder)  # first, as it says what is wrong with a folder that is none
        loaded = load_predictor(folder).to("cuda" if torch.cuda.is_available() else "cpu").eval()
        name = choose_modality(modality or loaded.label_head.modality, processor)
        if loaded.forecasts:
            forecast_file.refuse(label, keep)
            columns, known = column_map(name, column, None), forecast_file.as_trained(loaded.label_head, table_format)
            source = Source(path=data, split=split or NEXT, columns=columns, table_format=known)
            return processor, loaded, name, source, [], None, predictions.Unseen.of(History.read(folder), source)
        known = table_format
        if loaded.label_head.segments:
            known = replace(known, background=known.background or loaded.label_head.background)
        source = Source(path=data, split=split, columns=column_map(name, column, label), table_format=known)
        kept = predictions.columns_to_keep(source, keep)
        if loaded.label_head.dense:
            return processor, loaded, name, source, kept, None, predictions.Unseen.of(History.read(folder), source)
        labels = None if label is None else predictions.labels_of(source, loaded)
        if labels is not None and (differs := unlike(loaded, labels)):
            raise ValueError(f"--label {label}: {differs}")
        return processor, loaded, name, source, kept, labels, predictions.Unseen.of(History.read(folder), source)

    start(TIMEOUT)
    with processes.one_for_all():
        processor, loaded, name, source, kept, labels, unseen = processes.together(opened, first_before=True)
        tell(source)
        if loaded.forecasts:
            told = forecast_file.forecast_source(loaded, processor, source, name, **options)
        elif loaded.label_head.dense:
            more: dict[str, Any] = {"keep": kept, "scored": label is not None, "unseen": unseen}
            told = dense_file.dense_source(loaded, processor, source, name, output, **more, **options)
        else:
            found = list(predictions.predicted(loaded, processor, source, name, **options))

        def written() -> Predicted:
            if loaded.forecasts:
                assert told is not None, "the first process has all forecasts"
                table, judged = told
                unread = source.num_rows - table.num_rows // loaded.label_head.size
            elif loaded.label_head.dense:
                assert told is not None, "the first process has all predictions"
                table, judged = told
                unread = table.column(predictions.PREDICTION).null_count
            else:
                table = predictions.table_of(loaded, found, source, kept, unseen)
                judged = None if labels is None else predictions.judge(loaded, found, labels, unseen)
                unread = table.column(predictions.PREDICTION).null_count
            predictions.write(table, output)
            return Predicted(table.num_rows, unread, judged, None if judged is None else unseen.note)

        return processes.by_first(written)


def track_once() -> Track:
    """The progress display, on the first process."""
    return track if processes.is_first() else silent


def tell(*sources: Source) -> None:
    """Log what a user should know of how data were read, each once."""
    if not processes.is_first():
        return
    for note in dict.fromkeys(note for source in sources for note in source.notes):
        logger.warning("note: %s", note)


def search(
    index: str | Path,
    query: Query,
    *,
    model: str | Path | None = None,
    modality: str | None = None,
    row: int | None = None,
    top: int = 10,
    kind: SearchKind = "exact",
    layer: int | str = LAST,
    output: str | Path | None = None,
    data: str | Path | None = None,
) -> Hits:
    """Find the rows of an index whose embeddings are nearest to that of a query, by cosine.

    index: what `embed` wrote. query: a row of the index, by its number (it is not among its own hits); a file of one sample, or a
        table file; a text; or a raw sample in memory.
    model: where the model that made the index lies now; None: where it was. modality: of the query, where several may be meant.
    row: which row of a table file is the query. layer: of the index, where it holds several.
    kind: exact, or for very many rows ivf or hnsw, whose index is kept beside.
    output: a file for the hits: .html, a page with pictures, or .csv or .parquet. data: where the embedded data lie now, for
        pictures.
    ValueError for another model than that of the index, and for a query of a modality that does not share its space.
    """
    target = None if output is None else Path(output)
    if target is not None:
        predictions.check_output(target, PAGE)
    (of,) = layers_of([str(layer)])
    device = "cuda" if torch.cuda.is_available() else "cpu"
    searched = Search.open(index, None if model is None else model_of(model), device, of)
    hits = searched(query, modality=modality, row=row, top=top, kind=kind)
    if target is not None and target.suffix == PAGE:
        write_hits(target, hits, searched, data)
    elif target is not None:
        predictions.write(hits.table(), target)
    return hits


def load(model: str | Path) -> tuple[MMSSLProcessor, MMSSLModel]:
    """A saved model with its processor, on the accelerator if there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return saved_processor(model), load_model(model).to(device)


def column_map(
    modality: str, column: str | Sequence[str] | None, label: str | Sequence[str] | None
) -> dict[str, str | list[str]] | None:
    """The `columns` of a source from what a user says about one modality and the labels."""
    columns: dict[str, str | list[str]] = {} if label is None else {"label": label if isinstance(label, str) else list(label)}
    if column:
        names = [column] if isinstance(column, str) else list(column)
        columns[modality] = names[0] if len(names) == 1 else names
    return columns or None
