"""Public encoders of sounds in terms of mmssl's encoder and of `AudioAdapter`."""

from typing import Any

from mmssl.model.public.layers import SIZE, UNPLACED, VIT
from mmssl.model.public.source import Source
from mmssl.model.public.table import Config, Family, Of, Row
from mmssl.model.public.weights import Kernel, Prefixed
from mmssl_modalities.audio.native import NATIVE

PREPROCESSOR = "preprocessor_config.json"
LENGTH, SHIFT = 25.0, 10.0
"""Milliseconds of an analysis frame, and from one to the next, of the Audio Spectrogram Transformer's code."""
MEAN, STD = -4.2677393, 4.5689974
"""Of AudioSet, by which it normalises unless its files say otherwise; the deviation twice (arXiv 2104.01778, section 2.1)."""


def processor(source: Source, config: Config) -> dict[str, Any]:
    """Filters, normalisation and length, as `preprocessor_config.json` says."""
    found = source.json(PREPROCESSOR)
    normal = found.get("do_normalize", True)
    frames = int(config["max_length"])
    rate = int(found.get("sampling_rate", 16000))
    return {
        "sample_rate": rate,
        "mel_bins": int(config["num_mel_bins"]),
        "patch": [config["patch_size"], config["patch_size"]],
        "frame_length": LENGTH,
        "frame_shift": SHIFT,
        "mean": float(found.get("mean", MEAN)) if normal else 0.0,
        "std": 2 * float(found.get("std", STD)) if normal else 1.0,
        "fill_frames": frames,
        "max_seconds": ((frames - 1) * SHIFT + LENGTH) / 1000,
    }


def grid(config: Config) -> tuple[int, int]:
    """Patches in time and in frequency."""
    size = config["patch_size"]
    times = (config["max_length"] - size) // config["time_stride"] + 1
    return times, (config["num_mel_bins"] - size) // config["frequency_stride"] + 1


AST = Family(
    name="AST",
    kinds=("audio-spectrogram-transformer",),
    encoder=SIZE | UNPLACED | {"num_register_tokens": 1, "dropout": Of("hidden_dropout_prob", default=0.0)},
    adapter={
        "stride": lambda config: [config["time_stride"], config["frequency_stride"]],
        "learned_positions": lambda config: list(grid(config)),
    },
    processor=processor,
    rows=[
        *VIT,
        Row(
            ("embeddings.cls_token", "embeddings.distillation_token", "embeddings.position_embeddings"),
            ("encoder.prefix", "adapter.positions.table"),
            lambda config: Prefixed((1, 1), 2, grid(config)[::-1]),
            (),
        ),
        Row("embeddings.patch_embeddings.projection", "adapter.proj", Kernel(turned=True)),
        Row("layernorm", "encoder.norm"),
    ],
    left=("classifier.*",),
    requires={"qkv_bias": (True,)},
    strip=("audio_spectrogram_transformer.",),
    native=NATIVE,
)

FAMILIES = (AST,)
