"""Every place is encoded, a mask token at the hidden ones, and read from the encoder itself."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Literal

import torch
from jaxtyping import Bool, Float, Int
from pydantic import Field
from torch import Tensor, nn

from mmssl.draws import Draws
from mmssl.masking import Split
from mmssl.model import Encoder, MMSSLConfig
from mmssl.objectives.predict.parts import Predicted, Predictor
from mmssl.objectives.predict.predictors.donors import anywhere, same_place, stretch
from mmssl.tokens import Tokens, of_own

SAME = 1e-5
"""Relative difference of two tokens' values, below which they stand for the same content: sums in another order differ by less."""

Share = Annotated[float, Field(ge=0, le=1)]


class MaskToken(Predictor):
    """Encode every place, with other content at the hidden ones, and predict linearly from the encoder's output there.

    SimMIM (arXiv 2111.09886), and BERT (arXiv 1810.04805, section 3.1), which leaves a tenth of the hidden tokens as they are and
    puts another token in the place of a tenth.

    corruption: what stands at a hidden place: token = a learned mask token; noise = normal noise of standard deviation 1 (SiT,
        arXiv 2104.03602); swap = the content of the same place in another sample (VIME, NeurIPS 2020, eq. 2).
    swap: share of the hidden tokens that get the content of another token instead.
    swap_from: where that comes from: step = any token of the step; sample = a stretch of the same sample, equally far away for all
        its tokens (TERA).
    keep: share of the hidden tokens that stay as they are.
    drawn: what swap and keep are drawn for: token = each hidden token; sample = all of a sample (TERA, arXiv 2007.06028).
    predict: hidden = at the hidden places; all = at every valid place.
    """

    def __init__(
        self,
        *,
        corruption: Literal["token", "noise", "swap"] = "token",
        swap: Share = 0.0,
        keep: Share = 0.0,
        swap_from: Literal["step", "sample"] = "step",
        drawn: Literal["token", "sample"] = "token",
        predict: Literal["hidden", "all"] = "hidden",
    ) -> None:
        super().__init__()
        if swap + keep > 1:
            raise ValueError(f"swap and keep are shares of the hidden tokens, together at most 1; got {swap} + {keep}")
        self.corruption, self.swap, self.keep = corruption, swap, keep
        self.everywhere = predict == "all"
        self.within, self.for_all = swap_from == "sample", drawn == "sample"
        self.mixes = (bool(swap) and not self.within) or corruption == "swap"

    def prepare(self, config: MMSSLConfig, *, identities: bool) -> None:
        self.width = config.hidden_size
        self.mask_token = nn.Parameter(torch.empty(config.hidden_size)) if self.corruption == "token" else None

    def reset_parameters(self) -> None:
        if self.mask_token is not None:
            nn.init.normal_(self.mask_token, std=0.02)

    def forward(
        self,
        encoder: Encoder,
        tokens: Tokens,
        parts: Split,
        draws: Draws,
        others: Sequence[Tokens] = (),
        pool: Tokens | None = None,
        place: Int[Tensor, " b"] | None = None,
    ) -> Predicted:
        hidden = parts.hidden_places(tokens.values.shape[1])
        encoded = encoder(replace(tokens, values=self.corrupt(tokens, hidden, draws, pool, place)))
        if self.everywhere:
            return Predicted(encoded.tail(tokens.values.shape[1]).values, *self.places(tokens, parts))
        return Predicted(encoded.take(parts.hidden + encoder.num_prefix).values, *self.places(tokens, parts))

    def corrupt(
        self,
        tokens: Tokens,
        hidden: Bool[Tensor, "b n"],
        draws: Draws,
        pool: Tokens | None = None,
        place: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        """The tokens' values with other content at the hidden places.

        pool: tokens from which other content comes; None: the batch's own. place: which sample of it each of the batch is; None: in
        order.
        """
        pool = tokens if pool is None else pool
        place = torch.arange(len(hidden), device=hidden.device) if place is None else place
        values = tokens.values
        out = torch.where(hidden[..., None], self.content(tokens, draws, pool, place), values)
        if not self.swap + self.keep:
            return out
        dice = draws.uniform("corruption", 1 if self.for_all else hidden.shape[1])
        dice = dice if self.for_all else of_own(dice, tokens.valid)
        if self.swap:
            swapped = hidden & (dice < self.swap)
            other = stretch(tokens, draws) if self.within else anywhere(pool, tokens, draws)
            out = torch.where(swapped[..., None], other, out)
        return torch.where((hidden & (dice >= 1 - self.keep))[..., None], values, out)

    @torch.no_grad()
    def altered(
        self,
        tokens: Tokens,
        hidden: Bool[Tensor, "b n"],
        draws: Draws,
        pool: Tokens | None = None,
        place: Int[Tensor, " b"] | None = None,
    ) -> Bool[Tensor, "b n"]:
        new, old = self.corrupt(tokens, hidden, draws, pool, place), tokens.values
        return hidden & ((new - old).norm(dim=-1) > SAME * old.norm(dim=-1))

    def content(self, tokens: Tokens, draws: Draws, pool: Tokens, place: Int[Tensor, " b"]) -> Tensor:
        """What stands at a hidden place."""
        values = tokens.values
        if self.mask_token is not None:
            return self.mask_token.to(values.dtype)
        if self.corruption == "noise":
            return of_own(draws.normal("noise", *values.shape[1:]), tokens.valid).to(values.dtype)
        return same_place(pool, place, tokens, draws)
