"""Tensors in pieces: whatever lies in several files comes back as it was, or an error says what is missing."""

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mmssl.training import checkpoint
from mmssl.training.pieces import Part, Parts, Piece, flat, whole
from mmssl.training.saving import Saver

VALUES = torch.arange(24.0).reshape(4, 3, 2)


def parts(*cuts: int) -> Parts:
    """The tensor cut at these places, its parts in the wrong order."""
    ends = [0, *cuts, VALUES.numel()]
    found = [Part(start, stop, VALUES.flatten()[start:stop]) for start, stop in pairwise(ends)]
    return Parts("weight", VALUES.shape, VALUES.dtype, found[::-1])


@pytest.mark.parametrize("cuts", [(), (1,), (6, 12), (5, 11, 17, 23)])
def test_any_entries_come_from_any_parts(cuts: tuple[int, ...]) -> None:
    tensor = parts(*cuts)
    for start in range(25):
        for stop in range(start, 25):
            assert torch.equal(flat(tensor, start, stop), flat(VALUES, start, stop))
    assert torch.equal(whole(tensor), VALUES)


def test_parts_that_are_missing_are_told() -> None:
    one, two = Part(0, 4, torch.zeros(4)), Part(6, 24, torch.zeros(18))
    with pytest.raises(ValueError, match="weight lacks its entries 4 to 6, or has them twice: the checkpoint is damaged"):
        Parts("weight", (4, 6), torch.float32, [one, two])
    with pytest.raises(ValueError, match="weight lacks its entries from 4 on, of 24"):
        Parts("weight", (4, 6), torch.float32, [one])


def save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint in pieces, as the one process that there is."""
    saver = Saver(path.parent, keep=1, beside=False, timeout=1.0)
    saver.save(int(path.name.removeprefix("step-")), lambda: state, in_pieces=True)


def written(path: Path) -> dict[str, Any]:
    """A checkpoint of two processes, as each of them would write its file; its state."""
    state: dict[str, Any] = {"w": Piece(VALUES.flatten()[:14], 0, (4, 3, 2)), "none": Piece(VALUES[0, 0, :0], 0, (0, 2)), "n": 3}
    save(path, state)
    name, text = path / "tensors-00000-of-00001.safetensors", (path / "manifest.json").read_text(encoding="utf-8")
    other = path / "tensors-00001-of-00002.safetensors"
    (key,) = json.loads((path / "state.json").read_text(encoding="utf-8"))["dict"][0][1].values()
    save_file({f"piece 14:{key[0]}": VALUES.flatten()[14:].clone()}, other)
    manifest = json.loads(text)
    assert set(manifest["files"]) == {name.name, "state.json"}
    manifest["files"][other.name] = checkpoint._facts(other)
    (path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    return state


def test_a_checkpoint_in_pieces_comes_back_whole(tmp_path: Path) -> None:
    written(tmp_path / "step-000000001")
    for read in (checkpoint.load, checkpoint.opened):
        found = read(tmp_path / "step-000000001")
        assert found["n"] == 3
        assert torch.equal(whole(found["w"]), VALUES)
        assert whole(found["none"]).shape == (0, 2)
    assert isinstance(checkpoint.load(tmp_path / "step-000000001")["w"], Tensor)
    assert torch.equal(flat(checkpoint.opened(tmp_path / "step-000000001")["w"], 13, 15), torch.tensor([13.0, 14.0]))


def test_a_checkpoint_that_lacks_a_file_of_a_process_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "step-000000001"
    written(path)
    (path / "tensors-00001-of-00002.safetensors").unlink()
    with pytest.raises(ValueError, match=r"tensors-00001-of-00002\.safetensors is missing: the checkpoint is incomplete"):
        checkpoint.load(path)
    assert checkpoint.newest(tmp_path) is None
    assert not checkpoint.has_complete(tmp_path)


def test_a_manifest_names_no_file_outside_of_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "step-000000001"
    written(path)
    manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    manifest["files"]["../other.safetensors"] = {"size": 1, "sha256": ""}
    (path / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    with pytest.raises(ValueError, match=r"manifest\.json is damaged: it is not a manifest"):
        checkpoint.load(path)


def test_a_dtype_that_is_none_is_told(tmp_path: Path) -> None:
    path = tmp_path / "step-000000001"
    save(path, {"w": Piece(torch.zeros(2), 0, (2,))})
    text = (path / "state.json").read_text(encoding="utf-8").replace("float32", "load")
    (path / "state.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match="has the dtype 'load', which is none of torch: the checkpoint is damaged"):
        checkpoint.opened(path)
