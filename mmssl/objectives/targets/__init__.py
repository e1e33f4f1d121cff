"""Targets by the name that a recipe gives them."""

from collections.abc import Callable

from mmssl.objectives.parts import Target
from mmssl.objectives.targets.content import Normalised, Raw
from mmssl.objectives.targets.latent import Latent

TARGETS: dict[str, Callable[..., Target]] = {"raw": Raw, "normalised": Normalised, "latent": Latent}

__all__ = ["TARGETS", "Latent", "Normalised", "Raw", "Target"]
