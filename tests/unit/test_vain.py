"""What would train in vain is refused by `mmssl check`, with the way out."""

import pytest

from mmssl import api
from mmssl.objectives import Jepa, Setup
from mmssl.objectives.predict.targets import Latent
from mmssl.recipe.options import TrainOptions
from mmssl.recipe.schedules import constant, cosine, wsd
from mmssl.testing import small_model
from mmssl.training.vain import budget_in_steps, endless_warmup, refuse_vain

SMALL = ("train.max_minutes=null", "train.max_steps=50", "encoder.num_hidden_layers=1")


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "objective.mask={name: runs, length: 100}",
            r"objective\.mask: a span of 100 places leaves nothing to see of 16 of the 16",
        ),
        (
            "objective={name: jepa, targets: [{name: latent, momentum: [1.0, 1.0]}]}",
            r"momentum of the teacher is 1 at the start",
        ),
        (
            "train.schedule={name: cosine, warmup: 200}",
            r"the learning rate comes to 25% of train\.lr and no further",
        ),
        ("train.parts=[{match: stem}]", r"train\.parts\.0: no parameter that learns matches 'stem'"),
    ],
)
def test_check_refuses(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        api.check("quickstart", [*SMALL, override])


def test_a_warmup_must_end_within_the_budget() -> None:
    for schedule in (cosine(warmup=49), cosine(warmup=0.9), constant(warmup=0), wsd(warmup=0.3, decay=0.7)):
        assert not endless_warmup(TrainOptions(max_steps=50, schedule=schedule), 50)
    for schedule in (cosine(warmup=51), constant(warmup=100), wsd(warmup=45, decay=0.5)):
        assert endless_warmup(TrainOptions(max_steps=50, schedule=schedule), 50)
    assert not endless_warmup(TrainOptions(max_minutes=1.0, schedule=cosine(warmup=10_000)), 0)
    for steps in (1, 2, 3, 50):
        assert not endless_warmup(TrainOptions(max_steps=steps), steps), "the default is a share"


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
