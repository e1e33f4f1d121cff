"""Predictors by the name that a recipe gives them."""

from collections.abc import Callable

from mmssl.objectives.parts import Predictor
from mmssl.objectives.predictors.mask_token import MaskToken
from mmssl.objectives.predictors.similar import Similar
from mmssl.objectives.predictors.transformer import Transformer

PREDICTORS: dict[str, Callable[..., Predictor]] = {"transformer": Transformer, "mask_token": MaskToken, "similar": Similar}

__all__ = ["PREDICTORS", "MaskToken", "Predictor", "Similar", "Transformer"]
