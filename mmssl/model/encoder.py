"""A transformer on `Tokens`. It never learns which modality it saw; it also serves as decoder and predictor."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Complex, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.masking_utils import causal_mask_function, create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer

from mmssl.model.config import MMSSLConfig
from mmssl.model.layers import AbsolutePositions, Chances, MMSSLLayer, Rotary, Shared, make_norm
from mmssl.tokens import Sequences, Tokens, cat, put


class Encoder(nn.Module):
    """Tokens to tokens. Prefix tokens (CLS first, then registers) come first in the result, at coordinates zero."""

    def __init__(self, config: MMSSLConfig) -> None:
        super().__init__()
        depth = config.num_hidden_layers
        self.config = config
        self.num_prefix = int(config.cls_token) + config.num_register_tokens
        self.prefix = nn.Parameter(torch.empty(self.num_prefix, config.hidden_size)) if self.num_prefix else None
        self.rotary = Rotary(config) if config.rotary_positions else None
        self.absolute = AbsolutePositions(config) if config.absolute_positions else None
        rates = [config.drop_path_rate * i / max(1, depth - 1) for i in range(depth)]
        self.local_rotary = Rotary(config, config.local_rotary_base) if self.rotary and config.attention_window else None
        self.input_norm = make_norm(config, config.hidden_size) if config.input_norm else nn.Identity()
        self.layers = nn.ModuleList(MMSSLLayer(config, rate, number) for number, rate in enumerate(rates))
        self.norm = make_norm(config, config.hidden_size) if config.final_norm else nn.Identity()

    def reset_parameters(self) -> None:
        if self.prefix is not None:
            nn.init.normal_(self.prefix, std=self.config.initializer_range)

    def recompute_activations(self) -> None:
        """Gradient checkpointing: keep only the input of each layer, and run the layer again in the backward pass.

        `MMSSLModel.gradient_checkpointing_enable()` does the same; this reaches decoders and predictors as well.
        """
        for layer in self.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                layer.gradient_checkpointing = True
                layer._gradient_checkpointing_func = partial(checkpoint, use_reentrant=False)

    def place(self, tokens: Tokens) -> Tokens:
        """Add identities and positions to the values; then they are normalised, where the encoder does that."""
        values = tokens.values if tokens.identity is None else tokens.values + tokens.identity
        if self.absolute is not None:
            values = values + self.absolute(tokens.coords).to(values.dtype)
        return tokens.with_values(self.input_norm(values))

    def prepend(self, tokens: Tokens) -> Tokens:
        """Add identities and positions to the values, and the prefix tokens in front."""
        tokens = self.place(tokens)
        if self.prefix is None:
            return tokens
        values = tokens.values
        prefix = self.input_norm(self.prefix).expand(values.shape[0], -1, -1)
        valid = None if tokens.valid is None else F.pad(tokens.valid, (self.num_prefix, 0), value=True)
        coords = F.pad(tokens.coords, (0, 0, self.num_prefix, 0))
        return replace(tokens, values=torch.cat([prefix, values], 1), coords=coords, valid=valid)

    def turn(self, tokens: Tokens) -> Complex[Tensor, "b n 1 p"] | None:
        """The rotary positions of the tokens, where the encoder has them."""
        return None if self.rotary is None else cast(Tensor, self.rotary(tokens.coords))

    def mask(self, asking: Float[Tensor, "b m d"], valid: Bool[Tensor, "b n"] | None, causal: bool = False) -> Any:
        """Which tokens `asking` may attend to, in the form that the attention implementation takes; None if all are real."""
        if causal:
            return create_bidirectional_mask(self.config, asking, valid, and_mask_function=causal_mask_function)
        if valid is None:
            return None
        return create_bidirectional_mask(self.config, asking, valid)

    def local_mask(self, asking: Float[Tensor, "b m d"], tokens: Tokens, causal: bool) -> Any:
        """As `mask`, of layers with a window: which of the tokens lie near each of the last of them."""
        assert self.config.attention_window is not None, "a layer has a window"
        window, coords, first = self.config.attention_window, tokens.coords, tokens.coords.shape[1] - asking.shape[1]

        def near(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
            close = (coords[b, q + first] - coords[b, k]).abs().amax(-1) <= window
            return close & (k <= q + first) if causal else close

        return create_bidirectional_mask(self.config, asking, tokens.valid_or_ones(), and_mask_function=near)

    def forward(self, tokens: Tokens, last: int | None = None, causal: bool = False) -> Tokens:
        """Encode; `last` returns only that many tokens from the end (a decoder's queries).

        causal: a token attends only to itself and to those before it; prefix tokens come before all others.
        Without `last`, tokens that are not valid are padding: what no sequence needs is not encoded, and zeros stand there.
        Of samples that hold several sequences each is encoded by itself, with prefix tokens of its own; those in the result are the
        mean over the sequences.
        """
        if (sequences := tokens.sequences()) is not None:
            assert last is None, "a decoder gets each sequence by itself"
            found = self.whole(sequences.take(tokens), causal)
            return self.of_samples(tokens, sequences, found.values)
        return self.whole(tokens, causal) if last is None else self.run(self.prepend(tokens), last, causal)

    def whole(self, tokens: Tokens, causal: bool) -> Tokens:
        """Encode samples each of which is one sequence."""
        tokens = self.prepend(tokens)
        packed, index = tokens.packed()
        return tokens.with_values(put(self.run(packed, None, causal).values, index, tokens.values.shape[1]))

    def of_samples(self, tokens: Tokens, sequences: Sequences, values: Float[Tensor, "s m d"]) -> Tokens:
        """Samples with what was made of each of their sequences, prefix tokens first."""
        body = sequences.put(values[:, self.num_prefix :])
        if not self.num_prefix:
            return tokens.encoded(body)
        valid = None if tokens.valid is None else F.pad(tokens.valid, (self.num_prefix, 0), value=True)
        coords = F.pad(tokens.coords, (0, 0, self.num_prefix, 0))
        prefix = sequences.mean(values[:, : self.num_prefix])
        return replace(tokens, coords=coords, valid=valid, identity=None).encoded(torch.cat([prefix, body], 1))

    def answer(self, context: Tokens, places: Tokens, index: Int[Tensor, "b m"], valid: Bool[Tensor, "b m"] | None) -> Tokens:
        """As `forward` of the context and, behind it, the places at `index`, of which `m` it returns the last.

        places: `[1, n, d]`, the same for all samples, so that what they give to the first layer is computed once.
        valid: which entries of `index` count; None: all.
        """
        shared = Shared(self.place(places).values, index)
        chosen = Tokens(shared.choose(shared.values), places.coords[0][index], valid)
        return self.run(cat([self.prepend(context), chosen]), index.shape[1], shared=shared)

    def chances(self, tokens: Tokens) -> Chances | None:
        """What draws in the layers depend on; None where there are none, or no keys."""
        drops = self.training and (self.config.dropout or self.config.drop_path_rate)
        return Chances(tokens.keys, tokens.numbers()) if drops and tokens.keys is not None else None

    def run(self, tokens: Tokens, last: int | None, causal: bool = False, shared: Shared | None = None) -> Tokens:
        """All layers on tokens that have their positions; shared: where the last of them come from."""
        x, count = tokens.values, tokens.values.shape[1]
        causal = causal or self.config.causal
        reach, chances = self.reach(tokens, causal), self.chances(tokens)
        expert = tokens.expert if self.config.has_experts else None
        first = 0 if last is None else count - last
        asked = 0 if causal else first
        for number, layer in enumerate(self.layers[:-1]):
            x, shared = layer(x, *reach(number, 0), 0, expert, shared, chances), None
        x = self.layers[-1](x, *reach(len(self.layers) - 1, asked), asked, expert, shared, chances)
        return tokens.tail(count - first).with_values(self.norm(x[:, first - asked :]))

    def reach(self, tokens: Tokens, causal: bool) -> Callable[[int, int], tuple[Any, Complex[Tensor, "b n 1 p"] | None]]:
        """By number of the layer, and of the first token that asks: which tokens attend to which, and how they are turned."""
        x = tokens.values
        made: dict[tuple[bool, int], Any] = {}
        turns = {False: self.turn(tokens), True: None if self.local_rotary is None else self.local_rotary(tokens.coords)}

        def of(number: int, first: int) -> tuple[Any, Complex[Tensor, "b n 1 p"] | None]:
            local = self.config.is_local(number)
            if (local, first) not in made:
                asking = x[:, first:]
                made[local, first] = self.local_mask(asking, tokens, causal) if local else self.mask(asking, tokens.valid, causal)
            return made[local, first], turns[local]

        return of

    def layer_outputs(self, tokens: Tokens, count: int, *, part: Literal["block", "ffn"] = "block") -> list[Tokens]:
        """What the last `count` layers give, the deepest last, without the final norm.

        part: block = the tokens behind a layer; ffn = what its MLP adds to them, before the last residual connection.
        """
        if (sequences := tokens.sequences()) is not None:
            outputs = self.layer_outputs(sequences.take(tokens), count, part=part)
            return [self.of_samples(tokens, sequences, output.values) for output in outputs]
        whole = self.prepend(tokens)
        tokens, index = whole.packed()
        x, found = tokens.values, list[Tokens]()
        reach, chances = self.reach(tokens, self.config.causal), self.chances(tokens)
        expert = tokens.expert if self.config.has_experts else None
        for number, layer in enumerate(self.layers):
            x, added = layer(x, *reach(number, 0), 0, expert, None, chances, True)
            values = x if part == "block" else added
            found.append(whole.with_values(put(values, index, whole.values.shape[1])))
        return found[-count:]
