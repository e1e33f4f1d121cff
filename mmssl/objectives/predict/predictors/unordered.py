"""Every token encoded without being told its place: what is left to predict is the place."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from mmssl.draws import Draws
from mmssl.masking import Split
from mmssl.model import Encoder, MMSSLConfig
from mmssl.objectives.predict.parts import Predicted, Predictor
from mmssl.tokens import Tokens


class Unordered(Predictor):
    """Encode every token without position; all of them attend to the visible ones only, and the answer is read at every place.

    MP3 (arXiv 2207.07611): the visible tokens are the context that gives keys and values, so the ratio of `objective.mask` is the
    paper's masking rate. Meant for the target `position`, which any predictor that knows positions could copy.
    """

    everywhere = True

    def prepare(self, config: MMSSLConfig, *, identities: bool) -> None:
        self.width = config.hidden_size

    def forward(self, encoder: Encoder, tokens: Tokens, parts: Split, draws: Draws, others: Sequence[Tokens] = ()) -> Predicted:
        n = tokens.values.shape[1]
        context = Split(parts.seen, parts.seen, hidden_real=parts.seen_real).hidden_places(n)
        placeless = replace(tokens, coords=torch.zeros_like(tokens.coords), identity=None, valid=context)
        encoded = encoder(placeless, last=n)  # of tokens outside the context as well, which are valid to no other one
        return Predicted(encoded.values, *self.places(tokens, parts))
