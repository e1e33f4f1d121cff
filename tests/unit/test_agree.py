"""Contrast, distillation and CLIP as people meet them: what is published, what rows may lack, and what is said of bad input."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModel, AutoProcessor

import mmssl
from mmssl.data import Batch, Order, Source, processes
from mmssl.data.loader import batches
from mmssl.data.options import SourceOptions, Stream
from mmssl.draws import Draws, keys
from mmssl.modality import find
from mmssl.model import MMSSLConfig, MMSSLModel
from mmssl.model.heads import Head
from mmssl.objectives import Clip, Contrast, Distill, Masked, Setup, Step
from mmssl.objectives.agree.agree import TeacherOptions
from mmssl.objectives.agree.losses import AGREEMENTS
from mmssl.objectives.agree.parts import Space
from mmssl.objectives.networks import Moving
from mmssl.objectives.views import Encodings, Views, mixture
from mmssl.testing import batch_of, small_model, small_processor
from mmssl.training.feed import groups_of

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
RECIPE: dict[str, Any] = {
    "modalities": {
        "image": {"processor": {"size": 8, "channels": 1}, "adapter": {"patch_size": 4}},
        "text": {"processor": {"tokenizer": "bytes"}},
    },
    "encoder": SMALL,
    "objective": {"name": "clip", "projector": {"layers": 1, "size": 16, "norm": "none"}},
    "train": {"batch_size": 4, "max_steps": 2, "precision": "fp32"},
}


def pairs(count: int = 12) -> list[dict[str, Any]]:
    """Pictures with their captions, of which every third is empty."""
    found = find("image").example(count, 0)
    return [{"image": image, "text": "" if i % 3 == 0 else f"picture {i}", "kind": i // 2} for i, image in enumerate(found)]


def train(tmp_path: Path, rows: list[dict[str, Any]], **changes: Any) -> Any:
    return mmssl.train(RECIPE, {"run.dir": str(tmp_path), **changes}, rows=rows)


def test_a_published_clip_pairs_modalities(tmp_path: Path) -> None:
    run = train(tmp_path, pairs())
    model, processor = AutoModel.from_pretrained(run.model_folder), AutoProcessor.from_pretrained(run.model_folder)
    images, texts = find("image").example(3, 1), ["one", "two two"]
    with torch.no_grad():
        found = model(**processor(images=images, text=texts))
        alone = model(**processor(text=texts)).pooler_output
        vectors = model.get_image_features(**processor(images=images))
    assert (found.image_embeds.shape, found.text_embeds.shape) == ((3, 16), (2, 16))
    assert_close(found.text_output.pooler_output, alone)
    assert_close(found.image_embeds, torch.nn.functional.normalize(vectors, dim=-1))
    scale = model.heads["scale"].scale
    assert_close(found.logits_per_image, scale * found.image_embeds @ found.text_embeds.T)
    assert_close(found.logits_per_text, found.logits_per_image.T)
    with pytest.raises(AttributeError, match="no 'audio_embeds'"):
        _ = found.audio_embeds
    with pytest.raises(AttributeError):
        _ = model.get_audio_features


def test_a_modality_that_no_objective_reads_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for modality, told in (("image", True), (None, False)):
        run = train(tmp_path, pairs(), objective={"name": "contrast", "modality": modality}, **{"run.name": str(modality)})
        note = "text learns nothing, as no objective reads it: leave modalities.text out, or objective.modality"
        assert (note in capsys.readouterr().out) == told and run.model_folder.exists()


def test_heads_that_only_train_are_not_published(tmp_path: Path) -> None:
    recipe = RECIPE | {"modalities": {"image": RECIPE["modalities"]["image"]}, "objective": {"name": "contrast"}}
    run = mmssl.train(recipe, {"run.dir": str(tmp_path)}, rows=[{"image": row["image"]} for row in pairs()])
    model = AutoModel.from_pretrained(run.model_folder)
    assert model.heads is None
    with pytest.raises(LookupError, match="no projection of 'image'"):
        model.get_image_features(**AutoProcessor.from_pretrained(run.model_folder)(images=find("image").example(1, 0)))


def test_a_run_goes_on_with_its_heads(tmp_path: Path) -> None:
    """`init: RUN` starts from the heads of that run, `init: RUN/model` of a clip from its projections."""
    run = train(tmp_path, pairs())
    before = AutoModel.from_pretrained(run.model_folder).heads.state_dict()
    for init in (str(run.folder), str(run.model_folder)):
        again = train(tmp_path, pairs(), **{"init": init, "run.name": "again", "train.lr": 1e-12, "train.max_steps": 4})
        after = AutoModel.from_pretrained(again.model_folder).heads.state_dict()
        assert_close(after, before, rtol=0, atol=1e-9)


def test_rows_may_lack_a_modality_but_not_all() -> None:
    modalities = {name: (find(name), small_processor(name)) for name in ("image", "text")}
    rows = [{"image": row["image"] if i != 4 else None, "text": row["text"] if i % 3 else None} for i, row in enumerate(pairs(6))]
    (batch,) = batches(Source.from_rows(rows), modalities, 6)
    assert (batch.held("image").tolist(), batch.held("text").tolist()) == ([0, 1, 2, 3, 5], [1, 2, 4, 5])
    assert len(batch.inputs["text"]["input_ids"]) == 4
    both = batch.in_both("image", "text")
    assert both is not None
    for name, places in zip(("image", "text"), both, strict=True):
        assert batch.of(name).take(places).ids.tolist() == [1, 2, 5]
    rows[1] = {"image": None, "text": float("nan")}
    with pytest.raises(ValueError, match="row 1 of rows in memory holds none of image, text"):
        list(batches(Source.from_rows(rows), modalities, 6))


@pytest.mark.parametrize("lacking", ["text", "image"])
def test_a_step_in_which_no_row_is_a_pair_moves_nothing(lacking: str) -> None:
    """Alone, and as a micro-batch."""
    objective, batch = clip(), paired()
    alone = replace(batch, inputs={name: x for name, x in batch.inputs.items() if name != lacking})
    held = {name: torch.arange(3 if name in alone.inputs else 0) for name in batch.inputs}
    alone = replace(alone, rows=held)
    for step in (Step(), objective.prepared([alone], Step(weights={}))):
        objective.zero_grad()
        output = objective(alone, step)
        output.loss.backward()
        assert output.loss == 0
        assert all(weight.grad is None or not weight.grad.any() for weight in objective.parameters())


def test_terms_of_pairs_are_named_alike_in_every_micro_batch() -> None:
    """One that happens to hold a single modality adds to the same term as the others."""
    batch = paired()
    model = clip().model
    alone = replace(batch, inputs={"image": batch.inputs["image"]}, rows={"image": torch.arange(3), "text": torch.arange(0)})
    objective = Masked(model, Setup())
    whole, part = (objective.terms(each, Step()).terms.keys() for each in (batch, alone))
    assert (set(whole), set(part)) == ({"loss_1_image", "loss_1_text"}, {"loss_1_image"})
    assert objective.weights(alone, Step()).keys() == part


def test_only_losses_across_modalities_ask_for_pairs() -> None:
    """A run of several sources, each of one modality, has none, and nothing is wrong with that."""
    batch = paired()
    alone = replace(batch, inputs={"image": batch.inputs["image"]})
    assert "pairs" not in Contrast(clip().model, Setup()).train()(alone).metrics
    assert clip()(batch).metrics["pairs"].value == 3


def test_a_process_that_stands_in_adds_nothing() -> None:
    """Its loss and gradients are zero, but there are some: the others wait for them."""
    objective, batch = clip(), paired()
    share = objective.represent(batch, Step(seen=objective.encodings(batch))).map(torch.Tensor.detach)
    with (
        patch.object(processes, "world", lambda: 2),
        patch.object(processes, "rank", lambda: 1),
        patch.object(processes, "gathered", lambda own: [[share], own]),
    ):
        output = objective(replace(batch, counts=False), Step(weights={}))
    output.loss.backward()
    assert output.loss == 0 and not output.metrics
    assert all(weight.grad is not None and not weight.grad.any() for weight in objective.parameters())


def test_the_report_shows_how_similar_pairs_are() -> None:
    (title,) = clip().eval().pictures(paired(), {})
    assert title == "image: similarity of image global 0 and text global 0"
    figures = Contrast(small_model("image"), one()).eval().pictures(batch_of("image"), {})
    assert [figure.axes[0].images[0].get_array().shape for figure in figures.values()] == [(6, 6)]


def test_rows_of_a_group_stand_together() -> None:
    groups = np.array([0, 1, 2, 0, 1, 2, 0, 3, 1, 1])
    order = Order(10, 0, groups=groups, together=2)
    for epoch in range(3):
        rows = order.rows(epoch * 10, 10)
        assert sorted(rows.tolist()) == list(range(10))
        places = np.argsort(rows)
        chunks = {tuple(sorted(rows[i : i + 2].tolist())) for i in range(9) if groups[rows[i]] == groups[rows[i + 1]]}
        assert len(chunks) >= 4, (rows, places)
    assert not np.array_equal(order.rows(0, 10), order.rows(10, 10))


def test_positives_come_from_the_group(tmp_path: Path) -> None:
    run = train(tmp_path, pairs(), **{"data.columns": {"group": "kind"}, "data.group_size": 2, "train.log_every": 1})
    assert {row["pairs"] for row in run.rows()} <= {2.0, 3.0, 4.0}
    different = [row | {"kind": i} for i, row in enumerate(pairs())]
    with pytest.raises(ValueError, match="column kind: 12 rows have as many different values"):
        train(tmp_path, different, **{"data.columns": {"group": "kind"}})


def test_same_token_is_the_cross_entropy_of_each_token_among_all() -> None:
    views = {"image": {"global": Views(2, find("image").augment(flip=0.5))}}
    loss, setup = AGREEMENTS["same_token"](temperature=0.2), replace(one(), views=views)
    objective = Contrast(small_model("image"), setup, losses=[loss], projector=Head(layers=0))
    batch = batch_of("image")
    step = Step(seen=objective.encodings(batch))
    seen = objective.seen(objective.represent(batch, step), step)
    parts = [seen.dense("student", view) for view in seen.globals]
    first, second = (torch.nn.functional.normalize(tokens[valid], dim=-1) for tokens, valid in parts)
    logits, own = first @ second.mT / 0.2, torch.arange(len(first))
    expected = [torch.nn.functional.cross_entropy(part, own) for part in (logits, logits.mT)]
    assert_close(loss(seen, None).terms[""].mean(), torch.stack(expected).mean())


def test_tokens_that_views_lack_cannot_be_compared() -> None:
    views = {"text": {"global": Views(2, find("text").augment(crop=(0.3, 0.9)))}}
    objective = Contrast(small_model("text"), replace(one("text"), views=views), losses=[AGREEMENTS["same_token"]()])
    with pytest.raises(
        ValueError, match="same_token needs views that keep all tokens, but those of text global 0 and text global 1"
    ):
        objective(batch_of("text"))


def test_pieces_of_a_long_row_belong_together_where_no_column_says_more() -> None:
    rows = [{"series": [float(i)] * length} for i, length in enumerate((4, 9, 1))]
    whole = Stream("data", Source.from_rows(rows), ("timeseries",), SourceOptions())
    cut = replace(whole, source=whole.source.cut([1, 3, 1]))
    assert groups_of(whole, 2) is None
    assert groups_of(cut, 1) is None
    found = groups_of(cut, 2)
    assert found is not None and found.tolist() == [0, 1, 2]
    named = Source.from_rows([row | {"person": "aab"[i]} for i, row in enumerate(rows)], {"group": "person"})
    said = groups_of(replace(whole, source=named.cut([1, 3, 1])), 2)
    assert said is not None and said.tolist() == [0, 0, 1]


def test_a_mixed_view_is_the_weighted_sum_of_one_view_and_another_samples_second() -> None:
    changes = {"image": {"global": Views(2, find("image").augment(flip=0.5, color_jitter=0.5))}}
    objective = Contrast(small_model("image"), Setup(views=changes), losses=[AGREEMENTS["barlow_twins"](mixed=4.0)])
    batch = batch_of("image", 6)
    seen = Encodings(objective.networks, batch, objective.views)
    [(view, of)] = objective.mixtures.items()
    first, second, mixed = (seen.inputs(each)["pixel_values"] for each in (*of, view))
    partner, share = mixture(Draws(batch.keys).fork(view.number))
    assert sorted(partner.tolist()) == list(range(6)) and all(partner != torch.arange(6)), "each gives once, and none to itself"
    for row in range(6):
        assert_close(mixed[row], share[row] * first[row] + (1 - share[row]) * second[partner[row]])


def test_momentum_follows_a_cosine() -> None:
    rule = Moving(0.9, 1.0, shape="cosine")
    assert [rule.momentum(share) for share in (0.0, 0.5, 1.0)] == pytest.approx([0.9, 0.95, 1.0])
    assert rule.momentum(0.25) == pytest.approx(0.9 + 0.1 * (1 - np.cos(np.pi / 4)) / 2)


def one(name: str = "image") -> Setup:
    return Setup({name: find(name).augment()})


BAD: dict[str, tuple[Callable[[], Any], str]] = {
    "no loss": (lambda: Contrast(small_model("image"), one(), losses=[]), "objective.losses is empty"),
    "one modality": (lambda: Clip(small_model("image"), one()), "clip pairs modalities, but the recipe has only image"),
    "tokens of a wide pooling": (
        lambda: Contrast(small_model("image", pooling="mean_max"), one(), losses=[AGREEMENTS["same_token"]()]),
        "projects single tokens, of 32 values, as it does the pooled output, which has 64 for image; set encoder.pooling to mean",
    ),
    "patches of nothing": (
        lambda: AGREEMENTS["grouping"](patches="sound").prepare(Space(16, {"image": 32}, 32, ["image"], {}, False)),
        "grouping.patches is 'sound'; the recipe has image",
    ),
    "no teacher": (
        lambda: Contrast(small_model("image"), one(), losses=[AGREEMENTS["self_distillation"]()]),
        "SelfDistillation follows another network; set objective.teacher",
    ),
    "no mask": (
        lambda: Distill(small_model("image"), one(), losses=[AGREEMENTS["masked_tokens"](prototypes=8)]),
        "a loss of hidden tokens needs objective.mask",
    ),
    "no global view": (
        lambda: Contrast(small_model("image"), replace(one(), views={"image": {"local": Views(2)}})),
        "modalities.image.views has local, but no kind 'global'",
    ),
    "one view": (
        lambda: Contrast(small_model("image"), replace(one(), views={"image": {"global": Views(1)}})),
        "InfoNce compares two views (within modalities), but there are only image global 0",
    ),
    "mixed rows of a table": (
        lambda: Contrast(small_model("tabular"), one("tabular"), losses=[AGREEMENTS["barlow_twins"](mixed=4.0)]),
        "mixed needs samples whose weighted sum is a sample, which those of tabular are not",
    ),
    "one view to mix": (
        lambda: Contrast(
            small_model("image"),
            replace(one(), views={"image": {"global": Views(1), "local": Views(1)}}),
            losses=[AGREEMENTS["barlow_twins"](mixed=4.0)],
        ),
        "mixed needs two views of a sample; set modalities.image.views.global.count to 2, got 1",
    ),
    "nearest without queue": (lambda: AGREEMENTS["info_nce"](nearest=True), "looks in a queue; set queue"),
    "published teacher": (lambda: Contrast(small_model("image"), one(), publish="teacher"), "choose student"),
    "saved teacher": (
        lambda: Distill(small_model("image"), one(), teacher=TeacherOptions(model="runs/x/model")),
        "SelfDistillation follows projections, which the saved model objective.teacher.model has not",
    ),
    "one sample, batch norm": (
        lambda: Contrast(small_model("image"), one()).train()(batch_of("image", 1)),
        "needs two samples or more in a step; got one",
    ),
    "one sample": (
        lambda: Contrast(small_model("image"), one(), projector=Head(norm="layer")).train()(batch_of("image", 1)),
        "info_nce compares a sample with others, but the step has one alone; raise train.batch_size",
    ),
    "queue": (
        lambda: Contrast(small_model("image"), one(), losses=[AGREEMENTS["info_nce"](queue=4)]).train()(batch_of("image", 6)),
        "a queue of 4 cannot hold the 6 samples of a step",
    ),
    "sigmoid without bias": (lambda: clip(losses=[AGREEMENTS["sigmoid"]()])(paired()), "sigmoid needs a learned scale and bias"),
    "group norm": (lambda: Head(norm="group", hidden=24), "hidden that is a multiple of 16; got 24"),
}


def clip(**settings: Any) -> Clip:
    """A small clip of two modalities."""
    modalities = {name: {"processor": small_processor(name).settings(), "adapter": {}} for name in ("image", "text")}
    return Clip(MMSSLModel(MMSSLConfig(modalities=modalities, **SMALL)), Setup(), **settings).train()


def paired() -> Batch:
    """Three samples that hold both modalities."""
    ids = torch.arange(3)
    return Batch({name: batch_of(name, 3).inputs[name] for name in ("image", "text")}, keys(0, 0, ids), ids)


@pytest.mark.parametrize("case", BAD)
def test_bad_settings_are_named(case: str) -> None:
    make, message = BAD[case]
    with pytest.raises(ValueError, match=re.escape(message)):
        make()


def test_data_without_any_pair_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no row holds two modalities, which are to be paired"):
        train(tmp_path, [row | {"text": ""} for row in pairs()])
