"""Predictors by the name that a recipe gives them."""

from collections.abc import Callable

from mmssl.objectives.parts import Predictor
from mmssl.objectives.predictors.causal import Causal
from mmssl.objectives.predictors.conv import Conv
from mmssl.objectives.predictors.cross_attention import CrossAttention
from mmssl.objectives.predictors.mask_token import MaskToken
from mmssl.objectives.predictors.siamese import Siamese
from mmssl.objectives.predictors.similar import Similar
from mmssl.objectives.predictors.transformer import Transformer
from mmssl.objectives.predictors.unordered import Unordered
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
