"""What the author of the package writes: the laws of the parts, and recipes that name them."""

from pathlib import Path

import pytest
import torch
from acme_parts import Agreement, Energy, Every, LogCosh, PlacesOnly
from transformers import AutoModel

import mmssl
from mmssl.recipe import RecipeError, json_schema, load
from mmssl.testing import OBJECTIVE_LAWS, TARGET_LAWS

RECIPE = Path(__file__).with_name("recipe.yaml")
FLOATS = ["audio", "image", "points", "sensor", "tabular", "timeseries"]
"""Modalities whose tokens hold floats, which have an energy; one of them is from another package."""


@pytest.mark.parametrize("name", [*FLOATS, "text"])
@pytest.mark.parametrize("law", OBJECTIVE_LAWS)
def test_law_of_objectives(law: str, name: str) -> None:
    OBJECTIVE_LAWS[law](Agreement, name)


@pytest.mark.parametrize("name", [name for name in FLOATS if name != "points"])  # whose loss is of sets of points
@pytest.mark.parametrize("law", TARGET_LAWS)
def test_law_of_targets(law: str, name: str) -> None:
    TARGET_LAWS[law](Energy, name)


def test_recipe_names_the_parts() -> None:
    name, settings = load(RECIPE).objective
    assert name == "masked"
    assert settings["mask"] == Every(step=3)
    assert isinstance(settings["predictor"], PlacesOnly)
    assert isinstance(settings["targets"][0], Energy)
    assert settings["targets"][0].loss == LogCosh()


def test_misspelt_part_is_told_the_nearest_name() -> None:
    with pytest.raises(RecipeError, match=r"objective.mask.name: unknown name 'ever'; did you mean 'every'\?"):
        load(RECIPE, ["objective.mask={name: ever}"])


def test_schema_knows_the_keys_of_the_parts() -> None:
    keys = {section["title"]: set(section["properties"]) for section in json_schema()["$defs"].values()}
    assert keys["Agreement"] == {"name", "hidden_size"}
    assert keys["Energy"] == {"name", "loss", "weight"}
    assert keys["Every"] == {"name", "step"}
    assert {"PlacesOnly", "LogCosh"} <= keys.keys()


def test_objective_trains_and_publishes_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = load(RECIPE, ["objective={name: agreement, hidden_size: 16}"])
    assert recipe.objective == ("agreement", {"hidden_size": 16})
    run = mmssl.train(recipe.resolved())
    assert [row["similarity"] for row in run.rows()][-1] <= 1
    assert torch.isfinite(AutoModel.from_pretrained(run.model_folder).encoder.norm.weight).all()
