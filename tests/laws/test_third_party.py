"""A modality and parts from somebody else's packages, installed beside mmssl, do all that the built-in ones do.

The core stays as it is: neither package is imported, or named, by anything in mmssl.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmssl.testing import LAWS

HERE = Path(__file__).parent
MMSSL = str(Path(sys.executable).with_name("mmssl"))


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both packages as pip installs them."""
    folder = tmp_path_factory.mktemp("third-party")
    sources = [str(shutil.copytree(HERE / name, folder / name)) for name in ("sensor", "parts")]
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--no-index"]
    pip = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder / "target"), *sources]
    done = subprocess.run(pip, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "target"


def run(target: Path, *command: str) -> str:
    """Output of a command that finds the packages."""
    path = os.pathsep.join([str(target), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path}
    done = subprocess.run([sys.executable, *command], cwd=target.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def checks(target: Path, package: str) -> str:
    """What pytest says of the checks that the author of a package wrote."""
    file = str(target.parent / package / "checks.py")
    return run(target, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", "--rootdir", str(target.parent), file)


def test_command_lists_the_modality(target: Path) -> None:
    found = run(target, MMSSL, "list", "modalities")
    assert found.split() == ["audio", "image", "points", "sensor", "tabular", "text", "timeseries"]


def test_laws_hold_and_recipes_train(target: Path) -> None:
    assert f"{len(LAWS) + 2} passed" in checks(target, "sensor")


@pytest.mark.parametrize(
    ("kind", "name", "text"),
    [
        ("objectives", "agreement", "Predict the embedding of one view of a sample from another view (SimSiam, arXiv 2011.10566,"),
        ("targets", "energy", "The root mean square of the float values of a token."),
        ("predictors", "places", "The mean of the encoded seen tokens and a linear function of the place that is asked for."),
        ("samplers", "every", "Every so many tokens one is hidden, from a first one that is drawn."),
        ("losses", "log_cosh", "Logarithm of the hyperbolic cosine of the error, mean over the values of a token."),
    ],
)
def test_command_lists_the_parts(kind: str, name: str, text: str, target: Path) -> None:
    line = run(target, MMSSL, "list", kind).splitlines()[-1]
    assert line.split()[0] == name
    assert text in line


def test_recipe_of_parts_trains_from_the_command_line(target: Path) -> None:
    run(target, MMSSL, "train", str(target.parent / "parts" / "recipe.yaml"), "run.name=parts")
    folder = target.parent / "runs" / "parts"
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert [row["step"] for row in rows] == [5, 10]
    assert (folder / "model" / "model.safetensors").exists()


def test_parts_keep_the_laws_and_an_objective_trains(target: Path) -> None:
    checks(target, "parts")
