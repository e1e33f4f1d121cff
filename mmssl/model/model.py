"""The Hugging Face face: adapters in front of one shared encoder, as an ordinary `PreTrainedModel`."""

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from inspect import Parameter, signature
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils.output_capturing import capture_outputs

from mmssl.modality import Adapter, Dense, Inputs, find, rebuilt
from mmssl.model.config import MMSSLConfig
from mmssl.model.encoder import Encoder
from mmssl.model.heads import Head, LogitScale
from mmssl.model.labels import LabelHead
from mmssl.model.layers import MMSSLAttention, MMSSLLayer, initialise, initialise_all
from mmssl.model.pooling import EDGES, concatenated, every_token, in_a_row, statistics
from mmssl.tokens import Tokens

PROJECTOR, SCALE, LABEL = "projector", "scale", "label"
"""Names of a model's heads: into a space that modalities share, the factor on similarities there, and what predicts labels."""
DEFAULT_LABELS = 2
"""Classes of a configuration of transformers that says nothing of labels."""

PASSED_OVER = (
    "labels",
    "num_items_in_batch",
    "return_loss",
    "return_dict",
    "output_hidden_states",
    "output_attentions",
    "use_cache",
)
"""Arguments that transformers' Trainer and PEFT pass to any model, and that say nothing about a sample."""


NO_LABELS = "this model predicts no labels: it is an encoder; fine-tune it with the objective supervised"


class NoLabels(LookupError, AttributeError):
    """The model has no label head; `hasattr` and torch.jit, which look at every attribute, go on."""


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
    accepts_loss_kwargs = False
    """As Trainer asks: `num_items_in_batch` changes no loss, so it has to divide those of several micro-batches by their number."""
    _can_record_outputs = {"hidden_states": MMSSLLayer, "attentions": MMSSLAttention}  # noqa: RUF012 (transformers' name and type)

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.LayerNorm | nn.RMSNorm):
            super()._init_weights(module)
        else:
            initialise(module, self.config)

    def __getstate__(self) -> dict[str, Any]:
        """Without transformers' hooks for hidden states and attentions (see `Unhooked`): they come back when they are asked for."""
        return {name: value for name, value in vars(self).items() if name != "_output_capturing_hooks_installed"}

    def __copy__(self) -> "MMSSLPreTrainedModel":
        # The parts are shared, and so are the hooks in them, which must not be installed twice.
        other = self.__class__.__new__(self.__class__)
        for name, value in vars(self).items():
            object.__setattr__(other, name, value)
        return other

    @classmethod
    def _can_set_attn_implementation(cls) -> bool:
        # transformers looks for the attention interface in this file's source; ours is called in layers.py.
        return True


class MMSSLModel(MMSSLPreTrainedModel):
    """A pretrained encoder for one or several modalities."""

    def __init__(self, config: MMSSLConfig) -> None:
        super().__init__(config)
        self.adapters = nn.ModuleDict({name: build_adapter(name, config) for name in config.modalities})
        self.main_input_name: str = next((self.adapter(name).input_names[0] for name in config.modalities), "input_ids")
        name_inputs(type(self), [name for adapter in map(self.adapter, config.modalities) for name in adapter.input_names])
        self.encoder = Encoder(config)
        self.pooler = AttentionPool(config) if config.pooling == "attention" else None
        for name in config.modalities:
            self.pooled_size(name)
        self.heads: nn.ModuleDict | None = None
        if config.projections is not None:
            self.heads = nn.ModuleDict({PROJECTOR: self.projectors(config.projections)})
            if config.logit_scale is not None:
                self.heads[SCALE] = LogitScale(config.logit_scale, bias=config.logit_bias)
        if config.label_head is not None:
            self.heads = nn.ModuleDict() if self.heads is None else self.heads
            head = rebuilt(LabelHead, config.label_head, "label head")
            self.heads[LABEL] = head.build(self.labelled_size(head))
        self.post_init()

    def projectors(self, heads: Mapping[str, Mapping[str, Any]]) -> nn.ModuleDict:
        """The heads that `MMSSLConfig.projections` describes, by modality."""
        return nn.ModuleDict({name: Head(**keys).build(self.pooled_size(name)) for name, keys in heads.items()})

    def project(self, heads: Mapping[str, Mapping[str, Any]]) -> None:
        """Put heads on top that map the pooled outputs of modalities into one space, as `MMSSLConfig.projections` says."""
        self.config.projections = {name: dict(keys) for name, keys in heads.items()}
        self.heads = nn.ModuleDict() if self.heads is None else self.heads
        if SCALE in self.heads:
            del self.heads[SCALE]
        self.heads[PROJECTOR] = self.projectors(heads).to(self.device)

    def labelled_size(self, head: LabelHead) -> int:
        """Width of what a label head reads. ValueError: that of the modalities differs."""
        if head.tokens is not None or head.dense:
            return (head.tokens or 1) * self.config.hidden_size
        sizes = {self.pooled_size(name) for name in ([head.modality] if head.modality else self.adapters)}
        if len(sizes) > 1:
            raise ValueError("pooling='concat' gives modalities vectors of different widths, but there is one head; choose mean")
        return sizes.pop()

    def label(self, head: LabelHead, names: Sequence[str]) -> None:
        """Put a head on top that predicts labels, with fresh weights. names: of its classes; empty for a regression."""
        built = head.build(self.labelled_size(head))
        initialise_all(built, self.config)
        known = list(names) or head.titles
        self.config.label_head, self.config.problem_type = head.settings(), head.problem
        self.config.id2label, self.config.label2id = dict(enumerate(known)), {name: i for i, name in enumerate(known)}
        self.heads = nn.ModuleDict() if self.heads is None else self.heads
        self.heads[LABEL] = built.to(self.device)

    def unlabel(self) -> None:
        """Drop the head that predicts labels, if there is one: an encoder that learns something else leaves it behind."""
        if self.config.label_head is None:
            return
        self.config.label_head, self.config.problem_type, self.config.num_labels = None, None, DEFAULT_LABELS
        assert self.heads is not None
        del self.heads[LABEL]
        self.heads = self.heads if len(self.heads) else None

    @property
    def label_head(self) -> LabelHead:
        """What the model predicts. LookupError for one that predicts nothing."""
        if self.config.label_head is None:
            raise NoLabels(NO_LABELS)
        return LabelHead(**self.config.label_head)

    @property
    def forecasts(self) -> bool:
        """Whether the model tells what follows a series."""
        return self.config.label_head is not None and self.label_head.forecasts

    def predicted(self, pooled: Float[Tensor, "*b p"]) -> Float[Tensor, "*b k"]:
        """What the label head gives for what it reads; `label_head` makes a loss, logits and probabilities of it."""
        assert self.heads is not None
        return self.heads[LABEL](pooled)

    def read(self, name: str, tokens: Tokens) -> Float[Tensor, "b *n p"]:
        """What the label head reads of encoded tokens of a modality: they are pooled, or stand in a row, or of places each."""
        if self.label_head.dense:
            return tokens.values[:, self.encoder.num_prefix :]
        count = self.label_head.tokens
        if count is None:
            return self.pool(tokens)
        body = tokens.tail(tokens.values.shape[1] - self.encoder.num_prefix)
        return in_a_row(body, self.adapter(name).place(body), count)

    def dense(self, name: str, tokens: Tokens, inputs: Mapping[str, Tensor]) -> Float[Tensor, "b k *places"]:
        """Logits of the label head for places of samples, from the encoded tokens of a modality."""
        given = self.predicted(self.read(name, tokens))
        return labels_of_places(self.adapter(name), name).laid_out(given, dict(inputs), self.label_head.detail or 1)

    def told(self, name: str, logits: Float[Tensor, "b k *places"], inputs: Mapping[str, Tensor]) -> Float[Tensor, "b n *m"]:
        """These logits as transformers lays them out: `[b, k, h, w]` of a map, else `[b, n, k]`."""
        given = labels_of_places(self.adapter(name), name).outputs(logits, dict(inputs))
        return given if self.label_head.places == "map" else given.mT

    def labelled(self, name: str, inputs: Mapping[str, Tensor]) -> Float[Tensor, "b *n k"]:
        """What the label head gives for the inputs of a modality, each sample in one piece."""
        known = {key: inputs[key] for key in self.adapter(name).input_names if key in inputs}
        return self.predicted(self.read(name, self.encode(name, known)))

    def level(self, name: str, inputs: Mapping[str, Tensor]) -> Float[Tensor, "b 2"] | None:
        """Mean and deviation of what was seen of each sample, by which a forecast is told; None where the label is no forecast."""
        if not self.label_head.forecasts:
            return None
        adapter = self.adapter(name)
        owners = inputs.get(f"{adapter.keyword}_sample")
        if owners is not None and bool((owners[:, 1] > 1).any()):
            raise ValueError("what follows a series is told of it whole, and one was cut into pieces: give the last steps alone")
        return adapter.level({key: inputs[key] for key in adapter.input_names if key in inputs})

    def get_input_embeddings(self) -> nn.Module:
        """The adapters: what stands in front of the encoder."""
        return self.adapters

    def resize_token_embeddings(self, *given: Any, **options: Any) -> nn.Embedding:
        """Not of these models: TypeError."""
        raise TypeError("the inputs of a model of mmssl are those that its processor was fitted to: it has no vocabulary to resize")

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
        """One vector per sample from encoded tokens: CLS, or of those without prefix all, one, learned attention or statistics."""
        if self.config.pooling == "cls":
            return tokens.values[:, 0]
        k = self.encoder.num_prefix
        body = tokens.tail(tokens.values.shape[1] - k)
        if self.config.pooling == "concat":
            return every_token(body)
        if self.config.pooling in EDGES:
            return EDGES[self.config.pooling](body)
        return concatenated(body, statistics(self.config.pooling)) if self.pooler is None else self.pooler(body)

    def projected(self, name: str, pooled: Float[Tensor, "b p"]) -> Float[Tensor, "b e"]:
        """Pooled outputs of a modality in the space that modalities share. LookupError for a model without one."""
        heads = cast(nn.ModuleDict, dict(self.heads or {}).get(PROJECTOR, {}))
        if name not in heads:
            raise LookupError(f"this model has no projection of {name!r} into a space that modalities share; train one with clip")
        return heads[name](pooled)

    def __getattr__(self, name: str) -> Any:
        """`get_<modality>_features(**inputs)`: projected pooled outputs, by the names that paired models of transformers use."""
        modality = name.removeprefix("get_").removesuffix("_features")
        if name == "label_head":
            raise NoLabels(NO_LABELS)  # Python asks here after the property has raised
        if name != f"get_{modality}_features" or modality not in super().__getattr__("adapters"):
            return super().__getattr__(name)

        def features(**inputs: Any) -> Float[Tensor, "b e"]:
            return self.projected(modality, self.of_modality(modality, self.tensors_of(inputs)).pooler_output)

        return features

    def tensors_of(self, inputs: Mapping[str, Any]) -> dict[str, Tensor]:
        """The inputs of modalities among the arguments of a call. TypeError for what no modality reads, or is no tensor."""
        known = [
            name for adapter in map(self.adapter, self.adapters) for name in (*adapter.input_names, f"{adapter.keyword}_sample")
        ]
        if inputs.get("output_attentions", self.config.output_attentions) and self.config._attn_implementation != "eager":
            raise ValueError(
                f"{self.config._attn_implementation} attention keeps no weights, so there are none to return: call "
                "model.set_attn_implementation('eager') first, or leave output_attentions out"
            )
        given = {name: value for name, value in inputs.items() if value is not None and name not in PASSED_OVER}
        check_names(given, known)
        return given

    def modalities_of(self, inputs: Mapping[str, Tensor]) -> list[str]:
        """The modalities whose input names `inputs` holds, in the model's order; ValueError if there is none."""
        names = {name: list(self.adapter(name).input_names) for name in self.adapters}
        found = [name for name, known in names.items() if set(known) & set(inputs)]
        if found:
            return found
        raise ValueError(
            f"the model takes the inputs of its modalities, {names}; got none of them in {sorted(inputs)}. In a Trainer set "
            "remove_unused_columns=False"
        )

    def of_modality(self, name: str, inputs: Mapping[str, Tensor]) -> BaseModelOutputWithPooling:
        """Encode the inputs of one modality; for long samples that were cut `pooler_output` is the mean of their pieces."""
        adapter = self.adapter(name)
        tokens = self.encode(name, {key: inputs[key] for key in adapter.input_names if key in inputs})
        pooled, owners = self.pool(tokens), inputs.get(f"{adapter.keyword}_sample")
        if owners is not None:
            pooled = of_samples(pooled, owners, f"{adapter.keyword}_sample")
        return BaseModelOutputWithPooling(last_hidden_state=tokens.values, pooler_output=pooled)

    @capture_outputs  # type: ignore[untyped-decorator]
    def forward(self, **inputs: Any) -> Any:
        """Encode what `MMSSLProcessor` returned.

        Of one modality a `BaseModelOutputWithPooling`: last_hidden_state `[b, prefix + n, d]`, and pooler_output
        `[b, pooled_size(name)]`, for long samples that were cut the mean of their pieces.
        Of several a `PairedOutput` with the same for each, by name; of a model that was trained to pair them also
        `<name>_embeds` `[b, e]`, of length 1, and `logits_per_<name>` `[b, c]`, similarities with the samples of the other one.
        TypeError for an input that no modality of the model reads, or that is no tensor: nothing is dropped in silence.
        """
        inputs = self.tensors_of(inputs)
        names = self.modalities_of(inputs)
        if len(names) == 1:
            return self.of_modality(names[0], inputs)
        found = PairedOutput({f"{name}_output": self.of_modality(name, inputs) for name in names})
        if PROJECTOR not in dict(self.heads or {}):
            return found
        unit = {
            name: nn.functional.normalize(self.projected(name, found[f"{name}_output"].pooler_output), dim=-1) for name in names
        }
        found |= {f"{name}_embeds": values for name, values in unit.items()}
        scale = dict(self.heads or {}).get(SCALE)
        if len(names) == 2 and scale is not None:
            a, b = names
            logits = scale(unit[a] @ unit[b].mT)
            found |= {f"logits_per_{a}": logits, f"logits_per_{b}": logits.mT}
        return found


def name_inputs(kind: type[nn.Module], names: Sequence[str]) -> None:
    """Name inputs in the signature of `forward`, which takes those of any modality.

    By it transformers' Trainer tells inputs from other columns. The models of a class share it: it names what any of them reads.
    """
    forward = cast(Any, kind.forward)
    *own, rest = signature(forward).parameters.values()
    new = [Parameter(name, Parameter.KEYWORD_ONLY, default=None) for name in names if name not in {each.name for each in own}]
    forward.__signature__ = signature(forward).replace(parameters=[*own, *new, rest])


def labels_of_places(adapter: Adapter, name: str) -> Dense:
    """How labels of places belong to the tokens of a modality. ValueError where places have none."""
    if adapter.dense is None:
        raise ValueError(f"labels of places (objective.kind: dense): samples of {name} have no places with labels of their own")
    return adapter.dense


def of_samples(pooled: Float[Tensor, "b p"], owners: Int[Tensor, "b 2"], name: str) -> Float[Tensor, "c p"]:
    """Means over the pieces of each sample. owners: which sample a row is of, and in how many pieces that came.

    ValueError where the pieces are not those of one call of the processor.
    """
    sample, pieces = owners.unbind(1)
    count = torch.bincount(sample)
    if not torch.equal(count[sample], pieces) or not count.all():
        raise ValueError(
            f"{name}: these rows are not those of one call of the processor: pieces of a sample are missing, or batches were put "
            "together. Call the processor in the collator, on all samples of a batch; or with windows=False, for one row of each"
        )
    return pooled.new_zeros(len(count), pooled.shape[1]).index_add(0, sample, pooled) / count[:, None].to(pooled.dtype)


def check_names(given: Mapping[str, Any], known: Sequence[str]) -> None:
    """TypeError for an argument that is none of the inputs of a model, or no tensor."""
    for name, value in given.items():
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = (
                f"Did you mean {near[0]}?" if near else "Leave it out; what the model's own processor returns is all that it reads"
            )
            raise TypeError(f"no modality of this model has an input {name!r}; its inputs are {', '.join(known)}. {hint}")
        if not isinstance(value, Tensor):
            raise TypeError(f"{name} must be a torch tensor; got {type(value).__name__}. Convert it, as torch.as_tensor does")


class PairedOutput(OrderedDict[str, Any]):
    """What a model makes of several modalities at once: its entries are its attributes."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"no {name!r}; there are {', '.join(self)}") from None


def described(model: MMSSLModel) -> MMSSLModel:
    """The same model, its parts shared, with those heads alone that its configuration speaks of: what can be saved and loaded."""
    config, heads = model.config, dict(model.heads or {})
    names = [*((PROJECTOR, SCALE) if config.projections is not None else ()), *((LABEL,) if config.label_head is not None else ())]
    kept = {name: head for name, head in heads.items() if name in names}
    return model if len(kept) == len(heads) else with_heads(model, nn.ModuleDict(kept) if kept else None)


def with_projectors(model: MMSSLModel, projectors: nn.ModuleDict) -> MMSSLModel:
    """The same model, its parts shared, with these heads by modality in the place of all that it has: `projected` goes by them."""
    return with_heads(model, nn.ModuleDict({PROJECTOR: projectors}))


def with_heads(model: MMSSLModel, heads: nn.ModuleDict | None) -> MMSSLModel:
    """The same model, its parts shared, with other heads."""
    other = copy.copy(model)
    other._modules = {name: part for name, part in model._modules.items() if name != "heads"}
    other.heads = heads
    return other


def build_adapter(name: str, config: MMSSLConfig) -> Adapter:
    """The adapter of modality `name` as `config.modalities[name]` describes it."""
    plugin = find(name)
    settings = config.modalities[name]
    processor = rebuilt(plugin.processor, settings["processor"], f"processor of {name}")
    adapter = rebuilt(plugin.adapter, settings["adapter"], f"adapter of {name}", config.hidden_size, processor)
    adapter.keyword = plugin.keyword
    return adapter
