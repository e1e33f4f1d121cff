"""What pipelines look for beside a model of one modality: an image processor, a feature extractor, or a tokenizer."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

import torch.nn.functional as F
from torch import Tensor
from transformers import BatchFeature
from transformers.feature_extraction_utils import FeatureExtractionMixin
from transformers.image_processing_utils import BaseImageProcessor

from mmssl.modality import find
from mmssl.processor import MMSSLProcessor

PREPROCESSOR = "preprocessor_config.json"


class Served:
    """A processor of a model that reads one modality, by another name. key: under which a file names its class."""

    key: ClassVar[str]

    def __init__(self, processor: MMSSLProcessor) -> None:
        super().__init__()
        self.processor = processor

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **hub: Any) -> Any:
        """Of a folder or a Hub id; see `MMSSLProcessor.from_pretrained`."""
        return cls(MMSSLProcessor.from_pretrained(pretrained_model_name_or_path, **hub))

    def to_dict(self) -> dict[str, Any]:
        """What `preprocessor_config.json` holds."""
        return {self.key: type(self).__name__, "modalities": self.processor.settings()}


class MMSSLImageProcessor(Served, BaseImageProcessor):  # type: ignore[misc]
    """The processor of a model that reads one modality, by the name under which pipelines of pictures ask for it."""

    key = "image_processor_type"

    def __call__(self, images: Any, **options: Any) -> BatchFeature:
        """The tensors of one sample, or of several."""
        return self.processor(images, **options)

    def post_process_semantic_segmentation(
        self, outputs: Any, target_sizes: Sequence[tuple[int, int]] | None = None
    ) -> list[Tensor]:
        """A label map of each picture from what a model for semantic segmentation gives, its logits interpolated bilinearly.

        target_sizes: height and width of each picture; None: label maps are as large as the logits. ValueError for other numbers.
        """
        logits = outputs.logits
        if target_sizes is None:
            return list(logits.argmax(1))
        if len(target_sizes) != len(logits):
            raise ValueError(f"target_sizes must be a height and width for each of {len(logits)} pictures; got {len(target_sizes)}")
        sizes = [tuple(int(side) for side in size) for size in target_sizes]
        parts = zip(logits.split(1), sizes, strict=True)
        return [F.interpolate(own, size, mode="bilinear", align_corners=False).argmax(1)[0] for own, size in parts]


class MMSSLFeatureExtractor(Served, FeatureExtractionMixin):  # type: ignore[misc]
    """The processor of a model that reads one modality, by the name under which pipelines of sounds ask for it."""

    key = "feature_extractor_type"

    @property
    def sampling_rate(self) -> int:
        """Samples a second that the model reads; sounds of another rate are resampled."""
        (settings,) = self.processor.settings().values()
        return cast(int, settings["sample_rate"])

    def __call__(self, raw_speech: Any, sampling_rate: int | None = None, **options: Any) -> BatchFeature:
        """The tensors of one sample, or of several. sampling_rate: of arrays."""
        (name,) = self.processor.processors
        if sampling_rate is not None:
            options[f"{find(name).keyword}_kwargs"] = {"sampling_rate": sampling_rate}
        return self.processor(raw_speech, **options)


KINDS: Mapping[str, type[MMSSLImageProcessor] | type[MMSSLFeatureExtractor]] = {
    "image_processor": MMSSLImageProcessor,
    "feature_extractor": MMSSLFeatureExtractor,
}
"""What serves a modality, by `Modality.served`."""


def write_auto_files(folder: Path, processor: MMSSLProcessor) -> None:
    """Write them beside a model; nothing for several modalities, or for one that pipelines of transformers have no name for.

    `preprocessor_config.json` names no class here: `config.json` does (`mmssl.model.needed`). Were it named there too, pipelines
    would take it for that of videos as well, and ask whether code of the folder may run.
    """
    if len(processor.processors) != 1:
        return
    ((name, own),) = processor.processors.items()
    served = find(name).served
    if served is not None and served in KINDS:
        kind = KINDS[served]
        content = {key: value for key, value in kind(processor).to_dict().items() if key != kind.key}
        (folder / PREPROCESSOR).write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    elif served == "tokenizer" and (tokenizer := own.hub_tokenizer()) is not None:
        tokenizer.save_pretrained(folder)
