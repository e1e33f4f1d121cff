"""Whatever a run refuses before its first step, `check` refuses with the same message."""

from pathlib import Path
from typing import Any

import pytest

import mmssl

SMALL: dict[str, Any] = {
    "data.limit": 32,
    "train.batch_size": 16,
    "train.max_steps": 1,
    "evaluate.train_limit": 20,
    "evaluate.test_limit": 20,
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a label column that does not exist": ({"evaluate.columns": {"label": "targetx"}}, "targetx"),
    "a run to resume that is none": ({"resume": "sometimes"}, "sometimes"),
    "a kernel that is not installed": ({"train.attention": "flash_attention_2"}, "(?i)flash"),
    "data that are not there": ({"data.path": "no/such/folder"}, "no/such/folder"),
    "data to score that are not there": ({"evaluate.path": "no/such/folder"}, "no/such/folder"),
    "a part of the data that it lacks": ({"data.split": "trian"}, "trian"),
    "a column that does not exist": ({"data.columns": {"image": "picture"}}, "picture"),
    "a batch of more samples than there are": ({"train.batch_size": 99}, "99"),
    "a model that is not there": ({"init": "no/such/model"}, "no/such/model"),
    "a run to go on with that made no checkpoint": ({"init": "EMPTY"}, "checkpoint"),
    "groups that nothing says": ({"data.group_size": 2}, "group"),
    "a frozen encoder that comes from nowhere": ({"train.freeze": "encoder"}, "freeze"),
    "adapters in a model that was not trained": ({"peft": {"name": "lora"}}, "peft"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_check_refuses_what_train_refuses(name: str, tmp_path: Path) -> None:
    keys, message = REFUSED[name]
    (tmp_path / "empty" / "checkpoints").mkdir(parents=True)
    keys = {key: str(tmp_path / "empty") if value == "EMPTY" else value for key, value in keys.items()}
    given = SMALL | {"run.dir": str(tmp_path / "runs")} | keys
    said = []
    for ask in (mmssl.check, mmssl.train):
        with pytest.raises((ValueError, LookupError, OSError, ImportError), match=message) as refused:
            ask("recipes/quickstart.yaml", given)
        said.append((type(refused.value), str(refused.value)))
    assert said[0] == said[1]


def test_check_leaves_nothing_behind(tmp_path: Path) -> None:
    assert "valid" in mmssl.check("recipes/quickstart.yaml", SMALL | {"run.dir": str(tmp_path / "runs")})
    assert [*tmp_path.iterdir()] == []
