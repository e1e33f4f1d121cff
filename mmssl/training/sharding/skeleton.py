"""What is sharded of an objective, and a whole one beside it: all but the weights, which are put in when it is used."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from mmssl.model import Encoder
from mmssl.objectives import Objective


def layers(objective: nn.Module) -> list[nn.Module]:
    """The layers of every encoder in an objective, which are what is sharded: the student's, teachers', decoders', predictors'."""
    return [layer for module in objective.modules() if isinstance(module, Encoder) for layer in module.layers]


def skeleton(objective: Objective) -> Objective:
    """A copy of an objective, before it is sharded, whose parameters have no memory."""
    memo: dict[int, object] = {}
    for module in objective.modules():
        if isinstance(module, Objective):
            memo[id(module.setup)] = module.setup  # data and labels, which no weight hangs on
    for parameter in objective.parameters():
        memo[id(parameter)] = nn.Parameter(parameter.to("meta"), requires_grad=parameter.requires_grad)
    return copy.deepcopy(objective, memo)


@contextmanager
def filled(bones: Objective, weights: dict[str, Tensor]) -> Iterator[Objective]:
    """The skeleton with these weights and buffers, until the block ends."""
    before = dict(bones.named_parameters(remove_duplicate=False))
    try:
        bones.load_state_dict(weights, assign=True)
        for name, parameter in bones.named_parameters(remove_duplicate=False):
            parameter.requires_grad_(before[name].requires_grad)
        yield bones.to(next(iter(weights.values())).device)  # buffers that are in no state dict
    finally:
        for name, parameter in before.items():
            path, _, own = name.rpartition(".")
            setattr(bones.get_submodule(path), own, parameter)
