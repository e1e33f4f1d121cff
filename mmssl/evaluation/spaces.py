"""What is scored by pairs: a model of mmssl or of open_clip, as that which gives samples and texts their places in one space."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmssl.data import Batch, Labels, Source, Track
from mmssl.data.source import OnError
from mmssl.evaluation.features import Features, answers, evaluating, extract, joined, merge_pieces
from mmssl.evaluation.history import History
from mmssl.modality import Inputs, Processor, find
from mmssl.model import MMSSLModel, load_model
from mmssl.model.public import OPEN_CLIP, find_two_towers, load_two_towers
from mmssl.processor import MMSSLProcessor

PICTURES, TEXTS = "image_processor", "tokenizer"
"""`Modality.served` of the two that open_clip reads."""
READ = "read"


class Space(ABC):
    """A model by which samples are compared, and the record of its training."""

    device: torch.device
    history: History

    @abstractmethod
    def samples(
        self,
        source: Source,
        modality: str,
        *,
        labels: Labels | None,
        batch_size: int,
        on_error: OnError,
        workers: int,
        title: str,
        track: Track,
    ) -> Features:
        """Vectors of the samples of a modality, float32, of any length; in evaluation mode, without augmentation."""

    @abstractmethod
    def texts(self, modality: str, texts: Sequence[str], batch_size: int) -> Float[Tensor, "n e"]:
        """Vectors of texts, by the modality that reads them."""


class Own(Space):
    """A model of mmssl: its projections."""

    def __init__(self, model: MMSSLModel, processor: MMSSLProcessor, history: History) -> None:
        self.model, self.processor, self.history, self.device = model, processor, history, model.device

    def samples(self, source: Source, modality: str, **options: Any) -> Features:
        return extract(self.model, self.processor, source, modality, then=partial(self.model.projected, modality), **options)

    @torch.no_grad()
    def texts(self, modality: str, texts: Sequence[str], batch_size: int) -> Float[Tensor, "n e"]:
        found, keyword = [], find(modality).keyword
        with evaluating(self.model):
            for start in range(0, len(texts), batch_size):
                some: dict[str, Any] = {keyword: list(texts[start : start + batch_size])}
                inputs = self.processor(return_tensors="pt", **some)
                tensors = {key: value.to(self.device) for key, value in inputs.items()}
                found.append(self.model.projected(modality, self.model.of_modality(modality, tensors).pooler_output).float())
        return torch.cat(found)


class OpenClip(Space):
    """A model of open_clip, with its own preparation of pictures, its own tokenizer and its own normalisation.

    processor: of the model that it is compared with, by which samples are read. device: to compute on.
    """

    def __init__(self, path: str, key: str, processor: MMSSLProcessor, device: torch.device) -> None:
        import open_clip

        name, _ = find_two_towers(path, key)
        self.model = load_two_towers(path, key).to(device)
        self.processor, self.device, self.history = processor, device, History(complete=False)
        settings = open_clip.transform.PreprocessCfg(**open_clip.get_model_preprocess_cfg(self.model))
        self.prepared = open_clip.transform.image_transform_v2(settings, is_train=False)
        self.tokenizer = open_clip.get_tokenizer(name)

    def samples(self, source: Source, modality: str, **options: Any) -> Features:
        pictures = find(modality).served == PICTURES
        own = self.processor.processors[modality]
        reader = _Pictures(own, self.prepared) if pictures else _Texts(own, self.tokenizer)

        def answer(batch: Batch, whole: Source) -> tuple[Float[Tensor, "b e"], Batch]:
            return merge_pieces(self.encoded(batch.inputs[modality][READ], pictures), batch, whole)

        found = answers(source, modality, reader, answer, torch.device(self.device), **options)
        return joined([(values.cpu(), batch.labels, batch.ids) for values, batch in found])

    def texts(self, modality: str, texts: Sequence[str], batch_size: int) -> Float[Tensor, "n e"]:
        parts = [list(texts[start : start + batch_size]) for start in range(0, len(texts), batch_size)]
        return torch.cat([self.encoded(self.tokenizer(part), False) for part in parts])

    @torch.no_grad()
    def encoded(self, inputs: Tensor, pictures: bool) -> Float[Tensor, "b e"]:
        """Unit vectors of prepared pictures or of tokens."""
        encode = self.model.encode_image if pictures else self.model.encode_text
        with torch.autocast(self.device.type, enabled=False):
            return encode(inputs.to(self.device), normalize=True).float()


class _Foreign(Processor):
    """Samples as a model of open_clip reads them; files, pages and errors are as of the processor that it stands for."""

    def __init__(self, processor: Processor, prepare: Any) -> None:
        self.processor, self.prepare = processor, prepare

    def settings(self) -> dict[str, Any]:
        return self.processor.settings()

    def collate(self, samples: Sequence[Inputs]) -> Inputs:
        return {READ: torch.stack([sample[READ] for sample in samples])}

    def features(self, inputs: Inputs) -> Any:
        return inputs[READ].flatten().numpy()


class _Pictures(_Foreign):
    @property
    def windowed(self) -> bool:
        return self.processor.windowed

    def pieces(self, raw: Any) -> list[Any]:
        return self.processor.pieces(raw)

    def __call__(self, raw: Any) -> Inputs:
        return {READ: self.prepare(self.processor.plain(raw))}


class _Texts(_Foreign):
    """Long texts are cut off by the tokenizer."""

    def __call__(self, raw: Any) -> Inputs:
        return {READ: self.prepare([self.processor.plain(raw)])[0]}


def check_space(name: str, path: str | Path, modalities: Sequence[str]) -> None:
    """ValueError for a model of open_clip that is not there, or that does not read these modalities; says nothing of others."""
    if not is_open_clip(path):
        return
    find_two_towers(str(path), _key(name))
    if wrong := [modality for modality in modalities if find(modality).served not in (PICTURES, TEXTS)]:
        raise ValueError(
            f"{_key(name)}: {path} reads pictures and texts, and what is scored is {' and '.join(modalities)}, of which "
            f"{wrong[0]} is neither. Leave it out, or score data of pictures and texts alone"
        )


def open_space(name: str, path: str | Path, processor: MMSSLProcessor, device: torch.device) -> Space:
    """A model to compare with: open_clip:MODEL/PRETRAINED, or the folder or Hub id of one of mmssl.

    name: of its row. processor: of the model that it is compared with. ValueError as of `load_two_towers` and `load_model`.
    """
    if is_open_clip(path):
        return OpenClip(str(path), _key(name), processor, device)
    return Own(load_model(path).to(device), MMSSLProcessor.from_pretrained(path), History.read(path))


def is_open_clip(path: str | Path) -> bool:
    """Whether a model is named as one of open_clip."""
    return str(path).startswith(OPEN_CLIP)


def _key(name: str) -> str:
    return f"compare {name}"


def refuse_open_clip(others: Mapping[str, str | Path]) -> None:
    """ValueError for a model of open_clip where probes are asked for, which read models of mmssl."""
    if wrong := [name for name, path in others.items() if is_open_clip(path)]:
        raise ValueError(
            f"{_key(wrong[0])}: models of open_clip stand beside others in the tables of --retrieval and --zero-shot, not in those "
            "of probes. Ask for one of these, or leave it out"
        )
