"""Public encoders of texts in terms of mmssl's encoder and of `TextAdapter`."""

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from mmssl.model.public.layers import (
    ACTIVATIONS,
    ATTENTION,
    BERT,
    CLIP,
    DOWN,
    GATE,
    GATED,
    NORMS,
    SIZE,
    UNPLACED,
    UP,
    open_clip,
    pairs,
)
from mmssl.model.public.source import OPEN_CLIP_CONFIG, Source
from mmssl.model.public.table import Config, Family, Of, Row
from mmssl.model.public.weights import Embedded, Halves, Same, Stacked
from mmssl_modalities.text.native import SIGLIP, electra, modernbert, native, placed, tower
from mmssl_modalities.text.tokenizers import FastTokenizer, load_tokenizer

LONGEST = 1_000_000
"""Tokens of a text that no tokenizer means: transformers writes a huge number for no limit."""
LETTER = "a"
"""A text whose special tokens are looked at."""


def processor(source: Source, config: Config) -> dict[str, Any]:
    """The tokenizer with its special tokens, and its longest text; longer ones are truncated, as it does."""
    content = load_tokenizer(source.path)
    tokenizer = FastTokenizer(source.path, content)
    plain, whole = (tokenizer.backend.encode(LETTER, add_special_tokens=special).ids for special in (False, True))
    start = next(i for i in range(len(whole)) if whole[i : i + len(plain)] == plain)
    limits = (
        source.json("sentence_bert_config.json").get("max_seq_length"),
        source.json("tokenizer_config.json").get("model_max_length"),
        positions(config),
    )
    return {
        "tokenizer": source.path,
        "tokenizer_json": content,
        "before": whole[:start],
        "after": whole[start + len(plain) :],
        "max_tokens": min(int(limit) for limit in limits if limit and limit < LONGEST),
        "long_texts": "truncate",
    }


def filled(source: Source, config: Config) -> dict[str, Any]:
    """As `processor`, with short texts filled up, by tokens that attention sees, to the longest: SigLIP was trained so."""
    return processor(source, config) | {"fill": int(config["pad_token_id"]), "max_tokens": positions(config)}


def skipped(config: Config) -> int:
    """Rows of the table of positions that belong to no place: RoBERTa counts from behind the padding token's number."""
    return int(config["pad_token_id"]) + 1 if config["model_type"] in ROBERTA else 0


def positions(config: Config) -> int:
    """Places that have a position, or could have one."""
    return int(config["max_position_embeddings"]) - skipped(config)


def embedded(config: Config) -> Embedded:
    return Embedded(skipped(config), int(config.get("type_vocab_size", 0)))


ROBERTA = ("roberta", "xlm-roberta", "camembert")
ADAPTER = {"norm": False, "vocab_size": Of("vocab_size")}
PLACED = ADAPTER | {"learned_positions": positions}
POST = {"cls_token": False, "norm_order": "post", "input_norm": True, "final_norm": False}
WORDS = Row("embeddings.word_embeddings.weight", "adapter.embedding.weight", parts=())
HEADS = ("pooler.*", "cls.*", "lm_head.*", "classifier.*", "qa_outputs.*", "*position_ids", "generator_*", "discriminator_*")
ABSOLUTE = {"position_embedding_type": ("absolute",), "is_decoder": (False,), "add_cross_attention": (False,)}

BERT_ROWS: Sequence[Row] = (
    *BERT,
    WORDS,
    Row(
        ("embeddings.position_embeddings.weight", "embeddings.token_type_embeddings.weight"),
        "adapter.positions.weight",
        embedded,
        (),
    ),
    Row("embeddings.LayerNorm", "encoder.input_norm"),
)
BERT_ENCODER = SIZE | UNPLACED | POST | {"dropout": Of("hidden_dropout_prob", default=0.0)}
BERT_FAMILY = Family(
    name="BERT",
    kinds=("bert", *ROBERTA),
    encoder=BERT_ENCODER,
    adapter=PLACED,
    processor=processor,
    rows=BERT_ROWS,
    left=HEADS,
    requires=ABSOLUTE,
    strip=("bert.", "roberta."),
    pooling=True,
    native=native("bert", placed),
)


def same_width(config: Config) -> int:
    """The width. ValueError where embeddings have another one."""
    if config["embedding_size"] != config["hidden_size"]:
        raise ValueError(
            f"embedding_size={config['embedding_size']} of this ELECTRA is a part that mmssl's encoder cannot express: it differs "
            f"from hidden_size={config['hidden_size']}"
        )
    return int(config["hidden_size"])


ELECTRA = Family(
    name="ELECTRA",
    kinds=("electra",),
    encoder=BERT_ENCODER | {"hidden_size": same_width},
    adapter=PLACED,
    processor=processor,
    rows=BERT_ROWS,
    left=HEADS,
    requires=ABSOLUTE,
    strip=("electra.",),
    pooling=True,
    native=native("electra", electra),
)
DISTILBERT = Family(
    name="DistilBERT",
    kinds=("distilbert",),
    encoder=UNPLACED
    | POST
    | {
        "hidden_size": Of("dim"),
        "num_hidden_layers": Of("n_layers"),
        "num_attention_heads": Of("n_heads"),
        "mlp_size": Of("hidden_dim"),
        "mlp": Of("activation", ACTIVATIONS),
        "norm_eps": 1e-12,
        "dropout": Of("dropout"),
    },
    adapter=PLACED,
    processor=processor,
    rows=[
        *pairs(
            "transformer.layer.{n}",
            (
                "attention.q_lin",
                "attention.k_lin",
                "attention.v_lin",
                "attention.out_lin",
                "ffn.lin1",
                "ffn.lin2",
                "sa_layer_norm",
                "output_layer_norm",
            ),
            (*ATTENTION, UP, DOWN, *NORMS),
        ),
        WORDS,
        Row("embeddings.position_embeddings.weight", "adapter.positions.weight", parts=()),
        Row("embeddings.LayerNorm", "encoder.input_norm"),
    ],
    left=("vocab_*", "pre_classifier.*", *HEADS),
    strip=("distilbert.",),
    pooling=True,
    native=native("distilbert", placed),
)

FULL, SLIDING = "full_attention", "sliding_attention"


def global_every(config: Config) -> int:
    """Every so many layers have no window. ValueError for another order of layers."""
    kinds = list(config["layer_types"])
    every = kinds.index(FULL, 1) if FULL in kinds[1:] else len(kinds)
    if kinds != [SLIDING if number % every else FULL for number in range(len(kinds))]:
        raise ValueError(f"layer_types={kinds} of this ModernBERT is a part that mmssl's encoder cannot express: no fixed distance")
    return every


MODERNBERT = Family(
    name="ModernBERT",
    kinds=("modernbert",),
    encoder={
        "hidden_size": Of("hidden_size"),
        "num_hidden_layers": Of("num_hidden_layers"),
        "num_attention_heads": Of("num_attention_heads"),
        "mlp_size": Of("intermediate_size"),
        "mlp": Of("hidden_activation", GATED),
        "norm_eps": Of("norm_eps"),
        "norm_bias": Of("norm_bias"),
        "attention_bias": Of("attention_bias"),
        "mlp_bias": Of("mlp_bias"),
        "dropout": Of("mlp_dropout"),
        "cls_token": False,
        "input_norm": True,
        "first_norm": False,
        "absolute_positions": False,
        "rotary_share": (1, 0, 0, 0),
        "rotary_base": lambda config: (float(config["rope_parameters"][FULL]["rope_theta"]),) * 4,
        "local_rotary_base": lambda config: float(config["rope_parameters"][SLIDING]["rope_theta"]),
        "attention_window": lambda config: config["local_attention"] // 2,
        "global_every": global_every,
    },
    adapter=ADAPTER,
    processor=processor,
    rows=[
        Row("layers.{n}.attn.Wqkv", ATTENTION[:3], Stacked((Halves(), Halves(), Same()))),
        Row("layers.{n}.mlp.Wi", (GATE, UP), Stacked((Same(), Same()))),
        *pairs("layers.{n}", ("attn.Wo", "mlp.Wo", "attn_norm", "mlp_norm"), (ATTENTION[3], DOWN, *NORMS)),
        Row("embeddings.tok_embeddings.weight", "adapter.embedding.weight", parts=()),
        Row("embeddings.norm", "encoder.input_norm"),
        Row("final_norm", "encoder.norm"),
    ],
    left=("head.*", "decoder.*", "classifier.*"),
    requires={
        "rope_parameters.full_attention.rope_type": ("default",),
        "rope_parameters.sliding_attention.rope_type": ("default",),
    },
    strip=("model.",),
    pooling=True,
    native=native("modernbert", modernbert),
)

TOWER: Sequence[Row] = (
    *CLIP,
    Row("embeddings.token_embedding.weight", "adapter.embedding.weight", parts=()),
    Row("embeddings.position_embedding.weight", "adapter.positions.weight", parts=()),
    Row("final_layer_norm", "encoder.norm"),
)
CLIP_TEXT = Family(
    name="CLIP",
    kinds=("clip", "clip_text_model"),
    encoder=SIZE | UNPLACED | {"cls_token": False, "causal": True, "pooling": "last"},
    adapter=PLACED,
    processor=processor,
    rows=TOWER,
    left=("text_projection.*", "*position_ids"),
    strip=("text_model.",),
    tower="text_config",
    native=native("clip_text_model", tower),
)
SIGLIP_TEXT = Family(
    name="SigLIP",
    kinds=("siglip", "siglip_text_model"),
    encoder=SIZE | UNPLACED | {"cls_token": False, "pooling": "last"},
    adapter=PLACED,
    processor=filled,
    rows=TOWER,
    left=("head.*", "*position_ids"),
    strip=("text_model.",),
    tower="text_config",
    native=SIGLIP,
)


def texts(source: Source) -> dict[str, Any]:
    """The configuration of open_clip's encoder of texts with open_clip's own defaults. ValueError for a model of transformers."""
    from open_clip.model import CLIPTextCfg  # takes most of a second, which only those who use it should wait

    whole = source.json(OPEN_CLIP_CONFIG).get("model_cfg", {})
    found = {field.name: field.default for field in fields(CLIPTextCfg)} | whole.get("text_cfg", {})
    if found["hf_model_name"]:
        raise ValueError(f"the encoder of texts is {found['hf_model_name']} of transformers; name that model itself")
    act = "quick_gelu" if whole.get("quick_gelu", False) else "gelu"
    eps = (found["norm_kwargs"] or {}).get("eps", TORCH_EPS)
    return {**found, "act": act, "eps": eps, "max_position_embeddings": found["context_length"], "model_type": "open_clip"}


TORCH_EPS = 1e-5
"""Epsilon of torch's LayerNorm."""
PLAIN = (
    "embed_cls",
    "no_causal_mask",
    "final_ln_after_pool",
    "qk_norm",
    "scaled_cosine_attn",
    "scale_heads",
    "scale_attn",
    "scale_fc",
)
OPEN_CLIP = Family(
    name="open_clip ViT",
    kinds=("open_clip",),
    encoder=UNPLACED
    | {
        "hidden_size": Of("width"),
        "num_hidden_layers": Of("layers"),
        "num_attention_heads": Of("heads"),
        "mlp_size": lambda config: int(config["width"] * config["mlp_ratio"]),
        "mlp": Of("act"),
        "norm_eps": Of("eps"),
        "layer_scale": Of("ls_init_value"),
        "cls_token": False,
        "causal": True,
        "pooling": "last",
    },
    adapter=PLACED,
    processor=processor,
    rows=[
        *open_clip("transformer.resblocks"),
        Row("token_embedding.weight", "adapter.embedding.weight", parts=()),
        Row("positional_embedding", "adapter.positions.weight", parts=()),
        Row("ln_final", "encoder.norm"),
    ],
    left=("visual.*", "text_projection*", "logit_scale", "logit_bias"),
    requires=dict.fromkeys(PLAIN, (False,)) | {"block_type": (None,), "act_kwargs": (None,)},
    strip=("text.",),
    describe=texts,
)

FAMILIES = (BERT_FAMILY, ELECTRA, DISTILBERT, MODERNBERT, CLIP_TEXT, SIGLIP_TEXT, OPEN_CLIP)
