"""The Hugging Face face: adapters in front of one shared encoder, as an ordinary `PreTrainedModel`."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoProcessor, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import logging
from transformers.utils.output_capturing import capture_outputs

from mmssl.modality import Adapter, Inputs, find
from mmssl.model.config import MMSSLConfig
from mmssl.model.encoder import Encoder
from mmssl.model.layers import MMSSLAttention, MMSSLLayer, initialise
from mmssl.model.pooling import concatenated, every_token, statistics
from mmssl.processor import MMSSLProcessor
from mmssl.tokens import Tokens


class AttentionPool(nn.Module):
    """One learned query attends to the valid tokens (multihead attention pooling, arXiv 1810.00825, with a single seed)."""

    def __init__(self, config: MMSSLConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.query = nn.Parameter(torch.empty(config.hidden_size))
        self.k_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.v_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.query, std=0.02)

    def forward(self, tokens: Tokens) -> Float[Tensor, "b d"]:
        b, n, d = tokens.values.shape
        query = self.query.expand(b, 1, d).view(b, 1, self.heads, -1).transpose(1, 2)
        key = self.k_proj(tokens.values).view(b, n, self.heads, -1).transpose(1, 2)
        value = self.v_proj(tokens.values).view(b, n, self.heads, -1).transpose(1, 2)
        mask = None if tokens.valid is None else tokens.valid[:, None, None]
        return nn.functional.scaled_dot_product_attention(query.to(key.dtype), key, value, attn_mask=mask).flatten(1)


class MMSSLPreTrainedModel(PreTrainedModel):  # type: ignore[misc]
    """What every mmssl model shares: configuration class, attention backends, initialisation."""

    config_class = MMSSLConfig
    base_model_prefix = "mmssl"
    supports_gradient_checkpointing = True
    _no_split_modules = ("MMSSLLayer",)
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_record_outputs = {"hidden_states": MMSSLLayer, "attentions": MMSSLAttention}  # noqa: RUF012 (transformers' name and type)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.LayerNorm | nn.RMSNorm):
            super()._init_weights(module)
        else:
            initialise(module, self.config)

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        # transformers looks for the attention interface in this file's source; ours is called in layers.py.
        return True


class MMSSLModel(MMSSLPreTrainedModel):
    """A pretrained encoder for one or several modalities."""

    def __init__(self, config: MMSSLConfig) -> None:
        super().__init__(config)
        self.adapters = nn.ModuleDict({name: build_adapter(name, config) for name in config.modalities})
        self.encoder = Encoder(config)
        self.pooler = AttentionPool(config) if config.pooling == "attention" else None
        for name in config.modalities:
            self.pooled_size(name)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """The adapters: what stands in front of the encoder."""
        return self.adapters

    def adapter(self, name: str) -> Adapter:
        """The adapter of modality `name`."""
        return cast(Adapter, self.adapters[name])

    def embed(self, name: str, inputs: Inputs) -> Tokens:
        """Tokens of a batch of modality `name`, before the encoder."""
        tokens: Tokens = self.adapter(name)(inputs)
        return replace(tokens, expert=name) if self.config.has_experts else tokens

    @torch.no_grad()
    def count_tokens(self, name: str, inputs: Inputs) -> Int[Tensor, " b"]:
        """Valid tokens of each sample of a batch of modality `name`, without prefix tokens."""
        return self.embed(name, inputs).valid_or_ones().sum(1)

    def encode(self, name: str, inputs: Inputs) -> Tokens:
        """Encoded tokens of a batch of modality `name`, prefix tokens first."""
        return self.encoder(self.embed(name, inputs))

    def pooled_size(self, name: str) -> int:
        """Width of `pooler_output` for modality `name`. ValueError where there is none: concat, and samples that differ."""
        if self.config.pooling != "concat":
            return self.config.projection_dim
        count = self.adapter(name).num_tokens
        if count is None:
            raise ValueError(
                f"pooling='concat' needs samples of equally many tokens, but those of {name!r} may differ; choose mean_max_min"
            )
        return self.config.hidden_size * count

    def pool(self, tokens: Tokens) -> Float[Tensor, "b p"]:
        """One vector per sample from encoded tokens: CLS, or of those without prefix all, learned attention or statistics."""
        if self.config.pooling == "cls":
            return tokens.values[:, 0]
        k = self.encoder.num_prefix
        body = tokens.tail(tokens.values.shape[1] - k)
        if self.config.pooling == "concat":
            return every_token(body)
        return concatenated(body, statistics(self.config.pooling)) if self.pooler is None else self.pooler(body)

    def modality_of(self, inputs: Inputs) -> str:
        """The modality whose input names `inputs` holds; ValueError unless there is exactly one."""
        names = {name: list(self.adapter(name).input_names) for name in self.adapters}
        found = [name for name, known in names.items() if set(known) & set(inputs)]
        if len(found) == 1:
            return found[0]
        what = "inputs of several modalities" if found else "none of them"
        raise ValueError(f"the model takes the inputs of one modality per call, {names}; got {what} in {sorted(inputs)}")

    @capture_outputs  # type: ignore[untyped-decorator]
    def forward(self, **inputs: Any) -> BaseModelOutputWithPooling:
        """Encode what `MMSSLProcessor` returned for one modality.

        last_hidden_state: `[b, prefix + n, d]`.
        pooler_output: `[b, pooled_size(name)]`, for long samples that were cut the mean of their pieces.
        """
        tensors = {name: value for name, value in inputs.items() if isinstance(value, Tensor)}
        name = self.modality_of(tensors)
        tokens = self.encode(name, {key: tensors[key] for key in self.adapter(name).input_names if key in tensors})
        pooled, owners = self.pool(tokens), tensors.get(f"{find(name).keyword}_sample")
        if owners is not None:
            count = torch.bincount(owners)
            pooled = pooled.new_zeros(len(count), pooled.shape[1]).index_add(0, owners, pooled) / count[:, None].to(pooled.dtype)
        return BaseModelOutputWithPooling(last_hidden_state=tokens.values, pooler_output=pooled)


@contextmanager
def no_weights_bar() -> Iterator[None]:
    """Keep transformers' own progress bar over the weights of a model off the screen."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def load_model(model: str | Path, config: MMSSLConfig | None = None) -> MMSSLModel:
    """A saved model, folder or Hub id, without a progress bar; `config` in the place of its own."""
    with no_weights_bar():
        loaded: MMSSLModel = MMSSLModel.from_pretrained(model, config=config)
    return loaded


def build_adapter(name: str, config: MMSSLConfig) -> Adapter:
    """The adapter of modality `name` as `config.modalities[name]` describes it."""
    plugin = find(name)
    settings = config.modalities[name]
    return plugin.adapter(config.hidden_size, plugin.processor(**settings["processor"]), **settings["adapter"])


AutoConfig.register("mmssl", MMSSLConfig)
AutoModel.register(MMSSLConfig, MMSSLModel)
AutoProcessor.register(MMSSLConfig, MMSSLProcessor)
