"""Predictors by the name that a recipe gives them."""

from collections.abc import Callable

from mmssl.objectives.predict.parts import Predictor
from mmssl.objectives.predict.predictors.causal import Causal
from mmssl.objectives.predict.predictors.conv import Conv
from mmssl.objectives.predict.predictors.cross_attention import CrossAttention
from mmssl.objectives.predict.predictors.mask_token import MaskToken
from mmssl.objectives.predict.predictors.siamese import Siamese
from mmssl.objectives.predict.predictors.similar import Similar
from mmssl.objectives.predict.predictors.transformer import Transformer
from mmssl.objectives.predict.predictors.unordered import Unordered
from mmssl.plugins import Parts

PREDICTORS: Parts[Callable[..., Predictor]] = Parts(
    "mmssl.predictors",
    Predictor,
    {
        "transformer": Transformer,
        "mask_token": MaskToken,
        "cross_attention": CrossAttention,
        "conv": Conv,
        "causal": Causal,
        "siamese": Siamese,
        "unordered": Unordered,
        "similar": Similar,
    },
)

__all__ = [
    "PREDICTORS",
    "Causal",
    "Conv",
    "CrossAttention",
    "MaskToken",
    "Predictor",
    "Siamese",
    "Similar",
    "Transformer",
    "Unordered",
]
