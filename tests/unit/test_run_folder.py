"""Which folder a run gets, and which run `resume=auto` finds."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mmssl.recipe import Recipe
from mmssl.recipe import recipe as recipes
from mmssl.training.run import Run, newest_of

NAMES = ("vit", "vit-16", "vit-16-2", "vit-2", "a[b]", "a*", "ab", "v.t", "vit-")


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    """A recipe without a name for its run."""
    source = {"modalities": {"image": {}}, "objective": {"name": "masked"}, "data": {"path": "bundled:digits"}}
    return recipes.load(source, {"train.max_steps": 1})


def forget(folder: Path, name: str | None) -> None:
    """Make a run one of an older mmssl, which wrote down its name only if the recipe's `run.name` gave it."""
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    del record["name"]
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    (folder / "recipe.yaml").write_text(json.dumps({"run": {"name": name}}), encoding="utf-8")


@pytest.mark.parametrize("old", [False, True])
def test_auto_finds_the_latest_run_of_its_own_name(recipe: Recipe, tmp_path: Path, old: bool) -> None:
    assert newest_of(tmp_path / "absent" / "vit") is None
    made: dict[str, list[Path]] = {name: [] for name in NAMES}
    for _ in range(3):
        for name in NAMES:
            assert newest_of(tmp_path / name) == (made[name][-1] if made[name] else None)
            made[name].append(Run.start(tmp_path / name, recipe).folder)
            if old:
                forget(made[name][-1], name)
    assert len({folder for folders in made.values() for folder in folders}) == 3 * len(NAMES)
    assert {name: newest_of(tmp_path / name) for name in NAMES} == {name: folders[-1] for name, folders in made.items()}


def test_an_older_run_that_did_not_write_down_its_name_is_found_by_its_folder(recipe: Recipe, tmp_path: Path) -> None:
    for _ in range(2):
        folder = Run.start(tmp_path / "vit", recipe).folder
        forget(folder, None)
    assert newest_of(tmp_path / "vit") == folder == tmp_path / "vit-2"


def test_a_folder_without_a_recipe_is_passed_over(recipe: Recipe, tmp_path: Path) -> None:
    first = Run.start(tmp_path / "vit", recipe).folder
    (tmp_path / "vit-2").mkdir()
    assert newest_of(tmp_path / "vit") == first
    assert Run.start(tmp_path / "vit", recipe).folder == tmp_path / "vit-3"


@pytest.mark.parametrize("name", ["vit", "a[b]"])
def test_auto_continues_its_run(recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = replace(recipe, name=name)
    for other in (f"{name}-16", "ab"):
        Run.start(Path("runs", other), recipe)
    assert Run.open(recipe, "auto").folder == Path("runs", name)
    assert Run.open(recipe, "auto").folder == Path("runs", name)
    assert Run.open(recipe, "never").folder == Path("runs", f"{name}-2")
