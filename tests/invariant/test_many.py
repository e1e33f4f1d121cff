"""One run on many processes is the run of one: same samples, same weights, same numbers, one folder, one model.

Everything goes through the command line. Most processes are forked by `many.py`; the launchers that people type have a test each.

Weights may differ by rounding, for sums are taken in another order: 1e-5 at most, of weights of which many are small. AdamW divides
a gradient by its own size, and so blows the rounding of gradients near zero up to steps of the learning rate; with train.eps=1e-4
gradients much smaller than that make small steps, as with SGD.
"""

import json
import math
import os
import socket
import subprocess
import sys
import wave
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file
from torch import Tensor

from mmssl.modality import find
from mmssl.training import checkpoint

ROOT = Path(__file__).parents[2]
SAME = ("train.eps=1e-4", "train.precision=fp32", "train.max_minutes=null", "train.log_every=2", "data.workers=0", "evaluate=null")
"""What all runs here have in common."""
TINY = ("encoder.hidden_size=32", "encoder.num_hidden_layers=2", "encoder.num_attention_heads=2", "train.max_steps=6")
TIMING = ("seconds", "samples_per_second")
"""Columns of metrics.jsonl that tell how fast a run was."""
WEIGHTS, NUMBERS = 1e-5, 1e-4
"""Largest difference of a weight, and largest relative one of a number in metrics.jsonl."""

Ask = Callable[..., list[str]]


@dataclass(frozen=True)
class Result:
    """What a run came to: scores, rows of metrics.jsonl, and tensors of the model and of the objective in the last checkpoint."""

    scores: str
    rows: list[dict[str, Any]]
    tensors: dict[str, Tensor]


def result(folder: Path) -> Result:
    """What the one run in a folder came to; there must be one, with one model."""
    (run,) = (folder / "runs").iterdir()
    (weights,) = folder.rglob("model.safetensors")
    assert weights == run / "model" / "model.safetensors"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    last = checkpoint.newest(run / "checkpoints")
    assert last is not None
    state = checkpoint.load(last)["objective"]
    parts = {"model": load_file(weights), "objective": state}
    scores = (run / "table.json").read_text(encoding="utf-8") if (run / "table.json").exists() else ""
    return Result(scores, rows, {f"{part}.{key}": tensor for part, tensors in parts.items() for key, tensor in tensors.items()})


def differences(found: Result, expected: Result) -> list[str]:
    """In words, what is not the same."""
    lines = []
    if found.tensors.keys() != expected.tensors.keys():
        lines.append(f"tensors in one of them only: {sorted(found.tensors.keys() ^ expected.tensors.keys())}")
    gaps = {key: gap(found.tensors[key], tensor) for key, tensor in expected.tensors.items() if key in found.tensors}
    worst = max(gaps, key=lambda key: gaps[key])
    if not gaps[worst] <= WEIGHTS:
        lines.append(f"weights differ by {gaps[worst]:.1e} in {worst}")
    if found.scores != expected.scores:
        lines.append(f"scores are {found.scores}, not {expected.scores}")
    if len(found.rows) != len(expected.rows):
        lines.append(f"metrics.jsonl has {len(found.rows)} rows, not {len(expected.rows)}")
    for row, other in zip(found.rows, expected.rows, strict=False):
        lines += [f"step {other['step']}: {line}" for line in unlike(row, other)]
    return lines


def gap(a: Tensor, b: Tensor) -> float:
    return float((a.double() - b.double()).abs().max()) if a.numel() else 0.0


def unlike(row: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """The columns of a row of metrics.jsonl that are not those of another."""
    lines = []
    for key in dict.fromkeys((*row, *other)):
        a, b = row.get(key), other.get(key)
        if isinstance(a, float) and isinstance(b, float):
            same = key in TIMING or math.isclose(a, b, rel_tol=NUMBERS, abs_tol=1e-6)
        else:
            same = a == b
        if not same:
            lines.append(f"{key} is {a}, not {b}")
    return lines


def texts(folder: Path) -> Path:
    """Sentences of two to thirty words."""
    random = np.random.default_rng(0)
    words = ["sea", "lima", "robot", "likes", "never", "café", "the", "a", "猫", "writes", "today", "nobody"]
    lines = [" ".join(random.choice(words, random.integers(2, 30))) for _ in range(64)]
    file = folder / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines), encoding="utf-8")
    return file


def sounds(folder: Path) -> Path:
    """Files of 0.15 to 0.5 s."""
    random = np.random.default_rng(0)
    (folder / "sounds").mkdir()
    for number in range(32):
        time = np.arange(random.integers(1200, 4000)) / 8000
        sound = 0.3 * np.sin(2 * np.pi * random.uniform(200, 2000) * time) + 0.02 * random.standard_normal(len(time))
        with wave.open(str(folder / "sounds" / f"{number:02}.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes((32767 * sound).astype("<i2").tobytes())
    return folder / "sounds"


def sounds_with_gaps(folder: Path) -> Path:
    """The same, of which some cannot be read."""
    found = sounds(folder)
    for number in (3, 4, 17):
        (found / f"{number:02}.wav").write_bytes(b"no sound")
    return found


def series(folder: Path) -> Path:
    """Series of 30 to 120 values."""
    random = np.random.default_rng(0)
    found = [np.sin(np.arange(random.integers(30, 120)) / random.uniform(2, 6)) for _ in range(48)]
    found = [values + 0.1 * random.standard_normal(len(values)) for values in found]
    file = folder / "series.jsonl"
    file.write_text("".join(json.dumps({"series": [values.tolist()]}) + "\n" for values in found), encoding="utf-8")
    return file


def images(folder: Path) -> Path:
    (folder / "images").mkdir()
    for number, image in enumerate(find("image").example(24, 0)):
        image.save(folder / "images" / f"{number:02}.png")
    return folder / "images"


def clouds(folder: Path) -> Path:
    (folder / "clouds").mkdir()
    for number, points in enumerate(find("points").example(24, 0)):
        np.save(folder / "clouds" / f"{number:02}.npy", points)
    return folder / "clouds"


def table(folder: Path) -> Path:
    rows = find("tabular").example(48, 0)
    file = folder / "table.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


TWO = (
    "modalities={image: {processor: {size: 8, channels: 1}, adapter: {patch_size: 4}}, tabular: {}}",
    "data.sources={image: {path: 'bundled:digits', limit: 60}, tabular: {path: 'bundled:wine'}}",
    *("train.batch_tokens=null", "train.batch_size=16", "train.max_steps=5", "run.seed=1"),
)
"""Two modalities by turns: in every step the adapter and the heads of one are idle."""
SIX = {"image": images, "audio": sounds, "text": texts, "timeseries": series, "tabular": table, "points": clouds}


@dataclass(frozen=True)
class Case:
    """A recipe with its overrides. data: what writes its samples. many: what several processes do otherwise."""

    recipe: str
    overrides: tuple[str, ...] = ()
    data: Callable[[Path], Path] | Mapping[str, Callable[[Path], Path]] | None = None
    many: tuple[str, ...] = ()
    processes: int = 2

    def arguments(self, folder: Path) -> list[str]:
        """The command; its data are written into the folder."""
        sources: list[tuple[str, Callable[[Path], Path]]] = []
        if isinstance(self.data, Mapping):
            sources = [(f"data.sources.{name}", write) for name, write in self.data.items()]
        elif self.data is not None:
            sources = [("data", self.data)]
        own = [f"{place}.{key}" for place, write in sources for key in (f"path={write(folder)}", "columns=null", "limit=null")]
        return ["train", str(ROOT / "recipes" / f"{self.recipe}.yaml"), *SAME, *TINY, *own, *self.overrides]


DIGITS = ("data.limit=128", "train.batch_size=32", "train.clip_norm=null")
"""Not clipped, or a gradient that is too large would make the same step."""
TEXT, SOUND = "modalities.text.processor", "modalities.audio.processor"
BANDS = (f"{SOUND}.mel_bins=16", f"{SOUND}.patch=[4, 16]")
GLYPHS = ("data.limit=64", "train.batch_size=16", f"{TEXT}.vocab_size=300", f"{TEXT}.max_tokens=128", "data.lacking={text: 0.6}")
CASES = {
    "masked": Case("quickstart", DIGITS),
    "accumulation 2": Case("quickstart", DIGITS, many=("train.accumulation=2",)),
    "accumulation 4": Case("quickstart", DIGITS, many=("train.accumulation=4",)),
    "four processes": Case("quickstart", DIGITS, processes=4),
    "stochastic depth, scored": Case(
        "quickstart",
        (*DIGITS, "encoder.drop_path_rate=0.1", "evaluate={every: 4, train_limit: 60, test_limit: 60, batch_size: 16}"),
    ),
    "jepa": Case(
        "grid/jepa_image",
        (
            *(*DIGITS, "data.path=bundled:digits", "data.columns=null"),
            *("modalities.image.processor={size: 8, channels: 1}", "modalities.image.adapter.patch_size=2"),
        ),
    ),
    "text": Case("grid/masked_text", ("train.batch_size=16", f"{TEXT}.vocab_size=300"), texts),
    "swapped tokens, batch_tokens": Case("text/bert_sst2", ("train.batch_tokens=140", f"{TEXT}.vocab_size=300"), texts),
    "mixed sounds, some skipped": Case(
        "grid/masked_audio",
        ("train.batch_size=16", *BANDS, "modalities.audio.augment.mix=0.5", "data.on_error=skip"),
        sounds_with_gaps,
    ),
    "clusters": Case(
        "audio/hubert_spoken_digits",
        (
            *("train.batch_size=16", "modalities.audio.adapter.conv_width=16"),
            "objective.targets=[{name: clusters, of: mfcc, codes: [6, 8], layers: [1], starts: [0.3], sample: 300}]",
        ),
        sounds,
    ),
    "random codes": Case("audio/bestrq_spoken_digits", ("train.batch_size=16", "objective.mask.length=2", *BANDS), sounds),
    "series": Case("grid/masked_timeseries", ("train.batch_size=16",), series),
    "jepa of two modalities": Case("joint/six_modalities", (*TWO, "objective={name: jepa}")),
    "swapped tokens of two modalities": Case(
        "joint/six_modalities", (*TWO, "objective={name: masked, predictor: {name: mask_token, corruption: swap, swap: 0.3}}")
    ),
    "contrast": Case(
        "grid/contrast_text", ("train.batch_size=16", f"{TEXT}.vocab_size=300"), texts, many=("train.accumulation=2",)
    ),
    "no teacher, smaller views": Case("timeseries/lejepa_ucr", ("train.batch_size=16",), series),
    "teacher, prototypes, hidden tokens": Case(
        "image/ibot_cifar10",
        (
            *(
                *DIGITS,
                "data.path=bundled:digits",
                "data.columns=null",
                "objective.losses=[{name: self_distillation, prototypes: 16}, {name: masked_tokens}]",
            ),
            *("modalities.image.processor={size: 16, channels: 1}", "modalities.image.augment={crop: [0.4, 1.0]}"),
            "modalities.image.views={global: {count: 2}, local: {count: 2, size: 8}}",
        ),
    ),
    "pairs of which some lack a part": Case("pairs/clip_glyphs", GLYPHS, many=("train.accumulation=2",)),
    "four modalities predict one another": Case("pairs/cross_glyphs", GLYPHS),
    "six modalities": Case(
        "joint/six_modalities",
        (
            *("train.batch_tokens=512", "train.max_steps=8", "data.mixing={name: learned}", "run.seed=4"),
            *("encoder.num_hidden_layers=1", "modalities.image.processor.size=16"),
            *(*BANDS, f"{TEXT}.vocab_size=300"),
            *("modalities.points.processor.num_points=64", "modalities.points.processor.num_groups=16"),
            "modalities.points.processor.group_size=8",
        ),
        SIX,
    ),
}

Whole = Callable[[str], tuple[list[str], Result]]


@pytest.mark.parametrize("name", CASES)
def test_many_processes_end_like_one(name: str, ask: Ask, alone: Whole, tmp_path: Path) -> None:
    arguments, expected = alone(name)
    ask(tmp_path, *arguments, *CASES[name].many, processes=CASES[name].processes)
    assert differences(result(tmp_path), expected) == []


def test_the_cases_hold_what_they_are_for(alone: Whole) -> None:
    """Samples are skipped, codes come to their second stage, each modality is trained on, and rows are scored on the way."""
    _, skipped = alone("mixed sounds, some skipped")
    assert skipped.rows[-1]["skipped"] > 0
    _, clusters = alone("clusters")
    assert [row["stage"] for row in clusters.rows][::2] == [1.0, 2.0]
    _, joint = alone("six modalities")
    assert {key.removeprefix("loss_") for row in joint.rows for key in row if key.startswith("loss_")} == set(SIX)
    _, scored = alone("stochastic depth, scored")
    assert any("probe" in key for row in scored.rows for key in row)
    assert "random init" in scored.scores


FAULTS = [
    ("masked", "other_masks", ["weights differ by", "loss is"], []),
    ("masked", "gradient_summed", ["weights differ by", "grad_norm is"], []),
    ("jepa", "teacher_moved_twice", ["objective.networks.copies."], []),
    ("masked", "loss_of_one", ["loss is"], ["weights differ by"]),
    ("masked", "sample_skipped", ["weights differ by", "samples is"], []),
]
"""The fault, planted in which case; what must be found to differ, and what not."""


@pytest.mark.parametrize(("name", "fault", "told", "untold"), FAULTS, ids=[fault for _, fault, *_ in FAULTS])
def test_a_planted_fault_is_found(
    name: str, fault: str, told: list[str], untold: list[str], ask: Ask, alone: Whole, tmp_path: Path
) -> None:
    arguments, expected = alone(name)
    ask(tmp_path, *arguments, processes=2, **{fault: True})
    lines = "\n".join(differences(result(tmp_path), expected))
    assert [text for text in told if text not in lines] == [], lines
    assert [text for text in untold if text in lines] == [], lines


def test_a_run_goes_on_with_another_number_of_processes(ask: Ask, alone: Whole, tmp_path: Path) -> None:
    """One process is stopped after step 3, then two after step 5, by a signal that the second one gets; then one goes on."""
    arguments, expected = alone("jepa")
    resume = (*arguments, "resume=auto")
    ask(tmp_path, *arguments, codes=[143], stop_after={"rank": 0, "step": 3})
    told = ask(tmp_path, *resume, processes=2, codes=[143, 143], stop_after={"rank": 1, "step": 5})
    assert "resume=runs/jepa_image --processes=2" in told[0]
    assert told[1] == ""
    ask(tmp_path, *resume)
    assert differences(result(tmp_path), expected) == []


def test_embeddings_and_scores_of_many_processes_are_those_of_one(ask: Ask, alone: Whole, tmp_path: Path) -> None:
    """In the order of the rows; of an odd number of batches, the last one short."""
    arguments, _ = alone("masked")
    ask(tmp_path, *arguments, "run.name=kept")
    for processes in (1, 2):
        data = ("runs/kept/model", "--data", "bundled:digits", "--batch-size", "250")
        ask(tmp_path, "embed", *data, "--output", f"{processes}.parquet", processes=processes)
        ask(tmp_path, "evaluate", *data, "--train-limit", "100", "--output", f"{processes}.json", processes=processes)
    one, two = (pq.read_table(tmp_path / f"{processes}.parquet") for processes in (1, 2))
    assert one["row"].to_pylist() == two["row"].to_pylist() == list(range(1797))
    assert np.allclose(np.stack(one["embedding"].to_numpy()), np.stack(two["embedding"].to_numpy()), atol=1e-6)
    assert (tmp_path / "1.json").read_text(encoding="utf-8") == (tmp_path / "2.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("slowed_down", [0.0, 0.05])
def test_a_budget_of_minutes_ends_all_processes_at_one_step(slowed_down: float, ask: Ask, alone: Whole, tmp_path: Path) -> None:
    """With one clock: learning rate, teacher and end are the same, also where the second process is slow."""
    arguments, _ = alone("jepa")
    budget = ("train.max_steps=null", "train.max_minutes=0.03")
    ask(tmp_path, *arguments, *budget, processes=2, slowed_down=slowed_down, weights_written_down="end")
    first, second = (json.loads((tmp_path / f"end-{rank}.json").read_text(encoding="utf-8")) for rank in range(2))
    assert first == second
    assert first["step"] == result(tmp_path).rows[-1]["step"] > 6


def test_processes_that_hang_are_killed_and_told(ask: Ask, alone: Whole, tmp_path: Path) -> None:
    arguments, _ = alone("masked")
    with pytest.raises(AssertionError, match=r"not done after 1\.0 s: killed\s+--- process 0(.*\n)+\s*--- process 1"):
        ask(tmp_path, *arguments, processes=2, seconds=1.0, slowed_down=60.0)


LAUNCHERS = {
    "torchrun": ("torchrun", "--nproc_per_node=2", "--master_port={port}", "-m", "mmssl"),
    "accelerate": (
        *("accelerate", "launch", "--multi_gpu", "--num_processes=2", "--num_machines=1", "--mixed_precision=no"),
        *("--dynamo_backend=no", "--main_process_port={port}", "-m", "mmssl"),
    ),
    "mmssl": ("mmssl",),
}
"""What people type before `train`: what `accelerate` would warn of that it has a default for is said too."""


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_makes_one_run_of_one_model(launcher: str, alone: Whole, tmp_path: Path) -> None:
    """As people type it: two interpreters, in a folder where nothing was before."""
    arguments, expected = alone("masked")
    if launcher == "mmssl":
        arguments = [*arguments, "--processes=2"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program, *options = (word.format(port=port) for word in LAUNCHERS[launcher])
    command = [str(Path(sys.executable).with_name(program)), *options, *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("2 processes on 1 machine share each step") == 1
    assert differences(result(tmp_path), expected) == []
