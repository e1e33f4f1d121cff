"""What scores a run's model while it trains and at its end, and its scores as they are now."""

from collections.abc import Callable, Iterable
from typing import Any

from mmssl.data import Track
from mmssl.data.options import ONLY
from mmssl.evaluation import DenseEvaluator, Evaluator, ForecastEvaluator, choose_modality, labels_places
from mmssl.evaluation.history import History
from mmssl.model import MMSSLModel
from mmssl.training.build import Pieces
from mmssl.training.ending import Scorer, check_headed
from mmssl.training.run import told
from mmssl.training.splits import Scored

NO_VERDICT = "there will be no verdict"


def evaluator_of(
    scored: Scored, pieces: Pieces, history: History, track: Track, tell: Callable[[str], None]
) -> Evaluator | ForecastEvaluator | DenseEvaluator:
    """What scores the model on one source: its forecasts, where it makes some. tell: how a user is told what should be known."""
    model, processor = pieces.objective.model, pieces.processor
    if model.forecasts:
        name = choose_modality(scored.options.modality, processor)
        forecasts = ForecastEvaluator(scored.options, scored.data, processor, name, scored.sources, history, track)
        if forecasts.exposure(history).labelled:
            tell(
                f"warning: this run, or one that it starts from, trains on what is forecast in {scored.sources.test}: "
                f"{NO_VERDICT}. For one, pretrain with data.forecast too, so that the test part is left out"
            )
        return forecasts
    found: Evaluator | DenseEvaluator
    if labels_places(model, scored.sources):
        name = choose_modality(scored.options.modality, processor)
        found = DenseEvaluator(scored.options, scored.data, processor, name, scored.sources, history, track)
    else:
        if scored.options.heads:
            check_headed(pieces.objective)
        more: dict[str, Any] = {"sources": scored.sources, "history": history, "track": track}
        found = Evaluator(scored.options, scored.data, processor, model.config, **more)
    if found.exposure(history).labelled:
        tell(
            f"warning: this run, or one that it starts from, trains on rows of {scored.sources.test} with their labels, and "
            f"these rows are scored: {NO_VERDICT}. For one, score other data (evaluate.path, evaluate.test_split)"
        )
    return found


def scores_of(model: MMSSLModel, scorers: Iterable[tuple[str, Scorer]], failed: Callable[[str], None]) -> dict[str, float]:
    """Scores of a model, by name; those of several sources carry their names. failed: is told why some are missing."""
    found = dict[str, float]()
    for name, scorer in scorers:
        try:
            scores = scorer.score(model)
        except Exception as error:
            failed(told(error))
            continue
        found |= scores if name == ONLY or name in scores else {f"{key}_{name}": value for key, value in scores.items()}
    return found
