"""Public models of pictures as second networks: encoders of transformers and of open_clip, frozen."""

from collections.abc import Sequence
from inspect import signature
from typing import Any, cast

import torch
import torch.nn.functional as F
import transformers
from jaxtyping import Float
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedConfig

from mmssl.model import MMSSLConfig, no_weights_bar
from mmssl.model.config import refuse_kernels
from mmssl.model.public import OPEN_CLIP, load_two_towers

TEACHER = "objective.teacher.model"
TOWERS = {"clip": "CLIPVisionModel", "siglip": "SiglipVisionModel"}
"""Models of pictures and texts, by their type in transformers, of which the part for pictures is taken."""
POOLER, RESIZES = "pooler", "interpolate_pos_encoding"


class Foreign(nn.Module):
    """A frozen encoder of pictures that mmssl did not train.

    encoder: the model. side: of the pictures that it takes, in pixels. mean, std: by which it normalises the channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: nn.Module, side: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.encoder, self.side = encoder.eval().requires_grad_(False), side
        self.register_buffer("mean", torch.tensor(mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(std)[:, None, None], persistent=False)

    def train(self, mode: bool = True) -> "Foreign":
        """It stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, pictures: Sequence[Float[Tensor, "3 _ _"]]) -> Float[Tensor, "b d"]:
        """One vector for each picture, of whatever size, whose colours are in [0, 1]."""
        resized = torch.cat([self.resized(picture[None].float()) for picture in pictures])
        with torch.autocast(resized.device.type, enabled=False):
            return self.vector((resized.clamp(0, 1) - self.mean) / self.std)

    def resized(self, picture: Float[Tensor, "1 3 h w"]) -> Float[Tensor, "1 3 s s"]:
        """A picture in the model's size; a long one is squeezed."""
        return F.interpolate(picture, (self.side, self.side), mode="bicubic", antialias=True, align_corners=False)

    def vector(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b d"]:
        """What the model makes of its own input."""
        raise NotImplementedError


class Transformers(Foreign):
    """An encoder of transformers: its pooled output where the weights hold what makes it, else the first token.

    whole: whether the weights of what pools were in the file. options: further arguments of the model.
    """

    whole: bool
    options: dict[str, bool]

    def vector(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b d"]:
        found = self.encoder(pixel_values=pixels, **self.options)
        pools = self.whole and found.get("pooler_output") is not None
        return cast(Tensor, found.pooler_output if pools else found.last_hidden_state[:, 0])


class OpenClip(Foreign):
    """The part of an open_clip model for pictures, projected to where texts lie."""

    def vector(self, pixels: Float[Tensor, "b 3 s s"]) -> Float[Tensor, "b d"]:
        return cast(Tensor, self.encoder(pixels))


def is_foreign(path: str) -> bool:
    """Whether a model is one that mmssl did not save."""
    return path.startswith(OPEN_CLIP) or not isinstance(AutoConfig.from_pretrained(path, trust_remote_code=False), MMSSLConfig)


def load_foreign(path: str, side: int | None = None) -> Foreign:
    """A public model: a folder or Hub id of transformers, or open_clip:MODEL/PRETRAINED, where PRETRAINED may be a file of weights.

    side: of the pictures that it is to take, where it can take others than those it was trained on; None: those.
    ValueError: it is no encoder of pictures, weights are missing, or there is no such model.
    """
    return load_open_clip(path) if path.startswith(OPEN_CLIP) else load_transformers(path, side)


def load_tower(path: str, **options: Any) -> tuple[Any, list[str]]:
    """An encoder of transformers from safetensors, of two towers that for pictures, and the names of weights that it lacks."""
    refuse_kernels(PreTrainedConfig.get_config_dict(path)[0], f"{path}, config.json")
    kind = getattr(transformers, TOWERS.get(AutoConfig.from_pretrained(path, trust_remote_code=False).model_type, "AutoModel"))
    with no_weights_bar():
        encoder, found = kind.from_pretrained(
            path, use_safetensors=True, trust_remote_code=False, output_loading_info=True, **options
        )
    return encoder, sorted(found["missing_keys"])


def load_transformers(path: str, side: int | None) -> Transformers:
    """An encoder of transformers, from safetensors alone."""
    from transformers import AutoImageProcessor  # takes a second, and few need it

    encoder, missing = load_tower(path, dtype=torch.float32)
    if encoder.main_input_name != "pixel_values":
        raise ValueError(
            f"{TEACHER}: {path} ({encoder.config.model_type}) reads {encoder.main_input_name}; a public model must "
            "be an encoder of pictures, such as a ViT, DINOv2, CLIP or SigLIP"
        )
    if wrong := [key for key in missing if not key.startswith(POOLER)]:
        raise ValueError(f"{TEACHER}: {path} lacks {len(wrong)} weights of its encoder, such as {wrong[0]}")
    shown = AutoImageProcessor.from_pretrained(path, trust_remote_code=False)
    own = own_side(shown)
    resizes = side not in (None, own) and RESIZES in signature(encoder.forward).parameters  # DINOv2 does so without being asked
    foreign = Transformers(encoder, side or own, tuple(shown.image_mean), tuple(shown.image_std))
    foreign.whole, foreign.options = not missing, {RESIZES: True} if resizes else {}
    return foreign


def own_side(processor: Any) -> int:
    """The side in pixels of the pictures that a processor of transformers makes: what it cuts out, or scales to."""
    size = dict(processor.crop_size if processor.crop_size and processor.do_center_crop else processor.size)
    return int(size.get("height") or size["shortest_edge"])


def load_open_clip(path: str) -> OpenClip:
    """The part for pictures of a model of open_clip."""
    import open_clip  # takes most of a second, which only those who use it should wait

    model = load_two_towers(path, TEACHER)
    shown = open_clip.get_model_preprocess_cfg(model)
    size = shown["size"]
    side = size if isinstance(size, int) else size[0]
    return OpenClip(model.visual, side, tuple(shown["mean"]), tuple(shown["std"]))
