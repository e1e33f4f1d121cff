"""What a DeepSpeed file says is heard, or refused: key by key where it is not what the recipe says."""

import json
from pathlib import Path
from typing import Any

import pytest

from mmssl.training.asked import OFFLOADED, LaunchError, asked, contradictions, taken

ZERO, FSDP2 = {"ACCELERATE_USE_DEEPSPEED": "true"}, {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
FILE, OPTIMIZER = "ACCELERATE_DEEPSPEED_CONFIG_FILE", "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE"


def in_a_file(folder: Path, **settings: Any) -> dict[str, str]:
    """What accelerate launch says of DeepSpeed by a file of it."""
    file = folder / "zero.json"
    file.write_text(json.dumps(settings), encoding="utf-8")
    return ZERO | {FILE: str(file)}


def test_what_lies_in_main_memory(tmp_path: Path) -> None:
    assert taken(FSDP2).offload == ()
    assert taken(FSDP2 | {"FSDP_OFFLOAD_PARAMS": "true"}).offload == OFFLOADED
    assert taken(ZERO | {OPTIMIZER: "cpu"}).offload == ("optimizer",)
    cpu = {"device": "cpu", "pin_memory": False}
    for inner, found in (
        ({"offload_param": cpu}, OFFLOADED),
        ({"offload_param": None}, ("optimizer",)),
        ({"offload_optimizer": {"device": "none"}}, ()),
        ({"offload_optimizer": {"device": "auto"}}, ("optimizer",)),
    ):
        said = in_a_file(tmp_path, zero_optimization={"stage": 3, **inner})
        assert taken(said | {OPTIMIZER: "cpu"}).offload == found, inner


@pytest.mark.parametrize(
    ("inner", "told"),
    [
        ({"cpu_offload": True}, r"cpu_offload of the DeepSpeed file: leave it out, and give offload_optimizer=\{device: cpu\}"),
        ({"zenflow": {"topk_ratio": 0.1}}, "zenflow of the DeepSpeed file: leave it out"),
        (
            {"offload_optimizer": {"device": "cpu", "ratio": 0.5}},
            "offload_optimizer: ratio and super_offload need an optimizer that",
        ),
        ({"offload_optimizer": {"device": "nvme"}}, "offload_optimizer to nvme: mmssl offloads to main memory only"),
    ],
)
def test_what_a_deepspeed_file_wants_to_offload_and_mmssl_does_not(inner: dict[str, Any], told: str, tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match=told):
        taken(in_a_file(tmp_path, zero_optimization={"stage": 3, **inner}))


def test_a_deepspeed_file_that_contradicts_the_recipe_is_told_key_by_key(tmp_path: Path) -> None:
    said = {"stage": 3, "stage3_max_live_parameters": 10}
    on, left_open = {"enabled": True}, {"stage3_prefetch_bucket_size": "auto"}
    settings = {"gradient_clipping": 0.5, "bf16": on, "amp": on, "elasticity": on, "optimizer": {"type": "Adam"}}
    settings |= {"train_batch_size": "auto", "gradient_accumulation_steps": 2}
    wanted = asked(in_a_file(tmp_path, zero_optimization=said | left_open, **settings))
    assert (wanted.name, wanted.settings["zero_optimization"]) == ("zero3", said)
    recipe: dict[str, Any] = {"clip_norm": 1.0, "precision": "no", "accumulation": 2, "world": 2, "batch": 32}
    assert contradictions(wanted, **recipe) == [
        "gradient_clipping=0.5, the recipe train.clip_norm=1.0",
        "bf16.enabled=true, the recipe comes to precision no",
        "amp.enabled=true, and the recipe's train.precision is the one that is used",
        "elasticity.enabled=true, and a step has the samples that the recipe says",
        "optimizer=Adam, and the recipe's is the one that is used",
    ]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[", r"zero\.json cannot be read: .*It must be a JSON object"),
        ("[]", r"zero\.json holds \[\]: it must be a JSON object, as \{\"zero_optimization\": \{\"stage\": 3\}\}"),
        ('{"zero_optimization": 3}', r"zero_optimization of the DeepSpeed file .*zero\.json must be a JSON object; got 3"),
        ('{"zero_optimization": {"stage": 3, "offload_param": "cpu"}}', r"offload_param .* must be a JSON object, .* got 'cpu'"),
        ('{"bf16": true}', r"bf16 of the DeepSpeed file .* must be a JSON object; got True"),
        ("{}", "DeepSpeed with ZeRO stage 0 shards nothing: set zero_stage to 1, 2 or 3, or launch with --strategy ddp"),
    ],
)
def test_a_file_that_is_none(text: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "zero.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(LaunchError, match=told):
        asked(ZERO | {FILE: str(file)})


def test_a_file_that_is_not_there() -> None:
    with pytest.raises(LaunchError, match=r"nowhere\.json cannot be read: \[Errno 2\]"):
        asked(ZERO | {FILE: "nowhere.json"})
