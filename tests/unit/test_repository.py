"""Laws of the repository itself: files, entry points, packages, and what the core may know."""

import ast
import runpy
from collections.abc import Iterator
from configparser import ConfigParser
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from mmssl.recipe import json_schema

ROOT = Path(__file__).parents[2]
MODULES = sorted(ROOT.glob("*.py"))
"""What the command needs before it imports the package."""
CORE = [*MODULES, *sorted((ROOT / "mmssl").rglob("*.py"))]
PLUGINS = ROOT / "modalities" / "mmssl_modalities"
RECIPES = sorted(path for path in (ROOT / "recipes").rglob("*.yaml") if path.parent.name != "launch")


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.fixture(scope="module")
def setup_cfg() -> ConfigParser:
    parser = ConfigParser(interpolation=None)
    parser.read(ROOT / "setup.cfg", encoding="utf-8")
    return parser


def declared_modalities(setup_cfg: ConfigParser) -> dict[str, str]:
    """Entry points of the group `mmssl.modalities` as setup.cfg declares them."""
    lines = setup_cfg["options.entry_points"]["mmssl.modalities"].strip().splitlines()
    pairs = (line.split("=", 1) for line in lines)
    return {key.strip(): value.strip() for key, value in pairs}


def test_every_modality_has_its_entry_point(setup_cfg: ConfigParser) -> None:
    packages = {init.parent.name: f"mmssl_modalities.{init.parent.name}" for init in PLUGINS.glob("*/__init__.py")}
    declared = {key: value.split(":")[0] for key, value in declared_modalities(setup_cfg).items()}
    advice = "setup.cfg needs a line `name = mmssl_modalities.name:NAME` for each package of modalities/mmssl_modalities"
    assert packages == declared, advice


def test_installed_entry_points_are_the_declared_ones(setup_cfg: ConfigParser) -> None:
    ours = [point for point in entry_points(group="mmssl.modalities") if point.value.startswith("mmssl_modalities.")]
    advice = "setup.cfg changed after installation: run `pip install -e .` again"
    assert {point.name: point.value for point in ours} == declared_modalities(setup_cfg), advice


def test_the_top_of_the_package_reads_as_a_table_of_contents(setup_cfg: ConfigParser) -> None:
    hidden = ("__init__.py", "__main__.py", "__pycache__", "py.typed")
    names = [path.name for path in (ROOT / "mmssl").iterdir() if path.name not in hidden]
    assert len(names) <= 18, "a new file belongs into one of the rooms"
    floors = setup_cfg["importlinter:contract:floors"]["layers"].split("\n")
    assert len([floor for floor in floors if floor.strip()]) <= 9, "few floors, one direction"


def test_packages_of_setup_cfg_are_the_packages_on_disk(setup_cfg: ConfigParser) -> None:
    roots = [ROOT / "mmssl", PLUGINS]
    on_disk = {".".join(init.parent.relative_to(root.parent).parts) for root in roots for init in root.rglob("__init__.py")}
    assert set(setup_cfg["options"]["packages"].split()) == on_disk
    assert set(setup_cfg["options"]["py_modules"].split()) == {path.stem for path in MODULES}


SPEAKING = ("mmssl_cli.py", "mmssl/training/session.py")
"""What prints: the command and the session of a run. All other code logs, or returns what is to be said."""


@pytest.mark.parametrize("path", [path for path in CORE if name(path) not in SPEAKING], ids=name)
def test_the_library_prints_nothing(path: Path) -> None:
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    found = [call.lineno for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"]
    assert found == [], f"only {' and '.join(SPEAKING)} print"


# Columns of datasets; a type in plain words.
NO_MODALITY = {
    "mmssl/data/bundled.py": {"image"},
    "mmssl/data/docstrings.py": {"text"},
    "mmssl/data/glyphs.py": {"image", "text", "points"},
    "mmssl/data/synthetic.py": {"audio", "image", "points"},
    "mmssl/recipe/messages.py": {"text"},
}
ORDINARY = {"text", "points"}
"""Names of modalities that are everyday words of code: as identifiers they say nothing, as strings they do."""


def words(tree: ast.AST) -> Iterator[tuple[int, str, bool]]:
    """Line and text, and whether it is a string, of every identifier and string of code, docstrings aside."""
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in prose:
                yield node.lineno, text, True
            case ast.Name(id=text) | ast.Attribute(attr=text) | ast.arg(arg=text) | ast.keyword(arg=str(text)):
                yield node.lineno, text, False
            case ast.FunctionDef(name=text) | ast.ClassDef(name=text) | ast.alias(name=text) | ast.ImportFrom(module=str(text)):
                yield node.lineno, text, False


def knowledge(source: str, modalities: set[str]) -> list[str]:
    """Places where code names a modality, or the package of the plug-ins, as a whole identifier or a whole string."""
    found = words(ast.parse(source))
    telling = ((line, text) for line, text, is_string in found if is_string or text not in ORDINARY)
    return [f"line {line}: {text}" for line, text in telling if text in modalities or text.split(".")[0] == "mmssl_modalities"]


@pytest.mark.parametrize("path", CORE, ids=name)
def test_core_names_no_modality(path: Path, setup_cfg: ConfigParser) -> None:
    modalities = declared_modalities(setup_cfg).keys() - NO_MODALITY.get(name(path), set())
    found = knowledge(path.read_text(encoding="utf-8"), modalities)
    assert found == [], "the core works for any modality; move what only one of them needs into its plug-in"


def test_knowledge_of_a_modality_is_found_in_code_only() -> None:
    source = '''
"""An image may be named here."""
from mmssl_modalities.image import IMAGE
import mmssl_modalities

def f(x, image):  # an image
    """image"""
    if x.name == "image":
        return g(image=1).image
    return "image/png", "images", Image
'''
    assert sorted(knowledge(source, {"image"})) == [
        "line 3: mmssl_modalities.image",
        "line 4: mmssl_modalities",
        "line 6: image",
        "line 8: image",
        "line 9: image",
        "line 9: image",
    ]


def header(recipe: Path) -> str:
    """The comment lines that open a recipe."""
    lines = recipe.read_text(encoding="utf-8").splitlines()
    end = next((number for number, line in enumerate(lines) if not line.startswith("#")), len(lines))
    return "\n".join(lines[:end])


@pytest.mark.parametrize("recipe", RECIPES, ids=name)
def test_recipe_opens_with_a_header_that_holds_its_command(recipe: Path) -> None:
    command = f"mmssl train {name(recipe)}"
    advice = "a recipe opens with a comment: paper, hardware, minutes, result, and the exact command"
    assert command in header(recipe), advice


def test_recipe_reference_is_up_to_date() -> None:
    writer = runpy.run_path(str(ROOT / "docs" / "make_reference.py"))
    committed = (ROOT / "docs" / "recipe.md").read_text(encoding="utf-8")
    advice = "docs/recipe.md is stale: run `python docs/make_reference.py` and commit it"
    assert writer["reference"](json_schema()) == committed, advice


def test_page_on_files_is_up_to_date() -> None:
    writer = runpy.run_path(str(ROOT / "docs" / "make_reference.py"))
    committed = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
    assert writer["files_page"]() == committed, "docs/files.md is stale: run `python docs/make_reference.py` and commit it"


def test_wheel_holds_every_file_of_the_packages(setup_cfg: ConfigParser) -> None:
    patterns = setup_cfg["options.package_data"]["*"].replace(",", " ").split()
    files = [path for root in (ROOT / "mmssl", PLUGINS) for path in root.rglob("*.*") if path.suffix not in (".py", ".pyc")]
    left_out = [name(path) for path in files if not any(path.match(pattern) for pattern in patterns)]
    assert left_out == [], "add the pattern of these files to [options.package_data] in setup.cfg"


def test_wheel_holds_every_recipe(setup_cfg: ConfigParser) -> None:
    expected = {f"share/mmssl/{name(path.parent)}": f"{name(path.parent)}/*.yaml" for path in (ROOT / "recipes").rglob("*.yaml")}
    assert dict(setup_cfg["options.data_files"]) == expected


def test_packages_are_typed_and_licensed() -> None:
    assert (ROOT / "mmssl" / "py.typed").exists()
    assert (PLUGINS / "py.typed").exists()
    assert (ROOT / "LICENSE").read_text(encoding="utf-8").lstrip().startswith("Apache License")
