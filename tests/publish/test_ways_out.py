"""`mmssl export` by the command: what it refuses, and what it never leaves half done."""

from pathlib import Path
from typing import Any

import pytest
import torch

import mmssl_cli as cli
from mmssl.model import MMSSLModel
from mmssl.plugins import installed
from mmssl.processor import MMSSLProcessor
from mmssl.publish import graph
from mmssl.publish.place import differing
from mmssl.testing import small_model


def saved(folder: Path, *names: str) -> Path:
    """A model of some modalities."""
    models = [small_model(name) for name in names]
    parts: dict[str, Any] = {}
    for model in models:
        parts |= model.config.modalities
    MMSSLModel(models[0].config.derive(modalities=parts)).save_pretrained(folder)
    MMSSLProcessor.from_settings({name: each["processor"] for name, each in parts.items()}).save_pretrained(folder)
    return folder


def test_a_model_of_several_modalities_needs_a_name(tmp_path: Path) -> None:
    one, other = installed()[:2]
    folder = str(saved(tmp_path / "model", one, other))
    with pytest.raises(SystemExit, match=f"has the modalities {one}, {other}, and a graph has one: name it with --modality"):
        cli.main(["export", folder, "--onnx", str(tmp_path / "graph")])
    with pytest.raises(SystemExit, match="no modality 'smell'"):
        cli.main(["export", folder, "--onnx", str(tmp_path / "graph"), "--modality", "smell"])
    with pytest.raises(SystemExit, match="encodes one modality; this one has"):
        cli.main(["export", folder, "--native", str(tmp_path / "stock")])
    with pytest.raises(SystemExit, match="--modality has a meaning for --onnx alone"):
        cli.main(["export", folder, "--native", str(tmp_path / "stock"), "--modality", one])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = graph.import_module

    def without(name: str) -> Any:
        if name == "onnxscript":
            raise ModuleNotFoundError(name=name)
        return real(name)

    monkeypatch.setattr(graph, "import_module", without)
    with pytest.raises(SystemExit, match=r"needs the package onnxscript: pip install 'mmssl\[onnx\]'"):
        cli.main(["export", str(tmp_path / "model"), "--onnx", str(tmp_path / "graph")])


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", "image")
    for form in ("--onnx", "--native"):
        with pytest.raises(SystemExit, match="exists already" if form == "--onnx" else "no class of transformers|exists already"):
            cli.main(["export", str(folder), form, str(folder)])
    assert (folder / "config.json").is_file()


def test_other_outputs_are_refused() -> None:
    value = torch.ones(2, 3)
    assert differing("x", value + 5e-5, value, "there") == pytest.approx(5e-5, rel=0.01)
    with pytest.raises(RuntimeError, match=r"nothing was exported: there x differs by 0\.0002"):
        differing("x", value + 2e-4, value, "there")
    with pytest.raises(RuntimeError, match="has the shape"):
        differing("x", value[:1], value, "there")
    with pytest.raises(RuntimeError, match="differs by nan"):
        differing("x", value * torch.nan, value, "there")


@pytest.mark.parametrize("name", ["points", "tabular", "timeseries"])
def test_transformers_has_no_class_for_some(name: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=f"transformers has no class for models of {name}; export it with --onnx"):
        cli.main(["export", str(saved(tmp_path / "model", name)), "--native", str(tmp_path / "stock")])
    assert not (tmp_path / "stock").exists()
