"""Laws of optimizer steps that are cut into micro-batches, on drawn samples of various sizes; see `mmssl.testing`."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.testing import assert_close

from mmssl.data import Batch, with_others
from mmssl.draws import keys
from mmssl.modality import Inputs, find
from mmssl.objectives import Setup
from mmssl.objectives.predict import Masked
from mmssl.objectives.predict.predictors import MaskToken
from mmssl.testing.small import small_model, small_processor
from mmssl.tokens import Tokens

STEP = 8
"""Samples of a step."""
DRAWN = 2
"""Steps that are drawn."""


def real_tokens(tokens: Tokens) -> list[Tensor]:
    """What the valid tokens of each sample hold, and where they are."""
    both = torch.cat([tokens.values, tokens.coords], -1)
    return [rows[real] for rows, real in zip(both, tokens.valid_or_ones(), strict=True)]


def assert_same_tokens(expected: list[Tensor], found: list[Tensor], what: str) -> None:
    for number, (left, right) in enumerate(zip(expected, found, strict=True)):
        where = f"sample {number} {what}"
        assert left.shape == right.shape, f"{where}: {len(right)} tokens in the place of {len(left)}"
        assert_close(right, left, rtol=1e-5, atol=1e-5, msg=where)


@torch.no_grad()
def joined_batches_keep_their_tokens(name: str) -> None:
    """Batches that `Processor.join` makes one give the tokens of each, and no others, whatever the sizes of their samples."""
    processor, adapter = small_processor(name), small_model(name).adapter(name)
    for seed in range(DRAWN):
        rows = [processor(raw) for raw in find(name).example(STEP, seed)]
        for size in (1, 3, 4):
            parts = [processor.collate(rows[i : i + size]) for i in range(0, STEP, size)]
            apart = [sample for part in parts for sample in real_tokens(adapter(part))]
            assert_same_tokens(apart, real_tokens(adapter(processor.join(parts))), f"of batches of {size}, joined")


@torch.no_grad()
def micro_batches_change_nothing(name: str) -> None:
    """What the encoder sees of a sample is the same however its step is cut, though content comes from others; never padding."""
    for number, settings in enumerate(find(name).strong or ({},)):
        for predictor in (MaskToken(swap=0.4, keep=0.1), MaskToken(corruption="swap")):
            _cut_step_is_the_whole(name, settings, predictor, number)


def _cut_step_is_the_whole(name: str, settings: Mapping[str, Any], predictor: MaskToken, seed: int) -> None:
    modality, processor, ids = find(name), small_processor(name), torch.arange(STEP)
    augments = {name: modality.augment(**settings)}
    objective = Masked(small_model(name), Setup(augments), predictor=predictor).eval()
    embed, entered = objective.model.embed, list[Tensor]()
    objective.model.encoder.register_forward_pre_hook(lambda _, given: entered.extend(real_tokens(given[0])))

    def poisoned(key: str, inputs: Inputs) -> Tokens:
        tokens = embed(key, inputs)
        return replace(tokens, values=tokens.values.masked_fill(~tokens.valid_or_ones()[..., None], torch.nan))

    rows, found = [processor(raw) for raw in modality.example(STEP, seed)], list[list[Tensor]]()
    for size in (STEP, 4, 2):
        parts = [(processor.collate([rows[i] for i in part]), part) for part in ids.split(size)]
        with patch.object(objective.model, "embed", poisoned):
            for batch in with_others([Batch({name: inputs}, keys(0, seed, part), part) for inputs, part in parts]):
                objective(batch)
        found.append(entered.copy())
        entered.clear()
        assert_same_tokens(found[0], found[-1], f"in micro-batches of {size}")
