"""What a model's folder says to whoever opens it without mmssl: which package is needed, in place of advice to update transformers.

A file of code, `mmssl_needed.py`, that imports mmssl and nothing else; `auto_map` in `config.json` names it. transformers runs it
only where a user says `trust_remote_code=True`, and where mmssl is imported its own classes come first. A folder that brings the
code of the model itself (`mmssl.publish.remote`) names that instead.
"""

import json
from pathlib import Path
from typing import Any

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

SOURCE = '''"""This model needs the package mmssl: pip install mmssl, and import mmssl before the model is loaded."""

try:
    from mmssl import MMSSLForClassification, MMSSLForRegression, MMSSLForTimeSeriesPrediction, MMSSLModel, MMSSLProcessor
    from mmssl import MMSSLForFrameClassification, MMSSLForSemanticSegmentation, MMSSLForTokenClassification
    from mmssl.model import MMSSLConfig
except ModuleNotFoundError as error:
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


def write_needed(folder: Path, config: MMSSLConfig) -> None:
    """Put the file beside a saved model and its processor, and name it in their files."""
    (folder / f"{FILE}.py").write_text(SOURCE, encoding="utf-8")
    classes = {"AutoConfig": "MMSSLConfig", "AutoModel": "MMSSLModel"}
    if config.label_head is not None:
        classes |= dict.fromkeys(autos_of(config), task_of(config))
    processor = {"AutoProcessor": "MMSSLProcessor"}
    for file, named in (("config.json", classes | processor), ("processor_config.json", processor)):
        name_classes(folder / file, {auto: f"{FILE}.{name}" for auto, name in named.items()})


def name_classes(file: Path, classes: dict[str, str]) -> None:
    """Say in a JSON file of a model where the classes are by which transformers opens it."""
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(content | {"auto_map": classes}, indent=2) + "\n", encoding="utf-8")
