"""From a recipe's sections, or a saved model, to processors, configuration, model and objective."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mmssl.config import MMSSLConfig, encoder_settings
from mmssl.data import Labels, Source
from mmssl.modality import Processor, find
from mmssl.model import MMSSLModel
from mmssl.objectives import OBJECTIVES, Objective, Setup
from mmssl.processor import MMSSLProcessor
from mmssl.progress import track
from mmssl.recipe import Recipe


@dataclass(frozen=True)
class Pieces:
    """What a recipe describes, before any training."""

    processor: MMSSLProcessor
    objective: Objective

    @property
    def model(self) -> MMSSLModel:
        return self.objective.model


def build(recipe: Recipe, source: Source, labels: Labels | None, fitted: MMSSLProcessor | None = None) -> Pieces:
    """Processors (fitted on `source` unless given), model and objective of a recipe, the weights drawn from its seed."""
    torch.manual_seed(recipe.section("run").seed)
    if recipe.init is None:
        processor = fitted or fit_processors(recipe, source)
        model = MMSSLModel(make_config(recipe, processor))
    else:
        processor, model = load_saved(recipe, Path(recipe.init))
    augments = {name: find(name).augment(**part["augment"]) for name, part in recipe.modalities.items()}
    name, settings = recipe.objective
    objective = OBJECTIVES[name](model, Setup(augments, labels if OBJECTIVES[name].needs_labels else None), **settings)
    return Pieces(processor, objective)
