"""What the author of the plug-in writes: the laws, and a run of a recipe."""

import json
from pathlib import Path

import acme_sensor
import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoProcessor

import mmssl
from mmssl.testing import LAWS

RECIPE = Path(__file__).with_name("recipe.yaml")


@pytest.mark.parametrize("law", LAWS)
def test_law(law: str) -> None:
    LAWS[law]("sensor")


def test_recipe_trains_and_publishes_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    samples = acme_sensor.example(40, 0)
    # JSON knows no NaN: a missing reading is null there.
    rows = [{"readings": [None if x != x else x for x in wave], "long": len(wave) > 25} for wave in samples]
    Path("train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    run = mmssl.train(RECIPE)
    assert {row["step"] for row in run.rows()} == {5, 10}
    table = json.loads(run.table_file.read_text(encoding="utf-8"))
    assert {"pretrained", "random init", "raw features"} <= {row["name"] for row in table["rows"]}
    model, processor = AutoModel.from_pretrained(run.model_folder), AutoProcessor.from_pretrained(run.model_folder)
    with torch.no_grad():
        output = model(**processor(sensors=samples[:3]))
    assert output.pooler_output.shape == (3, 32)
    assert output.pooler_output.isfinite().all()
    readings = [x for wave in samples for x in wave if x == x]
    assert processor.processors["sensor"].mean == pytest.approx(sum(readings) / len(readings))


def test_a_folder_of_its_files_is_a_dataset(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number, wave in enumerate(acme_sensor.example(40, 0)):
        file = Path("waves", "long" if len(wave) > 25 else "short", f"{number}.sensor")
        file.parent.mkdir(parents=True, exist_ok=True)
        np.savetxt(file, wave)
    run = mmssl.train(RECIPE, **{"data.path": "waves", "data.columns": None})
    assert {row["step"] for row in run.rows()} == {5, 10}
    table = json.loads(run.table_file.read_text(encoding="utf-8"))
    assert "pretrained" in {row["name"] for row in table["rows"]}
