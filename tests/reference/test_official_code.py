"""What the official code of papers gives, where a recipe says that it follows it: values, gradients and shares."""

import dataclasses
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from torch.testing import assert_close

from mmssl.draws import Draws, keys
from mmssl.losses.similarity import copies_loss, similarity_weights
from mmssl.model import MMSSLConfig, MMSSLModel, load_model
from mmssl.model.teacher import ema_update
from mmssl.objectives import Masked, Setup
from mmssl.objectives.networks import KEPT, Moving, Networks
from mmssl.objectives.predict.predictors import MaskToken
from mmssl.objectives.predict.predictors.transformer import Queries
from mmssl.objectives.predict.targets import Clusters, Raw
from mmssl.objectives.predict.targets.vectors import Vectors
from mmssl.recipe.yaml12 import parse
from mmssl.testing import objective_of, small_model
from mmssl.tokens import Tokens
from mmssl_catalogue import recipes_found


def draws_for(count: int) -> Draws:
    return Draws(keys(0, 0, torch.arange(count)))


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_no_swapped_token_is_padding() -> None:
    """s3prl draws a replacement from the frames that an utterance has (mockingjay/task.py), BERT from the vocabulary."""
    valid = torch.arange(20) < torch.tensor([[10], [20], [3], [1], [17], [5]])
    values = torch.where(valid[..., None], numbers(6, 20, 8).float(), 99.0)
    predictor = MaskToken(corruption="noise", swap=1.0)
    predictor.prepare(MMSSLConfig(modalities={}, hidden_size=8, num_hidden_layers=1, num_attention_heads=1), identities=False)
    found = predictor.corrupt(Tokens(values, torch.zeros(6, 20, 4), valid), valid, draws_for(6))
    assert (found[valid] != values[valid]).any(-1).float().mean() > 0.9
    assert (found[valid] == 99).sum() == 0


def simmtm(summaries: Tensor, copies: int, temperature: float) -> Tensor:
    """ContrastiveWeight of SimMTM_Classification/code/loss.py: KLDivLoss(batchmean) of log softmax and 1 on positives."""
    unit = summaries / summaries.norm(dim=1, keepdim=True)
    rows, losses = len(unit), []
    for i in range(rows):
        others = [j for j in range(rows) if j != i]
        logits = torch.stack([unit[i] @ unit[j] / temperature for j in others])
        log = logits - logits.exp().sum().log()
        losses += [-log[n] for n, j in enumerate(others) if (j - i) % (rows // copies) == 0]
    return torch.stack(losses).sum() / rows


def test_the_constraint_of_simmtm_asks_every_copy_for_weight() -> None:
    ours, theirs = (numbers(24, 6).requires_grad_() for _ in range(2))
    found, expected = copies_loss(similarity_weights(ours, 0.2), 3), simmtm(theirs, 3, 0.2)
    found.backward()
    expected.backward()
    assert_close(found, expected)
    assert_close(ours.grad, theirs.grad)
    # All weight on one of two copies is not enough.
    lopsided = torch.full((3, 3), 1e-9).masked_fill(torch.tensor([[0, 1, 0], [1, 0, 0], [1, 0, 0]]).bool(), 1.0)
    assert copies_loss(lopsided, 3).item() > 0.9 * -math.log(1e-9)


def recipe(name: str) -> dict[str, Any]:
    return parse(recipes_found()[name].read_text(), name)


def test_the_noise_of_flexpredict_is_that_of_its_code() -> None:
    """amirbar/StoP, src/deit.py: torch.normal(std=0.25), through the matrix of the context, for each value of each mask token."""
    variance = recipe("image/flexpredict_cifar10")["objective"]["predictor"]["position_noise"]
    config = MMSSLConfig(modalities={}, hidden_size=16, num_hidden_layers=1, num_attention_heads=1)
    queries = Queries(config, 16, identities=False, noise=variance)
    torch.nn.init.eye_(queries.enter.weight)
    torch.nn.init.zeros_(queries.mask_token)
    found = queries(Tokens(torch.zeros(64, 50, 16), torch.zeros(64, 50, 4)), draws_for(64)).values
    assert found.std().item() == pytest.approx(0.25, rel=0.02)


def test_recipes_publish_and_pool_what_the_official_code_does() -> None:
    assert recipe("image/data2vec_cifar10")["objective"]["publish"] == "student"  # mae_image_classification.py loads state["model"]
    assert recipe("tabular/tjepa_adult")["encoder"]["pooling"] == "concat"  # linear_probing.py reads all tokens, flattened
    nepa = recipe("image/nepa_cifar10")  # run_nepa.py evaluates the average, and says where patches are by RoPE alone
    assert nepa["train"]["ema"] == 0.9999 and nepa["encoder"]["absolute_positions"] is False


def test_what_is_left_of_a_teachers_first_weights() -> None:
    """The product of the momenta: 0.549 of data2vec_ucr as it was, 0.237 of CAPI; and that of a teacher that is moved."""
    assert Moving(0.996, 1.0).left(300) == pytest.approx(0.549, abs=0.002)
    assert Moving(0.999, 1.0).left(2880) == pytest.approx(0.237, abs=0.002)
    rule = Moving(0.9, 1.0, power=2.0, shape="cosine")
    teacher, student = torch.nn.Linear(1, 1, bias=False).requires_grad_(False), torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(teacher.weight)
    torch.nn.init.zeros_(student.weight)
    for step in range(1, 31):
        ema_update(teacher, student, rule.momentum(step / 30))
    assert teacher.weight.item() == pytest.approx(rule.left(30), rel=1e-5)
    for rule in (Moving(0.98, 1.0), Moving(0.95, 0.95), Moving(0.9, 1.0, power=2.0, shape="cosine")):
        assert rule.left(rule.enough() or 1) == pytest.approx(KEPT, rel=0.1)
    assert Moving(1.0, 1.0).enough() is None and Moving(0.0, 0.0).enough() == 1


STEPS = {"image": 2_000}
"""Steps for which a recipe states its momentum, by its folder, where its budget is minutes and it says no others; else 600."""


def moving_of(tree: Any) -> Iterator[Moving]:
    if isinstance(tree, dict):
        if "momentum" in tree and isinstance(tree["momentum"], list):
            shape, warmup = (tree.get(f"momentum_{key}", tree.get(key)) for key in ("schedule", "warmup"))
            yield Moving(*tree["momentum"], shape=shape or "linear", warmup=warmup or 0.0)
        for value in tree.values():
            yield from moving_of(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from moving_of(value)


def test_no_recipe_ends_with_a_teacher_that_is_its_first_weights() -> None:
    for name, path in recipes_found().items():
        if "momentum: [" not in (text := path.read_text()):
            continue
        stated = re.search(r"max_steps: (\d+)|for ([\d,]+) steps or more", text)
        steps = (stated[1] or stated[2]).replace(",", "") if stated else STEPS.get(name.split("/")[0], 600)
        for rule in moving_of(yaml.safe_load(text)["objective"]):
            assert rule.left(int(steps)) <= KEPT, name


def test_a_momentum_warms_up_as_capis_does() -> None:
    """WarmupThenCosine of its utils.py with start_warmup_value 1, base 0.999 and final 1, before it is cut."""
    rule = Moving(0.999, 1.0, shape="cosine", warmup=0.1)
    for step in range(1001):
        risen, rest = step / 100, (step - 100) / 900
        wanted = 1.0 - 0.001 * risen if step < 100 else 1.0 + (0.999 - 1.0) * (1 + math.cos(math.pi * rest)) / 2
        assert rule.momentum(step / 1000) == pytest.approx(wanted, abs=1e-12)
    assert Moving(0.9, 0.9, power=2.0, warmup=0.5).momentum(0.25) == pytest.approx(0.95**2)


@pytest.mark.parametrize("depth", [1, 4])
def test_truncated_normal_weights_are_those_of_i_jepa(depth: int) -> None:
    """`trunc_normal_` of 0.02 for all maps, then `fix_init_weight`: output projections of layer l divided by sqrt(2 l)."""
    torch.manual_seed(0)
    model = MMSSLModel(MMSSLConfig(hidden_size=64, num_hidden_layers=depth, num_attention_heads=8, initializer="trunc_normal"))
    for name, module in model.named_modules():
        if isinstance(module, torch.nn.Linear):
            layer = int(name.split(".")[2]) + 1
            wanted = 0.02 / math.sqrt(2 * layer) if name.endswith(("o_proj", "down_proj")) else 0.02
            assert module.weight.std().item() == pytest.approx(wanted, rel=0.05), name
            assert not module.bias.any()


def test_heads_and_saved_models_keep_their_weights(tmp_path: Path) -> None:
    """A predictor begins as the model does; loading a model draws nothing anew."""
    config = small_model("image").config.derive(initializer="trunc_normal")
    model = MMSSLModel(config)
    model.save_pretrained(tmp_path)
    again = load_model(str(tmp_path))
    assert again.config.initializer == "trunc_normal"
    for (name, old), new in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(old, new), name
    objective = Masked(model, Setup())
    rest = dict(objective.named_parameters())
    assert rest["heads.0.image.pixels.weight"].std().item() == pytest.approx(0.02, rel=0.05)
    down = rest["predictor.decoder.layers.1.mlp.down_proj.weight"].std().item()
    assert down == pytest.approx(0.01, rel=0.05)


def test_clusters_are_of_raw_numbers() -> None:
    """HuBERT's learn_kmeans.py clusters MFCC as they are: static values are 93 % of the distance, differences 6 and 1 %."""
    scales = torch.tensor([10.0, 2.5, 1.0]).repeat_interleave(13)
    content = {"mfcc": (scales * numbers(8, 40, 39)).float()}
    raw, standard = Vectors({"mfcc": 39}, 0, standardise=False), Vectors({"mfcc": 39}, 0)
    for vectors in (raw, standard):
        vectors.fit([content])
        assert vectors.fitted
    assert torch.equal(raw(content), content["mfcc"])
    assert standard(content).flatten(0, 1).std(0).std() < 1e-3
    clusters = Clusters(of=None, codes=[4])
    clusters.prepare(Networks(small_model("audio")), ["audio"])
    assert not clusters.vectors["audio"].standardise


def test_swaps_of_tera_are_a_stretch_of_the_same_utterance_and_one_coin_is_thrown_for_all_spans() -> None:
    """s3prl's mockingjay/task.py: 80/10/10 for each utterance; chosen_intervals become random_intervals of it."""
    valid = torch.arange(30) < torch.tensor([30, 12, 2]).repeat(200)[:, None]
    place = torch.arange(30.0).expand(600, 30)
    values = torch.where(valid[..., None], torch.stack([place, torch.arange(600.0)[:, None].expand(600, 30)], -1), -1.0)
    predictor = MaskToken(corruption="noise", swap=0.1, keep=0.1, swap_from="sample", drawn="sample")
    predictor.prepare(MMSSLConfig(modalities={}, hidden_size=8, num_hidden_layers=1, num_attention_heads=1), identities=False)
    assert not predictor.mixes
    hidden = valid & (torch.arange(30) % 10 < 7)
    found = predictor.corrupt(Tokens(values, torch.zeros(600, 30, 4), valid), hidden, draws_for(600))
    assert torch.equal(found[~hidden], values[~hidden])
    kinds = []
    for row in range(600):
        mine, own = found[row, hidden[row]], values[row, hidden[row]]
        count = int(valid[row].sum())
        away = (mine[:, 0] - own[:, 0]) % count
        swapped = bool((mine[:, 1] == row).all() and (away == away[0]).all() and away[0] != 0)
        kinds.append("kept" if torch.equal(mine, own) else "swapped" if swapped else "masked")
        assert kinds[-1] != "masked" or not (mine[:, 1] == row).any(), "a recording is altered in one way"
    shares = [kinds.count(kind) / 600 for kind in ("masked", "swapped", "kept")]
    assert shares == pytest.approx([0.8, 0.1, 0.1], abs=0.04)


def test_the_loss_of_tera_is_over_altered_values() -> None:
    """upstream/mockingjay/model.py: L1 of masked_select(mask_label): hidden frames and blanked bands, of no other value."""
    objective, batch = objective_of("masked", "audio", predictor=MaskToken(predict="all"), targets=[Raw(places="altered")])
    assert isinstance(objective, Masked)
    inputs = dict(batch.inputs["audio"])
    key = next(name for name, value in inputs.items() if value.is_floating_point())
    view = inputs | {key: inputs[key].clone()}
    view[key].view(-1)[::5] += 1.0
    scene = dataclasses.replace(objective.scene("audio", inputs, batch), view=view)
    ((name, found),) = objective.every_target[0](scene).values.items()
    hidden = scene.parts.hidden_places(found.shape[1])
    before, after = (objective.model.adapter("audio").target(each)[name] for each in (inputs, view))
    expected = torch.where(hidden[..., None] | (before != after), before, torch.nan)
    assert_close(found, expected, equal_nan=True)
    assert 0.1 < found.isnan().float().mean() < 0.9
