"""Which rows a run trains on, and which it is scored on: no row whose label it learns is both."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from mmssl.data import DataOptions, Labels, Stream, Track, open_streams
from mmssl.data.options import ONLY, Rows
from mmssl.data.source import LABEL
from mmssl.evaluation import EvaluateOptions, PairEvaluator, Sources, asked_pairs, fifth_of, open_pairs, open_sources
from mmssl.evaluation.history import History, Trained, label_column
from mmssl.recipe import Recipe
from mmssl.training.build import Pieces, labels_of


class Scored(NamedTuple):
    """What scores the model on one source."""

    options: EvaluateOptions
    data: DataOptions
    sources: Sources


@dataclass(frozen=True)
class Splits:
    """The data of a run.

    streams: what it trains on, by source. labels: those that the objective learns. scored: what it is scored on.
    history: what the model will have been trained on, this run included.
    """

    streams: dict[str, Stream]
    labels: Labels | None
    scored: dict[str, Scored]
    history: History

    @property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of how the data were read, each once."""
        parts = [scored.sources for scored in self.scored.values()]
        read = [stream.source for stream in self.streams.values()]
        read += [source for part in parts for source in (part.train, part.test)]
        notes = [note for source in read for note in source.notes]
        if self.labels is not None:
            notes += [stream.source.label_note(self.labels) for stream in self.streams.values()]
        notes += [part.train.label_note(part.train_labels) for part in parts]
        trained = {str(stream.source) for stream in self.streams.values()}
        notes += [line for part in parts for line in part.lacking(trained)]
        return tuple(dict.fromkeys(notes))


def open_splits(recipe: Recipe, rows: Rows | None = None, begun: Mapping[str, str | None] | None = None) -> Splits:
    """Open the data of a run. Where labels are learned, now or in an earlier run, the fifth that will be scored is held out.

    rows: data in memory, as in `open_streams`.
    begun: of a run that goes on, by the name of a source the label column by which its fifth was held out when it began, if at all.
    """
    streams = open_streams(recipe.section("data"), list(recipe.modalities), rows)
    before = history_before(recipe)
    name, learns = recipe.objective[0], recipe.needs_labels
    labels = {key: label_column(stream.source) if learns else None for key, stream in streams.items()}
    columns = labels if begun is None else begun
    expected = [Trained.of(stream, name, label=labels[key], held_out=columns.get(key)) for key, stream in streams.items()]
    scored = dict(open_scored(recipe, streams, rows, before.then(*expected)))
    if begun is None:
        columns = {key: column_to_hold_out(stream, labels[key], scored, before) for key, stream in streams.items()}
    held = {key: hold_out(stream, columns.get(key)) for key, stream in streams.items()}
    trained = [Trained.of(stream, name, label=labels[key], held_out=columns.get(key)) for key, stream in streams.items()]
    return Splits(held, labels_of(recipe, held), scored, before.then(*trained))


def history_before(recipe: Recipe) -> History:
    """What the weights that a run starts from were trained on, and the models that its objective learns from."""
    history = History() if recipe.init is None else History.read(recipe.init)
    for model in dict.fromkeys(models_in(recipe.resolved()["objective"])):
        history = history.then(*History.read(model).trained)
    return history


def models_in(settings: Any) -> Iterator[str]:
    """The models (folders or Hub ids) that an objective's settings name: what stands under a key `model`."""
    if isinstance(settings, Mapping):
        for key, value in settings.items():
            yield from [value] if key == "model" and isinstance(value, str) else models_in(value)
    elif isinstance(settings, list):
        for value in settings:
            yield from models_in(value)


def column_to_hold_out(stream: Stream, label: str | None, scored: Mapping[str, Scored], before: History) -> str | None:
    """The label column by which a fifth of a source must be held out of training; None: none need be."""
    for _, _, sources in scored.values():
        if sources.fifth is None:
            continue
        known = Trained.of(stream, "", label=label, held_out=None)
        answers = sources.test.made_from(label_column(sources.test) or "")
        leaks = label is not None or before.learned_labels or bool(set(answers) & set(known.inputs))
        if leaks and known.same(sources.test):
            return sources.fifth.column
    return None


def hold_out(stream: Stream, column: str | None) -> Stream:
    """A source without the fifth of its rows that goes by a label column; None: as it is."""
    if column is None:
        return stream
    return replace(stream, source=stream.source.without(fifth_of(stream.source, column).rows))


def open_scored(recipe: Recipe, streams: Mapping[str, Stream], rows: Rows | None, history: History) -> Iterator[tuple[str, Scored]]:
    """What probes the model, if the recipe has an `evaluate` section: one for each source, of several those with labels."""
    for name, options, data, stream in places_scored(recipe, streams, rows):
        if not options.probe or (stream is not None and LABEL not in stream.source.columns):
            continue
        if stream is not None:
            options = replace(options, modality=stream.modalities[0])
        yield name, Scored(options, data, open_sources(options, data, rows_of(rows, name), history))


class Place(NamedTuple):
    """Data that a model is scored on. stream: the one of several sources that they are of; None: the run does not mix."""

    name: str
    options: EvaluateOptions
    data: DataOptions
    stream: Stream | None = None


def places_scored(recipe: Recipe, streams: Mapping[str, Stream], rows: Rows | None) -> Iterator[Place]:
    """Where the model is scored, if the recipe has an `evaluate` section."""
    options: EvaluateOptions | None = recipe.section("evaluate")
    data: DataOptions = recipe.section("data")
    if options is None:
        return
    if options.kind is None and options.path is None and LABEL not in (options.columns or {}):
        options = replace(options, kind=recipe.label_kind)
    if options.path is not None or not (data.sources or isinstance(rows, Mapping)):
        yield Place(ONLY, options, data)
        return
    for name, stream in streams.items():
        where = {key: getattr(stream.options, key) for key in ("path", "split", "columns", "limit", "called")}
        where |= vars(stream.options.table_format)
        yield Place(name, options, replace(data, sources=None, **where), stream)


def open_pair_scores(
    recipe: Recipe, streams: Mapping[str, Stream], rows: Rows | None, history: History, pieces: Pieces, track: Track
) -> dict[str, PairEvaluator]:
    """What scores the model by pairs, by name, if the recipe asks for it: at each source that holds several modalities."""
    places = list(places_scored(recipe, streams, rows))
    paired = [place for place in places if place.stream is None or len(place.stream.modalities) > 1]
    if places and not paired and asked_pairs(places[0].options):
        raise ValueError(
            f"evaluate: {' and '.join(asked_pairs(places[0].options))} need data that pair modalities, and each source of "
            "data.sources holds one: say what its rows hold (data.sources.NAME.modalities), or name other data (evaluate.path)"
        )
    found, config = dict[str, PairEvaluator](), pieces.objective.published().config
    for name, options, data, stream in paired:
        given = rows_of(rows, name) if options.path is None else None
        prefix = "" if stream is None else f"{name}_"
        found |= open_pairs(options, data, pieces.processor, config, rows=given, history=history, prefix=prefix, track=track)
    return found


def rows_of(rows: Rows | None, name: str) -> Sequence[dict[str, Any]] | None:
    """The rows in memory that stand in the place of a source; None if there are none."""
    return rows[name] if isinstance(rows, Mapping) else rows
