"""Targets by the name that a recipe gives them."""

from collections.abc import Callable

from mmssl.objectives.parts import Target
from mmssl.objectives.targets.content import Normalised, Raw
from mmssl.objectives.targets.hidden import Hidden
from mmssl.objectives.targets.latent import Latent
from mmssl.objectives.targets.rendered import Rendered
from mmssl.objectives.targets.teacher import Teacher

TARGETS: dict[str, Callable[..., Target]] = {
    "raw": Raw,
    "normalised": Normalised,
    "latent": Latent,
    "hidden": Hidden,
    "teacher": Teacher,
    "rendered": Rendered,
}

__all__ = ["TARGETS", "Hidden", "Latent", "Normalised", "Raw", "Rendered", "Target", "Teacher"]
