"""What turns one vector of each sample into another: projectors and predictors, and prototypes to compare vectors with."""

import json
import math
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pydantic import Field
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from mmssl import files

Positive = Annotated[int, Field(gt=0)]
HeadNorm = Literal["none", "batch", "layer", "group"]


@dataclass(frozen=True, kw_only=True)
class Head:
    """A multilayer perceptron on one vector of each sample.

    layers: linear maps; 0: the vectors as they are.
    hidden: width between them.
    size: width of what comes out.
    norm: between them: none; batch = over the samples of the whole step; layer; group = groups of 16 channels, with standardised
        weights, which needs no other samples (arXiv 2010.10241).
    last_norm: the same behind the last one, without learned gains.
    activation: between them.
    bias: of the last one.
    """

    layers: Annotated[int, Field(ge=0)] = 2
    hidden: Positive = 512
    size: Positive = 128
    norm: HeadNorm = "batch"
    last_norm: HeadNorm = "none"
    activation: Literal["relu", "gelu"] = "relu"
    bias: bool = True

    def __post_init__(self) -> None:
        for key, norm, width in (("hidden", self.norm, self.hidden), ("size", self.last_norm, self.size)):
            if norm == "group" and width % 16:
                raise ValueError(f"a head with group norm needs a {key} that is a multiple of 16; got {width}")

    def build(self, width: int) -> "Mlp":
        """The module for vectors of this width."""
        return Mlp(self, width)

    def out(self, width: int) -> int:
        """Width of what it gives."""
        return self.size if self.layers else width

    def settings(self) -> dict[str, Any]:
        """The keys, as JSON values."""
        return asdict(self)


class BatchNorm(nn.Module):
    """Batch normalisation by the statistics of the rows given, or outside training by the averages that it keeps.

    Rows are those of the whole optimizer step, on every process, so that nothing needs to be synchronised.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, gains: bool, momentum: float = 0.1, eps: float = 1e-5) -> None:
        super().__init__()
        self.momentum, self.eps = momentum, eps
        self.weight = nn.Parameter(torch.ones(width)) if gains else None
        self.bias = nn.Parameter(torch.zeros(width)) if gains else None
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x: Float[Tensor, "n d"], step: bool) -> Float[Tensor, "n d"]:
        """step: the rows are those of a whole step; a single one of them has no statistics, and goes by the averages."""
        step = step and len(x) > 1
        mean, var = (self.running_mean, self.running_var) if self.training or not step else (None, None)
        return F.batch_norm(x, mean, var, self.weight, self.bias, step, self.momentum, self.eps)


class GroupNorm(nn.GroupNorm):
    """Group normalisation with the call of `BatchNorm`."""

    def __init__(self, width: int, gains: bool) -> None:
        super().__init__(width // 16, width, affine=gains)

    def forward(self, x: Float[Tensor, "n d"], step: bool) -> Float[Tensor, "n d"]:  # type: ignore[override]
        return super().forward(x)


class LayerNorm(nn.LayerNorm):
    """Layer normalisation with the call of `BatchNorm`."""

    def __init__(self, width: int, gains: bool) -> None:
        super().__init__(width, elementwise_affine=gains)

    def forward(self, x: Float[Tensor, "n d"], step: bool) -> Float[Tensor, "n d"]:  # type: ignore[override]
        return super().forward(x)


class StandardisedLinear(nn.Linear):
    """A linear map each row of whose weights has zero mean and unit variance over its inputs (arXiv 1903.10520, section 3)."""

    def forward(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n e"]:
        weight = self.weight - self.weight.mean(1, keepdim=True)
        return F.linear(x, weight / (weight.square().mean(1, keepdim=True) + 1e-5).sqrt() / weight.shape[1] ** 0.5, self.bias)


NORMS = {"batch": BatchNorm, "layer": LayerNorm, "group": GroupNorm}


class Mlp(nn.Module):
    """The module of a `Head`."""

    def __init__(self, head: Head, width: int) -> None:
        super().__init__()
        self.head = head
        widths = [width, *[head.hidden] * (head.layers - 1), head.size][: head.layers + 1]
        self.linears, self.norms = nn.ModuleList(), nn.ModuleList()
        for number, (before, after) in enumerate(pairwise(widths)):
            last = number == head.layers - 1
            norm = head.last_norm if last else head.norm
            kind = StandardisedLinear if norm == "group" else nn.Linear
            # What a norm takes away needs no bias.
            self.linears.append(kind(before, after, bias=norm == "none" and (head.bias or not last)))
            self.norms.append(nn.Identity() if norm == "none" else NORMS[norm](after, gains=not last))

    def forward(self, x: Float[Tensor, "n d"], step: bool = False) -> Float[Tensor, "n e"]:
        """step: whether the rows are all samples of an optimizer step, by which batch normalisation goes then."""
        for number, (linear, norm) in enumerate(zip(self.linears, self.norms, strict=True)):
            x = linear(x)
            x = x if isinstance(norm, nn.Identity) else norm(x, step)
            if number < len(self.linears) - 1:
                x = F.relu(x) if self.head.activation == "relu" else F.gelu(x)
        return x


SETTINGS = "heads"
"""Where a file of projectors says how they are built."""


def write_projectors(file: Path, projectors: nn.ModuleDict) -> None:
    """Write heads by modality as safetensors, with the keys of each, as JSON, in the metadata."""
    settings = {name: cast(Mlp, head).head.settings() for name, head in projectors.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in projectors.state_dict().items()}
    with files.new_file(file) as part:
        save_file(tensors, part, {SETTINGS: json.dumps(settings)})


def read_projectors(file: Path) -> nn.ModuleDict:
    """The heads by modality that `write_projectors` wrote, in evaluation mode."""
    with safe_open(file, framework="pt") as stored:
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118, not a dict
        settings = json.loads(stored.metadata()[SETTINGS])
    widths = {name: tensors[f"{name}.linears.0.weight"].shape[1] for name in settings}
    found = nn.ModuleDict({name: Head(**keys).build(widths[name]) for name, keys in settings.items()})
    found.load_state_dict(tensors)
    return found.eval()


class Prototypes(nn.Module):
    """Cosine similarities with learned directions (SwAV, arXiv 2006.09882, section 3.1; DINO's last layer with its gain at 1)."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=self.weight.shape[1] ** -0.5)

    def forward(self, x: Float[Tensor, "n d"], frozen: bool = False) -> Float[Tensor, "n k"]:
        """frozen: the directions get no gradient but zero."""
        weight = self.weight.detach() + 0 * self.weight if frozen else self.weight
        kind = torch.promote_types(x.dtype, torch.float32)
        with torch.autocast(x.device.type, enabled=False):
            return F.normalize(x.to(kind), dim=-1) @ F.normalize(weight.to(kind), dim=-1).mT


class LogitScale(nn.Module):
    """A learned factor on cosine similarities, held as its logarithm (CLIP, arXiv 2103.00020, section 2.5), and a bias (SigLIP)."""

    def __init__(self, initial: float, limit: float = 100.0, bias: float | None = None) -> None:
        super().__init__()
        self.limit = limit
        self.log_scale = nn.Parameter(torch.tensor([math.log(initial)]))
        self.bias = None if bias is None else nn.Parameter(torch.tensor([bias]))

    @property
    def scale(self) -> Float[Tensor, ""]:
        """The factor."""
        return self.log_scale.exp()[0]

    @torch.no_grad()
    def limited(self) -> None:
        """Bring the factor back to its limit, as CLIP does after every step."""
        self.log_scale.clamp_(max=math.log(self.limit))

    def forward(self, similarities: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
        scaled = self.scale * similarities
        return scaled if self.bias is None else scaled + self.bias
