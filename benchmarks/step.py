"""One optimizer step of ours beside a reference implementation of the same work, or beside that of its dearest loss alone.

    python benchmarks/step.py masked-image
    python benchmarks/step.py dinov2

masked-image: ours is the recipe `mae_cifar10`; the reference is transformers' ViTMAEForPreTraining of the same width, depth, patch,
mask ratio and decoder, with its faster attention kernel (both are tried). Same batch, fused AdamW and clipping on both sides. All
candidates keep the memory that they free, as mmssl's training does on a CPU. Peak memory is that of a process of its own for each.

dinov2: the recipe `dinov2_cifar10` with its three losses, and with each alone: what the others add to the dearest one.

The steps of all candidates alternate in one process, so that a noisy machine slows all of them; the numbers are medians.
"""

import argparse
import multiprocessing
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from mmssl.data import Batch
from mmssl.draws import keys
from mmssl.modality import find
from mmssl.model import MMSSLModel
from mmssl.objectives import Setup
from mmssl.objectives.predict import Masked
from mmssl.objectives.predict.targets import Normalised
from mmssl.processor import MMSSLProcessor
from mmssl.recipe import recipe
from mmssl.training.allocator import keep_freed_memory
from mmssl.training.build import build
from mmssl.training.loop import Training, set_attention
from mmssl.training.start import make_config

SIDE = 32
PRODUCT = 4096
COMPOSITE = "dinov2_cifar10"
OURS, PEERS = "mmssl", ("transformers, eager", "transformers, sdpa")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}

Step = Callable[[], Tensor]


def settings() -> recipe.Recipe:
    """The recipe that both sides follow."""
    return recipe.load("mae_cifar10")


def ours(batch_size: int, dtype: str) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """The recipe's objective, with the kernel of attention that training takes for a type, and its loss of pixels."""
    chosen = settings()
    parts = chosen.modalities["image"]
    model = MMSSLModel(make_config(chosen, MMSSLProcessor({"image": find("image").processor(**parts["processor"])})))
    objective = Masked(model, Setup(), **chosen.objective[1])
    set_attention(objective, "auto", torch.device("cpu"), "no" if dtype == "fp32" else dtype)
    ids = torch.arange(batch_size)
    batch_keys = keys(0, 0, ids)
    return objective, lambda pixels: objective(Batch({"image": {"pixel_values": pixels}}, batch_keys, ids)).loss


def peer(attention: str) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """ViTMAE of the same shape, and its loss of pixels."""
    chosen = settings()
    encoder, (_, objective) = chosen.section("encoder"), chosen.objective
    decoder = objective["predictor"]
    config = ViTMAEConfig(
        hidden_size=encoder["hidden_size"],
        num_hidden_layers=encoder["num_hidden_layers"],
        num_attention_heads=encoder["num_attention_heads"],
        intermediate_size=4 * encoder["hidden_size"],
        image_size=SIDE,
        patch_size=chosen.modalities["image"]["adapter"]["patch_size"],
        decoder_hidden_size=decoder.width,
        decoder_num_hidden_layers=decoder.depth,
        decoder_num_attention_heads=decoder.heads,
        decoder_intermediate_size=4 * decoder.width,
        mask_ratio=objective["mask"].ratio,
        norm_pix_loss=isinstance(objective["targets"][0], Normalised),
        attn_implementation=attention,
    )
    model = ViTMAEForPreTraining(config)
    return model, lambda pixels: model(pixels).loss


def make_step(name: str, dtype: str, batch_size: int) -> Step:
    """A function that makes one optimizer step on random pixels."""
    torch.manual_seed(0)
    module, loss_of = ours(batch_size, dtype) if name == OURS else peer(name.rpartition(" ")[2])
    pixels = torch.randn(batch_size, 3, SIDE, SIDE)
    return optimizer_step(module, lambda: loss_of(pixels), half=dtype == "bf16")


def optimizer_step(module: nn.Module, loss_of: Callable[[], Tensor], *, half: bool = False) -> Step:
    """A function that makes one step of training: loss, gradient, clipping, fused AdamW. half: under autocast to bf16."""
    module.train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, weight_decay=0.05, fused=True)

    def step() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = loss_of()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss

    return step


def alternate(steps: dict[str, Step], repeats: int, clock: Callable[[], float] = time.perf_counter) -> dict[str, float]:
    """Median seconds of each step, all of them in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for step in steps.values():
        step()
        step()
    for _ in range(repeats):
        for name, step in steps.items():
            begin = clock()
            step()
            seconds[name].append(clock() - begin)
    return {name: statistics.median(values) for name, values in seconds.items()}


def product_rate(dtype: str) -> float:
    """Multiply-adds per second, times two, of one large matrix product."""
    a = torch.randn(PRODUCT, PRODUCT, dtype=DTYPES[dtype])
    times = []
    for _ in range(5):
        begin = time.perf_counter()
        a @ a
        times.append(time.perf_counter() - begin)
    return 2 * PRODUCT**3 / statistics.median(times)


def operations(step: Step) -> int:
    """Floating-point operations of a step's matrix products."""
    with FlopCounterMode(display=False) as counter:
        step()
    return int(counter.get_total_flops())


def peak_memory(name: str, dtype: str, batch_size: int) -> int:
    """MiB by which three steps raise the peak memory of a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (name, dtype, batch_size))


def _peak(name: str, dtype: str, batch_size: int) -> int:
    keep_freed_memory()
    step = make_step(name, dtype, batch_size)
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    for _ in range(3):
        step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024 - pages * resource.getpagesize() // 2**20


def masked_image(batch_size: int, repeats: int) -> None:
    """Print the table of `docs/performance.md`."""
    print(f"batch {batch_size}, {torch.get_num_threads()} threads, torch {torch.__version__}, median of {repeats}")
    print("| dtype | | ms a step | samples/s | ratio | of the product rate | peak MiB |")
    print("|---|---|---:|---:|---:|---:|---:|")
    keep_freed_memory()
    for dtype in DTYPES:
        steps = {name: make_step(name, dtype, batch_size) for name in (OURS, *PEERS)}
        medians, rate = alternate(steps, repeats), product_rate(dtype)
        best = min(PEERS, key=lambda name: medians[name])
        for name in (OURS, best):
            row: list[Any] = [dtype, name, f"{1e3 * medians[name]:.0f}", f"{batch_size / medians[name]:.0f}"]
            row += [f"{medians[best] / medians[name]:.2f}", f"{operations(steps[name]) / medians[name] / rate:.0%}"]
            print(f"| {' | '.join(row)} | {peak_memory(name, dtype, batch_size)} |", flush=True)


def dinov2(batch_size: int, repeats: int) -> None:
    """Print how long a step of all losses takes, and one of each alone."""
    losses = recipe.load(COMPOSITE).resolved()["objective"]["losses"]
    chosen = {"all": losses} | {each["name"]: [each] for each in losses}
    medians = alternate({name: composite_step(some, batch_size) for name, some in chosen.items()}, repeats)
    dearest = max(seconds for name, seconds in medians.items() if name != "all")
    print(f"{COMPOSITE}, batch {batch_size}, {torch.get_num_threads()} threads, torch {torch.__version__}, median of {repeats}")
    print("| losses | ms a step | of the dearest alone |")
    print("|---|---:|---:|")
    for name, seconds in medians.items():
        print(f"| {name} | {1e3 * seconds:.0f} | {seconds / dearest:.2f} |")


def composite_step(losses: list[dict[str, Any]], batch_size: int) -> Step:
    """A function that makes one training step of the recipe with these losses, on random pixels."""
    chosen = recipe.load(COMPOSITE, {"objective.losses": losses, "train.precision": "fp32", "train.batch_size": batch_size})
    image = find("image")
    processor = MMSSLProcessor({"image": image.processor(**chosen.modalities["image"]["processor"])})
    objective = build(chosen, {}, None, processor).objective
    training = Training(objective, chosen.section("train"))
    ids = torch.arange(batch_size)
    pixels = torch.randn(batch_size, 3, SIDE, SIDE)

    def step() -> Tensor:
        batch = Batch({"image": {"pixel_values": pixels}}, keys(0, training.counters.step, ids), ids)
        return torch.tensor(training.step(iter([batch]))["loss"])

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["masked-image", "dinov2"])
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=15)
    options = parser.parse_args()
    {"masked-image": masked_image, "dinov2": dinov2}[options.what](options.batch_size, options.repeats)


if __name__ == "__main__":
    main()
