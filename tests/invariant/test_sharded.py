"""A sharded run is the run of one process: same weights of student and teacher; one that goes on is the same bit by bit.

Everything goes through the command line, by two processes that `many.py` forks. Cases and tolerances are those of `test_many.py`.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise, permutations
from pathlib import Path
from typing import Any

import pytest
import test_many as many
import torch
from safetensors.torch import load_file
from tiny import SECONDS, ZERO

from mmssl.recipe.recipe import load
from mmssl.training import checkpoint
from mmssl.training.sizing.cost import sized
from mmssl.training.sizing.memory import shares, weights_of

SHARDED = ("fsdp2", "zero1", "zero2", "zero3")

Ask = Callable[..., list[str]]


result = many.result


def two_thirds_of_the_sounds(folder: Path) -> Path:
    """Sound files, of which every third cannot be read."""
    found: Path = many.sounds(folder)
    for number, file in enumerate(sorted(found.iterdir())):
        if number % 3 == 2:
            file.write_bytes(b"no sound")
    return found


CASES = many.CASES | {
    "pairs": many.Case("pairs/clip_glyphs", (*many.GLYPHS, "data.lacking=null"), many=("train.accumulation=2",)),
    "pairs of which some lack a part": many.Case("pairs/clip_glyphs", many.GLYPHS),
    "pairs of which most lack their text": many.Case(
        "pairs/clip_glyphs", (*many.GLYPHS, "data.lacking={text: 0.8}"), many=("train.accumulation=4",)
    ),
    "four modalities predict one another": many.Case("pairs/cross_glyphs", many.GLYPHS, many=("train.accumulation=4",)),
    "a third of the sounds cannot be read": many.Case(
        "grid/masked_audio",
        ("train.batch_size=16", *many.BANDS, "data.on_error=skip"),
        two_thirds_of_the_sounds,
        many=("train.accumulation=4",),
    ),
}
UNEQUAL = ("pairs of which most lack their text", "four modalities predict one another", "a third of the sounds cannot be read")
"""Processes have micro-batches of other modalities than the others, or fewer of them."""
OTHERS = ("clusters", "jepa of two modalities", "pairs of which some lack a part", "swapped tokens, batch_tokens", *UNEQUAL)
SHORT = [("jepa", "fsdp2"), ("jepa", "zero3"), ("accumulation 2", "zero2"), (UNEQUAL[0], "fsdp2")]
"""What is run each time; the rest is slow."""
LONG = [
    *((case, strategy) for strategy in SHARDED for case in ("masked", "jepa", "accumulation 2", "pairs")),
    *((case, strategy) for strategy in SHARDED for case in ("teacher, prototypes, hidden tokens", "no teacher, smaller views")),
    *((case, "fsdp2") for case in OTHERS),
]


def marks(strategy: str, slow: bool) -> list[pytest.MarkDecorator]:
    return [*([ZERO] if strategy.startswith("zero") else []), *([pytest.mark.slow] if slow else [])]


RUNS = [
    pytest.param(case, strategy, id=f"{case}-{strategy}", marks=marks(strategy, (case, strategy) not in SHORT))
    for case, strategy in dict.fromkeys((*SHORT, *LONG))
]

Whole = Callable[[str], tuple[list[str], Any]]


@pytest.mark.parametrize(("case", "strategy"), RUNS)
def test_a_sharded_run_ends_like_one_process(case: str, strategy: str, ask: Ask, alone: Whole, tmp_path: Path) -> None:
    arguments, expected = alone(case)
    ask(tmp_path, *arguments, *CASES[case].many, "--strategy", strategy, processes=2, seconds=SECONDS)
    assert many.differences(many.result(tmp_path), expected) == []


def state_of(folder: Path, step: int) -> dict[str, Any]:
    """What the one run of a folder wrote down at a step, but how long it took, and the rates that are set anew at each step."""
    (run,) = (folder / "runs").iterdir()
    state = checkpoint.load(run / "checkpoints" / f"step-{step:09}")
    state["counters"].pop("seconds")
    for group in state["optimizer"]["param_groups"]:
        del group["lr"], group["weight_decay"]
    return {name: state[name] for name in ("counters", "objective", "optimizer")}


def unlike(a: Any, b: Any, place: str = "") -> list[str]:
    """Where two trees differ in a bit."""
    if isinstance(a, Mapping):
        lacking = [f"{place}.{key}" for key in a.keys() ^ b.keys()]
        return lacking + [line for key in a.keys() & b.keys() for line in unlike(a[key], b[key], f"{place}.{key}")]
    if isinstance(a, list | tuple):
        return [line for number, pair in enumerate(zip(a, b, strict=True)) for line in unlike(*pair, f"{place}.{number}")]
    same = torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b
    return [] if same else [place]


Through = Callable[[str], tuple[list[str], Path]]


@pytest.fixture(scope="module")
def through(ask: Ask, tmp_path_factory: pytest.TempPathFactory) -> Through:
    """The command of a run that writes checkpoints, and where two processes ran it that nobody stopped."""
    known: dict[str, tuple[list[str], Path]] = {}

    def found(strategy: str) -> tuple[list[str], Path]:
        if strategy not in known:
            data, folder = tmp_path_factory.mktemp("data"), tmp_path_factory.mktemp("through")
            arguments = [*CASES["jepa"].arguments(data), "train.checkpoint_every=2", "--strategy", strategy]
            ask(folder, *arguments, processes=2, seconds=SECONDS)
            known[strategy] = arguments, folder
        return known[strategy]

    return found


def stopped(ask: Ask, folder: Path, arguments: list[str]) -> Path:
    """Where such a run lies that was stopped after step 4."""
    ask(folder, *arguments, processes=2, seconds=SECONDS, codes=[143, 143], stop_after={"rank": 1, "step": 4})
    (run,) = (folder / "runs").iterdir()
    return run


@pytest.mark.parametrize("strategy", [pytest.param(each, marks=marks(each, each in ("zero1", "zero2"))) for each in SHARDED])
def test_a_sharded_run_that_is_stopped_ends_in_the_same_bits(strategy: str, ask: Ask, through: Through, tmp_path: Path) -> None:
    """With its teacher, moments and counters; its checkpoints are of two files, and a damaged one is passed over."""
    arguments, whole = through(strategy)
    run = stopped(ask, tmp_path, arguments)
    last = run / "checkpoints" / "step-000000004"
    names = {f"tensors-0000{rank}-of-00002.safetensors" for rank in range(2)}
    assert {file.name for file in last.iterdir()} == {"manifest.json", "state.json", *names}
    assert json.loads((last / "manifest.json").read_text(encoding="utf-8"))["format"] == checkpoint.SHARDED
    damaged = last / "tensors-00001-of-00002.safetensors"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    told = ask(tmp_path, *arguments, "resume=auto", processes=2, seconds=SECONDS)
    assert "continuing from runs/jepa_image/checkpoints/step-000000002, step 2" in told[0]
    assert f"ignoring a damaged checkpoint: runs/jepa_image/checkpoints/step-000000004/{damaged.name} is damaged" in told[0]
    assert unlike(state_of(tmp_path, 6), state_of(whole, 6)) == []
    end = last.with_name("step-000000006").relative_to(tmp_path)
    ask(tmp_path, "convert", str(end), "--output", "teacher")
    models = [
        load_file(next(folder.rglob("model.safetensors"))) for folder in (run / "model", tmp_path / "teacher", whole / "runs")
    ]
    assert unlike(models[0], models[1]) == []
    assert unlike(models[0], models[2]) == []


LOST = [
    ("fsdp2", "moments_of_one_dropped", "optimizer.state"),
    ("zero2", "moments_of_one_dropped", "optimizer.state"),
    ("zero3", "moments_of_one_dropped", "optimizer.state"),
    ("fsdp2", "average_starts_again", "objective.networks.copies."),
    ("zero3", "average_starts_again", "objective.networks.copies."),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("strategy", "fault", "told"), [pytest.param(*each, id=f"{each[1]}-{each[0]}", marks=marks(each[0], False)) for each in LOST]
)
def test_what_is_lost_where_a_run_goes_on_is_found(
    strategy: str, fault: str, told: str, ask: Ask, through: Through, tmp_path: Path
) -> None:
    """The law of the same bits, against faults in reading a checkpoint."""
    arguments, whole = through(strategy)
    stopped(ask, tmp_path, arguments)
    ask(tmp_path, *arguments, "resume=auto", processes=2, seconds=SECONDS, **{fault: True})
    assert [place for place in unlike(state_of(tmp_path, 6), state_of(whole, 6)) if place.startswith(f".{told}")] != []


PLACES = ("one", "ddp", *SHARDED)
"""Who may write a checkpoint, and go on from another's; one: a process alone."""


def tour(names: Sequence[str]) -> list[str]:
    """A way on which each of them follows each other once (Hierholzer's, through all pairs)."""
    left, way, found = {name: [other for other in names if other != name] for name in names}, [names[0]], list[str]()
    while way:
        if left[way[-1]]:
            way.append(left[way[-1]].pop())
        else:
            found.append(way.pop())
    return found


CHAIN = [
    pytest.param(["fsdp2", "one", "fsdp2"], id="fsdp2"),
    pytest.param(["zero3", "one", "fsdp2", "zero3"], id="zero3", marks=ZERO),
    pytest.param(tour(PLACES), id="all pairs", marks=[ZERO, pytest.mark.slow]),
]


def test_a_tour_goes_from_each_to_each_other() -> None:
    assert sorted(pairwise(tour(PLACES))) == sorted(permutations(PLACES, 2))


@pytest.mark.parametrize("chain", CHAIN)
def test_a_checkpoint_goes_from_one_strategy_to_another_bit_by_bit(chain: list[str], ask: Ask, tmp_path: Path) -> None:
    """Each writes again, before any step, what it read: student, teacher and moments are the same.

    Who shards does so on two processes, and when it comes again on four, and so on.
    """
    (tmp_path / "data").mkdir()
    arguments, came = [*CASES["jepa"].arguments(tmp_path / "data"), "train.max_steps=3"], Counter[str]()
    before: dict[str, Any] = {}
    for place in chain:
        count = 1 if place == "one" else 2 + 2 * (came[place] % 2)
        again: dict[str, Any] = {"saves_what_it_read": True} if before else {}
        own = ["--strategy", "ddp" if place == "one" else place, *["resume=auto"] * bool(before)]
        ask(tmp_path, *arguments, *own, processes=count, seconds=SECONDS, **again)
        (run,) = (tmp_path / "runs").iterdir()
        found = state_of(tmp_path, 3)
        before, came[place] = before or found, came[place] + 1
        assert unlike(found, before) == [], f"{place} on {count}, after {sum(came.values()) - 1} others"
        form = json.loads((run / "checkpoints" / "step-000000003" / "manifest.json").read_text(encoding="utf-8"))["format"]
        assert form == (checkpoint.FORMAT if place in ("one", "ddp") else checkpoint.SHARDED)
        record = json.loads((run / "run.json").read_text(encoding="utf-8"))
        for key in ("trained", "finished"):
            record.pop(key, None)
        (run / "run.json").write_text(json.dumps(record), encoding="utf-8")


FAULTS = [
    ("jepa", "fsdp2", "teacher_moved_twice", "objective.networks.copies."),
    ("jepa", "fsdp2", "other_masks", "weights differ by"),
    ("jepa", "fsdp2", "mean_left_out", "grad_norm is"),
    ("jepa", "zero2", "mean_left_out", "grad_norm is"),
    ("jepa", "zero3", "mean_left_out", "grad_norm is"),
    ("jepa", "fsdp2", "teacher_of_one", "objective.networks.copies."),
    ("jepa", "zero3", "teacher_of_one", "objective.networks.copies."),
    ("jepa", "fsdp2", "teacher_elsewhere", "objective.networks.copies."),
    ("jepa", "zero3", "teacher_elsewhere", "objective.networks.copies."),
    ("pairs", "fsdp2", "negatives_of_its_own", "loss is"),
    ("pairs", "zero2", "negatives_of_its_own", "loss is"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("case", "strategy", "fault", "told"),
    [pytest.param(*each, id=f"{each[2]}-{each[1]}", marks=marks(each[1], False)) for each in FAULTS],
)
def test_a_fault_planted_in_sharding_is_found(
    case: str, strategy: str, fault: str, told: str, ask: Ask, alone: Whole, tmp_path: Path
) -> None:
    arguments, expected = alone(case)
    ask(tmp_path, *arguments, "--strategy", strategy, processes=2, seconds=SECONDS, **{fault: True})
    assert told in "\n".join(many.differences(many.result(tmp_path), expected))


@pytest.mark.slow
def test_a_teacher_that_is_sharded_otherwise_does_not_begin(ask: Ask, alone: Whole, tmp_path: Path) -> None:
    arguments, _ = alone("jepa")
    planted: dict[str, Any] = {"codes": [1, 1], "seconds": SECONDS, "teacher_in_columns": True}
    told = ask(tmp_path, *arguments, "--strategy", "fsdp2", processes=2, **planted)
    assert "parameters are sharded in different ways" in "".join(told)


HALF, ALL = 0.5, 1.0
SHARES = {
    "fsdp2": {"parameters": HALF, "gradients": HALF, "moments": HALF, "teacher": HALF},
    "zero1": {"parameters": ALL, "gradients": ALL, "moments": HALF, "teacher": ALL},
    "zero2": {"parameters": ALL, "gradients": HALF, "moments": HALF, "teacher": ALL},
    "zero3": {"parameters": HALF, "gradients": HALF, "moments": HALF, "teacher": HALF},
}
"""Of what one process holds, what each of two does, but for padding and, of zero3, what is in no layer."""
DEEP = ("encoder.hidden_size=96", "encoder.num_hidden_layers=6", "train.accumulation=2", "train.max_steps=2")


@pytest.fixture(scope="module")
def held_alone(ask: Ask, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], dict[str, int]]:
    """The command of a model most of which is layers, and the bytes that one process holds of it."""
    folder = tmp_path_factory.mktemp("held")
    arguments = [*CASES["jepa"].arguments(folder), *DEEP]
    ask(folder, *arguments, held_written_down="held")
    return arguments, json.loads((folder / "held-0.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("strategy", [pytest.param(each, marks=marks(each, each in ("zero1", "zero2"))) for each in SHARDED])
def test_each_process_holds_its_share(
    strategy: str, ask: Ask, held_alone: tuple[list[str], dict[str, int]], tmp_path: Path
) -> None:
    arguments, whole = held_alone
    assert whole["moments"] == 2 * whole["parameters"]
    ask(tmp_path, *arguments, "--strategy", strategy, processes=2, seconds=SECONDS, held_written_down="held")
    for rank in range(2):
        held = json.loads((tmp_path / f"held-{rank}.json").read_text(encoding="utf-8"))
        shares = {kind: held[kind] / whole[kind] for kind in SHARES[strategy]}
        assert shares == pytest.approx(SHARES[strategy], abs=0.04)


SAID = {"parameters": "weights", "gradients": "gradients", "teacher": "copies"}
"""What `mmssl check --devices` calls what is measured; its optimizer is moments and master."""


@pytest.mark.parametrize("count", [2, pytest.param(4, marks=pytest.mark.slow)])
@pytest.mark.parametrize("strategy", [pytest.param(each, marks=marks(each, each != "zero3")) for each in SHARDED])
def test_each_process_holds_what_sizing_says(
    strategy: str, count: int, ask: Ask, held_alone: tuple[list[str], dict[str, int]], tmp_path: Path
) -> None:
    """Of a model and a teacher, within 10 %, on two processes and on four."""
    arguments, _ = held_alone
    ask(tmp_path, *arguments, "--strategy", strategy, processes=count, seconds=SECONDS, held_written_down="held")
    held = [json.loads((tmp_path / f"held-{rank}.json").read_text(encoding="utf-8")) for rank in range(count)]
    most = {kind: max(each[kind] for each in held) for kind in held[0]}
    _, recipe, *overrides = arguments
    found = sized(load(Path(recipe), overrides))
    share = shares(weights_of(found.objective, found.options), found.costs[0].calls, count, 1)[strategy]
    said = {kind: getattr(share, name) for kind, name in SAID.items()} | {"optimizer": share.optimizer}
    measured = {kind: most[kind] for kind in SAID} | {"optimizer": most["moments"] + most["master"]}
    assert measured == pytest.approx(said, rel=0.1)


REFUSED = [
    pytest.param(
        "masked", ("train.precision=fp16", "--strategy", "fsdp2"), "fsdp2 does not train with train.precision=fp16", id="fp16"
    ),
    pytest.param(
        "masked", ("train.compile=true", "--strategy", "zero1"), "zero1 does not train with train.compile=true", id="compile"
    ),
    pytest.param(
        *(
            "jepa of two modalities",
            ("--strategy", "zero1"),
            r"zero1 does not train with samples that lack a modality.*one of image, tabular is missing",
        ),
        id="idle",
        marks=ZERO,
    ),
]


@pytest.mark.parametrize(("case", "arguments", "told"), REFUSED)
def test_what_a_strategy_cannot_do_is_refused(case: str, arguments: tuple[str, ...], told: str, ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    own = CASES[case].arguments(tmp_path / "data")
    (said,) = ask(tmp_path, *own, *arguments, codes=[1], seconds=SECONDS)
    assert re.search(told, said), said


@pytest.mark.slow
@pytest.mark.parametrize("case", UNEQUAL)
def test_what_only_stands_in_would_be_found_if_it_counted(case: str, ask: Ask, alone: Whole, tmp_path: Path) -> None:
    """So the processes of these cases do hold micro-batches of different kinds."""
    arguments, expected = alone(case)
    planted: dict[str, Any] = {"seconds": SECONDS, "what_stands_in_counts": True}
    ask(tmp_path, *arguments, *CASES[case].many, "--strategy", "fsdp2", processes=2, **planted)
    assert "weights differ by" in "\n".join(many.differences(many.result(tmp_path), expected))
