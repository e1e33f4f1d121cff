"""The split of a step changes nothing: 1 x 8 = 2 x 4 = 4 x 2 samples, in gradient, loss, logged metrics and weights.

The samples are drawn, of different sizes, with gaps; augmentation, corruption, swaps and stochastic depth are on. A part that is
defined over a batch can't keep this law; `OF_A_BATCH` says which, and why.
"""

import random
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import mmssl
from mmssl.data import Batch, BudgetOrder, Order, loader, open_streams
from mmssl.draws import Draws
from mmssl.modality import Augment, Inputs, Others, find, mixing
from mmssl.objectives import Objective
from mmssl.recipe import Recipe, load
from mmssl.training.build import Pieces, build, cut_stream, labels_of, modalities_of
from mmssl.training.loop import Training, fit

SAMPLES, BATCH, STEPS, TOKENS = 24, 8, 10, 1200
PARTS = (1, 2, 4)
"""Micro-batches of a step."""

OF_A_BATCH = {
    "predictor similar": "a sample is predicted from the other samples of its micro-batch",
    "loss info_nce with negatives: batch": "distractors come from the whole micro-batch",
    "loss same_sample": "half of the distractors are targets of the other samples of the micro-batch",
    "target assignments": "Sinkhorn balances the clusters over the micro-batch",
    "target quantised with diversity": "the entropy of the codes' mean shares is no mean over samples",
}
"""Parts that no case below holds, with the reason."""


# Samples


def image(draw: np.random.Generator, number: int) -> Any:
    raw = find("image").example(number + 1, 3)[number].resize(tuple(int(side) for side in 16 * draw.integers(2, 5, 2)))
    # Plain rows would have gradients of no direction, where rounding decides on the orientation of a histogram.
    return np.clip(np.asarray(raw) + draw.normal(0, 20, (raw.height, raw.width, 3)), 0, 255).astype(np.uint8)


def text(draw: np.random.Generator, number: int) -> Any:
    words = " ".join(find("text").example(20, number)).split()
    return " ".join(words[: draw.integers(1, 41)])


def audio(draw: np.random.Generator, number: int) -> Any:
    raw = find("audio").example(number + 1, 3)[number]
    return raw | {"array": raw["array"][: draw.integers(1600, 9600)]}


def timeseries(draw: np.random.Generator, number: int) -> Any:
    raw = find("timeseries").example(number + 1, 3)[number]
    if isinstance(raw, dict):
        return raw
    short = raw[:, : draw.integers(20, raw.shape[1])]
    short[0, draw.integers(15) :][:4] = np.nan
    return short


def tabular(draw: np.random.Generator, number: int) -> Any:
    raw = find("tabular").example(number + 1, 3)[number]
    return raw | {key: None for key in raw if draw.random() < 0.15 and key != "visits"}


def points(draw: np.random.Generator, number: int) -> Any:
    raw = find("points").example(number + 1, 3)[number]
    return raw[: draw.integers(32, len(raw))]


RAGGED: dict[str, Callable[[np.random.Generator, int], Any]] = {
    one.__name__: one for one in (audio, image, points, tabular, text, timeseries)
}
MODALITIES: dict[str, dict[str, Any]] = {
    "audio": {
        "processor": {"mel_bins": 32, "patch": [8, 16], "mean": -5.0, "std": 4.0},
        "augment": {"gain": 0.3, "mix": 0.3, "overlap": 0.7, "noise": 0.1, "time_mask": 0.2, "warp": 0.1},
    },
    "image": {
        "processor": {"mean": 0.5, "std": 0.2},
        "augment": {"crop": [0.4, 1.0], "flip": 0.5, "color_jitter": 0.5, "grayscale": 0.2},
    },
    "points": {
        "processor": {"num_groups": 16, "group_size": 8},
        "augment": {"rotate": "so3", "scale": [0.7, 1.4], "shift": 0.1, "jitter": 0.05, "drop": 0.2},
    },
    "tabular": {"augment": {"corruption": 0.4}},
    "text": {"augment": {"crop": [0.6, 1.0], "delete": 0.1, "replace": 0.1}},
    "timeseries": {"augment": {"crop": [0.6, 1.0], "scale": 0.2, "jitter": 0.1, "drop": 0.1}},
}


@cache
def rows_of(name: str) -> list[dict[str, Any]]:
    """Drawn samples of a modality as rows with labels."""
    draw = np.random.default_rng(7)
    raws = [RAGGED[name](draw, number) for number in range(SAMPLES)]
    column = find(name).columns[0] if find(name).columns else None
    return [(raw if column is None else {column: raw}) | {"kind": "ab"[int(draw.integers(2))]} for raw in raws]


# Cases

NARROW = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
REGRESSED = [{"name": "mse"}, {"name": "l1"}, {"name": "smooth_l1", "beta": 0.5}]
WIDE = [*REGRESSED, {"name": "cosine"}, {"name": "info_nce"}, {"name": "info_nce", "count": 5}]
CLASSES = [None, {"name": "cross_entropy", "label_smoothing": 0.1, "z_loss": 1e-3}]
HIDING = [
    {"name": "random", "ratio": 0.6},
    {"name": "block"},
    {"name": "span"},
    {"name": "runs", "length": 2},
    {"name": "column", "ratio": 0.5},
    {"name": "clusters"},
    {"name": "tube"},
    {"name": "bands"},
]
BLOCKS = [{"name": "multiblock"}, {"name": "subset"}]
TRANSFORMER = {"name": "transformer", **NARROW}
PREDICTORS: list[dict[str, Any]] = [
    TRANSFORMER,
    TRANSFORMER | {"predict": "all", "position_noise": 0.25},
    {"name": "mask_token"},
    {"name": "mask_token", "corruption": "noise", "predict": "all"},
    {"name": "mask_token", "corruption": "swap"},
    {"name": "mask_token", "swap": 0.3, "keep": 0.2},
    {"name": "cross_attention", **NARROW},
    {"name": "causal"},
    {"name": "siamese", **NARROW},
    {"name": "unordered"},
]
PICTURES = ("audio", "image")
SWAPPED = {"name": "mask_token", "corruption": "swap", "predict": "all"}


@dataclass(frozen=True)
class Choice:
    """A target with what it goes with: modalities (none: all), losses and predictors (None: any)."""

    target: Mapping[str, Any]
    losses: list[Any]
    modalities: tuple[str, ...] = ()
    predictors: list[dict[str, Any]] | None = None


CHOICES = {
    "raw": Choice({"name": "raw"}, REGRESSED, ("audio", "image", "tabular", "timeseries")),
    "raw classes": Choice({"name": "raw"}, CLASSES, ("text", "tabular")),
    "raw points": Choice({"name": "raw"}, [{"name": "chamfer"}, {"name": "chamfer", "squared": False}], ("points",)),
    "raw seen": Choice({"name": "raw", "places": "seen"}, [None], (), [PREDICTORS[1], PREDICTORS[3]]),
    "normalised": Choice({"name": "normalised"}, WIDE, ("audio", "image", "timeseries")),
    "latent": Choice({"name": "latent", "momentum": [0.9, 0.99]}, [None, *WIDE]),
    "latent layers": Choice({"name": "latent", "layers": 2, "part": "ffn", "normalise": "instance", "final": "layer"}, WIDE),
    "hog": Choice({"name": "hog"}, REGRESSED, PICTURES),
    "gradients": Choice({"name": "gradients", "scales": [1, 3]}, REGRESSED, PICTURES),
    "position": Choice({"name": "position", "grid": [256, 1, 4, 4]}, CLASSES, ("audio", "image", "text"), [{"name": "unordered"}]),
    "embedding": Choice({"name": "embedding"}, WIDE),
    "encoder": Choice({"name": "encoder"}, WIDE, (), [{"name": "cross_attention", "decoder_layers": 1}]),
    "random codes": Choice({"name": "random_codes", "codebooks": 2, "codes": 32, "width": 8}, CLASSES),
    "clusters": Choice({"name": "clusters", "codes": [12, 8], "layers": [1], "starts": [0.3], "sample": 40}, CLASSES),
    "quantised": Choice(
        {"name": "quantised", "codes": 16, "code_width": 16, "width": 16, "diversity": 0.0},
        [{"name": "info_nce"}, {"name": "info_nce", "count": 10}],
    ),
    "chroma": Choice({"name": "aspect", "of": "chroma"}, WIDE, ("audio",)),
    "hidden": Choice({"name": "hidden"}, [None], (), [SWAPPED]),
    "teacher": Choice({"name": "teacher"}, [None]),
    "teacher tokens": Choice({"name": "teacher", "compare": "tokens"}, [None, {"name": "smooth_l1"}]),
    "teacher predicted": Choice({"name": "teacher", "compare": "predicted"}, WIDE),
}


@dataclass(frozen=True, eq=False)
class Case:
    """An objective on a modality, as a recipe's section."""

    name: str
    what: str
    objective: Mapping[str, Any]

    def __str__(self) -> str:
        return f"{self.name}-{self.what}".replace(" ", "_")


def drawn(name: str, what: str, choice: Choice) -> Case:
    """A target with a predictor, a loss, a mask and the rest of the objective, drawn by the names alone."""
    draw = random.Random(f"{name} {what}")
    predictor = draw.choice(choice.predictors or PREDICTORS)
    whole = predictor["name"] in ("transformer", "mask_token") and "predict" not in predictor
    keys = {
        "name": draw.choice(["masked", "jepa"]),
        "mask": draw.choice([*HIDING, *(BLOCKS if whole else [])]),
        "masks": draw.choice([1, 2]),
        "predictor": predictor,
        "targets": [{**choice.target, "loss": draw.choice(choice.losses)}],
        # Views of texts and series have other tokens at other places than the samples as they are.
        "view": draw.choice(["same", "clean"] if name not in ("text", "timeseries") else ["same"]),
        "publish": "student",
    }
    if what.startswith("teacher") and "predicted" not in what:  # has no loss of its own at hidden places
        keys["targets"].append({"name": "latent"})
    return Case(name, what, keys)


DEFAULT = {"masked": {"predictor": TRANSFORMER}, "jepa": {"predictor": TRANSFORMER}, "supervised": {"label_smoothing": 0.1}}
CASES = [Case(name, kind, {"name": kind, **keys}) for name in RAGGED for kind, keys in DEFAULT.items()]
CASES += [
    drawn(name, what, choice)
    for what, choice in CHOICES.items()
    for name in RAGGED
    if not choice.modalities or name in choice.modalities
]
TEN_STEPS = ("text-masked", "tabular-jepa", "audio-masked", "points-jepa")
QUICK = {name: random.Random(name).sample([case for case in CASES if case.name == name], 6) for name in RAGGED}
"""The third of the cases that is not slow; of the longer law there are four."""


def cases(chosen: Collection[str]) -> list[Any]:
    """All cases, all but the chosen ones marked as slow."""
    return [pytest.param(case, id=str(case), marks=[] if str(case) in chosen else [pytest.mark.slow]) for case in CASES]


LATENT = {"name": "latent", "loss": {"name": "info_nce", "count": 5}}
QUANTISED = CHOICES["quantised"].target | {"loss": {"name": "info_nce", "count": 5}}
BY_PLACE: dict[str, dict[str, Any]] = {
    "position noise of blocks": {"predictor": TRANSFORMER | {"position_noise": 0.25}, "mask": {"name": "multiblock"}},
    "position noise of subsets": {"predictor": TRANSFORMER | {"position_noise": 0.25}, "mask": {"name": "subset"}},
    "distractors in blocks": {"predictor": TRANSFORMER, "mask": {"name": "multiblock"}, "targets": [LATENT]},
    "distractors behind what is seen": {"predictor": TRANSFORMER | {"predict": "all"}, "targets": [LATENT]},
    "distractors everywhere": {"predictor": {"name": "mask_token", "predict": "all"}, "targets": [LATENT]},
    "choice of codes": {"predictor": {"name": "mask_token", "predict": "all"}, "targets": [QUANTISED]},
}
"""What draws numbers for hidden places, with every order of them: in blocks, behind the seen ones, with padding between."""
BY_PLACE_CASES = [Case(name, what, {"name": "masked", **keys}) for what, keys in BY_PLACE.items() for name in ("image", "text")]
QUICK_BY_PLACE = ("text-position_noise_of_blocks", "image-distractors_everywhere", "image-choice_of_codes")


# Runs


@cache
def noise() -> dict[str, float]:
    """Encoder keys that draw anew in every step."""
    known = load(settings("text", {"name": "masked"})).resolved()["encoder"]
    return {key: value for key, value in {"drop_path_rate": 0.3, "dropout": 0.1}.items() if key in known}


def settings(name: str, objective: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe as a dict. A large epsilon, or AdamW would blow the rounding of gradients that are zero up to whole steps."""
    return {
        "modalities": {name: MODALITIES[name]},
        "encoder": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2},
        "objective": dict(objective),
        "data": {"path": "rows", "columns": {"label": "kind"}},
        "train": {"batch_size": BATCH, "max_steps": STEPS, "eps": 1e-4, "schedule": {"name": "constant", "warmup": 0}},
    }


@cache
def recipe_of(case: Case) -> Recipe:
    return load(settings(case.name, case.objective), {"encoder": noise()})


class Ran(NamedTuple):
    """What a run leaves: the gradient of its first step (times a constant), the logged rows, and the state of the objective."""

    gradient: dict[str, Tensor]
    rows: list[dict[str, float]]
    weights: dict[str, Tensor]


def opened(recipe: Recipe) -> tuple[Pieces, dict[str, Any]]:
    """What a recipe builds on the drawn samples, and how the loader is to read them."""
    (name,) = recipe.modalities
    streams = open_streams(recipe.section("data"), [name], rows_of(name))
    labels = labels_of(recipe, streams)
    pieces = build(recipe, streams, labels)
    stream = cut_stream(next(iter(streams.values())), pieces.processor)
    return pieces, {"source": stream.source, "modalities": modalities_of(stream, pieces.processor), "seed": 0, "labels": labels}


def whole_source(read: Mapping[str, Any]) -> Batch:
    """All samples as one batch."""
    count = len(read["source"])
    return next(loader(**read, order=Order(count, 0, shuffle=False), batch_size=count))


def run(recipe: Recipe, parts: int, *, steps: int = STEPS, double: bool = False, tokens: int | None = None) -> Ran:
    """Train on the drawn samples, each step in so many micro-batches; `tokens`: steps of a token budget."""
    pieces, read = opened(recipe)
    order: Any = Order(len(read["source"]), 0)
    if tokens is not None:
        (name, inputs), *_ = whole_source(read).inputs.items()
        order = BudgetOrder(pieces.objective.model.count_tokens(name, inputs).tolist(), tokens, 0, shares=parts)
    batches = loader(**read, order=order, batch_size=None if tokens else BATCH, micro_batches=parts)
    options = replace(recipe.section("train"), accumulation=parts)
    training = Training(in_float64(pieces.objective) if double else pieces.objective, options)
    gradient: dict[str, Tensor] = {}
    rows: list[dict[str, float]] = []

    def after(row: dict[str, float]) -> bool:
        rows.append(row)
        if not gradient:  # after one step AdamW's first moment is the gradient times a constant
            state = training.optimizer.state_dict()["state"]
            gradient.update({str(number): moments["exp_avg"].clone() for number, moments in state.items()})
        return len(rows) == steps

    fit(training, map(doubled, batches) if double else batches, after)
    return Ran(gradient, rows, training.objective.state_dict())


@dataclass(frozen=True)
class InFloat64:
    """Views that are made in float32, in float64."""

    augment: Augment

    @property
    def mixes(self) -> bool:
        return mixing(self.augment)

    def __call__(self, inputs: Inputs, draws: Draws, others: Others | None = None) -> Inputs:
        given = () if others is None else (replace(others, inputs=cast_all(others.inputs, torch.float32)),)
        return cast_all(self.augment(cast_all(inputs, torch.float32), draws, *given), torch.float64)


def in_float64(objective: Objective) -> Objective:
    """The objective with weights and views in float64. Buffers stay as they are: codebooks are compared in float32 anyway."""
    augments = {name: InFloat64(augment) for name, augment in objective.setup.augments.items()}
    objective.setup = replace(objective.setup, augments=augments)
    for parameter in objective.parameters():
        parameter.data = parameter.data.double()
    return objective


def doubled(batch: Batch) -> Batch:
    """The batch with inputs in float64."""
    return replace(batch, inputs={name: cast_all(inputs, torch.float64) for name, inputs in batch.inputs.items()})


def cast_all(inputs: Inputs, kind: torch.dtype) -> Inputs:
    return {key: value.to(kind) if value.is_floating_point() else value for key, value in inputs.items()}


def distance(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """Norm of the difference over the norm; what is not a float must be equal."""
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert value.is_floating_point() or torch.equal(found[key], value), key
    floats = [key for key, value in expected.items() if value.is_floating_point()]
    one, other = (torch.cat([tensors[key].double().flatten() for key in floats]) for tensors in (found, expected))
    return float((one - other).norm() / other.norm())


def check_rows(found: list[dict[str, float]], expected: list[dict[str, float]], tolerance: float) -> None:
    """Logged rows agree in all but the time."""
    for step, (one, other) in enumerate(zip(found, expected, strict=True), 1):
        assert one.keys() == other.keys()
        for key in one.keys() - {"step_seconds"}:
            assert one[key] == pytest.approx(other[key], rel=tolerance, abs=1e-7), f"{key} of step {step}"


# Laws


@pytest.mark.parametrize("case", cases([str(case) for found in QUICK.values() for case in found]))
def test_gradient_loss_and_metrics_of_a_step_in_float64(case: Case) -> None:
    if case.what == "quantised":
        pytest.skip("chooses codes by maps of float32 vectors, whatever its weights are")
    recipe = recipe_of(case)
    whole, *split = (run(recipe, parts, steps=1, double=True) for parts in PARTS)
    assert any(value.any() for value in whole.gradient.values())
    for one in split:
        assert distance(one.gradient, whole.gradient) <= 1e-6
        check_rows(one.rows, whole.rows, 1e-6)


@pytest.mark.parametrize(
    "case",
    [pytest.param(one, id=str(one), marks=[] if str(one) in QUICK_BY_PLACE else [pytest.mark.slow]) for one in BY_PLACE_CASES],
)
def test_what_is_drawn_for_a_place_does_not_depend_on_the_longest_sample(case: Case) -> None:
    double = case.what != "choice of codes"
    whole, *split = (run(recipe_of(case), parts, steps=1, double=double) for parts in PARTS)
    for one in split:
        assert distance(one.gradient, whole.gradient) <= (1e-6 if double else 1e-5)
        check_rows(one.rows, whole.rows, 1e-6 if double else 1e-5)


@pytest.mark.parametrize("case", cases(TEN_STEPS))
def test_weights_after_ten_steps(case: Case) -> None:
    recipe = recipe_of(case)
    whole, *split = (run(recipe, parts) for parts in PARTS)
    for one in split:
        assert distance(one.gradient, whole.gradient) <= 1e-5
        check_rows(one.rows[:1], whole.rows[:1], 1e-5)
        assert distance(one.weights, whole.weights) <= 1e-5


BUDGETS = [case for case in CASES if case.what in ("masked", "jepa")]
QUICK_BUDGETS = ("text-masked", "audio-jepa")


@pytest.mark.parametrize(
    "case", [pytest.param(one, id=str(one), marks=[] if str(one) in QUICK_BUDGETS else [pytest.mark.slow]) for one in BUDGETS]
)
def test_steps_of_a_token_budget(case: Case) -> None:
    recipe = recipe_of(case)
    whole, *split = (run(recipe, parts, tokens=TOKENS) for parts in PARTS)
    for one in split:
        assert distance(one.gradient, whole.gradient) <= 1e-5
        assert distance(one.weights, whole.weights) <= 1e-5


@pytest.mark.parametrize(("name", "options"), [("tabular", {}), ("text", {"train.batch_tokens": TOKENS})])
def test_published_model_and_log_of_a_run(
    name: str, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = recipe_of(next(case for case in CASES if str(case) == f"{name}-masked")).resolved()
    changes = options | {"train.log_every": 1}
    runs = [mmssl.train(recipe, changes | {"train.accumulation": parts}, rows=rows_of(name)) for parts in (1, 4)]
    one, other = (load_file(run.model_folder / "model.safetensors") for run in runs)
    assert distance(other, one) <= 1e-5
    for a, b in zip(*(list(run.rows()) for run in runs), strict=True):
        for key in ("loss", "grad_norm", "unexplained"):
            assert b[key] == pytest.approx(a[key], rel=1e-4)


@pytest.mark.parametrize("name", RAGGED)
def test_samples_are_ragged(name: str) -> None:
    """Or the laws above would hold for a mean of means."""
    pieces, read = opened(recipe_of(next(case for case in CASES if str(case) == f"{name}-masked")))
    targets = pieces.objective.model.adapter(name).target(whole_source(read).inputs[name])
    there = [~value.isnan().all(-1) if value.is_floating_point() else value != -100 for value in targets.values()]
    assert len(set(torch.stack(there).any(0).sum(1).tolist())) > 1
