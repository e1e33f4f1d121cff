"""A run on its way to the Hub: what is sent, what is refused, and that nothing is half-published."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModel, AutoProcessor

import mmssl_cli as cli
from mmssl.evaluation import Table
from mmssl.publish import push
from mmssl.publish.chosen import chosen
from mmssl.training import checkpoint
from mmssl.training.run import Run

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
"""huggingface_hub uploads by a way that its HTTP library calls old."""

SENT = {
    *(
        "README.md",
        "config.json",
        "curves.png",
        "environment.json",
        "metrics.jsonl",
        "model.safetensors",
        "processor_config.json",
        "preprocessor_config.json",
    ),
    *("recipe.yaml", "training.json", "modules.json", "sentence_bert_config.json", "config_sentence_transformers.json"),
}


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the fresh process, which takes ten seconds."""
    monkeypatch.setattr("mmssl.publish.publishing.check_reload", lambda *given: 0.0)


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Run:
    """A run that a test may change."""
    shutil.copytree(run.folder, tmp_path / "copy")
    return Run(tmp_path / "copy")


def test_a_run_is_published_by_the_command(run: Run, hub: Any, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["push", str(run.folder), "anna/tiny", "--license", "apache-2.0", "--private"])
    told = capsys.readouterr().out
    assert "the teacher, " in told and f"{hub.url}/anna/tiny/commit/" in told
    sent = hub.files("anna/tiny")
    code = {name for name in sent if name.endswith(".py")}
    assert set(sent) - code == SENT and {"modeling_mmssl.py", "configuration_mmssl.py", "processing_mmssl.py"} <= code
    assert len(hub.repos["anna/tiny"].commits) == 2, "one commit after the empty one"
    assert hub.repos["anna/tiny"].private
    model = AutoModel.from_pretrained("anna/tiny")
    own = AutoModel.from_pretrained(run.model_folder)
    assert all(torch.equal(value, own.state_dict()[name]) for name, value in model.state_dict().items())
    settings = AutoProcessor.from_pretrained("anna/tiny").settings()
    assert settings == AutoProcessor.from_pretrained(run.model_folder).settings()
    assert [json.loads(line) for line in sent["metrics.jsonl"].decode().splitlines()] == run.rows()
    facts = json.loads(sent["environment.json"])
    assert facts["weights"] == "teacher" and facts["steps"] == 6 and facts["versions"] == run.read_record()["versions"]
    assert sent["curves.png"].startswith(b"\x89PNG")


def test_the_card_holds_what_the_hub_reads(run: Run, hub: Any, quick: None) -> None:
    push(run.folder, "tiny", license="other", license_name="own-1.0", license_link="LICENSE")
    card = ModelCard(hub.files("anna/tiny")["README.md"].decode())
    data = card.data
    assert (data.library_name, data.license, data.license_name, data.license_link) == (
        "transformers",
        "other",
        "own-1.0",
        "LICENSE",
    )
    assert data.pipeline_tag == "feature-extraction" and "mmssl" in data.tags and data.datasets is None
    table = Table.from_dict(json.loads(run.table_file.read_text()))
    scores = {result.metric_name: result.metric_value for result in data.eval_results}
    for row in table.rows:
        suffix = "" if row is table.rows[0] else f", {row.name}"
        assert scores[f"linear probe{suffix} ({table.protocol})"] == round(row.probe / 100, 4)
    assert {row.name for row in table.rows} >= {"random init", "raw features"}
    text = card.text
    (trained,) = json.loads(hub.files("anna/tiny")["training.json"])["trained"]
    for part in (trained["content"], "trust_remote_code=True", "import mmssl", "hf://anna/tiny", "mmssl train tiny.yaml"[:5]):
        assert part in text, part
    for heading in ("Use", "Data", "Evaluation", "Health of the training", "Limits", "How it was made"):
        assert f"## {heading}\n" in text
    assert "These weights are the teacher's" in text and "curves.png" in text and "\n\n\n" not in text


def test_a_folder_in_the_place_of_the_hub(run: Run, tmp_path: Path, quick: None) -> None:
    done = push(run.folder, folder=tmp_path / "out", with_code=False, license="mit")
    assert {path.name for path in (tmp_path / "out").iterdir()} == SENT | {"mmssl_needed.py"} == set(done.names)
    assert (tmp_path / "out" / "model.safetensors").stat().st_mode == (tmp_path / "out" / "config.json").stat().st_mode
    with pytest.raises(FileExistsError, match="exists already; give another folder, or replace it with --update"):
        push(run.folder, folder=tmp_path / "out")
    assert push(run.folder, folder=tmp_path / "out", update=True, with_code=False).notes[0].startswith("no licence is set")
    with pytest.raises(ValueError, match="either a repository of the Hub, or a folder"):
        push(run.folder)


def test_student_and_teacher_are_each_published_with_their_own_scores(run: Run, tmp_path: Path, quick: None) -> None:
    for kind in ("student", "teacher"):
        push(run.folder, folder=tmp_path / kind, weights=kind, with_code=False)  # type: ignore[arg-type]
    state = checkpoint.load(checkpoint.step_path(run.checkpoints, 6))["objective"]
    student, teacher = (load_file(tmp_path / kind / "model.safetensors") for kind in ("student", "teacher"))
    (copied,) = {key.split(".")[2] for key in state if key.startswith("networks.copies.")}
    for name in student:
        assert torch.equal(student[name], state[f"networks.student.{name}"]), name
        assert torch.equal(teacher[name], state[f"networks.copies.{copied}.{name}"]), name
    assert any(not torch.equal(student[name], teacher[name]) for name in student)
    written = json.loads(run.table_file.read_text())["rows"][0]
    first = {kind: chosen(run, kind).tables[0].rows[0] for kind in ("student", "teacher")}  # type: ignore[arg-type]
    assert first["teacher"].probe == written["probe"]
    found = ModelCard.load(tmp_path / "student" / "README.md").data.eval_results
    assert [result.metric_value for result in found if result.metric_name.startswith("linear probe (")] == [
        round(first["student"].probe / 100, 4)
    ]
    assert "the student's, as the last step left them" in (tmp_path / "student" / "README.md").read_text()


def test_weights_that_a_run_does_not_have(run: Run, copy: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"--weights average: the run .* has no average; it has student, teacher"):
        push(run.folder, folder=tmp_path / "out", weights="average")
    shutil.rmtree(copy.checkpoints)
    with pytest.raises(
        ValueError, match=r"has kept what it published alone, teacher: its last checkpoint, step-000000006, is gone"
    ):
        push(copy.folder, folder=tmp_path / "out", weights="student")
    copy.record(rows_in_memory=True)
    with pytest.raises(ValueError, match=r"the data of .* were in memory, so that it cannot be scored"):
        push(copy.folder, folder=tmp_path / "out", weights="student")
    assert not (tmp_path / "out").exists()


def test_what_is_no_run_or_not_at_its_end(run: Run, copy: Run, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"is no folder of a run \(no run.json\); its run is"):
        push(run.model_folder, folder=tmp_path / "out")
    record = copy.read_record()
    copy.record_file.write_text(json.dumps({key: value for key, value in record.items() if key != "finished"}))
    with pytest.raises(ValueError, match="is trained, but not scored; score it first:\n  mmssl train"):
        push(copy.folder, folder=tmp_path / "out")
    copy.record_file.write_text(json.dumps({key: value for key, value in record.items() if key not in ("finished", "trained")}))
    with pytest.raises(ValueError, match="has not come to its end"):
        push(copy.folder, folder=tmp_path / "out")


def test_a_licence_as_the_hub_has_them(run: Run, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="--license other needs its name"):
        push(run.folder, folder=tmp_path / "out", license="other")
    with pytest.raises(ValueError, match=r"takes an identifier of the Hub, as apache-2\.0"):
        push(run.folder, folder=tmp_path / "out", license="Apache License 2.0")
    with pytest.raises(ValueError, match="go with --license other"):
        push(run.folder, folder=tmp_path / "out", license_link="LICENSE")


# Refusals of the Hub


def test_a_repository_that_exists(run: Run, hub: Any, quick: None) -> None:
    hub.put("anna/tiny", {"LICENSE": b"mine"})
    with pytest.raises(
        FileExistsError, match="nothing was published: anna/tiny exists already; give another name, or add a commit"
    ):
        push(run.folder, "anna/tiny")
    assert hub.files("anna/tiny") == {"LICENSE": b"mine"}
    push(run.folder, "anna/tiny", update=True, with_code=False)
    assert hub.files("anna/tiny")["LICENSE"] == b"mine" and set(hub.files("anna/tiny")) == SENT | {"LICENSE", "mmssl_needed.py"}


def test_a_repository_that_appears_meanwhile(run: Run, hub: Any, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.repo_exists", lambda self, name: False)
    hub.put("anna/tiny", {"LICENSE": b"mine"})
    with pytest.raises(FileExistsError, match="anna/tiny exists already"):
        push(run.folder, "anna/tiny", with_code=False)
    assert hub.files("anna/tiny") == {"LICENSE": b"mine"}


def test_no_permission(run: Run, hub: Any, quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PermissionError, match=r"does not let this token write to other/tiny \(403\); log in with a token"):
        push(run.folder, "other/tiny", with_code=False)
    monkeypatch.setenv("HF_TOKEN", "hf_" + "wrong" * 6)
    with pytest.raises(PermissionError, match=r"does not let this token write to anna/tiny \(401\)"):
        push(run.folder, "anna/tiny")
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(PermissionError, match="there is no token for"):
        push(run.folder, "anna/tiny")
    assert hub.repos == {}


def test_a_name_that_the_hub_refuses(run: Run, hub: Any) -> None:
    with pytest.raises(ValueError, match="a repository is called owner/name"):
        push(run.folder, "anna/tiny/model")


@pytest.mark.parametrize("where", [("PUT", "/lfs/"), ("POST", "/commit/"), ("POST", "/preupload/"), ("GET", "/tree/")])
def test_an_upload_that_breaks_leaves_nothing(
    run: Run, hub: Any, quick: None, where: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    hub.break_at = where
    with pytest.raises(
        OSError, match=r"the upload to anna/tiny broke: .*; nothing of it is left there\. Run the same command again"
    ):
        push(run.folder, "anna/tiny", with_code=False)
    assert hub.repos == {}
    hub.put("anna/tiny", {"LICENSE": b"mine"})
    if where != ("GET", "/tree/"):  # else it is all there, but that cannot be seen
        with pytest.raises(OSError, match="it is as it was"):
            push(run.folder, "anna/tiny", update=True, with_code=False)
        assert hub.files("anna/tiny") == {"LICENSE": b"mine"}


def test_a_hub_that_cannot_be_reached(run: Run, hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    with pytest.raises(ConnectionError, match=r"nothing was published: http://127.0.0.1:9 cannot be reached"):
        push(run.folder, "anna/tiny")


def test_a_model_that_is_another_after_loading_is_not_sent(run: Run, hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmssl.publish.bundle import assemble

    def tampered(folder: Path, *given: Any, **options: Any) -> None:
        assemble(folder, *given, **options)
        file = folder / "model.safetensors"
        data = bytearray(file.read_bytes())
        data[-3] ^= 1
        data[-9:-1] = b"\x00\x00\x00\x40" * 2
        file.write_bytes(bytes(data))

    monkeypatch.setattr("mmssl.publish.publishing.assemble", tampered)
    with pytest.raises(RuntimeError, match="nothing was published: loaded again, the model gives another"):
        push(run.folder, "anna/tiny", with_code=False)
    assert hub.repos == {} and not any(line.startswith("POST") for line in hub.seen)


def test_a_folder_that_cannot_be_loaded_is_not_sent(run: Run, hub: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mmssl.publish.bundle import assemble

    def broken(folder: Path, *given: Any, **options: Any) -> None:
        assemble(folder, *given, **options)
        (folder / "mmssl_tokens.py").unlink()

    monkeypatch.setattr("mmssl.publish.publishing.assemble", broken)
    with pytest.raises(RuntimeError, match=r"cannot be loaded without mmssl, by the code in it: .*mmssl_tokens"):
        push(run.folder, "anna/tiny")
    assert hub.repos == {}


# What comes back


def test_a_published_recipe_runs_and_its_model_is_a_start(
    run: Run, hub: Any, quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mmssl.training.session.Session.pictures", lambda *given: {})
    push(run.folder, "anna/tiny")
    again = ["train", "hf://anna/tiny", f"run.dir={tmp_path}", "run.name=again", "evaluate=null", "train.max_steps=2", "run.seed=1"]
    cli.main([*again, "init=anna/tiny"])
    cli.main([*again, "run.name=fresh"])
    resolved = Run(tmp_path / "again").recipe_file.read_text()
    assert yaml.safe_load(resolved)["encoder"] == yaml.safe_load(run.recipe_file.read_text())["encoder"]
    start = load_file(run.model_folder / "model.safetensors")
    near, far = (load_file(tmp_path / name / "model" / "model.safetensors") for name in ("again", "fresh"))
    assert max((near[name] - start[name]).abs().max().item() for name in start) < 0.05
    assert max((far[name] - start[name]).abs().max().item() for name in start) > 0.05
    config = json.loads((tmp_path / "again" / "model" / "config.json").read_text())
    assert config["auto_map"]["AutoModel"] == "mmssl_needed.MMSSLModel", "the code in the repository is not that of this model"
    trained = json.loads((tmp_path / "again" / "model" / "training.json").read_text())
    assert len(trained["trained"]) == 2 and trained["complete"]


def test_recipes_that_are_not_there(hub: Any) -> None:
    from mmssl.recipe import load

    hub.put("anna/other", {"README.md": b"hello"})
    with pytest.raises(FileNotFoundError, match=r"hf://anna/other has no recipe.yaml: mmssl push puts one into a model"):
        load("hf://anna/other")
    with pytest.raises(FileNotFoundError, match="there is no model hf://anna/none"):
        load("hf://anna/none")
    with pytest.raises(ValueError, match="must be hf://owner/name"):
        load("hf://anna/none/recipe.yaml")
    with pytest.raises(ValueError, match="must be hf://owner/name"):
        load("hf://anna/no ne")


def test_the_recipe_that_is_sent_is_that_of_the_run(run: Run, tmp_path: Path, quick: None) -> None:
    push(run.folder, folder=tmp_path / "out", with_code=False)
    sent, own = yaml.safe_load((tmp_path / "out" / "recipe.yaml").read_text()), yaml.safe_load(run.recipe_file.read_text())
    assert re.match(r"# Published by mmssl\.", (tmp_path / "out" / "recipe.yaml").read_text())
    assert own["run"]["dir"] == str(run.folder.parent) and sent["run"]["dir"] == "runs"
    sent["run"], own["run"] = None, None
    assert sent == own
