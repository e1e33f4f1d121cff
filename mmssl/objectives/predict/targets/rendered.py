"""Targets that are what a frozen model of pictures sees in renderings of the sample: I2P-MAE."""

from collections.abc import Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from torch import Tensor, nn

from mmssl.modality import Rendering
from mmssl.model import MMSSLModel
from mmssl.objectives.foreign import load_tower
from mmssl.objectives.networks import Networks
from mmssl.objectives.predict.distances import Loss, Mse
from mmssl.objectives.predict.parts import Answer, Outline, Scene, Target
from mmssl.objectives.predict.targets.places import Places, only
from mmssl.objectives.terms import Weight


class Rendered(Target):
    """What a frozen model of pictures makes of views of the sample, at the place of each token, for seen tokens.

    I2P-MAE (arXiv 2212.06785, section 3): 2-D features of the views, side by side, are a second target for the seen tokens; with
    `guided: true` in the mask its attention says which tokens are worth seeing. The paper takes the features of every point of a
    group, here those at its centre; probabilities of tokens are here in proportion to attention.

    model: folder or Hub id of a vision transformer of transformers with a CLS token (ViT, DINO, DINOv2, CLIP), read from
        safetensors.
    size: pixels of the side of a picture.
    places: which of the predicted places count: hidden, seen, or all that are predicted.
    loss: distance between prediction and target; null: squared error.
    weight: factor on its loss.
    """

    raw = False
    default_loss = Mse

    def __init__(
        self,
        *,
        model: str,
        size: Annotated[int, Field(ge=16)] = 224,
        places: Places = "seen",
        loss: Loss | None = None,
        weight: Weight = 1.0,
    ) -> None:
        super().__init__(loss, weight)
        self.path, self.size, self.places, self.everywhere = model, size, places, places == "seen"

    def prepare(self, networks: Networks, modalities: Sequence[str]) -> None:
        for name in modalities:
            if not networks.student.adapter(name).rendered_views:
                raise ValueError(f"objective.targets: rendered needs views of a sample from outside, which {name!r} does not have")
        self.eye = load_eye(self.path)
        config: Any = self.eye.config
        self.patch, self.width = int(config.patch_size), int(config.hidden_size)
        if self.size % self.patch:
            raise ValueError(
                f"objective.targets: rendered.size must be a multiple of the patches of {self.path}, {self.patch}; got {self.size}"
            )
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None], persistent=False)

    def train(self, mode: bool = True) -> "Rendered":
        """The model of pictures stays in evaluation mode."""
        return super().train(False)

    def sizes(self, model: MMSSLModel, name: str) -> dict[str, int]:
        return {"rendered": model.adapter(name).rendered_views * self.width}

    def forward(self, scene: Scene) -> Answer:
        return Answer({"rendered": only(self.read(scene)[0], scene, self.places)})

    def outline(self, scene: Scene) -> Outline:
        return Outline({"rendered": only(torch.ones_like(scene.valid, dtype=torch.int64), scene, self.places) == 1})

    def saliency(self, scene: Scene) -> Float[Tensor, "b n"]:
        """Logarithm of the attention of the CLS token, the mean over views."""
        return self.read(scene)[1]

    @torch.no_grad()
    def read(self, scene: Scene) -> tuple[Float[Tensor, "b n t"], Float[Tensor, "b n"]]:
        """Features and saliency of each token."""
        render = scene.model.adapter(scene.name).render
        return scene.once(f"seen by {self.path} {self.size}", lambda: self.look(render(scene.inputs, self.size)))

    def look(self, rendering: Rendering) -> tuple[Float[Tensor, "b n t"], Float[Tensor, "b n"]]:
        """What the model makes of the pictures at the places of the tokens."""
        b, v, n, _ = rendering.places.shape
        pictures = (rendering.pictures.flatten(0, 1) - self.get_buffer("mean")) / self.get_buffer("std")
        seen = self.eye(pixel_values=pictures, output_attentions=True)
        side = self.size // self.patch
        first = seen.last_hidden_state.shape[1] - side * side  # CLS, and registers where a model has them
        if first < 1:
            raise ValueError(f"objective.targets: rendered reads the attention of a CLS token, which {self.path} does not have")
        attention = seen.attentions[-1].mean(1)[:, 0, first:]
        maps = torch.cat([seen.last_hidden_state[:, first:], attention[..., None]], -1).float()
        maps = maps.mT.unflatten(2, (side, side))
        found = F.grid_sample(maps, rendering.places.flatten(0, 1)[:, :, None], padding_mode="border", align_corners=False)
        found = found[..., 0].mT.unflatten(0, (b, v))
        features = found[..., :-1].transpose(1, 2).reshape(b, n, -1)
        return features, found[..., -1].mean(1).clamp(min=1e-12).log()


def load_eye(path: str) -> nn.Module:
    """A frozen vision transformer that returns its attention."""
    eye, _ = load_tower(path, attn_implementation="eager")
    frozen: nn.Module = eye.eval().requires_grad_(False)
    return frozen
