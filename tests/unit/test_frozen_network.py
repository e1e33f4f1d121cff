"""Saved models as second networks."""

from pathlib import Path

import pytest
from transformers import ViTConfig, ViTModel

from mmssl.model import MMSSLConfig, MMSSLModel
from mmssl.objectives.networks import Frozen, Networks


@pytest.fixture
def networks() -> Networks:
    return Networks(MMSSLModel(MMSSLConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2)))


def test_a_model_of_another_library_is_refused_not_replaced_by_random_weights(networks: Networks, tmp_path: Path) -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(**shape, image_size=32, patch_size=16)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"must be a model that mmssl saved; .* is of type 'vit'"):
        networks.want("frozen", Frozen(str(tmp_path)))


@pytest.mark.parametrize("foreign", [False, True])
def test_a_second_network_that_is_not_there_is_named_and_how_to_make_it(
    networks: Networks, foreign: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub would say that `runs/first/model` is no name of a repository."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        FileNotFoundError, match=r"no model in runs/first/model: there is no such folder\. Train the run first first"
    ):
        networks.want("frozen", Frozen("runs/first/model", foreign=foreign))
