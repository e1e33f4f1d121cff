"""Write docs/masks.md, statistics of the masks that recipes ask for beside those of official code: `python docs/make_masks.py`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl.draws import Draws, keys
from mmssl.masking import SAMPLERS, Sampler
from mmssl.recipe.yaml12 import parse
from mmssl_catalogue import recipes_found

PAGE = Path(__file__).with_name("masks.md")
SAMPLES = 128
LENGTHS, SIDES = (20, 500, 1500), (8, 14, 32)
ALONG_TIME = ("random", "runs", "span", "column", "subset", "bands")
"""Samplers that are shown along time; all but `runs`, `column` and `subset` on grids as well."""
OFFICIAL: dict[tuple[str, str], tuple[str, tuple[str, ...]]] = {
    ("time", "runs (ratio 0.65, length 10, least 2)"): (
        "fairseq's compute_mask_indices, before rows are cut to one number",
        ("0.68, 13.54", "0.50, 14.77", "0.49, 14.83"),
    ),
    ("time", "runs (ratio 0.8, length 10, least 2)"): (
        "the same, as HuBERT's settings have it",
        ("0.68, 13.54", "0.57, 16.32", "0.56, 16.35"),
    ),
    ("time", "runs (ratio 0.8, length 5, least 2)"): (
        "the same, as MERT's settings have it",
        ("0.60, 8.54", "0.58, 8.78", "0.58, 8.71"),
    ),
    ("time", "runs (ratio 0.15, length 7)"): ("s3prl's mockingjay/task.py", ("0.35, 7.00", "0.14, 7.79", "0.14, 7.64")),
    ("grid", "multiblock (blocks 4, scale 0.175)"): (
        "ijepa's MaskCollator, batches of 128 (of 8: 0.36, 3.07 at 14 x 14)",
        ("-", "0.27, 2.98", "0.29, 3.51"),
    ),
    ("grid", "multiblock (blocks 4, scale 0.175, keep 0.18)"): (
        "ijepa's MaskCollator, batches of 128",
        ("0.18, 2.32", "-", "-"),
    ),
    ("grid", "clusters (ratio 0.8, side [3, 3], inverse True, extra 0.07)"): (
        "fairseq's data2vec 2.0",
        ("0.19, 1.77", "0.20, 2.54", "0.20, 2.53"),
    ),
    ("grid", "rolled_block (ratio 0.65)"): ("capi's InverseBlockMasking", ("0.36, 2.74", "0.35, 3.26", "0.35, 3.66")),
}
"""By layout and mask: the official code, and what it gives at the three sizes."""
ALSO = {"multiblock (blocks 4, scale 0.175)": "the same without `keep`, for larger grids"}
"""Masks that no recipe names, with what stands where recipes do."""
INTRODUCTION = f"""# Masks in numbers

Every mask that a recipe names, at three lengths and on three grids, beside the official code of its paper where that was run. Means
over {SAMPLES} samples. A row in italics is official code: that of I-JEPA and data2vec 2.0 itself, the others line by line in
`tests/reference/test_official_masks.py`, which compares them with ours; `-`: not run there.

<!-- Written by docs/make_masks.py: run it after changing a sampler or a recipe's mask. -->

Along time: the share of the tokens that is hidden, and the mean length of a hidden run in tokens.

"""
GRID = """
On grids: the share of the tokens that is seen, and how many of the four neighbours of a seen token are seen as well. Where many
are, masks are in large pieces, which cannot be filled in from what lies next to them. `multiblock` leaves tokens that are neither
target nor context.

"""


def masks_of(tree: Any) -> Iterator[Mapping[str, Any]]:
    """The masks that a recipe names, at any depth."""
    if isinstance(tree, dict):
        if isinstance(tree.get("mask"), dict):
            yield tree["mask"]
        for value in tree.values():
            yield from masks_of(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from masks_of(value)


def label(mask: Mapping[str, Any]) -> str:
    keys = ", ".join(f"{key} {value}" for key, value in mask.items() if key not in ("name", "guided"))
    return f"{mask['name']} ({keys})" if keys else str(mask["name"])


def masks() -> dict[str, tuple[Sampler, list[str]]]:
    """By their labels the samplers that recipes name, with the recipes."""
    found: dict[str, tuple[Sampler, list[str]]] = {}
    for name, path in recipes_found().items():
        for mask in masks_of(parse(path.read_text(encoding="utf-8"), name)):
            settings = {
                key: tuple(value) if isinstance(value, list) else value
                for key, value in mask.items()
                if key not in ("name", "guided")
            }
            found.setdefault(label(mask), (SAMPLERS[mask["name"]](**settings), []))[1].append(name)
    for text in ALSO:
        found.setdefault(text, (SAMPLERS[text.split(" (")[0]](), []))
    return dict(sorted(found.items()))


def runs(hidden: Tensor) -> Tensor:
    """The mean length of the runs in each row."""
    begins = hidden & ~F.pad(hidden, (1, 0))[:, :-1]
    return hidden.sum(1) / begins.sum(1).clamp(min=1)


def neighbours(seen: Tensor, side: int) -> Tensor:
    """In each row the mean number of seen ones among the four neighbours of a seen token."""
    grid = F.pad(seen.view(-1, side, side).float(), (1, 1, 1, 1))
    around = grid[:, 2:, 1:-1] + grid[:, :-2, 1:-1] + grid[:, 1:-1, 2:] + grid[:, 1:-1, :-2]
    inner = grid[:, 1:-1, 1:-1]
    return (around * inner).sum((1, 2)) / inner.sum((1, 2)).clamp(min=1)


def along_time(sampler: Sampler, length: int, samples: int, seed: int) -> Tensor:
    """Of each sample the share that is hidden, and the mean run: `[b, 2]`."""
    coords = torch.zeros(samples, length, 4)
    coords[..., 0] = torch.arange(length)
    hidden = sampler.split(coords, None, None, Draws(keys(seed, 0, torch.arange(samples)))).hidden_places(length)
    return torch.stack([hidden.float().mean(1), runs(hidden)], 1)


def on_grid(sampler: Sampler, side: int, samples: int, seed: int) -> Tensor:
    """Of each sample the share that is seen, and the seen neighbours of a seen token: `[b, 2]`."""
    coords = torch.zeros(samples, side**2, 4)
    coords[..., 2], coords[..., 3] = torch.arange(side**2) // side, torch.arange(side**2) % side
    parts = sampler.split(coords, None, None, Draws(keys(seed, 0, torch.arange(samples))))
    real = torch.ones_like(parts.seen, dtype=torch.bool) if parts.seen_real is None else parts.seen_real
    count = torch.zeros(samples, side**2, dtype=torch.int64).scatter_add(1, parts.seen, real.long())
    return torch.stack([(count > 0).float().mean(1), neighbours(count > 0, side)], 1)


def measured(samples: int, seed: int) -> Iterator[tuple[str, str, list[str], list[Tensor]]]:
    """Layout, label, recipes, and for each size the statistics of each sample."""
    every = masks()
    for text, (sampler, recipes) in every.items():
        if text.split(" (")[0] in ALONG_TIME:
            yield "time", text, recipes, [along_time(sampler, length, samples, seed) for length in LENGTHS]
    for text, (sampler, recipes) in every.items():
        if text.split(" (")[0] not in ("runs", "column", "subset"):
            yield "grid", text, recipes, [on_grid(sampler, side, samples, seed) for side in SIDES]


def page() -> str:
    """The page."""
    heads = {
        "time": "| mask | recipes | " + " | ".join(f"{length:,}" for length in LENGTHS) + " |",
        "grid": "| mask | recipes | " + " | ".join(f"{side} x {side}" for side in SIDES) + " |",
    }
    lines: dict[str, list[str]] = {"time": [], "grid": []}
    for layout, text, recipes, values in measured(SAMPLES, 0):
        named = ", ".join(f"`{name}`" for name in recipes[:2]) + (f" and {len(recipes) - 2} more" if len(recipes) > 2 else "")
        shown = named or ALSO[text]
        cells = [", ".join(f"{value:.2f}" for value in each.mean(0).tolist()) for each in values]
        lines[layout].append(f"| {text} | {shown} | {' | '.join(cells)} |")
        if official := OFFICIAL.get((layout, text)):
            lines[layout].append(f"| | *{official[0]}* | " + " | ".join(f"*{cell}*" for cell in official[1]) + " |")
    tables = {layout: "\n".join([heads[layout], "|---|---|---:|---:|---:|", *rows]) + "\n" for layout, rows in lines.items()}
    return INTRODUCTION + tables["time"] + GRID + tables["grid"]


def main() -> None:
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
