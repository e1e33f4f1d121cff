"""Train every recipe for a few steps on made-up data and keep the weights: two versions that compute the same end in the same ones.

    python tests/invariant/weights.py --out before          # at one commit
    python tests/invariant/weights.py --out after           # at another
    python tests/invariant/weights.py --compare before after

Data, sizes and stand-ins for trained models are those of tests/laws/test_recipes.py; in float32, on one thread, from fixed seeds.
`--only jepa` runs the recipes with that in their names. The folder gets `weights.json`, {recipe: hash of the model in training,
hash of the model to publish, largest loss}, and the weights themselves, so that the comparison can say by how much they differ.
"""

import argparse
import hashlib
import json
import os
import runpy
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", MPLBACKEND="agg", TOKENIZERS_PARALLELISM="false")

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import mmssl
from mmssl.recipe import load
from mmssl.recipe.recipe import recipes_found
from mmssl.training.loop import Training
from mmssl.training.session import Session

STEPS = 4
LAWS = Path(__file__).parents[1] / "laws" / "test_recipes.py"
KEYS = {"train.max_steps": STEPS, "train.log_every": 1, "train.precision": "fp32", "train.keep_last": 1}


def hashed(state: Mapping[str, Tensor]) -> str:
    """One hash of all tensors, in the order of their names, which do not count themselves."""
    found = hashlib.sha256()
    for _, tensor in sorted(state.items()):
        found.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def trained(path: Path, folder: Path, laws: Mapping[str, Any]) -> tuple[Training, list[float]]:
    """A recipe's training after its last step, and the loss of each step."""
    seen: list[Training] = []
    made = Training.__init__

    def watched(self: Training, *arguments: Any, **options: Any) -> None:
        made(self, *arguments, **options)
        seen.append(self)

    rows, keys = laws["example_data"](load(path))
    stand_ins = laws["with_stand_ins"](path, folder)
    Training.__init__ = watched  # type: ignore[method-assign]
    try:
        run = mmssl.train(path, laws["SMALL"] | keys | stand_ins | KEYS | {"run.dir": str(folder)}, rows=rows)
    finally:
        Training.__init__ = made  # type: ignore[method-assign]
    (training,) = seen
    return training, [row["loss"] for row in run.rows()]


def measure(out: Path, only: str) -> None:
    """Train the recipes and write down what they came to."""
    laws = runpy.run_path(str(LAWS))
    out.mkdir(parents=True, exist_ok=True)
    kept = out / "weights.json"
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    for name, path in recipes_found().items():
        if only not in name:
            continue
        begin = time.perf_counter()
        torch.manual_seed(0)
        with tempfile.TemporaryDirectory() as folder:
            training, losses = trained(path, Path(folder), laws)
        student, published = training.objective.model.state_dict(), training.published().state_dict()
        found[name] = {"student": hashed(student), "published": hashed(published), "largest_loss": max(losses)}
        states = {"student": student, "published": published}
        tensors = {f"{part}.{key}": value.clone() for part, state in states.items() for key, value in state.items()}
        save_file(tensors, out / f"{name.replace('/', '-')}.safetensors")
        kept.write_text(json.dumps(dict(sorted(found.items())), indent=2) + "\n", encoding="utf-8")
        print(f"{name}: {time.perf_counter() - begin:.1f} s, losses {losses}", flush=True)


def difference(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> str:
    """Largest relative difference of a tensor, |a - b| over |a| as norms, and which tensor it is."""
    if before.keys() != after.keys():
        odd = sorted(before.keys() ^ after.keys())
        return f"{len(odd)} tensors are in one of them only: {', '.join(odd[:4])}"
    if wrong := [key for key in before if before[key].shape != after[key].shape]:
        return f"other shapes: {', '.join(wrong[:4])}"
    pairs = {key: (before[key].double(), after[key].double()) for key in before}
    relative = {key: float((a - b).norm() / a.norm().clamp(min=1e-12)) for key, (a, b) in pairs.items()}
    worst = max(relative, key=lambda key: relative[key])
    return f"relative difference {relative[worst]:.1e} at most ({worst}), {sum(relative.values()) / len(relative):.1e} in the mean"


def compare(before: Path, after: Path) -> int:
    """Print which recipes end in other weights, and by how much; returns their number."""
    old, new = (json.loads((folder / "weights.json").read_text(encoding="utf-8")) for folder in (before, after))
    count = 0
    for name in sorted(old.keys() | new.keys()):
        if name not in old or name not in new:
            print(f"{name}: only in {before if name in old else after}")
            continue
        parts = [part for part in ("student", "published") if old[name][part] != new[name][part]]
        if not parts:
            continue
        count += 1
        a, b = (load_file(folder / f"{name.replace('/', '-')}.safetensors") for folder in (before, after))
        losses = f"largest loss {old[name]['largest_loss']:.6g}, then {new[name]['largest_loss']:.6g}"
        print(f"{name}: {' and '.join(parts)} differ; {difference(a, b)}; {losses}")
    print(f"{count} of {len(old.keys() & new.keys())} recipes end in other weights")
    return count


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, help="train, and write the weights into this folder")
    parser.add_argument("--only", default="", help="recipes with this in their names")
    parser.add_argument("--compare", type=Path, nargs=2, metavar=("BEFORE", "AFTER"), help="folders to compare")
    options = parser.parse_args()
    if options.compare:
        raise SystemExit(compare(*options.compare) > 0)
    if options.out is None:
        parser.error("give --out FOLDER, or --compare BEFORE AFTER")
    torch.set_num_threads(1)
    Session.pictures = lambda *given: {}  # type: ignore[method-assign]
    measure(options.out, options.only)
