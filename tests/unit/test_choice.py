"""Joint example selection: what is drawn, by which scores, and that every process chooses alike."""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from mmssl.data import Batch, processes
from mmssl.draws import Draws, keys
from mmssl.losses.choice import joint_choice, joint_score
from mmssl.modality import find
from mmssl.model import MMSSLConfig, MMSSLModel
from mmssl.objectives import Clip, Contrast, Setup, Step, Sum
from mmssl.objectives.agree.choice import Choice
from mmssl.objectives.agree.losses import AGREEMENTS
from mmssl.objectives.together import Share
from mmssl.recipe.options import TrainOptions
from mmssl.testing import small_processor
from mmssl.training import checkpoint
from mmssl.training.loop import Training, fit

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
SAMPLES = 12


def slowly_chosen(scores: Tensor, uniform: Tensor, count: int, candidates: Tensor) -> list[int]:
    """One after the other: the sample whose logit and noise are largest, by what was chosen in earlier chunks."""
    free, chosen, chunks = [i for i, there in enumerate(candidates.tolist()) if there], list[int](), uniform.shape[1]
    count = min(count, len(free))
    for chunk in range(chunks):
        before = list(chosen)
        for _ in range(count * (chunk + 1) // chunks - count * chunk // chunks):
            logits = {i: float(scores[i, i] + sum(scores[i, j] + scores[j, i] for j in before)) for i in free}
            best = max(free, key=lambda i: logits[i] - math.log(-math.log(float(uniform[i, chunk]))))
            free.remove(best)
            chosen.append(best)
    return sorted(chosen)


@pytest.mark.parametrize(("count", "chunks"), [(7, 3), (3, 5), (20, 2), (1, 1)])
def test_chunks_are_drawn_by_conditional_scores(count: int, chunks: int) -> None:
    draws = torch.Generator().manual_seed(count)
    scores = torch.randn(15, 15, generator=draws, dtype=torch.float64)
    uniform = torch.rand(15, chunks, generator=draws, dtype=torch.float64)
    candidates = torch.rand(15, generator=draws) < 0.8
    found = joint_choice(scores, uniform, count, candidates)
    assert found.tolist() == slowly_chosen(scores, uniform, count, candidates)


def test_draws_follow_the_probabilities_of_the_paper() -> None:
    """Of three samples two, one after the other: each pair as often as exp of its scores says."""
    scores = torch.tensor([[0.5, 1.0, -1.0], [0.3, -0.5, 0.7], [0.2, -0.8, 0.0]])
    first, expected = scores.diagonal().softmax(0), dict[tuple[int, ...], float]()
    for i in range(3):
        logits = (scores.diagonal() + scores[i] + scores[:, i]).clone()
        logits[i] = -torch.inf
        for j in set(range(3)) - {i}:
            pair = tuple(sorted((i, j)))
            expected[pair] = expected.get(pair, 0.0) + float(first[i] * logits.softmax(0)[j])
    uniform, there, counts = (
        Draws(torch.arange(3)).uniform("test", 800, 2),
        torch.ones(3, dtype=torch.bool),
        dict.fromkeys(expected, 0),
    )
    for number in range(800):
        counts[tuple(joint_choice(scores, uniform[:, number], 2, there).tolist())] += 1
    for pair, share in expected.items():
        assert counts[pair] / 800 == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / 800))


def test_joint_score_is_the_mean_over_all_parts() -> None:
    scores = torch.randn(4, 4, dtype=torch.float64)
    parts = [(i, j) for i in range(4) for j in range(4) if i != j]
    expected = sum(scores[i, i] + scores[i, j] for i, j in parts) / len(parts)
    assert_close(joint_score(scores, 2), expected)


def clip(folder: Path | None = None, seed: int = 0, **settings: Any) -> Clip:
    """A small clip by the sigmoid loss; `folder` holds its reference."""
    modalities = {name: {"processor": small_processor(name).settings(), "adapter": {}} for name in ("image", "text")}
    torch.manual_seed(seed)
    choose = None if folder is None else Choice(reference=str(folder), keep=0.5, chunks=3)
    setup = Setup({name: find(name).augment() for name in modalities})
    keys_ = {"losses": [AGREEMENTS["sigmoid"]()], "bias": -2.0} | settings
    return Clip(MMSSLModel(MMSSLConfig(modalities=modalities, **SMALL)), setup, choose=choose, **keys_).train()


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of other weights."""
    folder = tmp_path_factory.mktemp("reference")
    clip(seed=1).published().save_pretrained(folder)
    return folder


def batch_of(ids: Sequence[int], step: int = 0) -> Batch:
    """Some of the samples of both modalities, of which one in three lacks its picture, and some their text."""
    held = {"image": [i for i, number in enumerate(ids) if number % 3], "text": [i for i, number in enumerate(ids) if number % 5]}
    inputs = {}
    for name, places in held.items():
        examples, processor = find(name).example(SAMPLES, 0), small_processor(name)
        inputs[name] = processor.collate([processor(examples[ids[place]]) for place in places])
    rows = {name: torch.tensor(places) for name, places in held.items()}
    return Batch(inputs, keys(0, step, torch.tensor(ids)), torch.tensor(ids), step=step, rows=rows)


PAIRED = [1, 2, 4, 7, 8, 11]


def test_every_process_chooses_alike(reference: Path) -> None:
    """Of 12 samples, six of which are pairs, three: on one process, in micro-batches, and on two processes of other sizes."""
    objective = clip(reference)
    ((whole,), told) = objective.chosen([batch_of(range(SAMPLES))], Step())
    assert len(whole) == 3 and set(whole.ids.tolist()) <= set(PAIRED)
    parts = [batch_of(range(5)), batch_of(range(5, SAMPLES))]
    micro, again = objective.chosen(parts, Step())
    assert torch.cat([batch.ids for batch in micro]).tolist() == whole.ids.tolist()
    shares = [objective.chooser.share(part, objective.encodings(part)) for part in parts]  # type: ignore[union-attr]
    sent, ranks = [[share.map(Tensor.detach)] for share in shares], list[list[Batch]]()
    for rank, part in enumerate(parts):
        with (
            patch.object(processes, "world", lambda: 2),
            patch.object(processes, "rank", lambda rank=rank: rank),
            patch.object(processes, "gathered", lambda own: sent),
        ):
            ranks.append(objective.chosen([part], Step())[0])
    assert [id for batches in ranks for batch in batches for id in batch.ids.tolist()] == whole.ids.tolist()
    for name, metric in told.items():
        assert_close(again[name].value, metric.value)


def test_the_step_is_that_of_the_chosen_samples(reference: Path) -> None:
    """Each with its own inputs: the loss of what was taken out of a batch is that of the samples read alone."""
    objective = clip(reference)
    batches, _ = objective.chosen([batch_of(range(SAMPLES))], Step())
    alone = batch_of(batches[0].ids.tolist())
    assert_close(objective(batches[0]).loss, objective(alone).loss)


def test_taken_samples_keep_what_they_hold() -> None:
    batch = batch_of(range(SAMPLES)).take(torch.tensor([0, 1, 5, 6, 9]))
    assert batch.rows is not None
    assert (batch.held("image").tolist(), batch.held("text").tolist()) == ([1, 2], [1, 3, 4])
    assert len(batch.inputs["image"]["pixel_values"]) == 2
    assert "image" not in batch.take(torch.tensor([0, 3])).inputs


def test_scores_are_losses_of_the_model_less_those_of_the_reference(reference: Path) -> None:
    """In loops, for pairs and groups; mismatched pairs, which no reference can learn, are chosen rarely."""
    chooser = clip(reference).chooser
    assert chooser is not None
    draws = torch.Generator().manual_seed(0)
    n, a, b = 64, *chooser.views
    points = torch.nn.functional.normalize(torch.randn(n, 16, generator=draws), dim=-1)
    wrong = torch.arange(n) >= n // 2
    texts = torch.where(wrong[:, None], points.roll(7, 0), points)
    noise = torch.randn(2, n, 16, generator=draws)
    values = {f"reference/{a}": points, f"reference/{b}": texts, f"student/{a}": noise[0], f"student/{b}": noise[1]}
    share = Share(torch.arange(n), torch.arange(n), torch.arange(n) // 2, values, {name: torch.arange(n) for name in values})
    scales = {"student": 1.0, "reference": 10.0}
    for name in scales:
        scale = chooser.networks[name].heads["scale"]  # type: ignore[index]
        torch.nn.init.constant_(scale.log_scale, math.log(scales[name]))
        torch.nn.init.constant_(scale.bias, -2.0)
    scores, paired = chooser.scores(share)
    assert paired.all()
    for i, j in ((0, 0), (0, 1), (3, 9), (40, 2)):
        logits = [
            scales[name] * float(torch.cosine_similarity(values[f"{name}/{a}"][i], values[f"{name}/{b}"][j], dim=0)) - 2
            for name in scales
        ]
        learner, frozen = (math.log1p(math.exp(-z if i // 2 == j // 2 else z)) for z in logits)
        assert float(scores[i, j]) == pytest.approx(learner - frozen, abs=1e-4)
    chosen = joint_choice(scores, torch.rand(n, 4, generator=draws), 16, paired)
    assert int(wrong[chosen].sum()) < 4


def test_a_resumed_run_chooses_what_an_uninterrupted_one_does(reference: Path, tmp_path: Path) -> None:
    def training(seed: int = 0) -> Training:
        return Training(clip(reference, seed), TrainOptions(batch_size=SAMPLES, max_steps=4, precision="fp32"))

    def steps(start: int = 0) -> Iterator[Batch]:
        for step in range(start, 5):
            yield batch_of(range(SAMPLES), step)

    rows = list[dict[str, float]]()
    through, stopped, resumed = training(), training(), training(seed=2)
    fit(through, steps(), lambda row: rows.append(row) or False)  # type: ignore[func-returns-value]
    fit(stopped, steps(), lambda row: stopped.counters.step == 2)
    checkpoint.save(tmp_path / "step", stopped.state())
    resumed.restore(checkpoint.load(tmp_path / "step"))
    fit(resumed, steps(2), lambda row: False)
    assert_close(resumed.objective.state_dict(), through.objective.state_dict(), rtol=0, atol=0)
    assert [row["chosen"] for row in rows] == [3.0] * 4
    assert all(math.isfinite(row["learnability"]) and math.isfinite(row["learnability_of_all"]) for row in rows)


def test_a_process_of_which_no_sample_is_chosen_stands_in(reference: Path) -> None:
    training = Training(clip(reference), TrainOptions(batch_size=SAMPLES, max_steps=4, precision="fp32"))
    batch = batch_of(range(SAMPLES))
    with patch.object(training.objective, "chosen", lambda batches, step: ([], {})):
        assert training.choose([batch]) == ([], {})
    assert len(training.stand_in) == 1


def test_a_sum_chooses_by_one_part(reference: Path) -> None:
    model, choose = clip().model, Choice(reference=str(reference), keep=0.5)
    settings: dict[str, Any] = {"losses": [AGREEMENTS["sigmoid"]()], "bias": -2.0, "choose": choose}
    setup = Setup({name: find(name).augment() for name in ("image", "text")})
    made = [lambda model, setup: Clip(model, setup, **settings), lambda model, setup: Contrast(model, setup)]
    objective = Sum(model, setup, parts=made)
    assert objective.chooses and len(objective.chosen([batch_of(range(SAMPLES))], Step())[0][0]) == 3
    with pytest.raises(ValueError, match="leave `choose` to one part"):
        Sum(clip().model, setup, parts=[made[0], made[0]])


def test_bad_references_are_named(reference: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=re.escape("set objective.losses: [{name: sigmoid}] and objective.bias: -10.0 in both")):
        clip(reference, bias=None)
    MMSSLModel(clip().model.config.derive(projections=None)).save_pretrained(tmp_path / "bare")
    with pytest.raises(ValueError, match="maps nothing into a space that modalities share, but not image"):
        clip(tmp_path / "bare")
    other = MMSSLModel.from_pretrained(reference)
    other.config.modalities["image"]["processor"]["mean"] = 0.1
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match=r"reads image in another way: its processor has mean=0\.1"):
        clip(tmp_path / "other")
