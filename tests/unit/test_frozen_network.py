"""Saved models as second networks."""

from pathlib import Path

import pytest
from transformers import ViTConfig, ViTModel

from mmssl.model import MMSSLConfig, MMSSLModel
from mmssl.objectives.networks import Frozen, Networks


def test_a_model_of_another_library_is_refused_not_replaced_by_random_weights(tmp_path: Path) -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    ViTModel(ViTConfig(**shape, image_size=32, patch_size=16)).save_pretrained(tmp_path)
    student = MMSSLModel(MMSSLConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2))
    with pytest.raises(ValueError, match=r"must be a model that mmssl saved; .* is of type 'vit'"):
        Networks(student).want("frozen", Frozen(str(tmp_path)))
