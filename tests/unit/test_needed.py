"""A folder opened without mmssl says which package is needed, and runs nothing unless it is trusted; with mmssl it is as ever."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoProcessor

from mmssl.model.needed import FILE, write_needed
from mmssl.processor import MMSSLProcessor
from mmssl.publish.remote import export_remote_code
from mmssl.testing import small_model
from mmssl.testing.small import small_processor

HIDDEN = """
import sys
class NoMmssl:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "mmssl":
            raise ModuleNotFoundError(f"No module named {name!r}", name="mmssl")
sys.meta_path.insert(0, NoMmssl())
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A saved model as a run publishes it."""
    place = tmp_path / "model"
    model = small_model("image")
    model.save_pretrained(place)
    MMSSLProcessor({"image": small_processor("image")}).save_pretrained(place)
    write_needed(place, model.config)
    return place


def alone(code: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """What an interpreter says that runs this code."""
    env = {"HF_HOME": str(tmp_path / "hub"), "PATH": "", "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=env, check=False, stdin=subprocess.DEVNULL
    )


def test_without_mmssl_the_package_is_named(folder: Path, tmp_path: Path) -> None:
    code = f"""{HIDDEN}
from transformers import AutoConfig, AutoModel, AutoProcessor
for auto in (AutoConfig, AutoModel, AutoProcessor):
    try:
        auto.from_pretrained({str(folder)!r}, trust_remote_code=True)
    except ModuleNotFoundError as error:
        print(error)
"""
    told = alone(code, tmp_path).stdout.splitlines()
    assert told == 3 * ["this model needs the package mmssl: pip install mmssl, and import mmssl before it is loaded"]


def test_nothing_is_run_that_is_not_trusted(folder: Path, tmp_path: Path) -> None:
    (folder / f"{FILE}.py").write_text("open('ran', 'w').close()\n")
    start = f"import os\nos.chdir({str(tmp_path)!r})\n{HIDDEN}"
    done = alone(f"{start}\nfrom transformers import AutoModel\nAutoModel.from_pretrained({str(folder)!r})", tmp_path)
    assert done.returncode == 1 and not (tmp_path / "ran").exists()
    assert "trust_remote_code" in done.stderr


def test_with_mmssl_its_own_classes_come_first(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (folder / f"{FILE}.py").write_text("open('ran', 'w').close()\n")
    for trust in ({}, {"trust_remote_code": True}):
        model = AutoModel.from_pretrained(folder, **trust)
        assert type(model).__module__ == "mmssl.model.model"
        assert type(AutoConfig.from_pretrained(folder, **trust)).__module__ == "mmssl.model.config"
        assert type(AutoProcessor.from_pretrained(folder, **trust)).__module__ == "mmssl.processor"
    assert not Path("ran").exists()


def test_code_of_its_own_takes_its_place(folder: Path, tmp_path: Path) -> None:
    export_remote_code(folder, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["auto_map"]["AutoModel"] == "modeling_mmssl.MMSSLModel" and not (tmp_path / "out" / f"{FILE}.py").exists()
    first, second = AutoModel.from_pretrained(folder), AutoModel.from_pretrained(tmp_path / "out")
    assert all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())
