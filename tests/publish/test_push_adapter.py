"""Adapters as a repository of their own: what is sent, that peft loads it onto its base, and what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from peft import PeftModel
from transformers import AutoModelForImageClassification

import mmssl_cli as cli
from mmssl import MMSSLForClassification
from mmssl.model import MMSSLConfig
from mmssl.model.adaptation import quiet
from mmssl.publish import push
from mmssl.training.run import Run

pytestmark = pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning")
OVERRIDES = ["objective={name: supervised}", "peft={name: lora, rank: 2}", "train.max_steps=3", "train.lr=0.05", "evaluate={}"]


def adapted(run: Run, folder: Path, base: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run that adapts a model with labels."""
    monkeypatch.setattr("mmssl.training.session.Session.pictures", lambda *given: {})
    cli.main(["train", str(run.recipe_file), f"init={base}", f"run.dir={folder}", "run.name=lora", "resume=never", *OVERRIDES])
    return Run(folder / "lora")


def test_adapters_are_a_repository_of_peft(
    run: Run, hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("mmssl.publish.publishing.check_reload", lambda *given: 0.0)
    push(run.folder, "anna/base", with_code=False)
    tuned = adapted(run, tmp_path / "runs", "anna/base", monkeypatch)
    capsys.readouterr()
    cli.main(["push", str(tuned.folder), "anna/lora", "--adapter", "--license", "mit"])
    told = capsys.readouterr().out
    assert "the adapters, 6 files, loaded again on their base: outputs differ by at most" in told
    sent = hub.files("anna/lora")
    assert set(sent) == {
        *("README.md", "adapter_config.json", "adapter_model.safetensors"),
        *("config.json", "processor_config.json", "training.json"),
    }
    data = ModelCard(sent["README.md"].decode()).data
    assert (data.library_name, data.base_model, data.base_model_relation, data.license) == ("peft", "anna/base", "adapter", "mit")
    assert json.loads(sent["adapter_config.json"])["base_model_name_or_path"] == "anna/base"
    config = MMSSLConfig.from_pretrained("anna/lora")
    with quiet():
        base = MMSSLForClassification.from_pretrained("anna/base", config=config)
        loaded = PeftModel.from_pretrained(base, "anna/lora").eval()
    whole = AutoModelForImageClassification.from_pretrained(tuned.model_folder).eval()
    pixels = torch.rand(3, 1, 8, 8)
    torch.testing.assert_close(loaded(pixel_values=pixels).logits, whole(pixel_values=pixels).logits, atol=1e-4, rtol=1e-4)


def test_a_base_of_this_machine_and_no_adapters_are_refused(
    run: Run, hub: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tuned = adapted(run, tmp_path / "runs", str(run.model_folder), monkeypatch)
    with pytest.raises(
        ValueError, match=r"these adapters belong to the model model, a folder of this machine.*Push that model first"
    ):
        push(tuned.folder, "anna/lora", adapter=True)
    with pytest.raises(ValueError, match=re.escape("has no adapters; it was trained without peft")):
        push(run.folder, "anna/lora", adapter=True)
    assert "anna/lora" not in hub.repos
