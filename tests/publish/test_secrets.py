"""What must not leave a machine, planted where it could slip in: none of it is in what would be published."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from mmssl import api
from mmssl.publish import push
from mmssl.publish.local import Machine
from mmssl.publish.scan import leaks
from mmssl.training.run import Run

PLANTED = {
    "token": "hf_" + "Ab1" * 10,
    "user": "grace.hopper",
    "host": "submarine-7",
    "home": "/home/grace.hopper",
    "project": "/scratch/secret_project",
    "column": "social_security_number",
    "cell": "078-05-1120",
    "variable": "correct-horse-battery",
}
"""What is planted, by what it is."""
HERE = Machine(
    tops=frozenset({"home", "scratch", "tmp", "usr"}),
    home=PLANTED["home"],
    user=PLANTED["user"],
    host=PLANTED["host"],
    secrets={"the variable TRACKER_API_KEY": PLANTED["variable"]},
)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmssl.publish.publishing.check_reload", lambda *given: 0.0)
    monkeypatch.setattr("mmssl.publish.local.Machine.here", classmethod(lambda cls: HERE))
    monkeypatch.setattr("mmssl.training.session.Session.pictures", lambda *given: {})


@pytest.fixture
def planted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run on a table with a private column, in a secret folder, whose record and report hold all that is planted."""
    folder = tmp_path / "scratch" / "secret_project" / PLANTED["user"]
    folder.mkdir(parents=True)
    rows = [f"{i % 7},{i * 0.1:.1f},{PLANTED['cell']},{'ab'[i % 2]}" for i in range(40)]
    (folder / "people.csv").write_text(f"size,weight,{PLANTED['column']},kind\n" + "\n".join(rows) + "\n")
    (folder / "recipe.yaml").write_text(
        f"""
modalities: {{tabular: {{}}}}
encoder: {{hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2}}
objective: {{name: masked, predictor: {{name: mask_token}}}}
data: {{path: {folder}/people.csv, columns: {{tabular: [size, weight]}}}}
evaluate: {{columns: {{label: kind}}}}
train: {{batch_size: 16, max_steps: 2, log_every: 1}}
"""
    )
    monkeypatch.setattr("sys.argv", ["mmssl", "train", str(folder / "recipe.yaml"), f"run.dir={folder}/runs"])
    run = api.train(folder / "recipe.yaml", [f"run.dir={folder}/runs"])
    # Where else it may stand: facts of the run, its log, files beside the model, and in the model's folder.
    run.record(
        machine=PLANTED["host"],
        user=PLANTED["user"],
        skipped_messages=[f"{PLANTED['project']}/a.png: broken"],
        api=PLANTED["token"],
    )
    (run.model_folder / "optimizer.pt").write_bytes(b"\x80\x04exp_avg")
    (run.model_folder / ".env").write_text(f"HF_TOKEN={PLANTED['token']}\n")
    (run.model_folder / "notes.txt").write_text(PLANTED["home"])
    save_file({"exp_avg": torch.zeros(1)}, run.folder / "optimizer.safetensors")
    return run


def everything(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_nothing_that_was_planted_would_be_published(planted: Run, tmp_path: Path, quick: None) -> None:
    everywhere = b"".join(everything(planted.folder).values())
    for what in ("token", "user", "host", "project", "column"):
        assert PLANTED[what].encode() in everywhere, f"{what} is planted"
    done = push(planted.folder, folder=tmp_path / "out", license="mit", words=[PLANTED["column"], PLANTED["cell"]])
    sent = everything(tmp_path / "out")
    assert {"optimizer.pt", ".env", "notes.txt", "run.json", "report.html"}.isdisjoint(sent)
    for what, secret in {**PLANTED, "folder": str(tmp_path), "its name": "secret_project"}.items():
        assert [name for name, content in sent.items() if secret.encode() in content] == [], what
    assert not any(name.startswith(("exp_avg", "optimizer")) for name in load_file(tmp_path / "out" / "model.safetensors"))
    assert done.names == tuple(sorted(sent))
    recipe = (tmp_path / "out" / "recipe.yaml").read_text()
    assert "path: people.csv" in recipe and "dir: runs" in recipe
    assert "mmssl train recipe.yaml run.dir=" in (tmp_path / "out" / "README.md").read_text()
    (trained,) = json.loads((tmp_path / "out" / "training.json").read_text())["trained"]
    assert trained["path"] == "people.csv" and trained["inputs"] == ["size", "weight"]
    assert all(re.fullmatch(r"file:[0-9a-f]{16}", part) for part in trained["parts"])


def test_what_cannot_be_taken_out_stops_the_publication(planted: Run, tmp_path: Path, quick: None) -> None:
    with pytest.raises(ValueError) as error:
        push(planted.folder, folder=tmp_path / "out", words=["weight"])
    text = str(error.value)
    assert text.startswith("nothing was published: what would be holds what must not leave this machine:\n  ")
    assert re.search(r"config\.json, line \d+: the private word 'weight'", text) and "--allow TEXT" in text
    assert not (tmp_path / "out").exists()
    push(planted.folder, folder=tmp_path / "out", words=["weight"], allowed=["weight"])


CASES = [
    ("README.md", f"token {PLANTED['token']}", "a token of Hugging Face"),
    ("README.md", "see https://anna:hunter2@example.org/x", "a password in an address"),
    ("config.json", json.dumps({"key": PLANTED["variable"]}), "the value of the variable TRACKER_API_KEY"),
    ("config.json", json.dumps({"path": "/scratch/secret_project/a.csv"}), "the path /scratch/secret_project/a.csv"),
    ("config.json", json.dumps({"path": "/scratch/secret_project/a.csv"}).replace("/", "\\/"), "the path /scratch/secret_project"),
    ("config.json", json.dumps({"who": "Grace.Hopper"}), "the user's name"),
    ("recipe.yaml", f"dir: {PLANTED['home']}\n", "the home folder"),
    ("recipe.yaml", "dir: ~/runs/first\n", "the path ~/runs/first"),
    ("recipe.yaml", "dir: C:\\Users\\grace\\runs\n", "the path C:\\Users\\grace\\runs"),
    ("metrics.jsonl", '{"host": "submarine-7"}\n', "the machine's name"),
    ("environment.json", '{"k": "AKIAABCDEFGHIJKLMNOP"}', "a key of AWS"),
    ("optimizer.pt", "", "no file of a published model"),
    ("state.bin", "", "no file of a published model"),
    ("model.pkl", "", "no file of a published model"),
    (".env", "", "no file of a published model"),
]


@pytest.mark.parametrize(("name", "content", "what"), CASES)
def test_each_kind_is_found(name: str, content: str, what: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    found = list(leaks(tmp_path, HERE))
    assert any(line.startswith(name) and what in line for line in found), found
    assert not any(PLANTED["variable"] in line or PLANTED["token"] in line for line in found), "a secret is not told"


def test_headers_of_weights_and_pictures_are_read(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    save_file({"layer.exp_avg": torch.zeros(1)}, tmp_path / "model.safetensors", {"by": PLANTED["user"]})
    Figure(figsize=(1, 1)).savefig(tmp_path / "curves.png", metadata={"Author": PLANTED["user"]})
    (tmp_path / "link.json").symlink_to("/etc/hostname")
    found = "\n".join(leaks(tmp_path, HERE))
    assert "model.safetensors: the tensor 'layer.exp_avg' is of an optimizer" in found
    assert "model.safetensors, line 1: the user's name" in found and re.search(r"curves.png, line \d: the user's name", found)
    assert "link.json: a link" in found


def test_what_is_harmless_is_let_pass(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text(
        "a/b and/or https://huggingface.co/anna/mae/blob/main/x n/a 1/2 km/h 3.5/4.5 usr/bin /usr\n"
    )
    (tmp_path / "config.json").write_text(json.dumps({"vocab": ["</w>", "//", "/", "hf_x"], "commit": "0" * 40}))
    assert list(leaks(tmp_path, HERE)) == []
    (tmp_path / "README.md").write_text("by grace.hopper/mae\n")
    assert len(list(leaks(tmp_path, HERE))) == 1
    assert list(leaks(tmp_path, HERE, owner="Grace.Hopper")) == [], "whose repository it is, everybody reads"


def test_paths_are_cut_to_their_last_part() -> None:
    text = "mmssl train /home/grace.hopper/vit.yaml 'data.path=/scratch/secret_project/a b.csv' init=runs/first ~/x/y.yaml"
    assert HERE.without_paths(text) == "mmssl train vit.yaml 'data.path=a b.csv' init=runs/first y.yaml"
    assert HERE.cleaned({"a": ["../up/x.csv", "bundled:digits", "org/name", 3, None]}) == {
        "a": ["x.csv", "bundled:digits", "org/name", 3, None]
    }
    generator = np.random.default_rng(0)
    for _ in range(200):
        parts = ["".join(generator.choice(list("abc.-_09"), 5)) for _ in range(int(generator.integers(1, 5)))]
        path = "/".join(["", "scratch", *parts])
        assert "/scratch" not in HERE.without_paths(f"x={path}, then"), path


def test_this_machine_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTHER_API_KEY", "a-long-secret-value")
    found = Machine.here()
    assert found.secrets["the variable OTHER_API_KEY"] == "a-long-secret-value" and found.home and "usr" in found.tops


def test_a_copy_of_a_run_elsewhere_is_the_same(planted: Run, tmp_path: Path, quick: None) -> None:
    shutil.copytree(planted.folder, tmp_path / "elsewhere")
    push(planted.folder, folder=tmp_path / "a", with_code=False)
    push(tmp_path / "elsewhere", folder=tmp_path / "b", with_code=False)
    first, second = everything(tmp_path / "a"), everything(tmp_path / "b")
    assert [name for name in first if first[name] != second[name] and name != "README.md"] == []
