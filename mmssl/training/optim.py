"""AdamW with the parameter groups that transformers want: what decays, and how fast each layer learns."""

import re
from typing import Any

import torch
from torch import nn

from mmssl.model import Encoder

_LAYER = re.compile(r"^networks\.student\.encoder\.layers\.(\d+)\.")


def decays(module: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    """Whether weight decay applies: to matrices of projections, not to biases, norms, gains, embeddings, prefix or mask tokens."""
    return parameter.dim() >= 2 and name == "weight" and not isinstance(module, nn.Embedding)


def depth_of(name: str, depth: int) -> int:
    """Layer number for layer-wise decay: 0 for adapters and prefix, i + 1 for layer i, depth + 1 for all that follows (heads)."""
    if found := _LAYER.match(name):
        return int(found[1]) + 1
    return 0 if name.startswith(("networks.student.adapters.", "networks.student.encoder.prefix")) else depth + 1


def parameter_groups(objective: nn.Module, encoder: Encoder, *, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """Groups of the trainable parameters, each with `weight_decay` and `scale`, the factor on the learning rate.

    Layer-wise decay as in BEiT (arXiv 2106.08254, appendix): scale = layer_decay ** (depth + 1 - layer).
    """
    depth = len(encoder.layers)
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for path, module in objective.named_modules():
        for name, parameter in module.named_parameters(recurse=False):
            if not parameter.requires_grad:
                continue
            scale = layer_decay ** (depth + 1 - depth_of(f"{path}.{name}", depth))
            decay = weight_decay if decays(module, name, parameter) else 0.0
            groups.setdefault((decay, scale), []).append(parameter)
    return [{"params": params, "weight_decay": decay, "scale": scale} for (decay, scale), params in groups.items()]


def adamw(groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float], eps: float) -> torch.optim.AdamW:
    """Decoupled weight decay Adam (arXiv 1711.05101, algorithm 2), with torch's fused kernel."""
    return torch.optim.AdamW(groups, lr=lr, betas=betas, eps=eps, fused=True)


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Set the learning rate of every group to `lr` times the group's scale."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group["scale"]
