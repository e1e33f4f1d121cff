"""What several files of this folder train: a recipe of a second, and how it is run."""

import importlib.util
from typing import Any

import pytest

ZERO = pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="needs DeepSpeed (the extra deepspeed)")
SECONDS = 400.0
"""A limit, for the first processes import what shards."""
TWO: dict[str, Any] = {"processes": 2, "seconds": SECONDS}
TINY = """
modalities:
  image: {processor: {size: 8, channels: 1}, adapter: {patch_size: 4}}
encoder: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2}
objective:
  name: masked
  mask: {name: random, ratio: 0.5}
  predictor: {name: transformer, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2}
data: {path: "bundled:digits", limit: 64}
"""
