"""What `mmssl check --devices` says, against formulas that are written out, and what it refuses."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import mmssl_cli as cli
from mmssl import api
from mmssl.recipe.options import TrainOptions
from mmssl.recipe.recipe import load
from mmssl.testing.small import objective_of
from mmssl.training.loop import set_attention
from mmssl.training.sizing.cost import Curve, Sized, sized
from mmssl.training.sizing.devices import DEVICES, Fleet, fleet
from mmssl.training.sizing.memory import BUCKET, STRATEGIES, Weight, shares, touched
from mmssl.training.sizing.trace import traced
from mmssl.training.sizing.verdict import check_divides, plan_of, rows_of
from mmssl.training.sizing.weightless import weigh, weightless

RECIPE: dict[str, Any] = {
    "modalities": {"image": {"processor": {"size": 16, "channels": 1}, "adapter": {"patch_size": 4}}},
    "encoder": {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2},
    "objective": {"name": "jepa"},
    "data": {"path": "bundled:digits"},
    "train": {"batch_size": 128, "max_steps": 10},
    "run": {"name": "sized"},
}


@pytest.fixture(scope="module")
def small() -> Sized:
    return sized(load(RECIPE))


def huge(**train: Any) -> dict[str, Any]:
    """A recipe of 2.4 billion parameters and a teacher, 39 GB of weights, gradients and moments."""
    wide = {"hidden_size": 4096, "num_hidden_layers": 12, "num_attention_heads": 32}
    return RECIPE | {"encoder": wide, "train": RECIPE["train"] | train}


def test_devices_are_named_in_many_ways() -> None:
    assert fleet("64xH100") == Fleet(64, DEVICES["H100"]) == fleet("64 x h100-sxm")
    assert fleet("8xA100-80GB").device == fleet("A100").device == DEVICES["A100-80GB"]
    assert fleet("4xRTX4090") == fleet("4xGeForce RTX 4090") == fleet("4*4090")
    unknown = fleet("4x24GB")
    assert (unknown.count, unknown.device.memory, unknown.device.peak(True)) == (4, 24, None)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("64xH1000", "near it: H100"),
        ("8xA100-90GB", "near it: A100-"),
        ("8xPentium", "Known: A100-40GB"),
        ("0xH100", "one device or more"),
        ("-2xH100", "no device is called"),
        ("4x0GB", "more than 0"),
    ],
)
def test_devices_that_are_not_there_are_refused(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        fleet(text)


def test_every_device_says_where_its_figures_are_from() -> None:
    for device in DEVICES.values():
        assert device.source
        assert device.memory > 0
        assert device.bf16 is not None and device.fp32 is not None and device.link is not None
        assert device.bf16 > device.fp32 > 0


def test_what_leaves_a_machine_goes_through_the_network_of_all_its_devices() -> None:
    """8 x 50 GB/s of an H100's machine; a device sends 450 GB/s within it."""
    assert DEVICES["H100"].sending(900e9, 0.0, 8) == 2.0
    assert DEVICES["H100"].sending(900e9, 900e9, 8) == 900 / 400
    assert DEVICES["H100"].sending(100e9, 100e9, 1) == 2.0
    assert fleet("4x24GB").device.sending(1.0, 0.0, 4) is None
    assert [(fleet(f"{count}xH100").machines, fleet(f"{count}xH100").each) for count in (8, 64, 12, 20)] == [
        *((1, 8), (8, 8), (2, 6), (4, 5))
    ]


def test_hybrid_sharding_keeps_weights_within_a_machine() -> None:
    """Memory as on the devices of one machine; gradients alone are added up between machines, each device its own part."""
    size, each, machines = 8000.0, 4, 3
    own = [Weight(8, int(size), True, f"layer{number}", False, False) for number in range(3)]
    calls = {f"layer{number}": (2, 1) for number in range(3)}
    found = shares(own, calls, each, machines)
    assert list(found) == ["ddp", "zero1", "zero2", "hybrid", "fsdp2", "zero3"]
    inside, mixed = STRATEGIES["fsdp2"](own, calls, each), found["hybrid"]
    assert mixed.memory(0, 0) == inside.memory(0, 0)
    part = 3 * size / each
    added = 2 * part * (machines - 1) / machines
    assert mixed.sent(2) == inside.sent(2) + 2 * added
    assert mixed.out(2) == 2 * each * added
    assert found["fsdp2"].out(2) == found["fsdp2"].sent(2)
    assert "hybrid" not in shares(own, calls, each, 1) | shares(own, calls, 1, machines)


def test_a_batch_that_does_not_go_up_is_refused() -> None:
    with pytest.raises(ValueError, match="= 64 on 64 x H100; got 100: 64 and 128 are"):
        check_divides(TrainOptions(batch_size=100, max_steps=1), fleet("64xH100"))
    with pytest.raises(ValueError, match="= 128 on 64 x H100; got 100: 128 is"):
        check_divides(TrainOptions(batch_size=100, accumulation=2, max_steps=1), fleet("64xH100"))
    check_divides(TrainOptions(batch_size=128, max_steps=1), fleet("64xH100"))


def test_strategies_follow_the_paper() -> None:
    """ZeRO, arXiv 1910.02054, figure 1, in float32: 16 bytes for each parameter that learns, 4 for one of a teacher.

    DeepSpeed moves a copy of its part of the weights. In stage 2 it keeps whole gradients: a part touches two weights.
    """
    size, count = 8.0 * 1000, 4
    own = [Weight(8, int(size), True, f"layer{number}", False, False) for number in range(3)]
    weights = [*own, Weight(8, int(size), False, "teacher", True, False)]
    calls = {f"layer{number}": (2, 1) for number in range(3)} | {"teacher": (1, 0)}
    found = {name: of(weights, calls, count) for name, of in STRATEGIES.items()}
    learns = 3 * size
    expected = {
        "ddp": (learns, learns, 2 * learns, size),
        "zero1": (learns, learns, 3 * learns / count, size),
        "zero2": (learns, 2 * size, 3 * learns / count, size),
        "zero3": (learns / count, learns / count, 3 * learns / count, size / count),
        "fsdp2": (learns / count, learns / count, 2 * learns / count, size / count),
    }
    for name, sizes in expected.items():
        share = found[name]
        assert (share.weights, share.gradients, share.optimizer, share.copies) == sizes, name
    part = (count - 1) / count
    assert found["ddp"].sent(2) == found["zero1"].sent(2) == 2 * part * learns
    assert found["zero2"].sent(2) == part * learns * (2 + 1)
    assert found["zero3"].sent(2) == 2 * part * (learns + size + learns)
    assert found["fsdp2"].sent(2) == 2 * part * ((2 + 1 + 1) * learns + size)
    assert found["zero2"].communication == 4 * BUCKET


def test_what_is_kept_whole_depends_on_where_parts_begin_and_on_the_groups() -> None:
    """Two groups of 24 and of 8 bytes: the second part of the first has the end of a weight of 16 bytes, and all of one of 8."""
    sizes = [(16, 0), (8, 0), (4, 1), (4, 1)]
    weights = [Weight(1, size, True, "", False, False, group) for size, group in sizes]
    assert touched(weights, 2) == 16 + 8 + 4
    assert touched([weight._replace(group=0) for weight in weights], 2) == 16
    assert touched([*weights, Weight(1, 999, False, "", False, False), Weight(1, 999, True, "", False, True)], 2) == 16 + 8 + 4
    assert touched(weights, 1) == 32


def test_rows_are_cut_so_that_the_first_device_has_most() -> None:
    assert Weight(3, 12, True, "", False, False).fullest(2) == 8
    assert Weight(1, 400, True, "", False, False).fullest(64) == 400


def test_a_curve_goes_through_what_was_measured() -> None:
    line = Curve.through((8, 16), (30.0, 46.0))
    assert (line(32), line.fixed) == (pytest.approx(78), pytest.approx(14))
    assert Curve.through((1, 2, 3), (1.0, 4.0, 9.0))(10) == pytest.approx(100)

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 5)


def test_weights_take_no_memory_until_they_are_written() -> None:
    with weightless():
        modules = nn.ModuleList(nn.Linear(1 << 15, 1 << 14) for _ in range(40))  # 86 GB
        modules.tied = modules[0].weight
        modules.one = nn.Parameter(torch.tensor([3.0]))
    assert modules.tied.is_meta
    weigh(modules)
    assert modules[1].weight.shape == (1 << 14, 1 << 15)
    assert sum(each.nbytes for each in modules.parameters()) > 80 * 10**9
    assert modules.tied is modules[0].weight
    assert not modules[39].weight[0].any()
    assert modules.one.item() == 3
    assert not nn.Linear(2, 2).weight.is_meta


@pytest.mark.parametrize("kind", ["masked", "jepa", "contrast"])
def test_products_are_counted_as_torch_counts_those_that_are_computed(kind: str) -> None:
    objective, batch = objective_of(kind, "tabular")
    set_attention(objective, "eager", torch.device("cpu"))  # torch counts no other attention on a CPU
    found = traced(objective, batch, None)
    with FlopCounterMode(display=False) as counter:
        output = objective(batch)
        forward = counter.get_total_flops()
        output.loss.backward()
    assert found.forward == forward
    assert found.backward == counter.get_total_flops() - forward
    assert 0 < found.again < found.forward


def test_a_teacher_has_no_backward_pass(small: Sized) -> None:
    calls = small.costs[0].calls
    teacher = {name: call for name, call in calls.items() if name.startswith("networks.copies.")}
    assert len(teacher) == 3
    assert all(graded == 0 < runs for runs, graded in teacher.values())
    assert all(graded == runs > 0 for name, (runs, graded) in calls.items() if name not in teacher)


def test_what_is_sharded_more_takes_less(small: Sized) -> None:
    rows = {row.name: row for row in rows_of(small, plan_of(small, fleet("64xH100")))}
    assert all(row.fits and row.seconds is not None and row.seconds > 0 for row in rows.values())
    state = {name: row.memory.total - row.memory.communication for name, row in rows.items()}
    assert state["ddp"] > state["zero1"] > state["zero2"] > max(state["zero3"], state["fsdp2"])
    assert [row.name for row in rows_of(small, plan_of(small, fleet("1xH200")))] == ["ddp"]


def test_activations_go_by_the_micro_batch(small: Sized) -> None:
    cost = small.costs[0]
    one, two = (cost.activations(micro, 128, False) for micro in (64, 128))
    assert 1.8 < two / one <= 2
    assert cost.activations(64, 128, True) < one


def test_a_model_that_is_too_large_for_this_machine_is_sized() -> None:
    text = api.check(huge(), devices="8xRTX4090")
    assert "fsdp2 is the smallest strategy that fits" in text
    assert "--processes 8 --strategy fsdp2" in text
    assert all(len(line) <= 80 for line in text.splitlines())
    assert "bounds" in text and "Nothing was run on such devices" in text


def test_where_none_fits_it_says_what_to_change() -> None:
    text = " ".join(api.check(huge(), devices="2x24GB").split())
    assert "none fits (90% of 24 GB)" in text
    assert "recipes/launch/fsdp2_offload.yaml, with 48 GB of main memory free in each machine" in text
    assert "of these devices, with" in text
    assert "(peak not known)" in text


@pytest.mark.parametrize(
    ("keys", "name", "why"),
    [
        ({"compile": True}, "zero2", "train.compile=true"),
        ({"precision": "fp16"}, "fsdp2", "train.precision=fp16"),
    ],
)
def test_a_strategy_that_would_refuse_the_recipe_does_not_fit(small: Sized, keys: dict[str, Any], name: str, why: str) -> None:
    other = replace(small, options=replace(small.options, **keys))
    rows = {row.name: row for row in rows_of(other, plan_of(other, fleet("2xH100")))}
    assert (rows[name].refused, rows[name].fits) == (why, False)
    assert rows["ddp"].fits


def test_the_command_takes_devices_among_keys(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["check", "start/image", "--devices", "8xH100", "train.max_steps=10", "train.batch_size=64"])
    out = capsys.readouterr().out
    assert "ddp is the smallest strategy that fits" in out
    assert "mmssl train start/image train.max_steps=10 train.batch_size=64" in out
    with pytest.raises(SystemExit) as stop:
        cli.main(["check", "start/image", "--devices=64xH100", "train.max_steps=10", "train.batch_size=100"])
    assert "100: 64 and 128 are" in str(stop.value)
