"""Which classes of mmssl transformers' Auto classes find, and under which of their modules each is registered.

An Auto class is told once its module is imported: `import mmssl` sees to that, and imports none of them itself. See `mmssl`.
"""

import sys
from collections.abc import Callable, Mapping
from types import ModuleType

from mmssl.model.config import MMSSLConfig
from mmssl.model.model import MMSSLModel
from mmssl.model.tasks import (
    MMSSLForClassification,
    MMSSLForFrameClassification,
    MMSSLForRegression,
    MMSSLForSemanticSegmentation,
    MMSSLForTimeSeriesPrediction,
    MMSSLForTokenClassification,
)
from mmssl.processor import MMSSLProcessor

AUTO = "transformers.models.auto."
_told = set[str]()


def register() -> None:
    """Tell the Auto classes that are imported by now, and were not told yet."""
    for name, tell in TELL.items():
        module = sys.modules.get(AUTO + name)
        if module is not None and name not in _told:
            _told.add(name)
            tell(module)


def _configuration(auto: ModuleType) -> None:
    auto.AutoConfig.register("mmssl", MMSSLConfig)


def _models(auto: ModuleType) -> None:
    auto.AutoModel.register(MMSSLConfig, MMSSLModel)
    predicting = (MMSSLForClassification, MMSSLForRegression)
    for kind in ("Image", "Audio", "Sequence"):
        vars(auto)[f"AutoModelFor{kind}Classification"].register(MMSSLConfig, predicting)
    auto.AutoModelForTimeSeriesPrediction.register(MMSSLConfig, MMSSLForTimeSeriesPrediction)
    auto.AutoModelForSemanticSegmentation.register(MMSSLConfig, MMSSLForSemanticSegmentation)
    auto.AutoModelForTokenClassification.register(MMSSLConfig, MMSSLForTokenClassification)
    auto.AutoModelForAudioFrameClassification.register(MMSSLConfig, MMSSLForFrameClassification)


def _processor(auto: ModuleType) -> None:
    auto.AutoProcessor.register(MMSSLConfig, MMSSLProcessor)


def _image_processor(auto: ModuleType) -> None:
    from mmssl.model.auto import MMSSLImageProcessor  # its base class imports torchvision's transforms

    auto.AutoImageProcessor.register(
        MMSSLConfig, image_processor_classes={"pil": MMSSLImageProcessor, "torchvision": MMSSLImageProcessor}
    )


def _feature_extractor(auto: ModuleType) -> None:
    from mmssl.model.auto import MMSSLFeatureExtractor  # with the image processor's base class

    auto.AutoFeatureExtractor.register(MMSSLConfig, MMSSLFeatureExtractor)


TELL: Mapping[str, Callable[[ModuleType], None]] = {
    "configuration_auto": _configuration,
    "modeling_auto": _models,
    "processing_auto": _processor,
    "image_processing_auto": _image_processor,
    "feature_extraction_auto": _feature_extractor,
}
"""What to tell each module of Auto classes."""
