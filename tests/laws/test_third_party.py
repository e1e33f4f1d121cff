"""A modality from somebody else's package, installed beside mmssl, does all that the built-in ones do; the core stays as it is."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mmssl.testing import LAWS

PACKAGE = Path(__file__).with_name("sensor")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package as pip installs it."""
    folder = tmp_path_factory.mktemp("third-party")
    shutil.copytree(PACKAGE, folder / "source")
    options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--no-build-isolation", "--no-index"]
    pip = [sys.executable, "-m", "pip", "install", *options, "--target", str(folder / "target"), str(folder / "source")]
    done = subprocess.run(pip, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "target"


def run(target: Path, *command: str) -> str:
    """Output of a command that finds the package."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(target), os.environ.get("PYTHONPATH", "")])}
    done = subprocess.run([sys.executable, *command], cwd=target.parent, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


def test_command_lists_the_modality(target: Path) -> None:
    found = run(target, str(Path(sys.executable).with_name("mmssl")), "list", "modalities")
    assert found.split() == ["audio", "image", "points", "sensor", "tabular", "text", "timeseries"]


def test_laws_hold_and_recipes_train(target: Path) -> None:
    checks = str(target.parent / "source" / "checks.py")
    output = run(target, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", "--rootdir", str(target.parent), checks)
    assert f"{len(LAWS) + 2} passed" in output
