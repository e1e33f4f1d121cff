"""Boosted trees: what an encoder of tables has to beat."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from mmssl.modality import Reference

MAX_CATEGORIES = 255
"""Categories that a column may have to be split by sets of them; one with more is split by its classes in order."""


def boosted_trees(cells: Callable[[Any], Float[np.ndarray, " c"]], categories: Sequence[int]) -> Reference:
    """Histogram gradient boosting with scikit-learn's defaults, gaps and categories as they are.

    cells: the numbers of a row, NaN for gaps, classes of a column counted from 0.
    categories: for each of them the classes that it may have, 0 for a number.
    """
    named = [0 < count <= MAX_CATEGORIES for count in categories]

    def estimator(classes: bool, seed: int) -> Any:
        kind = HistGradientBoostingClassifier if classes else HistGradientBoostingRegressor
        return make_pipeline(FunctionTransformer(np.stack), kind(categorical_features=named, random_state=seed))

    return Reference("boosted trees", cells, estimator)
