"""Losses of agreement by the name that a recipe gives them."""

from mmssl.objectives.agree.losses.assignments import Cosine, Distance, Gram, MaskedTokens, SelfDistillation, SwappedAssignment
from mmssl.objectives.agree.losses.moments import Barlow, EntropyBound, Koleo, Sigreg, Vicreg
from mmssl.objectives.agree.losses.negatives import GroupOrdering, Hierarchical, InfoNce, Sigmoid
from mmssl.objectives.agree.losses.places import Grouping, SameToken
from mmssl.objectives.agree.losses.temperatures import IndividualTemperatures
from mmssl.objectives.agree.parts import Agreement
from mmssl.plugins import Parts

AGREEMENTS: Parts[type[Agreement]] = Parts(
    "mmssl.agreements",
    Agreement,
    {
        "info_nce": InfoNce,
        "individual_temperatures": IndividualTemperatures,
        "sigmoid": Sigmoid,
        "hierarchical": Hierarchical,
        "group_ordering": GroupOrdering,
        "same_token": SameToken,
        "grouping": Grouping,
        "barlow_twins": Barlow,
        "vicreg": Vicreg,
        "sigreg": Sigreg,
        "koleo": Koleo,
        "entropy_bound": EntropyBound,
        "cosine": Cosine,
        "self_distillation": SelfDistillation,
        "swapped_assignment": SwappedAssignment,
        "masked_tokens": MaskedTokens,
        "gram": Gram,
        "distance": Distance,
    },
)

__all__ = ["AGREEMENTS"]
