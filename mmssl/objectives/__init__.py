"""Objectives by the name that a recipe gives them."""

from mmssl.objectives.agree import Clip, Contrast, Distill
from mmssl.objectives.base import Objective, Output, Setup, Step
from mmssl.objectives.imitation import KnowledgeDistillation
from mmssl.objectives.networks import Clock
from mmssl.objectives.predict import Jepa, Masked
from mmssl.objectives.supervised import Supervised
from mmssl.objectives.terms import Mean, Metric, Term, Terms
from mmssl.objectives.total import Sum
from mmssl.plugins import Parts

OBJECTIVES: Parts[type[Objective]] = Parts(
    "mmssl.objectives",
    Objective,
    {
        "masked": Masked,
        "jepa": Jepa,
        "contrast": Contrast,
        "distill": Distill,
        "clip": Clip,
        "sum": Sum,
        "supervised": Supervised,
        "knowledge_distillation": KnowledgeDistillation,
    },
)

__all__ = [
    "OBJECTIVES",
    "Clip",
    "Clock",
    "Contrast",
    "Distill",
    "Jepa",
    "KnowledgeDistillation",
    "Masked",
    "Mean",
    "Metric",
    "Objective",
    "Output",
    "Setup",
    "Step",
    "Sum",
    "Supervised",
    "Term",
    "Terms",
]
