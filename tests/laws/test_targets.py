"""What every target of codes keeps, on every modality, and what is refused of any target."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from mmssl.data import Batch
from mmssl.draws import keys
from mmssl.modality import find
from mmssl.model import MMSSLModel
from mmssl.objectives import Clock, Setup, Step, Term
from mmssl.objectives.predict import Masked
from mmssl.objectives.predict.distances import SameSample
from mmssl.objectives.predict.parts import Answer, Scene
from mmssl.objectives.predict.predictors import MaskToken
from mmssl.objectives.predict.targets import Clusters, Quantised, RandomCodes, Target
from mmssl.plugins import installed
from mmssl.recipe.options import TrainOptions
from mmssl.recipe.schedules import constant
from mmssl.testing import TARGET_LAWS, batch_of, small_model
from mmssl.training import checkpoint
from mmssl.training.loop import Training, fit

SAMPLES = 6
TARGETS: dict[str, Callable[[], Target]] = {
    "random_codes": lambda: RandomCodes(codebooks=2, codes=32, width=8),
    "clusters": lambda: Clusters(codes=[12], codebooks=2, sample=100),
    "stages": lambda: Clusters(codes=[12, 8], layers=[1], starts=[0.3], sample=30),
    "quantised": lambda: Quantised(codes=16, code_width=16, width=16),
    "same_sample": lambda: Quantised(codes=16, code_width=16, width=16, loss=SameSample(count=10)),
}
every_target = pytest.mark.parametrize("target", TARGETS)
every_modality = pytest.mark.parametrize("name", installed())


def objective_of(target: str, name: str, masks: int = 1) -> Masked:
    return Masked(small_model(name), Setup(), predictor=MaskToken(), targets=[TARGETS[target]()], masks=masks).train()


def feed_of(batch: Batch) -> Callable[[int], Iterator[Batch]]:
    """The batch again and again, with the draws of each step."""
    return lambda start: (replace(batch, keys=keys(0, step, batch.ids)) for step in count(start))


def training_of(target: str, name: str, steps: int) -> Training:
    return Training(objective_of(target, name), TrainOptions(batch_size=SAMPLES, max_steps=steps, schedule=constant(warmup=0)))


SLOW = ("loss_falls", "resumed_run_equals_an_uninterrupted_one", "micro_batches_make_the_step")
"""Laws that are looked at below, on targets for which they say more, or in tests/laws/test_step.py."""


@every_modality
@every_target
@pytest.mark.parametrize("law", [law for law in TARGET_LAWS if law not in SLOW])
def test_law(law: str, target: str, name: str) -> None:
    TARGET_LAWS[law](TARGETS[target], name)


@every_modality
@pytest.mark.parametrize("target", ["quantised", "same_sample"])
def test_loss_of_learned_codes_falls(target: str, name: str) -> None:
    """Slower than others on one batch, as distractors and the noise of the choice are drawn anew in every step."""
    training = Training(
        objective_of(target, name), TrainOptions(batch_size=SAMPLES, max_steps=40, lr=3e-3, schedule=constant(warmup=0))
    )
    losses: list[float] = []
    fit(training, feed_of(batch_of(name, SAMPLES))(0), lambda row: losses.append(row["loss"]) or False)
    assert sum(losses[-5:]) / 5 < 0.9 * sum(losses[:5]) / 5, losses


@every_modality
@pytest.mark.parametrize("target", ["random_codes", "quantised"])
def test_targets_resume_to_the_same_bits(target: str, name: str) -> None:
    TARGET_LAWS["resumed_run_equals_an_uninterrupted_one"](TARGETS[target], name)


@every_modality
def test_stages_of_clusters_resume_to_the_same_bits(name: str, tmp_path: Path) -> None:
    """The run is stopped before, while and after the second stage's codes are made."""
    steps, feed = 8, feed_of(batch_of(name, SAMPLES))
    stages: list[float] = []
    through = training_of("stages", name, steps)
    fit(through, feed(0), lambda row: stages.append(row["stage"]) or False)
    assert stages[0] == 1
    assert stages[-1] == 2
    for stop in (1, 3, 4, 6):
        stopped = training_of("stages", name, steps)
        fit(stopped, feed(0), lambda row, stopped=stopped, stop=stop: stopped.counters.step == stop)
        checkpoint.save(tmp_path / str(stop), stopped.state())
        resumed = training_of("stages", name, steps)
        resumed.restore(checkpoint.load(tmp_path / str(stop)))
        fit(resumed, feed(stop), lambda row: False)
        assert_close(resumed.objective.state_dict(), through.objective.state_dict(), rtol=0, atol=0)


@every_modality
def test_later_stages_cluster_the_snapshot_and_not_the_model(name: str) -> None:
    objective, batch = objective_of("stages", name), batch_of(name)
    target = objective.every_target[0]
    assert isinstance(target, Clusters)
    objective(batch)
    start = {key: value.clone() for key, value in objective.model.state_dict().items()}
    objective.after_step(Clock(1, 0.5))
    with torch.no_grad():
        for parameter in objective.model.parameters():
            parameter.add_(torch.randn_like(parameter))
    assert_close(objective.networks[target.snapshots[0]].state_dict(), start, rtol=0, atol=0)
    scene: Scene
    for _ in range(30):
        objective.observe([batch], Step(Clock(1, 0.5)))
        scene, _ = objective.predict(name, batch.inputs[name], batch)
        found = target(scene).values
        target.after_step(Clock(1, 0.5))
    assert (found["codes_1_1"] == -100).all()
    there = found["codes_2_1"] != -100
    features = target.features(1, scene)
    books = target.books[name]
    expected = torch.cdist(
        features.double(), books.centroids_1[0].double()[None], compute_mode="donot_use_mm_for_euclid_dist"
    ).argmin(-1)
    assert (expected == found["codes_2_1"])[there].float().mean() > 0.99


def test_stages_are_checked() -> None:
    with pytest.raises(
        ValueError, match="codes has an entry for every stage, layers and starts for every stage but the first; got 2, 0 and 0"
    ):
        Clusters(codes=[10, 20])
    with pytest.raises(ValueError, match=r"starts must ascend, as stages follow each other; got \[0.5, 0.2\]"):
        Clusters(codes=[10, 20, 30], layers=[1, 1], starts=[0.5, 0.2])
    with pytest.raises(ValueError, match="clusters takes layer 9, but the encoder has 2; lower layers"):
        Masked(small_model("image"), Setup(), targets=[Clusters(codes=[10, 20], layers=[9], starts=[0.5])])
    with pytest.raises(ValueError, match=r"tokens of 'image' have no aspect 'cqt'; known ones: none\. Or take"):
        Masked(small_model("image"), Setup(), targets=[RandomCodes(of="cqt")])
    with pytest.raises(ValueError, match="code_width must be a multiple of groups; got 15 and 2"):
        Quantised(code_width=15)


def test_temperature_falls_by_the_same_factor_in_every_step() -> None:
    target = Quantised(temperature=(2.0, 0.5))
    found = [target.temperature_at(step / 4) for step in range(5)]
    assert found == pytest.approx([2.0 * 0.25 ** (step / 4) for step in range(5)])


class Given(Target):
    """A target of somebody else, which gives what it is told to."""

    def __init__(self, make: Callable[[Tensor], Tensor]) -> None:
        super().__init__(loss=None, weight=1.0)
        self.make = make

    def sizes(self, model: MMSSLModel, name: str) -> dict[str, int]:
        return {"given": 16}

    def forward(self, scene: Scene) -> Answer:
        return Answer({"given": self.make(scene.tokens.values.detach()[..., :16])})


MEANS: dict[str, Callable[[Tensor], Tensor]] = {
    "one number": lambda values: values.mean(),
    "a mean over batch and tokens": lambda values: values.mean((0, 1)),
    "a mean over tokens": lambda values: values.mean(1),
    "a mean over tokens as one token": lambda values: values.mean(1, keepdim=True),
    "a mean over values": lambda values: values.mean(2),
    "a class for each sample": lambda values: values.mean((1, 2)).long(),
    "a class for each value": lambda values: values.long(),
}


@pytest.mark.parametrize("what", MEANS)
def test_target_without_a_value_for_every_token_is_refused(what: str) -> None:
    """Also before a step of several micro-batches, when only the weights are asked for."""
    objective, batch = Masked(small_model("text"), Setup(), predictor=MaskToken(), targets=[Given(MEANS[what])]), batch_of("text")
    for ask in (objective, lambda batch: objective.weights(batch, Step())):
        with pytest.raises(ValueError, match=r"Given gives 'given' of shape \[.*\]; expected a target for each token, not a mean"):
            ask(batch)


def test_loss_that_is_a_mean_is_refused() -> None:
    class Mean(Given):
        def forward(self, scene: Scene) -> Answer:
            loss = scene.tokens.values.square().mean()
            return Answer({}, {"given": Term.samples(loss)})

    objective = Masked(small_model("text"), Setup(), predictor=MaskToken(), targets=[Mean(Tensor)])
    with pytest.raises(ValueError, match=r"a term needs a loss for each sample, \[batch\]; got the shape \[\]\. A mean could not"):
        objective(batch_of("text"))


def test_views_with_other_tokens_than_the_samples_cannot_have_clean_targets() -> None:
    augment = find("timeseries").augment(drop=0.9)
    objective = Masked(small_model("timeseries"), Setup({"timeseries": augment}), predictor=MaskToken(), view="clean")
    with pytest.raises(ValueError, match=r"objective\.view: clean needs views whose tokens lie where .*; choose same"):
        objective(batch_of("timeseries"))
