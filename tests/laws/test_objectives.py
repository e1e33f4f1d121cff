"""Every objective on every modality: it learns, resumes to the same bits, and accumulates to the same gradient.

Beside the objectives of mmssl stands one that it does not have yet, on pairs of modalities, written here as its authors would write
it. It shows that it needs no change of the core.
"""

import copy
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.testing import assert_close

from mmssl.data import Batch, Labels
from mmssl.draws import keys
from mmssl.masking import SAMPLERS
from mmssl.modality import find
from mmssl.model import MMSSLConfig, MMSSLModel, initialise_all
from mmssl.objectives import OBJECTIVES, Objective, Setup, Step, Term, Terms
from mmssl.objectives.agree.agree import TeacherOptions
from mmssl.objectives.agree.losses import AGREEMENTS
from mmssl.objectives.predict.predictors import PREDICTORS
from mmssl.objectives.predict.targets import Clusters, Latent, RandomCodes, Target
from mmssl.objectives.terms import State
from mmssl.plugins import installed
from mmssl.recipe.options import TrainOptions
from mmssl.recipe.schedules import constant, cosine
from mmssl.testing import SINGLE, inputs_of, small_processor
from mmssl.training import checkpoint
from mmssl.training.loop import Training, TrainingError, fit

SAMPLES = 8
DROPS = {"drop_path_rate": 0.3, "dropout": 0.1}


def info_nce(a: Tensor, b: Tensor, scale: Tensor) -> Tensor:
    """Symmetric InfoNCE: row i of `a` belongs to row i of `b`."""
    logits = scale * F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


class Clip(Objective):
    """CLIP (arXiv 2103.00020, figure 3): pull the embeddings of paired modalities together.

    dim: width of the shared space.
    """

    def __init__(self, model: MMSSLModel, setup: Setup, *, dim: int = 16) -> None:
        super().__init__(model, setup)
        self.heads = nn.ModuleDict({name: nn.Linear(model.pooled_size(name), dim, bias=False) for name in model.adapters})
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))
        initialise_all(self.heads, model.config)

    def terms(self, batch: Batch, step: Step) -> Terms:
        a, b = (head(self.model.pool(self.model.encode(name, self.view(batch, name)))) for name, head in self.heads.items())
        scale = self.log_scale.clamp(max=math.log(100)).exp()
        return Terms({"loss": Term.whole(info_nce(a, b, scale))}, {"scale": State(scale.detach())})


KINDS: dict[str, type[Objective]] = {**{kind: OBJECTIVES[kind] for kind in SINGLE}, "pairs": Clip}


@dataclass(frozen=True)
class Case:
    """An objective with its settings on one modality, or on several at once."""

    kind: str
    modalities: tuple[str, ...]
    variant: str
    settings: Callable[[], dict[str, Any]]

    def __str__(self) -> str:
        return "-".join([self.kind, *self.modalities, *([self.variant] if self.variant else [])])


FEW = {"runs": {"length": 2}}
"""Keys of samplers whose defaults are for samples of more tokens."""


def masked(predictor: str, sampler: str) -> Callable[[], dict[str, Any]]:
    """Settings of masked modelling."""
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2} if predictor == "transformer" else {}
    return lambda: {"mask": SAMPLERS[sampler](**FEW.get(sampler, {})), "predictor": PREDICTORS[predictor](**size)}


MASKED = [
    Case("masked", (name,), f"{predictor}-{sampler}", masked(predictor, sampler))
    for name in installed()
    for predictor, samplers in (("transformer", SAMPLERS), ("mask_token", ("random", "multiblock")))
    for sampler in samplers
]

CODES: dict[str, Callable[[], Target]] = {
    "random_codes": lambda: RandomCodes(codebooks=2, codes=32, width=8),
    "clusters": lambda: Clusters(codes=[12], codebooks=2, sample=100),
}
"""Targets that keep state of their own; tests/laws/test_targets.py has those whose loss is slow to fall."""


def coded(target: str) -> Callable[[], dict[str, Any]]:
    """Settings of masked modelling of codes."""
    return lambda: {"predictor": PREDICTORS["mask_token"](), "targets": [CODES[target]()]}


CODED = [Case("masked", (name,), target, coded(target)) for name in installed() for target in CODES]


def distilled() -> dict[str, Any]:
    """Settings of self-distillation under which its loss can fall in a few steps: the teacher stays where it is."""
    assigning = AGREEMENTS["self_distillation"](prototypes=16, centring="sinkhorn")
    return {"losses": [assigning], "teacher": TeacherOptions(momentum=(1.0, 1.0))}


OTHERS = [
    Case(kind, (name,), "", distilled if kind == "distill" else dict)
    for name in installed()
    for kind in sorted({*SINGLE} - {"masked"})
]
CASES = [*MASKED, *CODED, *OTHERS, Case("pairs", ("image", "tabular"), "", dict)]

every_case = pytest.mark.parametrize("case", CASES, ids=str)


def build(case: Case, seed: int = 0, **fields: Any) -> Objective:
    """The objective of a case with a small model; `fields` change its configuration."""
    torch.manual_seed(seed)
    modalities = {name: {"processor": small_processor(name).settings(), "adapter": {}} for name in case.modalities}
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    labels = Labels("classification", ["a", "b"], (torch.arange(SAMPLES) % 2).numpy())
    model = MMSSLModel(MMSSLConfig(modalities=modalities, **shape | fields))
    return KINDS[case.kind](model, Setup(labels=labels), **case.settings())


def samples(case: Case, number: int = SAMPLES) -> Batch:
    """A batch of made-up samples."""
    ids = torch.arange(number)
    return Batch({name: inputs_of(name, number) for name in case.modalities}, keys(0, 0, ids), ids, ids % 2)


def rows(batch: Batch, wanted: slice) -> Batch:
    """Some samples of a batch."""
    assert batch.labels is not None
    inputs = {name: {key: tensor[wanted] for key, tensor in tensors.items()} for name, tensors in batch.inputs.items()}
    return Batch(inputs, batch.keys[wanted], batch.ids[wanted], batch.labels[wanted])


def feed_of(batches: list[Batch], parts: int = 1) -> Callable[[int], Iterator[Batch]]:
    """The batches by turns, with the draws of their step, each in so many micro-batches."""

    def feed(start: int) -> Iterator[Batch]:
        for step in count(start):
            batch = batches[step % len(batches)]
            batch = replace(batch, keys=keys(0, step, batch.ids))
            size = len(batch) // parts
            yield from (rows(batch, slice(i * size, (i + 1) * size)) for i in range(parts))

    return feed


def train(objective: Objective, batches: list[Batch], parts: int = 1, **options: Any) -> tuple[Training, list[dict[str, float]]]:
    """Train on the batches by turns to the end of the budget; also returns the metrics of each step."""
    options = {"batch_size": len(batches[0]), "accumulation": parts, "schedule": constant(warmup=0)} | options
    training = Training(objective, TrainOptions(**options))
    history: list[dict[str, float]] = []

    def on_step(row: dict[str, float]) -> bool:
        history.append(row)
        return False

    fit(training, feed_of(batches, parts)(0), on_step)
    return training, history


def pick(kind: str, name: str = "image") -> Case:
    """The first case of an objective on a modality."""
    return next(case for case in CASES if case.kind == kind and name in case.modalities)


@every_case
def test_loss_falls(case: Case) -> None:
    _, history = train(build(case), [samples(case)], max_steps=15, lr=5e-3)
    losses = [row["loss"] for row in history]
    first, last = sum(losses[:3]) / 3, sum(losses[-3:]) / 3
    assert last < 0.8 * first, losses


@every_case
def test_resumed_run_equals_an_uninterrupted_one(case: Case, tmp_path: Path) -> None:
    steps = 3
    halves = samples(case)
    feed = feed_of([rows(halves, slice(None, None, 2)), rows(halves, slice(1, None, 2))])
    options = TrainOptions(batch_size=SAMPLES // 2, max_steps=2 * steps, ema=0.9, schedule=cosine(warmup=2))

    def training(seed: int) -> Training:
        return Training(build(case, seed, drop_path_rate=0.3), options)

    through = training(seed=0)
    torch.manual_seed(1)
    fit(through, feed(through.counters.step), lambda row: False)

    stopped = training(seed=0)
    torch.manual_seed(1)
    fit(stopped, feed(stopped.counters.step), lambda row: stopped.counters.step == steps)
    checkpoint.save(tmp_path / "step", stopped.state())

    resumed = training(seed=2)
    torch.manual_seed(3)
    resumed.restore(checkpoint.load(tmp_path / "step"))
    assert resumed.counters.step == steps
    fit(resumed, feed(resumed.counters.step), lambda row: False)

    assert vars(resumed.counters) | {"seconds": 0} == {"step": 2 * steps, "samples": steps * SAMPLES, "skipped": 0, "seconds": 0}
    (expected, tree), (found, resumed_tree) = (stored(one, tmp_path / "end") for one in (through, resumed))
    assert resumed_tree == tree
    assert_close(found, expected, rtol=0, atol=0)


def stored(training: Training, folder: Path) -> tuple[dict[str, Tensor], str]:
    """All that a checkpoint holds, but for the time that the run took: its tensors by name, and the rest as JSON."""
    training.counters.seconds = 0.0
    checkpoint.save(folder, training.state())
    return load_file(folder / "tensors.safetensors"), (folder / "state.json").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["masked", "supervised", "jepa"])
def test_micro_batches_give_the_gradient_of_the_whole_batch(kind: str) -> None:
    case, moments, norms = pick(kind), [], []
    processor = find("image").processor(size=32, mean=0.5, std=0.2)
    ids = torch.arange(SAMPLES)
    inputs = processor.collate([processor(raw) for raw in find("image").example(SAMPLES, 0)])
    batch = Batch({"image": inputs}, keys(0, 0, ids), ids, ids % 2)
    for parts in (1, SAMPLES):
        objective = build(case)
        torch.manual_seed(parts)  # masks and views must not depend on torch's generator
        training, history = train(objective, [batch], parts, max_steps=1, clip_norm=None)
        assert training.counters.samples == SAMPLES
        # After one step AdamW's first moment is the gradient times a constant.
        moments.append({key: value["exp_avg"] for key, value in training.optimizer.state_dict()["state"].items()})
        norms.append(history[0]["grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)
    assert_close(moments[0], moments[1], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["masked", "supervised", "jepa"])
def test_micro_batches_drop_what_the_whole_batch_drops(kind: str) -> None:
    """With texts of different lengths, each micro-batch padded to its own longest."""
    case, ids = pick(kind, "text"), torch.arange(SAMPLES)
    processor, moments = small_processor("text"), list[dict[str, Tensor]]()
    raw = find("text").example(SAMPLES, 0)
    for parts in (1, 2, 4):
        batches = [
            Batch({"text": processor.collate([processor(raw[i]) for i in some])}, keys(0, 0, some), some, some % 2)
            for some in ids.chunk(parts)
        ]
        objective = build(case, **DROPS)
        torch.manual_seed(parts)
        options = TrainOptions(batch_size=SAMPLES, accumulation=parts, max_steps=1, clip_norm=None, schedule=constant(warmup=0))
        training = Training(objective, options)
        fit(training, iter(batches), lambda row: False)
        state = training.optimizer.state_dict()["state"]
        moments.append({key: value["exp_avg"] for key, value in state.items()})
    for found in moments[1:]:
        for key, gradient in moments[0].items():
            assert_close(found[key], gradient, rtol=0, atol=1e-5 * float(gradient.abs().max()) + 1e-9)


@pytest.mark.parametrize("name", installed())
def test_teacher_is_the_moving_average_of_the_student(name: str) -> None:
    case = replace(pick("jepa", name), settings=lambda: {"targets": [Latent(momentum=(0.8, 0.9))]})
    objective = build(case)
    target = objective.targets[0]
    assert isinstance(target, Latent)
    objective.networks.make()
    teacher = objective.networks[target.teacher]
    expected = {key: value.double().clone() for key, value in teacher.state_dict().items()}
    training = Training(objective, TrainOptions(batch_size=SAMPLES, max_steps=5, schedule=constant(warmup=0)))

    def follow(row: dict[str, float]) -> bool:
        for key, value in objective.model.state_dict().items():
            momentum = 0.8 + 0.1 * training.counters.step / 5
            expected[key] = momentum * expected[key] + (1 - momentum) * value.double()
        return False

    start = {key: value.clone() for key, value in teacher.state_dict().items()}
    fit(training, feed_of([samples(case)])(0), follow)
    assert training.published() is teacher
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in teacher.parameters())
    trained = {id(p) for group in training.optimizer.param_groups for p in group["params"]}
    assert trained == {id(p) for p in objective.parameters() if p.requires_grad}
    for key, value in teacher.state_dict().items():
        assert not torch.equal(value, start[key]), f"{key} does not move"
        assert_close(value.double(), expected[key], rtol=1e-5, atol=1e-7)


def test_average_of_the_weights_has_its_closed_form() -> None:
    momentum, case = 0.8, pick("supervised")
    objective = build(case)
    options = TrainOptions(batch_size=SAMPLES, max_steps=6, ema=momentum, schedule=constant(warmup=0))
    training = Training(objective, options)
    history = [{key: value.double().clone() for key, value in objective.model.state_dict().items()}]

    def remember(row: dict[str, float]) -> bool:
        history.append({key: value.double().clone() for key, value in objective.model.state_dict().items()})
        return False

    fit(training, feed_of([samples(case)])(0), remember)
    kept = [min(momentum, (1 + step) / (10 + step)) for step in range(1, 7)]  # it warms up
    weights = [math.prod(kept), *((1 - kept[k]) * math.prod(kept[k + 1 :]) for k in range(6))]
    for key, value in training.published().state_dict().items():
        assert_close(value.double(), sum(w * row[key] for w, row in zip(weights, history, strict=True)), rtol=1e-5, atol=1e-7)


def test_schedule_reaches_every_group_with_its_layer_decay() -> None:
    case, schedule = pick("masked"), cosine(warmup=3, final=0.1)
    objective = build(case)
    options = TrainOptions(batch_size=SAMPLES, max_steps=8, lr=1e-2, schedule=schedule, layer_decay=0.5)
    training = Training(objective, options)
    scales = {
        "networks.student.adapters.image.proj.weight": 1 / 8,
        "networks.student.encoder.prefix": 1 / 8,
        "networks.student.encoder.layers.0.mlp.up_proj.bias": 1 / 4,
        "networks.student.encoder.layers.1.attention.q_proj.weight": 1 / 2,
        "networks.student.encoder.norm.weight": 1.0,
        "predictor.queries.mask_token": 1.0,
        "heads.0.image.pixels.weight": 1.0,
    }
    named = dict(objective.named_parameters())
    logged = []

    def compare(row: dict[str, float]) -> bool:
        rate = {id(p): group["lr"] for group in training.optimizer.param_groups for p in group["params"]}
        for name, scale in scales.items():
            assert rate[id(named[name])] == pytest.approx(row["lr"] * scale), name
        logged.append(row["lr"])
        return False

    fit(training, feed_of([samples(case)])(0), compare)
    assert logged == [1e-2 * schedule(step, step / 8) for step in range(8)]


def test_loss_that_is_not_finite_names_step_and_samples() -> None:
    case = pick("supervised", "tabular")
    good, bad = samples(case), samples(case)
    bad.inputs["tabular"]["table_numeric"].fill_(torch.inf)
    bad = replace(bad, ids=bad.ids + 40)
    objective = build(case)
    training = Training(objective, TrainOptions(batch_size=SAMPLES, max_steps=9))
    kept: dict[str, Tensor] = {}

    def keep(row: dict[str, float]) -> bool:
        kept.update(copy.deepcopy(objective.state_dict()))
        return False

    with pytest.raises(TrainingError, match="the loss is nan at step 3") as caught:
        fit(training, feed_of([good, good, bad])(0), keep)
    assert caught.value.samples == [40, 41, 42, 43, 44, 45, 46, 47]
    assert training.counters.step == 2
    assert_close(objective.state_dict(), kept, rtol=0, atol=0)


@pytest.mark.parametrize("case", [*(pick(kind) for kind in KINDS), pick("masked", "tabular")], ids=str)
def test_bf16_follows_fp32_and_keeps_the_weights_in_fp32(case: Case) -> None:
    losses = {}
    for precision in ("fp32", "bf16", "fp32"):
        training, history = train(build(case), [samples(case)], max_steps=4, lr=3e-4, precision=precision)
        assert training.accelerator.mixed_precision == {"fp32": "no", "bf16": "bf16"}[precision]
        assert {parameter.dtype for parameter in training.objective.parameters()} == {torch.float32}
        losses.setdefault(precision, []).append([row["loss"] for row in history])
    assert losses["fp32"][0] == losses["fp32"][1], "a run does not depend on earlier ones in the process"
    assert losses["bf16"][0] != losses["fp32"][0]
    assert losses["bf16"][0] == pytest.approx(losses["fp32"][0], rel=0.05)


COMPILED = """
import json, sys
from mmssl.training.loop import Training, fit
from mmssl.recipe.options import TrainOptions
from mmssl.recipe.schedules import constant
from mmssl.testing import SINGLE, objective_of

def losses(compile):
    objective, batch = objective_of(sys.argv[1], "image")
    options = TrainOptions(batch_size=len(batch), max_steps=4, schedule=constant(warmup=0), compile=compile)
    rows = []
    fit(Training(objective, options), iter([batch] * 4), rows.append)
    return [row["loss"] for row in rows]

print(json.dumps([losses(False), losses(True)]))
"""
"""A process of its own: the compiler sees neither the checks of shapes that tests add to every function, nor warnings as errors."""


@pytest.mark.slow  # a minute each on CPU
@pytest.mark.parametrize("kind", SINGLE)
def test_compiled_equals_eager(kind: str) -> None:
    done = subprocess.run([sys.executable, "-c", COMPILED, kind], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    eager, compiled = json.loads(done.stdout)
    assert len(eager) == 4
    assert compiled == pytest.approx(eager, rel=1e-5)


def test_batch_of_two_modalities_is_refused_where_one_is_meant() -> None:
    pair = samples(pick("pairs"))
    with pytest.raises(ValueError, match="this objective takes batches of one modality; got image, tabular"):
        build(pick("supervised"))(pair)
