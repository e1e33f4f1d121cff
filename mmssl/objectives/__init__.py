"""Objectives by the name that a recipe gives them."""

from mmssl.objectives.base import Objective, Output, Setup, Step
from mmssl.objectives.networks import Clock
from mmssl.objectives.predict import Jepa, Masked
from mmssl.objectives.supervised import Supervised
from mmssl.objectives.terms import Mean, Metric, Term, Terms
from mmssl.plugins import Parts

OBJECTIVES: Parts[type[Objective]] = Parts(
    "mmssl.objectives", Objective, {"masked": Masked, "jepa": Jepa, "supervised": Supervised}
)

__all__ = [
    "OBJECTIVES",
    "Clock",
    "Jepa",
    "Masked",
    "Mean",
    "Metric",
    "Objective",
    "Output",
    "Setup",
    "Step",
    "Supervised",
    "Term",
    "Terms",
]
