"""Parts of other packages: found without importing them, refused with the package's name where they cannot be used."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mmssl_cli as cli
from mmssl.masking import SAMPLERS, Sampler
from mmssl.objectives.predict.targets import TARGETS
from mmssl.plugins import installed, points
from mmssl.recipe import RecipeError, json_schema, load

Install = Callable[..., None]

ENERGY = '''
"""Targets of an acme package."""

from mmssl.masking import Random, Sampler
from mmssl.objectives.predict.targets import Raw


class Energy(Raw):
    """The energy of a token.

    floor: the least of it.
    """

    def __init__(self, *, floor: float = 0.0, where: Sampler = Random()) -> None:
        super().__init__()
        self.floor = floor
'''
RECIPE = {"modalities": {"image": {}}, "data": {"path": "bundled:digits"}, "train": {"max_steps": 1}}
BROKEN = "import nothing_like_that\n"


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Lay a package of one module, with its entry points, on the path as pip would."""
    monkeypatch.syspath_prepend(str(tmp_path))
    points.cache_clear()

    def lay(package: str, source: str, **groups: str) -> None:
        module = package.replace("-", "_")
        (tmp_path / f"{module}.py").write_text(source, encoding="utf-8")
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", encoding="utf-8")
        lines = "".join(f"[mmssl.{group}]\n{name}\n" for group, name in groups.items())
        (info / "entry_points.txt").write_text(lines, encoding="utf-8")
        monkeypatch.delitem(sys.modules, module, raising=False)

    yield lay
    points.cache_clear()


def recipe(target: str, **keys: object) -> dict[str, object]:
    return RECIPE | {"objective": {"name": "masked", "targets": [{"name": target, **keys}]}}


def test_part_of_another_package_is_a_part_like_any_other(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("acme-energy", ENERGY, targets="energy = acme_energy:Energy")
    target = load(recipe("energy", floor=0.5)).objective[1]["targets"][0]
    assert (type(target).__module__, target.floor) == ("acme_energy", 0.5)
    assert load(recipe("energy")).resolved()["objective"]["targets"][0]["where"]["name"] == "random"
    assert "acme_energy" not in str(load(recipe("raw")).resolved())
    definitions = json_schema()["$defs"]
    found = [section for section in definitions.values() if section["title"] == "Energy"]
    assert found and all(section["description"] == "The energy of a token." for section in found)
    assert found[0]["properties"]["floor"] == {"default": 0.0, "description": "the least of it.", "type": "number"}
    cli.main(["list", "targets"])
    assert capsys.readouterr().out.splitlines()[-1].split(maxsplit=1) == ["energy", "The energy of a token."]


def test_nothing_is_imported_that_no_recipe_names(install: Install, capsys: pytest.CaptureFixture[str]) -> None:
    install("acme-broken", BROKEN, targets="broken = acme_broken:Broken", objectives="smashed = acme_broken:Smashed")
    install("acme-energy", ENERGY, targets="energy = acme_energy:Energy")
    load(recipe("raw"))
    assert "broken" in TARGETS and list(TARGETS)[-2:] == ["broken", "energy"] and len(TARGETS) == len(list(TARGETS))
    with pytest.raises(RecipeError, match=r"targets.0.name: unknown name 'enrgy'; did you mean 'energy'") as caught:
        load(recipe("enrgy"))
    assert str(caught.value).endswith("rendered, broken, energy")
    cli.main(["list", "objectives"])
    assert capsys.readouterr().out.splitlines()[-1] == "smashed"
    assert "acme_energy" not in sys.modules


def test_keys_of_a_part_are_checked(install: Install) -> None:
    install("acme-energy", ENERGY, targets="energy = acme_energy:Energy")
    with pytest.raises(RecipeError, match=r"objective.targets.0.floor: expected a number, got 'low'"):
        load(recipe("energy", floor="low"))
    with pytest.raises(RecipeError, match=r"objective.targets.0.flooor: unknown key; did you mean 'floor'"):
        load(recipe("energy", flooor=0.5))


def test_part_that_cannot_be_imported_names_the_package_and_the_cause(install: Install) -> None:
    install("acme-broken", BROKEN, targets="broken = acme_broken:Broken")
    cause = "package acme-broken, acme_broken:Broken: ModuleNotFoundError: No module named 'nothing_like_that'. Repair the package"
    for read in (lambda: load(recipe("broken")), json_schema, lambda: TARGETS["broken"]):
        with pytest.raises(ImportError, match=f"'broken' of mmssl.targets cannot be imported: {cause}"):
            read()


def test_modality_that_cannot_be_imported_names_the_package(install: Install) -> None:
    install("acme-broken", BROKEN, modalities="smell = acme_broken:SMELL")
    assert "smell" in installed()
    with pytest.raises(ImportError, match=r"'smell' of mmssl.modalities cannot be imported: package acme-broken"):
        load(RECIPE | {"modalities": {"smell": {}}, "objective": {"name": "masked"}})


@pytest.mark.parametrize("what", ["Energy()", "Sampler", "len"])
def test_part_of_another_kind_is_refused(what: str, install: Install) -> None:
    install("acme-energy", f"{ENERGY}\nENERGY = {what}\n", targets="energy = acme_energy:ENERGY")
    message = "'energy' of mmssl.targets must be a subclass of mmssl.objectives.predict.parts.Target; package acme-energy gives "
    with pytest.raises(TypeError, match=f"{message}acme_energy:ENERGY, which is "):
        load(recipe("energy"))


def test_two_packages_that_claim_a_name_are_both_named(install: Install) -> None:
    install("acme-energy", ENERGY, targets="energy = acme_energy:Energy")
    install("other-energy", ENERGY, targets="energy = other_energy:Energy")
    message = "acme-energy and other-energy both register 'energy' as one of mmssl.targets; uninstall one"
    for read in (lambda: load(recipe("raw")), lambda: cli.main(["--traceback", "list", "targets"])):
        with pytest.raises(ValueError, match=message):
            read()


def test_name_of_mmssls_own_cannot_be_claimed(install: Install) -> None:
    install("acme-energy", ENERGY, targets="raw = acme_energy:Energy")
    message = "acme-energy registers 'raw' as one of mmssl.targets, which is a name of mmssl's own; rename it, or uninstall"
    for read in (lambda: load(recipe("raw")), lambda: cli.main(["--traceback", "list", "targets"])):
        with pytest.raises(ValueError, match=message):
            read()


def test_sources_are_followed_to_where_a_class_is_defined(
    install: Install, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    install("acme-masks", "raise AssertionError('imported')", samplers="far = acme.masks:Far\nnear = acme.masks.inner:Gone")
    inner = tmp_path / "acme" / "masks"
    inner.mkdir(parents=True)
    (tmp_path / "acme" / "__init__.py").write_text("raise AssertionError('imported')", encoding="utf-8")
    (inner / "__init__.py").write_text("from .inner import Distant as Far\n", encoding="utf-8")
    (inner / "inner.py").write_text('class Distant:\n    """Far tokens.\n\n    More.\n    """\n', encoding="utf-8")
    cli.main(["list", "samplers"])
    assert [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[-2:]] == [["far", "Far tokens."], ["near"]]


def test_unknown_part_is_a_key_error() -> None:
    with pytest.raises(KeyError, match="nowhere"):
        SAMPLERS["nowhere"]
    assert "nowhere" not in SAMPLERS and issubclass(SAMPLERS["random"], Sampler)
