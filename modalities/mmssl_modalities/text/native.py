"""The way back from a model of texts to stock classes of transformers."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers.processors import TemplateProcessing
from torch import Tensor
from transformers import AutoModel, AutoTokenizer, PreTrainedTokenizerFast, SiglipTextModel

from mmssl.model.public.table import Config, Native, Ours
from mmssl_modalities.text.processor import TextProcessor
from mmssl_modalities.text.tokenizers import ByteTokenizer, FastTokenizer, byte_level

SENTENCES = ("a", "The cook likes the sea.", "never: a naive robot writes to you, they say, twice!")
PADS = ("[PAD]", "<pad>", "<|pad|>")
"""What tokens that fill up texts are called."""
POOLED = {"mean": "mean", "first": "cls", "last": "lasttoken"}
"""Our poolings, and those of sentence-transformers."""
MODULES = "sentence_transformers.models"


def tokenizer_of(ours: Ours) -> PreTrainedTokenizerFast:
    """A tokenizer that makes our ids, special ones around a text included."""
    own = TextProcessor(**ours.processor)
    backend = tokenizers.Tokenizer.from_str(own.tokens.content if isinstance(own.tokens, FastTokenizer) else byte_level())
    backend.no_truncation()
    backend.no_padding()

    def token(number: int) -> str:
        return backend.id_to_token(number) or ""

    names = {token(number): number for number in (*own.before, *own.after)}
    pieces = [*map(token, own.before), "$A", *map(token, own.after)]
    if names:
        backend.post_processor = TemplateProcessing(" ".join(pieces), special_tokens=sorted(names.items()))
    else:
        content = json.loads(backend.to_str())
        backend = tokenizers.Tokenizer.from_str(json.dumps(content | {"post_processor": None}))
    pad = next((name for name in PADS if backend.token_to_id(name) is not None), None)
    pad = token(own.fill) if own.fill is not None else pad
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=own.max_tokens,
        model_input_names=["input_ids", "attention_mask"],
        pad_token=token(0) if pad is None else pad,  # attention never sees it
        split_special_tokens=isinstance(own.tokens, ByteTokenizer),
        clean_up_tokenization_spaces=False,
    )


def serve(folder: Path, ours: Ours, config: Config) -> None:
    """The tokenizer; and for sentence-transformers how tokens are pooled."""
    tokenizer_of(ours).save_pretrained(folder)
    if ours.encoder["pooling"] not in POOLED:
        return
    pooling = {"word_embedding_dimension": ours.encoder["hidden_size"], "pooling_mode": POOLED[ours.encoder["pooling"]]}
    (folder / "1_Pooling").mkdir(exist_ok=True)
    parts = (("0", "", "Transformer"), ("1", "1_Pooling", "Pooling"))
    modules = [{"idx": int(name), "name": name, "path": path, "type": f"{MODULES}.{kind}"} for name, path, kind in parts]
    files = {
        "1_Pooling/config.json": pooling,
        "modules.json": modules,
        "sentence_bert_config.json": {"max_seq_length": ours.processor["max_tokens"]},
    }
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def samples(ours: Ours) -> list[Any]:
    """Texts of three lengths."""
    return list(SENTENCES)


@torch.no_grad()
def run(folder: Path, raws: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Tokens of texts, and which of them are no padding."""
    inputs = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)(
        list(raws), padding=True, truncation=True, return_tensors="pt"
    )
    tokens = AutoModel.from_pretrained(folder, trust_remote_code=False).eval()(**inputs).last_hidden_state
    return tokens, inputs["attention_mask"] > 0


@torch.no_grad()
def run_filled(folder: Path, raws: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Tokens of texts that are filled up by tokens which attention sees, as SigLIP's."""
    inputs = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)(
        list(raws), padding="max_length", truncation=True, return_tensors="pt"
    )
    tokens = SiglipTextModel.from_pretrained(folder).eval()(input_ids=inputs["input_ids"]).last_hidden_state
    return tokens, torch.ones(tokens.shape[:2], dtype=torch.bool)


def words(ours: Ours) -> dict[str, Any]:
    """Rows of the embedding table, and ids of transformers' that mean nothing here."""
    pad = ours.processor["fill"] if ours.processor["fill"] is not None else tokenizer_of(ours).pad_token_id
    return {"vocab_size": ours.adapter["vocab_size"] or TextProcessor(**ours.processor).tokens.size, "pad_token_id": pad}


def placed(ours: Ours) -> dict[str, Any]:
    """As `words`, with learned positions."""
    return words(ours) | {"max_position_embeddings": ours.adapter["learned_positions"] or ours.processor["max_tokens"]}


def electra(ours: Ours) -> dict[str, Any]:
    """Embeddings as wide as the encoder."""
    return placed(ours) | dict.fromkeys(("hidden_size", "embedding_size"), ours.encoder["hidden_size"])


def tower(ours: Ours) -> dict[str, Any]:
    """Towers of CLIP and SigLIP, whose pooled output is that of one token."""
    return placed(ours) | {"bos_token_id": None, "eos_token_id": (ours.processor["after"] or [0])[0]}


def modernbert(ours: Ours) -> dict[str, Any]:
    """Windows, and bases of the rotary positions with and without one."""
    encoder = ours.encoder
    every, layers = encoder["global_every"], encoder["num_hidden_layers"]
    base = float(encoder["rotary_base"][0])
    kinds = ["sliding_attention" if number % every else "full_attention" for number in range(layers)]
    local = float(encoder["local_rotary_base"] or base)
    bases = {"full_attention": base, "sliding_attention": local}
    return {
        **words(ours),
        "hidden_activation": {"swiglu": "silu"}.get(encoder["mlp"], "gelu"),
        "max_position_embeddings": ours.processor["max_tokens"],
        "local_attention": 2 * (encoder["attention_window"] or ours.processor["max_tokens"]),
        "global_attn_every_n_layers": every,
        "layer_types": kinds,
        "rope_parameters": {name: {"rope_type": "default", "rope_theta": value} for name, value in bases.items()},
        **dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id")),
    }


FREE = frozenset({"vocab_size", "tokenizer", "tokenizer_json", "long_texts", "overlap", "captions"})
"""Settings of ours that change no id of a text which is short enough."""


def native(kind: str, config: Callable[[Ours], Mapping[str, Any]]) -> Native:
    """The way back to a class of transformers."""
    return Native(kind, config, serve, samples, run, FREE)


SIGLIP = Native("siglip_text_model", tower, serve, samples, run_filled, FREE, "SiglipTextModel")
"""SigLIP's tower of texts, which AutoModel does not know."""
