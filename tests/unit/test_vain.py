"""What would train in vain is refused by `mmssl check`, with the way out."""

import pytest
import torch

from mmssl import api
from mmssl.masking import Clusters, Column, MultiBlock, Random, RolledBlock, Runs, Sampler, Tube
from mmssl.objectives import Jepa, Setup
from mmssl.objectives.predict.targets import Latent
from mmssl.recipe.options import TrainOptions
from mmssl.recipe.schedules import constant, cosine, infinite, linear, wsd
from mmssl.testing import small_model
from mmssl.training.vain import budget_in_steps, endless_warmup, refuse_vain, unfinished

SMALL = ("train.max_minutes=null", "train.max_steps=50", "encoder.num_hidden_layers=1", "encoder.pooling=mean")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "objective.mask={name: runs, length: 100}",
            r"objective\.mask: a span of 100 places leaves nothing to see of 16 of the 16",
        ),
        (
            "objective={name: distill, losses: [{name: masked_tokens, prototypes: 8}], mask: {name: runs, length: 100}}",
            r"objective\.mask: a span of 100 places leaves nothing to see of 16 of the 16",
        ),
        (
            "modalities.image.views={global: {count: 2}, local: {count: 1, mask: {name: random, ratio: 0.97}}}",
            r"modalities\.image\.views\.local\.mask: a ratio of 0\.97 leaves nothing to see of 16 of the 16 .* at most 0\.93,",
        ),
        (
            "objective={name: jepa, targets: [{name: latent, momentum: [1.0, 1.0]}]}",
            r"momentum of the teacher is 1 at the start",
        ),
        (
            "train.schedule={name: cosine, warmup: 200}",
            r"the learning rate comes to 25% of train\.lr and no further",
        ),
        (
            "train.schedule={name: infinite, warmup: 10, cooldown: 1000}",
            r"train\.schedule: the budget of 50 steps ends while the learning rate is at 99\.8% of train\.lr, on its way to 50\.0%",
        ),
        ("train.parts=[{match: stem}]", r"train\.parts\.0: no parameter that learns matches 'stem'"),
    ],
)
def test_check_refuses(override: str, message: str) -> None:
    views = ["objective={name: contrast}"] if "views" in override else []
    with pytest.raises(ValueError, match=message):
        api.check("quickstart", [*SMALL, *views, override])


def test_a_warmup_must_end_within_the_budget() -> None:
    for schedule in (cosine(warmup=49), cosine(warmup=0.9), constant(warmup=0), wsd(warmup=0.3, decay=0.7)):
        assert not endless_warmup(TrainOptions(max_steps=50, schedule=schedule), 50)
    for schedule in (cosine(warmup=51), constant(warmup=100), wsd(warmup=45, decay=0.5)):
        assert endless_warmup(TrainOptions(max_steps=50, schedule=schedule), 50)
    assert not endless_warmup(TrainOptions(max_minutes=1.0, schedule=cosine(warmup=10_000)), 0)
    for steps in (1, 2, 3, 50):
        assert not endless_warmup(TrainOptions(max_steps=steps), steps), "the default is a share"


def test_phases_in_steps_must_end_within_the_budget() -> None:
    for schedule in (
        cosine(warmup=40),
        linear(warmup=0.5, final=0.3),
        wsd(warmup=10),
        infinite(warmup=10, cooldown=30, anneal=0.2),
    ):
        assert not unfinished(TrainOptions(max_steps=50, schedule=schedule), 50)
    for anneal in (0.0, 0.2):
        assert unfinished(TrainOptions(max_steps=50, schedule=infinite(warmup=10, cooldown=60, anneal=anneal)), 50)


@pytest.mark.parametrize(
    ("sampler", "fine", "short", "message"),
    [
        (
            Runs(length=10),
            [4, 11, 30],
            [4, 10, 30],
            r"a span of 10 places .* to see of 2 of the 3 .* have 4 to 30 tokens",
        ),
        (Clusters(side=(3, 5)), [2, 3, 30], [2, 2, 30], r"a box of 3 tokens a side is longer than 2 of the 3"),
        (Clusters(side=(1, 4), ratio=0.9), [6, 6, 2], [4, 4, 30], r"a ratio of 0\.9 leaves nothing to see of 2 of the 3"),
        (RolledBlock(ratio=0.8), [3, 3], [2, 2], r"a ratio of 0\.8 leaves nothing to see of 2 of the 2 .* at most 0\.5,"),
        (Random(ratio=0.97), [17, 64], [16, 16], r"a ratio of 0\.97 .* at most 0\.93, or make tokens of smaller parts"),
        (Column(ratio=0.97), [2, 2], None, ""),
        (Tube(ratio=0.97), [2, 2], None, ""),
        (MultiBlock(), [2, 2], None, ""),
    ],
)
def test_masks_refuse_samples_that_they_leave_nothing_of(
    sampler: Sampler, fine: list[int], short: list[int] | None, message: str
) -> None:
    """The one that is refused hides all but the one token that every sampler keeps."""
    sampler.refuse(torch.tensor(fine))
    if short is not None:
        with pytest.raises(ValueError, match=message):
            sampler.refuse(torch.tensor(short))


def test_the_budget_in_steps_is_the_shortest_that_is_known() -> None:
    assert budget_in_steps(TrainOptions(max_steps=100, max_epochs=1.0, batch_size=10), 500) == 50
    assert budget_in_steps(TrainOptions(max_steps=100, max_epochs=1.0, batch_size=10, batch_tokens=10), 500) == 100
    assert budget_in_steps(TrainOptions(max_minutes=1.0), 500) == 0


def test_a_teacher_that_moves_a_little_is_none_of_these() -> None:
    for momentum, still in (((0.9999, 1.0), False), ((1.0, 0.9), False), ((1.0, 1.0), True)):
        objective = Jepa(small_model("image"), Setup(), targets=[Latent(momentum=momentum)])
        if still:
            with pytest.raises(ValueError, match="never moves from its initial weights; begin with a lower one"):
                refuse_vain(objective, TrainOptions(max_steps=10), 10)
        else:
            refuse_vain(objective, TrainOptions(max_steps=10), 10)
