"""AdamW with the parameter groups that transformers want: what decays, and how fast each layer learns."""

import math
import re
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from mmssl.model import Encoder
from mmssl.objectives import Objective
from mmssl.recipe.options import PARTS, PartOptions, TrainOptions

WeightDecay = float | tuple[float, float]
"""A constant, or what it is at the start and at the end of the budget."""

_LAYER = re.compile(r"^networks\.student\.encoder\.layers\.(\d+)\.")


def decays(module: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: to matrices of projections, not to biases, norms, gains, embeddings, prefix or mask tokens."""
    return parameter.dim() >= 2 and name == "weight" and not isinstance(module, nn.Embedding)


def depth_of(name: str, depth: int) -> int:
    """Layer number for layer-wise decay: 0 for adapters and prefix, i + 1 for layer i, depth + 1 for all that follows (heads)."""
    if found := _LAYER.match(name):
        return int(found[1]) + 1
    return 0 if name.startswith(("networks.student.adapters.", "networks.student.encoder.prefix")) else depth + 1


def course(weight_decay: WeightDecay) -> tuple[float, float]:
    """Weight decay at the start and at the end of the budget."""
    return weight_decay if isinstance(weight_decay, tuple) else (weight_decay, weight_decay)


def parameter_groups(
    objective: nn.Module,
    encoder: Encoder,
    *,
    weight_decay: WeightDecay,
    layer_decay: float,
    parts: Sequence[PartOptions] = (),
) -> list[dict[str, Any]]:
    """Groups of the trainable parameters, each with `weight_decay`, its `course` and `scale`, the factor on the learning rate.

    Layer-wise decay as in BEiT (arXiv 2106.08254, appendix): scale = layer_decay ** (depth + 1 - layer), times `lr` of the part.
    ValueError if one of the `parts` is no parameter's.
    """
    depth, unused = len(encoder.layers), list(range(len(parts)))
    groups: dict[tuple[tuple[float, float], float], list[nn.Parameter]] = {}
    for path, module in objective.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            full = f"{path}.{name}".lstrip(".")
            number = next((number for number, part in enumerate(parts) if part.matches(full)), None)
            part = None if number is None else parts[number]
            unused = [each for each in unused if each != number]
            decay = weight_decay if part is None or part.weight_decay is None else part.weight_decay
            scale = layer_decay ** (depth + 1 - depth_of(full, depth)) * (1.0 if part is None else part.lr)
            key = course(decay) if decays(module, name, parameter) else (0.0, 0.0)
            groups.setdefault((key, scale), []).append(parameter)
    if unused:
        raise ValueError(f"train.parts.{unused[0]}: {nothing_matches(parts[unused[0]], objective)}")
    return [
        {"params": params, "weight_decay": decay[0], "course": decay, "scale": scale} for (decay, scale), params in groups.items()
    ]


def groups_of(objective: Objective, options: TrainOptions) -> list[dict[str, Any]]:
    """The groups of what a recipe trains."""
    return parameter_groups(
        objective,
        objective.model.encoder,
        weight_decay=options.weight_decay,
        layer_decay=options.layer_decay,
        parts=options.parts,
    )


def nothing_matches(part: PartOptions, objective: nn.Module) -> str:
    """What to say of a part that no parameter belongs to, with names that there are."""
    names = [name for name, parameter in objective.named_parameters() if parameter.requires_grad]
    some = names[:: max(1, len(names) // 4)][:4]
    return (
        f"no parameter that learns matches {part.match!r}, or an earlier part has them all. Give {', '.join(PARTS)}, or a regular "
        f"expression for names like {', '.join(some)}"
    )


def adamw(groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float], eps: float) -> torch.optim.AdamW:
    """Decoupled weight decay Adam (arXiv 1711.05101, algorithm 2), with torch's fused kernel."""
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group to `lr` times the group's scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["scale"]


def set_weight_decay(optimizer: torch.optim.Optimizer, progress: float) -> None:
    """Set the weight decay of every group to what it is when `progress` of the budget is used up: half a cosine (DINO, I-JEPA)."""
    for group in optimizer.param_groups:
        start, end = group["course"]
        group["weight_decay"] = end + (start - end) * (1 + math.cos(math.pi * progress)) / 2
