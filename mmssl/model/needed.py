"""What a model's folder says to whoever opens it without mmssl: which package is needed, in place of advice to update transformers.

A file of code, `mmssl_needed.py`, that imports mmssl and nothing else; `auto_map` in `config.json` names it. transformers runs it
only where a user says `trust_remote_code=True`, and where mmssl is imported its own classes come first. A folder that brings the
code of the model itself (`mmssl.publish.remote`) names that instead.
"""

import json
from pathlib import Path
from typing import Any

from transformers.utils import CONFIG_NAME, PROCESSOR_NAME

from mmssl.modality import find
from mmssl.model.config import MMSSLConfig
from mmssl.model.labels import LabelHead

FILE = "mmssl_needed"
TASKS = ("AutoModelForAudioClassification", "AutoModelForImageClassification", "AutoModelForSequenceClassification")
"""The Auto classes under which a model with a label head is registered."""
OTHERS = {
    "time-series-forecasting": ("AutoModelForTimeSeriesPrediction",),
    "semantic-segmentation": ("AutoModelForSemanticSegmentation",),
    "token-classification": ("AutoModelForTokenClassification",),
    "frame-classification": ("AutoModelForAudioFrameClassification",),
}
"""Those under which one is registered that does something else than label samples, by its task."""

SERVED = {
    "image_processor": {"AutoImageProcessor": "MMSSLImageProcessor"},
    "feature_extractor": {"AutoFeatureExtractor": "MMSSLFeatureExtractor"},
}
"""The classes of `mmssl.model.auto` by which pipelines read samples, by `Modality.served`; tokenizers are transformers' own."""

SOURCE = '''"""This model needs the package mmssl: pip install mmssl, and import mmssl before the model is loaded."""

try:
    from mmssl import MMSSLForClassification, MMSSLForRegression, MMSSLForTimeSeriesPrediction, MMSSLModel, MMSSLProcessor
    from mmssl import MMSSLForFrameClassification, MMSSLForSemanticSegmentation, MMSSLForTokenClassification
    from mmssl.model import MMSSLConfig
{more}except ModuleNotFoundError as error:
    if error.name != "mmssl":
        raise
    raise ModuleNotFoundError(
        "this model needs the package mmssl: pip install mmssl, and import mmssl before it is loaded", name="mmssl"
    ) from None
'''


def task_of(config: MMSSLConfig) -> str:
    """The class of a model with a label head."""
    assert config.label_head is not None
    return LabelHead(**config.label_head).face


def autos_of(config: MMSSLConfig) -> tuple[str, ...]:
    """The Auto classes of a model with a label head."""
    assert config.label_head is not None
    return OTHERS.get(LabelHead(**config.label_head).task, TASKS)


def served_of(config: MMSSLConfig) -> dict[str, str]:
    """What serves a model in pipelines, by its Auto class; nothing for several modalities, or a class of transformers."""
    served = [find(name).served for name in config.modalities]
    return SERVED.get(served[0] or "", {}) if len(served) == 1 else {}


def write_needed(folder: Path, config: MMSSLConfig) -> None:
    """Put the file beside a saved model and its processor, and name it in their files."""
    served = served_of(config)
    more = "".join(f"    from mmssl.model.auto import {name}\n" for name in served.values())
    (folder / f"{FILE}.py").write_text(SOURCE.replace("{more}", more), encoding="utf-8")
    classes = {"AutoConfig": "MMSSLConfig", "AutoModel": "MMSSLModel"}
    if config.label_head is not None:
        classes |= dict.fromkeys(autos_of(config), task_of(config))
    processor = {"AutoProcessor": "MMSSLProcessor"}
    for file, named in ((CONFIG_NAME, classes | processor | served), (PROCESSOR_NAME, processor)):
        name_classes(folder / file, {auto: f"{FILE}.{name}" for auto, name in named.items()})


def name_classes(file: Path, classes: dict[str, str]) -> None:
    """Say in a JSON file of a model where the classes are by which transformers opens it."""
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content | {"auto_map": classes}, indent=2) + "\n", encoding="utf-8")
