"""The published model: configuration, encoder, pooling, and the face that Hugging Face knows."""

from typing import Any

from mmssl.model.config import MMSSLConfig as MMSSLConfig
from mmssl.model.encoder import Encoder as Encoder
from mmssl.model.labels import LabelHead as LabelHead
from mmssl.model.layers import initialise_all as initialise_all
from mmssl.model.loading import no_weights_bar as no_weights_bar
from mmssl.model.loading import without_deepspeed as without_deepspeed
from mmssl.model.model import MMSSLModel as MMSSLModel
from mmssl.model.registered import register
from mmssl.model.tasks import MMSSLForClassification as MMSSLForClassification
from mmssl.model.tasks import MMSSLForFrameClassification as MMSSLForFrameClassification
from mmssl.model.tasks import MMSSLForLabels as MMSSLForLabels
from mmssl.model.tasks import MMSSLForRegression as MMSSLForRegression
from mmssl.model.tasks import MMSSLForSemanticSegmentation as MMSSLForSemanticSegmentation
from mmssl.model.tasks import MMSSLForTimeSeriesPrediction as MMSSLForTimeSeriesPrediction
from mmssl.model.tasks import MMSSLForTokenClassification as MMSSLForTokenClassification
from mmssl.model.tasks import faced as faced
from mmssl.model.tasks import load_model as load_model
from mmssl.model.tasks import load_predictor as load_predictor


def __getattr__(name: str) -> Any:
    """The processors by other names, whose base classes take a second to import and few need."""
    if name not in ("MMSSLFeatureExtractor", "MMSSLImageProcessor"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from mmssl.model import auto

    return getattr(auto, name)


register()  # whatever transformers imported meanwhile
