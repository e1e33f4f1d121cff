"""Which tokens are seen and which are predicted: samplers by the name that a recipe gives them."""

from collections.abc import Callable

from mmssl.masking.multiblock import MultiBlock
from mmssl.masking.scored import Block, Column, Random, Span
from mmssl.masking.split import AXES, Axis, Ratio, Sampler, Scored, Split
from mmssl.modality import MaskPreference

SAMPLERS: dict[str, Callable[..., Sampler]] = {
    "random": Random,
    "block": Block,
    "span": Span,
    "column": Column,
    "multiblock": MultiBlock,
}


def preferred(preference: MaskPreference) -> Sampler:
    """The sampler that a modality asks for."""
    return SAMPLERS[preference.sampler](ratio=preference.ratio)


__all__ = [
    "AXES",
    "SAMPLERS",
    "Axis",
    "Block",
    "Column",
    "MultiBlock",
    "Random",
    "Ratio",
    "Sampler",
    "Scored",
    "Span",
    "Split",
    "preferred",
]
