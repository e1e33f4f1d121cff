"""Positives by shared labels, and a temperature for each sample: what `info_nce` becomes, against loops over its formula."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

import mmssl
from mmssl.data import Batch, Source
from mmssl.modality import find
from mmssl.model.heads import Head
from mmssl.objectives import Contrast, Setup, Step
from mmssl.objectives.agree.losses import AGREEMENTS
from mmssl.objectives.agree.parts import Seen
from mmssl.testing import batch_of, small_model

CELLS: list[Any] = [["sea", "wood"], ["wood", "town", "wood"], [], None, "sea", ["sea", "wood"]]


def contrast(**settings: Any) -> Contrast:
    """On pictures, with the pooled outputs as they are."""
    source = Source.from_rows([{"labels": cell} for cell in CELLS], {"group": "labels"})
    labels = source.group_labels()
    assert labels is not None
    setup = Setup({"image": find("image").augment(flip=0.5)}, samples=lambda: 9, group_labels=partial(torch.from_numpy, labels))
    torch.manual_seed(0)
    return Contrast(small_model("image"), setup, projector=Head(layers=0), **settings).double()


def labelled() -> Batch:
    groups = Source.from_rows([{"labels": cell} for cell in CELLS], {"group": "labels"}).groups()
    assert groups is not None
    batch = replace(batch_of("image", 6), group=torch.from_numpy(groups))
    return batch._map(lambda x: x.double() if x.is_floating_point() else x)


def seen_by(objective: Contrast, batch: Batch) -> Seen:
    step = Step(seen=objective.encodings(batch))
    return objective.seen(objective.represent(batch, step), step)


def gradient(loss: Tensor, seen: Seen) -> Tensor:
    views = [seen.pooled("student", view) for view in seen.views]
    return torch.cat(torch.autograd.grad(loss, views, retain_graph=True))


def test_labels_of_groups_are_read_from_lists() -> None:
    source = Source.from_rows([{"labels": cell} for cell in CELLS], {"group": "labels"})
    assert source.group_labels().tolist() == [[0, 1, -1], [1, 2, -1], [-1, -1, -1], [0, -1, -1]]  # type: ignore[union-attr]
    assert source.groups().tolist() == [0, 1, 2, -4, 3, 0]  # type: ignore[union-attr]
    assert Source.from_rows([{"labels": 1}]).group_labels() is None


def test_soft_positives_count_by_the_labels_they_share() -> None:
    """Value and gradient; a sample without labels, or without a cell, has its own other view alone."""
    loss = AGREEMENTS["info_nce"](soft=True, temperature=0.2)
    objective, batch = contrast(losses=[loss]), labelled()
    seen = seen_by(objective, batch)
    points = torch.nn.functional.normalize(torch.cat([seen.pooled("student", view) for view in seen.views]), dim=-1)
    held = [set() if cell is None else {cell} if isinstance(cell, str) else set(cell) for cell in CELLS]
    total = torch.zeros((), dtype=torch.float64)
    for i in range(12):
        others = [j for j in range(12) if j != i]
        a = held[i % 6]
        shares = [1.0 if i % 6 == j % 6 else len(a & held[j % 6]) / math.sqrt(max(1, len(a) * len(held[j % 6]))) for j in others]
        logits = torch.stack([points[i] @ points[j] for j in others]) / 0.2
        target = torch.tensor(shares, dtype=torch.float64) / sum(shares)
        total = total - (target * (logits - logits.exp().sum().log())).sum() / 12
    found = loss(seen, None).terms[""].mean()
    assert_close(found, total)
    assert_close(gradient(found, seen), gradient(total, seen))


def test_temperatures_that_stay_give_decoupled_contrast() -> None:
    """With gamma 1 and rate 0 it is temperature x (DCL - log of the number of negatives)."""
    loss = AGREEMENTS["individual_temperatures"](temperature=0.2, gamma=1.0, rate=0.0)
    objective, batch = contrast(losses=[loss]), labelled()
    seen = seen_by(objective, replace(batch, group=None))
    plain = AGREEMENTS["info_nce"](decoupled=True, temperature=0.2)
    expected = 0.2 * (plain(seen, None).terms[""].mean() - math.log(10))
    found = loss(seen, None).terms[""].mean()
    assert_close(found, expected)
    assert_close(gradient(found, seen), gradient(expected, seen))


def test_what_is_kept_of_a_sample_lies_at_its_place() -> None:
    """Samples 0, 2, 4, 6 and 8 are seen, one of them twice; the others stay."""
    loss = AGREEMENTS["individual_temperatures"](rho=0.5, rate=0.1)
    objective, batch = contrast(losses=[loss]), replace(labelled(), group=None)
    ids = torch.tensor([8, 0, 2, 4, 8, 6])
    state = objective(replace(batch, ids=ids)).state
    moved = {key.rpartition(".")[2]: value != objective.get_buffer(key) for key, value in state.items()}
    for which in moved.values():
        assert torch.nonzero(which)[:, 0].tolist() == [0, 2, 4, 6, 8]
    first = objective(replace(batch, ids=torch.arange(6))).state["losses.0.kept.image.temperature"]
    assert_close(state["losses.0.kept.image.temperature"][[8, 0, 2, 4, 6]], first[[0, 1, 2, 3, 5]])


def test_bad_settings_are_named() -> None:
    for losses, message in (
        (AGREEMENTS["info_nce"](soft=True), r"compares the labels in the cells of columns\.group"),
        (AGREEMENTS["individual_temperatures"](), "keeps a temperature for each sample of one source"),
    ):
        with pytest.raises(ValueError, match=message):
            Contrast(small_model("image"), Setup(), losses=[losses])
    with pytest.raises(ValueError, match=r"starts at 3\.0, outside its bounds"):
        AGREEMENTS["individual_temperatures"](temperature=3.0)
    with pytest.raises(ValueError, match="soft has no positives that could be left out"):
        AGREEMENTS["info_nce"](soft=True, decoupled=True)


def test_both_train_from_a_recipe(tmp_path: Path) -> None:
    """Labels come from a column of lists; temperatures are kept for every sample of the source."""
    rows = [{"image": image, "labels": CELLS[i % 6]} for i, image in enumerate(find("image").example(12, 0))]
    recipe = {
        "modalities": {"image": {"processor": {"size": 8, "channels": 1}, "adapter": {"patch_size": 4}}},
        "encoder": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2},
        "objective": {
            "name": "contrast",
            "losses": [{"name": "info_nce", "soft": True}, {"name": "individual_temperatures", "rho": 0.5}],
        },
        "data": {"columns": {"group": "labels"}},
        "train": {"batch_size": 4, "max_steps": 3, "precision": "fp32", "log_every": 1},
    }
    run = mmssl.train(recipe, {"run.dir": str(tmp_path), "evaluate": None}, rows=rows)
    assert next(row["temperature"] for row in run.rows()) != 0.1
