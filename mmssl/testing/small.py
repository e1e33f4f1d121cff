"""Small models, and batches of the examples of a modality: what laws and tests are about."""

from typing import Any

import torch
from torch import Tensor

from mmssl.data import Batch, Labels
from mmssl.draws import keys
from mmssl.modality import Inputs, Processor, find
from mmssl.model import MMSSLConfig, MMSSLModel
from mmssl.objectives import OBJECTIVES, Objective, Setup

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "drop_path_rate": 0.0}
SAMPLES = 6
SINGLE = [kind for kind in OBJECTIVES if kind not in ("clip", "sum", "knowledge_distillation")]
"""Objectives that need nothing but samples of one modality, and no keys."""


def small_processor(name: str) -> Processor:
    """The modality's processor with default settings, fitted on its examples."""
    modality = find(name)
    processor = modality.processor()
    if not processor.fitted:
        processor.fit(iter(modality.example(32, 1)))
    return processor


def small_model(name: str, **settings: Any) -> MMSSLModel:
    """A small model of one modality; `settings` are fields of its configuration."""
    torch.manual_seed(0)
    modalities = {name: {"processor": small_processor(name).settings(), "adapter": {}}}
    return MMSSLModel(MMSSLConfig(modalities=modalities, **SMALL | settings)).eval()


def samples(name: str, count: int = SAMPLES) -> list[Inputs]:
    """Processed examples."""
    processor = small_processor(name)
    return [processor(raw) for raw in find(name).example(count, 0)]


def inputs_of(name: str, count: int = SAMPLES) -> Inputs:
    """A collated batch of processed examples."""
    return small_processor(name).collate(samples(name, count))


def batch_of(name: str, count: int = SAMPLES, labels: Tensor | None = None) -> Batch:
    """A batch of processed examples as an objective receives it."""
    ids = torch.arange(count)
    return Batch({name: inputs_of(name, count)}, keys(0, 0, ids), ids, labels)


def objective_of(kind: str, name: str, **settings: Any) -> tuple[Objective, Batch]:
    """A small objective of each kind with a batch for it."""
    labels = torch.arange(SAMPLES) % 2
    meaning = Labels("classification", ["a", "b"], labels.numpy())
    objective = OBJECTIVES[kind](small_model(name), Setup(labels=meaning), **settings)
    return objective, batch_of(name, labels=labels)
