"""Objectives by the name that a recipe gives them."""

from mmssl.objectives.base import Objective, Output, Setup
from mmssl.objectives.jepa import Jepa
from mmssl.objectives.masked import Masked
from mmssl.objectives.supervised import Supervised
from mmssl.plugins import Parts

OBJECTIVES: Parts[type[Objective]] = Parts(
    "mmssl.objectives", Objective, {"masked": Masked, "jepa": Jepa, "supervised": Supervised}
)

__all__ = ["OBJECTIVES", "Jepa", "Masked", "Objective", "Output", "Setup", "Supervised"]
