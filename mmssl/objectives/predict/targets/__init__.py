"""Targets by the name that a recipe gives them."""

from collections.abc import Callable

from mmssl.objectives.predict.parts import Target
from mmssl.objectives.predict.targets.aspect import Aspect
from mmssl.objectives.predict.targets.assignments import Assignments
from mmssl.objectives.predict.targets.clusters import Clusters
from mmssl.objectives.predict.targets.content import Normalised, Raw
from mmssl.objectives.predict.targets.hidden import Hidden
from mmssl.objectives.predict.targets.latent import Latent
from mmssl.objectives.predict.targets.own import Embedding, Encoding
from mmssl.objectives.predict.targets.picture import Gradients, Hog
from mmssl.objectives.predict.targets.position import Position
from mmssl.objectives.predict.targets.quantised import Quantised
from mmssl.objectives.predict.targets.random_codes import RandomCodes
from mmssl.objectives.predict.targets.rendered import Rendered
from mmssl.objectives.predict.targets.teacher import Teacher
from mmssl.plugins import Parts

TARGETS: Parts[Callable[..., Target]] = Parts(
    "mmssl.targets",
    Target,
    {
        "raw": Raw,
        "normalised": Normalised,
        "latent": Latent,
        "hog": Hog,
        "gradients": Gradients,
        "position": Position,
        "embedding": Embedding,
        "encoder": Encoding,
        "assignments": Assignments,
        "random_codes": RandomCodes,
        "clusters": Clusters,
        "quantised": Quantised,
        "aspect": Aspect,
        "hidden": Hidden,
        "teacher": Teacher,
        "rendered": Rendered,
    },
)

__all__ = [
    "TARGETS",
    "Aspect",
    "Assignments",
    "Clusters",
    "Embedding",
    "Encoding",
    "Gradients",
    "Hidden",
    "Hog",
    "Latent",
    "Normalised",
    "Position",
    "Quantised",
    "RandomCodes",
    "Raw",
    "Rendered",
    "Target",
    "Teacher",
]
