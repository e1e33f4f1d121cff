"""The way back from a model of sounds to the stock Audio Spectrogram Transformer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import ASTFeatureExtractor, AutoFeatureExtractor, AutoModel

from mmssl.model.public.table import Config, Native, Ours


def config(ours: Ours) -> dict[str, Any]:
    """Sizes of the spectrogram and of its patches."""
    patch, strides = ours.processor["patch"], ours.adapter["stride"] or ours.processor["patch"]
    return {
        "max_length": ours.processor["fill_frames"] or patch[0],
        "num_mel_bins": ours.processor["mel_bins"],
        "patch_size": patch[0],
        "time_stride": strides[0],
        "frequency_stride": strides[1],
        "qkv_bias": True,
    }


def serve(folder: Path, ours: Ours, config: Config) -> None:
    """`preprocessor_config.json`: the deviation is halved, as theirs is doubled."""
    own = ours.processor
    one = {name: value if isinstance(value, float | int) else 0.0 for name, value in (("mean", own["mean"]), ("std", own["std"]))}
    ASTFeatureExtractor(
        sampling_rate=own["sample_rate"],
        num_mel_bins=own["mel_bins"],
        max_length=config["max_length"],
        mean=one["mean"],
        std=one["std"] / 2,
    ).save_pretrained(folder)


def samples(ours: Ours) -> list[Any]:
    """Noise of two lengths, the second as long as a sample may be."""
    rate = ours.processor["sample_rate"]
    frames = ours.processor["fill_frames"]
    longest = int(rate * ((frames - 1) * ours.processor["frame_shift"] + ours.processor["frame_length"]) / 1000)
    random = torch.Generator().manual_seed(0)
    return [
        {"array": 0.1 * torch.randn(count, generator=random).numpy(), "sampling_rate": rate} for count in (longest // 2, longest)
    ]


@torch.no_grad()
def run(folder: Path, raws: Sequence[Any]) -> tuple[Tensor, Tensor]:
    """Tokens of sounds; theirs run through frequency first, ours through time."""
    rate = raws[0]["sampling_rate"]
    inputs = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False)(
        [raw["array"] for raw in raws], sampling_rate=rate, return_tensors="pt"
    )
    model = AutoModel.from_pretrained(folder, trust_remote_code=False).eval()
    tokens, own = model(**inputs).last_hidden_state, model.config
    rows = (own.num_mel_bins - own.patch_size) // own.frequency_stride + 1
    body = tokens[:, 2:].unflatten(1, (rows, -1)).transpose(1, 2).flatten(1, 2)
    tokens = torch.cat([tokens[:, :2], body], 1)
    return tokens, torch.ones(tokens.shape[:2], dtype=torch.bool)


NATIVE = Native("audio-spectrogram-transformer", config, serve, samples, run)
