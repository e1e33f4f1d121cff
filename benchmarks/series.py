"""One optimizer step of masked series with several channels, beside transformers' PatchTST of the same shape.

    OMP_NUM_THREADS=1 python benchmarks/series.py

Ours is the recipe `patchtst_etth1`, whose channels attend apart (`adapter.attention: channel`); and the same with tokens of all
channels that attend to each other. The reference is `PatchTSTForPretraining` of the same width, depth, heads, patch and share of
masked patches, with each of its attention kernels, without dropout and class token. Same batch, fused AdamW and clipping on all
sides. All keep the memory that they free. The steps of all alternate in one process and on one thread. The numbers are medians of
the time that the processor worked, so that other processes on the machine count for less than on the clock.
"""

import argparse
import time
from collections.abc import Callable
from typing import Literal

import torch
from step import Step, alternate, optimizer_step
from torch import Tensor, nn
from transformers import PatchTSTConfig, PatchTSTForPretraining

from mmssl.data import Batch
from mmssl.draws import keys
from mmssl.model import MMSSLModel
from mmssl.objectives import Setup
from mmssl.objectives.predict import Masked
from mmssl.processor import MMSSLProcessor
from mmssl.recipe import recipe
from mmssl.training.allocator import keep_freed_memory
from mmssl.training.loop import set_attention
from mmssl.training.start import make_config
from mmssl_modalities.timeseries import TimeseriesProcessor

RECIPE = "patchtst_etth1"
APART, TOGETHER, PEER = "mmssl, channels apart", "mmssl, all channels", "transformers"
KERNELS: tuple[Literal["eager", "sdpa"], ...] = ("eager", "sdpa")
"""What `train.attention` takes on a CPU; each side is tried with both."""


def ours(
    options: argparse.Namespace, attention: str, kernel: Literal["eager", "sdpa"]
) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """The recipe's objective in this size, and its loss of a batch of series."""
    sizes = [f"encoder.hidden_size={options.width}", f"encoder.num_hidden_layers={options.depth}"]
    sizes += [f"encoder.num_attention_heads={options.heads}", f"modalities.timeseries.adapter.attention={attention}"]
    chosen = recipe.load(RECIPE, sizes)
    processor = TimeseriesProcessor(num_channels=options.channels, length=options.length)
    model = MMSSLModel(make_config(chosen, MMSSLProcessor({"timeseries": processor})))
    objective = Masked(model, Setup(), **chosen.objective[1])
    set_attention(objective, kernel, torch.device("cpu"))
    ids = torch.arange(options.batch_size)
    batch_keys = keys(0, 0, ids)

    def loss(values: Tensor) -> Tensor:
        statistics = torch.stack([values.mean(2), values.std(2)], 2)
        inputs = {"timeseries_values": (values - statistics[..., :1]) / statistics[..., 1:], "timeseries_statistics": statistics}
        found: Tensor = objective(Batch({"timeseries": inputs}, batch_keys, ids)).loss
        return found

    return objective, loss


def peer(options: argparse.Namespace, attention: str) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """PatchTST of the same shape, and its loss of a batch of series."""
    chosen = recipe.load(RECIPE)
    patch = chosen.modalities["timeseries"]["adapter"]["patch_size"]
    config = PatchTSTConfig(
        num_input_channels=options.channels,
        context_length=options.length,
        patch_length=patch,
        patch_stride=patch,
        num_hidden_layers=options.depth,
        d_model=options.width,
        num_attention_heads=options.heads,
        ffn_dim=4 * options.width,
        do_mask_input=True,
        random_mask_ratio=chosen.objective[1]["mask"].ratio,
        attn_implementation=attention,
    )
    model = PatchTSTForPretraining(config)
    return model, lambda values: model(past_values=values.mT).loss


def make_step(name: str, kernel: Literal["eager", "sdpa"], options: argparse.Namespace) -> Step:
    """A function that makes one optimizer step on random series."""
    torch.manual_seed(0)
    module, loss_of = peer(options, kernel) if name == PEER else ours(options, "channel" if name == APART else "all", kernel)
    values = torch.randn(options.batch_size, options.channels, options.length)
    return optimizer_step(module, lambda: loss_of(values))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sizes = {"channels": 7, "length": 504, "width": 128, "depth": 3, "heads": 16, "batch_size": 16, "repeats": 11}
    for name, size in sizes.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=size)
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(1)
    shape = f"{options.channels} channels x {options.length} steps, width {options.width}, {options.depth} layers"
    print(f"one thread, torch {torch.__version__}, {shape}, batch {options.batch_size}, {options.repeats} repeats")
    steps = {f"{name}, {kernel}": make_step(name, kernel, options) for name in (APART, TOGETHER, PEER) for kernel in KERNELS}
    medians = alternate(steps, options.repeats, time.process_time)
    best = min(medians[f"{PEER}, {kernel}"] for kernel in KERNELS)
    print("| | ms a step | series/s | ratio |")
    print("|---|---:|---:|---:|")
    for name, seconds in medians.items():
        print(f"| {name} | {1e3 * seconds:,.0f} | {options.batch_size / seconds:,.1f} | {best / seconds:.2f} |", flush=True)


if __name__ == "__main__":
    main()
