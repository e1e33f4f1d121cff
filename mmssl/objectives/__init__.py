"""Objectives by the name that a recipe gives them."""

from mmssl.objectives.base import Objective, Output, Setup
from mmssl.objectives.masked import Masked
from mmssl.objectives.supervised import Supervised

OBJECTIVES: dict[str, type[Objective]] = {"masked": Masked, "supervised": Supervised}

__all__ = ["OBJECTIVES", "Masked", "Objective", "Output", "Setup", "Supervised"]
