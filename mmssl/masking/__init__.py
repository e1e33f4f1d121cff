"""Which tokens are seen and which are predicted: samplers by the name that a recipe gives them."""

from collections.abc import Callable

from mmssl.masking.clusters import Clusters
from mmssl.masking.lines import Bands, Tube
from mmssl.masking.multiblock import MultiBlock
from mmssl.masking.rolled import RolledBlock
from mmssl.masking.runs import Runs
from mmssl.masking.scored import Block, Column, Random, Span
from mmssl.masking.split import AXES, Axis, Ratio, Sampler, Scored, Split, look_at, of_sequences, split_in_order
from mmssl.masking.subset import Subset
from mmssl.modality import MaskPreference
from mmssl.plugins import Parts

SAMPLERS: Parts[Callable[..., Sampler]] = Parts(
    "mmssl.samplers",
    Sampler,
    {
        "random": Random,
        "block": Block,
        "span": Span,
        "runs": Runs,
        "column": Column,
        "clusters": Clusters,
        "rolled_block": RolledBlock,
        "tube": Tube,
        "bands": Bands,
        "multiblock": MultiBlock,
        "subset": Subset,
    },
)


def preferred(preference: MaskPreference) -> Sampler:
    """The sampler that a modality asks for."""
    return SAMPLERS[preference.sampler](ratio=preference.ratio)


__all__ = [
    "AXES",
    "SAMPLERS",
    "Axis",
    "Bands",
    "Block",
    "Clusters",
    "Column",
    "MultiBlock",
    "Random",
    "Ratio",
    "RolledBlock",
    "Runs",
    "Sampler",
    "Scored",
    "Span",
    "Split",
    "Subset",
    "Tube",
    "look_at",
    "of_sequences",
    "preferred",
    "split_in_order",
]
