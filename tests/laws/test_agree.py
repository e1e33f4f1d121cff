"""Views that agree, on every modality and loss: a step is the same however it is cut, and its state is all that it depends on."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from mmssl.data import Batch, processes
from mmssl.data.batch import with_others
from mmssl.draws import keys
from mmssl.masking import SAMPLERS
from mmssl.modality import Inputs, Modality, Processor, find
from mmssl.model import MMSSLConfig, MMSSLModel
from mmssl.model.heads import Head
from mmssl.objectives import Clip, Clock, Contrast, Distill, Jepa, Masked, Objective, Setup, Step, Sum
from mmssl.objectives.agree.agree import TeacherOptions
from mmssl.objectives.agree.harmony import Harmonise
from mmssl.objectives.agree.layers import Layers
from mmssl.objectives.agree.losses import AGREEMENTS
from mmssl.objectives.agree.predictors import ANSWERS
from mmssl.objectives.predict.predictors import PREDICTORS
from mmssl.objectives.predict.targets import TARGETS
from mmssl.objectives.views import Views
from mmssl.plugins import installed
from mmssl.testing import OBJECTIVE_LAWS, small_processor
from mmssl.testing.parts import saying

SAMPLES = 8
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
HEAD = {"hidden": 24, "size": 16}
TEACHER = TeacherOptions(momentum=(0.9, 1.0))
MADE = dict[str, Callable[[], dict[str, Any]]]


def loss(name: str, **settings: Any) -> Any:
    """A loss by its name."""
    return AGREEMENTS[name](**settings)


def contrasted(*losses: Any, **settings: Any) -> dict[str, Any]:
    """Settings of contrast."""
    return {"losses": list(losses) or None, "projector": Head(**HEAD), **settings}


def mlp() -> Any:
    return ANSWERS["mlp"](hidden=24)


def hidden() -> dict[str, Any]:
    return {"mask": SAMPLERS["random"](ratio=0.4), "mask_probability": 0.7, "teacher": TEACHER}


PROTOTYPES = {"prototypes": 20}
CONTRASTS: MADE = {
    "simclr": lambda: contrasted(),
    "dcl": lambda: contrasted(loss("info_nce", decoupled=True)),
    "moco": lambda: contrasted(loss("info_nce", negatives="view", queue=16), predictor=mlp(), teacher=TEACHER),
    "mochi": lambda: contrasted(loss("info_nce", queue=16, mixed=(2, 2), hard=4), teacher=TEACHER),
    "soft": lambda: contrasted(loss("info_nce", soft=True)),
    "isogclr": lambda: contrasted(loss("individual_temperatures", rho=0.5, rate=0.1)),
    "nnclr": lambda: contrasted(loss("info_nce", negatives="view", queue=16, nearest=True), predictor=mlp()),
    "byol": lambda: contrasted(loss("cosine"), predictor=mlp(), teacher=TEACHER),
    "simsiam": lambda: contrasted(loss("cosine"), predictor=mlp()),
    "directpred": lambda: contrasted(loss("cosine"), predictor=ANSWERS["direct"](), teacher=TEACHER),
    "barlow": lambda: contrasted(loss("barlow_twins")),
    "mixed_barlow": lambda: contrasted(loss("barlow_twins", mixed=4.0)),
    "vicreg": lambda: contrasted(loss("vicreg")),
    "lejepa": lambda: contrasted(loss("sigreg", directions=16)),
    "visreg": lambda: contrasted(loss("sigreg", directions=16, statistic="quantiles")),
    "swav": lambda: contrasted(loss("swapped_assignment", **PROTOTYPES)),
    "swav_queue": lambda: contrasted(loss("swapped_assignment", queue=8, **PROTOTYPES)),
    "er": lambda: contrasted(loss("entropy_bound")),
    "groco": lambda: contrasted(loss("group_ordering", negatives=3)),
    "ts2vec": lambda: contrasted(loss("hierarchical")),
    "point_contrast": lambda: contrasted(loss("same_token", tokens=20)),
    "groups": lambda: contrasted(projector=Head(norm="group", hidden=32, size=16)),
}
DISTILLS: MADE = {
    "dino": lambda: contrasted(loss("self_distillation", **PROTOTYPES), teacher=TEACHER),
    "sinkhorn": lambda: contrasted(loss("self_distillation", centring="sinkhorn", **PROTOTYPES), teacher=TEACHER),
    "ibot": lambda: contrasted(loss("self_distillation", **PROTOTYPES), loss("masked_tokens"), **hidden()),
    "dinov2": lambda: contrasted(
        loss("self_distillation", centring="sinkhorn", **PROTOTYPES),
        loss("masked_tokens", centring="sinkhorn", prototypes=12),
        loss("koleo"),
        **hidden(),
    ),
    "layers": lambda: {"losses": [], "layers": Layers(pairs=[(1, 2), (2, 1)], distance="l1_cosine"), "teacher": TEACHER},
    "gram": lambda: contrasted(loss("self_distillation", **PROTOTYPES), loss("gram"), teacher=TEACHER),
}
CLIPS: MADE = {
    "clip": lambda: {"projector": Head(layers=1, norm="none", size=16)},
    "siglip": lambda: {"projector": Head(layers=1, norm="none", size=16), "losses": [loss("sigmoid", chunk=3)], "bias": -10.0},
    "slap": lambda: {
        "losses": [loss("cosine", between="across"), loss("cosine", between="within")],
        "projector": Head(layers=1, norm="none", size=16),
        "predictor": mlp(),
        "teacher": TEACHER,
    },
    "barlow": lambda: {"losses": [loss("barlow_twins", between="across")], "projector": Head(layers=1, norm="none", size=16)},
    "isogclr": lambda: {
        "losses": [loss("individual_temperatures", negatives="view", between="across", rho=0.5, rate=0.1)],
        "projector": Head(layers=1, norm="none", size=16),
    },
    "harmony": lambda: {
        "projector": Head(layers=1, norm="none", size=16),
        "harmonise": Harmonise(keep_above=(-0.5, 0.5)),
    },
    "dreamlip": lambda: {
        "losses": [loss("info_nce", negatives="view", between="across"), loss("grouping", patches="image")],
        "projector": Head(layers=1, norm="none", size=16),
    },
}
KINDS: dict[str, tuple[type[Objective], MADE]] = {
    "contrast": (Contrast, CONTRASTS),
    "distill": (Distill, DISTILLS),
    "clip": (Clip, CLIPS),
}
CASES = [(kind, variant) for kind, (_, made) in KINDS.items() for variant in made]
ONLY = dict.fromkeys(("ts2vec", "point_contrast"), ("timeseries",)) | {"mixed_barlow": ("image", "audio")}
"""What variants are defined on that are not on every modality."""
LABELS = torch.tensor([[0, 1, -1], [1, 2, 3], [2, -1, -1], [-1, -1, -1]])
"""Of the groups of the variant `soft`: two share one, one has none."""
DATA: dict[str, Any] = {"samples": lambda: SAMPLES, "group_labels": lambda: LABELS}
BOTH = ("simclr", "ibot", "siglip", "swav", "lejepa")
"""Variants whose steps are cut into micro-batches and processes at once; those of others into either."""


def views_of(kind: str, variant: str, modality: Modality) -> dict[str, Views]:
    """Two global views and a smaller one, of which some tokens are left out; of clip one, or two for losses within."""
    augment = modality.augment()
    if kind == "clip":
        return {"global": Views(2 if variant in ("slap", "dreamlip") else 1, augment)}
    if "timeseries" in ONLY.get(variant, ()):
        return {"global": Views(2, augment)}
    return {"global": Views(2, augment), "local": Views(1, augment, SAMPLERS["random"](ratio=0.5))}


def build(kind: str, variant: str, names: Sequence[str], seed: int = 0, **fields: Any) -> Objective:
    """A small objective on modalities."""
    modalities = {name: {"processor": processor_of(name).settings(), "adapter": {}} for name in names}
    torch.manual_seed(seed)
    model = MMSSLModel(MMSSLConfig(modalities=modalities, **SMALL | {"drop_path_rate": 0.3, "dropout": 0.1} | fields))
    augments = {name: find(name).augment() for name in names}
    setup = Setup(augments, views={name: views_of(kind, variant, find(name)) for name in names}, **DATA)
    constructor, made = KINDS[kind]
    return constructor(model, setup, **made[variant]()).train()


def made_of(ids: Tensor, names: Sequence[str], lacking: int = 0, grouped: bool = False) -> Batch:
    """Some of the examples of modalities, padded on their own; every `lacking`-th row lacks one; groups, or none alike."""
    held = {
        name: [i for i in range(len(ids)) if not (lacking and (int(ids[i]) + number) % lacking == 0)]
        for number, name in enumerate(names)
    }
    processors = {name: processor_of(name) for name in names}
    inputs = {name: processors[name].collate([examples(name)[int(ids[i])] for i in held[name]]) for name in names if held[name]}
    rows = {name: torch.tensor(held[name], dtype=torch.int64) for name in names} if lacking else None
    return Batch(
        inputs, keys(0, 0, ids), ids, step=0, rows=rows, group=torch.where(ids % 5 > 0, ids % 5, -ids) - 1 if grouped else None
    )


@cache
def processor_of(name: str) -> Processor:
    return small_processor(name)


@cache
def examples(name: str) -> list[Inputs]:
    """Processed examples of a modality."""
    return [processor_of(name)(raw) for raw in find(name).example(SAMPLES, 0)]


def double(batch: Batch) -> Batch:
    return batch._map(lambda x: x.double() if x.is_floating_point() else x)


def gradients(objective: Objective) -> dict[str, Tensor]:
    """The gradient of every weight; one that has none counts as zero."""
    return {
        name: torch.zeros_like(weight) if weight.grad is None else weight.grad.clone()
        for name, weight in objective.named_parameters()
        if weight.requires_grad
    }


def cut_step(objective: Objective, ranks: Sequence[Sequence[Batch]]) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """Loss, gradient and new state of a step whose micro-batches lie on several processes, one after the other."""
    total, state, world = torch.zeros((), dtype=torch.float64), dict[str, Tensor](), len(ranks)
    sent: list[Any] = []
    known = dict[str, Tensor]()
    for name, weight in (pair for micro in ranks for batch in micro for pair in objective.weights(batch, Step()).items()):
        known[name] = known.get(name, torch.zeros(())) + weight
    with patch.object(processes, "world", lambda: world):

        def meeting(rank: int, own: Any) -> Any:
            return sent if len(sent) == world else [own]

        for phase in ("send", "train"):
            for rank, micro in enumerate(ranks):
                with (
                    patch.object(processes, "rank", lambda rank=rank: rank),
                    patch.object(
                        processes, "gathered", lambda own, rank=rank, phase=phase: sent if phase == "train" else keep(own)
                    ),
                ):
                    step = Step(weights=known)
                    if phase == "send":
                        with torch.no_grad():
                            shares = [objective.represent(b, replace(step, seen=objective.encodings(b))) for b in micro]
                        sent.append([share.map(Tensor.detach) for share in shares])
                        continue
                    if len(micro) > 1:
                        step = objective.prepared(micro, step)
                    for number, batch in enumerate(micro):
                        output = objective(batch, replace(step, number=number))
                        output.loss.backward()
                        total += output.loss.detach()
                        state = dict(output.state)
    return total, gradients(objective), state


def keep(own: Any) -> Any:
    raise AssertionError("nothing meets before all have sent")


def modalities_for(kind: str, variant: str) -> list[tuple[str, ...]]:
    if kind == "clip":
        return [("audio", "tabular", "points") if variant in ("clip", "harmony") else ("image", "text")]
    return [(name,) for name in ONLY.get(variant, ("text",))]


@pytest.mark.parametrize(("kind", "variant"), CASES, ids=lambda each: str(each))
def test_a_step_is_the_same_however_it_is_cut(kind: str, variant: str) -> None:
    """In float64: in one batch, in 2 x 4 and 4 x 2, on 1, 2 and 4 processes; of pairs some lack a part, of one process all do."""
    for names in modalities_for(kind, variant):
        ids, lacking, grouped = torch.arange(SAMPLES), 3 if kind == "clip" else 0, variant == "soft"
        whole = build(kind, variant, names).double()
        whole.networks.make()
        output = whole(double(made_of(ids, names, lacking, grouped)))
        output.loss.backward()
        expected, state = gradients(whole), output.state
        assert any(float(gradient.abs().max()) > 0 for gradient in expected.values())
        for ranks in ([[4, 4]], [[3], [5]]) if variant not in BOTH else ([[2, 2], [1, 3]],):
            other, start = build(kind, variant, names).double(), 0
            other.networks.make()
            cut = []
            for sizes in ranks:
                parts = []
                for size in sizes:
                    parts.append(double(made_of(ids[start : start + size], names, lacking, grouped)))
                    start += size
                cut.append(parts)
            if other.mixes:
                donated = iter(with_others([part for parts in cut for part in parts]))
                cut = [[next(donated) for _ in parts] for parts in cut]
            loss_of, found, after = cut_step(other, cut)
            assert_close(loss_of, output.loss.detach().double(), rtol=1e-9, atol=1e-10, msg=saying(f"{names}, {ranks}"))
            scale = max(float(gradient.abs().max()) for gradient in expected.values())
            for name, gradient in expected.items():
                error = float((found[name] - gradient).abs().max()) / scale
                assert error < 1e-7, f"{names}, {ranks}: the gradient of {name} is off by {error:.1e}"
            assert after.keys() == state.keys()
            for name, value in state.items():
                assert_close(after[name], value, rtol=1e-6, atol=1e-6, msg=saying(f"{names}, {ranks}, {name}"))


@pytest.mark.parametrize("own", ["image", "text"])
@pytest.mark.parametrize("kind", [Contrast, Distill, Masked, Jepa])
def test_an_objective_may_read_one_modality_of_rows_that_hold_two(kind: type[Objective], own: str) -> None:
    """It loses what it loses on the samples that hold it; the other modality does not learn. Without any there is no loss."""
    names, ids = ("image", "text"), torch.arange(SAMPLES)
    model = build("clip", "clip", names, dropout=0.0, drop_path_rate=0.0).model
    augments = {name: find(name).augment() for name in names}
    given = {"projector": Head(**HEAD)} if kind in (Contrast, Distill) else {"mask": SAMPLERS["random"](ratio=0.5)}
    objective = kind(model, Setup(augments), modality=own, **given).train()  # type: ignore[call-arg]
    objective.networks.make()
    assert objective.modalities == [own] and list(objective.views) == [own]
    rows = made_of(ids, names, lacking=3)
    output = objective(rows)
    output.loss.backward()
    found = gradients(objective)
    objective.zero_grad()
    alone = objective(rows.of(own))
    alone.loss.backward()
    assert_close(output.loss, alone.loss)
    for name, gradient in gradients(objective).items():
        assert_close(found[name], gradient, msg=saying(name))
        assert f"adapters.{own}" in name or "adapters." not in name or not gradient.any()
    assert any(gradient.any() for gradient in found.values())
    other = next(name for name in names if name != own)
    for some in (made_of(ids, [other]), rows.of(own)):
        both = Sum(model, Setup(augments), parts=[partial(kind, modality=own, **given), partial(Contrast, modality=other)]).train()
        both.networks.make()
        both.zero_grad()
        both(some).loss.backward()
        learned = {
            name.split("adapters.")[1].split(".")[0]
            for name, x in gradients(both).items()
            if "student.adapters" in name and x.any()
        }
        assert learned == set(some.inputs)
    with pytest.raises(ValueError, match=r"objective\.modality is 'audio', but the recipe has image, text"):
        kind(model, Setup(augments), modality="audio", **given)  # type: ignore[call-arg]


KEPT = ("every_weight_learns", "loss_falls", "resumed_run_equals_an_uninterrupted_one")


@pytest.mark.parametrize("law", KEPT)
@pytest.mark.parametrize(("kind", "variant"), [case for case in CASES if case[0] != "clip"], ids=lambda each: str(each))
def test_laws_of_objectives(kind: str, variant: str, law: str) -> None:
    """Each on one modality; tests/laws/test_objectives.py has all of them on every modality, with the defaults."""
    names = ONLY.get(variant, tuple(installed()))
    name = names[sum(map(ord, kind + variant + law)) % len(names)]
    constructor, made = KINDS[kind]

    def make(model: MMSSLModel, setup: Setup) -> Objective:
        setup = replace(setup, views={name: views_of(kind, variant, find(name))}, **DATA)
        return constructor(model, setup, **made[variant]())

    OBJECTIVE_LAWS[law](make, name)


def rows_encoded(objective: Objective, network: str) -> list[int]:
    """How many samples each pass of a network's encoder has, from now on."""
    found: list[int] = []
    objective.networks.make()
    objective.networks[network].encoder.register_forward_pre_hook(lambda _, given: found.append(len(given[0].values)))
    return found


def test_each_view_is_encoded_once_however_many_losses_read_it() -> None:
    """DINOv2's three losses: one pass of both global views, one of the smaller one, and one of the teacher's global views."""
    objective = build("distill", "dinov2", ["text"])
    student, teacher = rows_encoded(objective, "student"), rows_encoded(objective, "teacher")
    objective(made_of(torch.arange(SAMPLES), ["text"])).loss.backward()
    assert (sorted(student), teacher) == ([SAMPLES, 2 * SAMPLES], [2 * SAMPLES])


def test_parts_of_a_sum_share_views_and_teacher() -> None:
    """Latents of a teacher and self-distillation by the same one: it sees each global view once, the student once for each part."""
    narrow = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    teacher = TeacherOptions(momentum=(0.9, 1.0), schedule="linear")
    parts = [
        partial(Jepa, predictor=PREDICTORS["transformer"](**narrow), targets=[TARGETS["latent"](momentum=(0.9, 1.0))]),
        partial(Distill, losses=[loss("self_distillation", **PROTOTYPES)], projector=Head(**HEAD), teacher=teacher),
    ]
    augment = find("text").augment(delete=0.2)
    model = MMSSLModel(MMSSLConfig(modalities={"text": {"processor": processor_of("text").settings(), "adapter": {}}}, **SMALL))
    objective = Sum(model, Setup({"text": augment}), parts=parts, weights=[1.0, (0.0, 0.5)], publish="teacher").train()
    assert objective.networks.teachers == ["teacher"]
    student, seen = rows_encoded(objective, "student"), rows_encoded(objective, "teacher")
    batch = made_of(torch.arange(SAMPLES), ["text"])
    output = objective(batch, Step(Clock(1, 0.5)))
    assert sum(seen) == 2 * SAMPLES
    assert sum(student) == 3 * SAMPLES
    alone = [part(batch, Step(Clock(1, 0.5))).loss for part in objective.every_part]
    assert_close(output.loss, alone[0] + 0.25 * alone[1])


def test_a_cached_step_needs_the_memory_of_its_micro_batches() -> None:
    """With 16 micro-batches: the same gradient, and a quarter at most of the activations that autograd keeps at any time."""
    count = 32
    processor = find("image").processor(size=32, mean=0.5, std=0.2)
    inputs = [processor(raw) for raw in find("image").example(count, 0)]

    def part(ids: Tensor) -> Batch:
        return Batch({"image": processor.collate([inputs[i] for i in ids.tolist()])}, keys(0, 0, ids), ids)

    def kept(run: Callable[[], Tensor]) -> int:
        """Bytes that autograd keeps of a forward pass, whose backward pass is then made."""
        sizes: dict[int, int] = {}

        def keep(tensor: Tensor) -> Tensor:
            sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            found = run()
        found.backward()
        return sum(sizes.values())

    whole, cut = (build("contrast", "simclr", ["image"]) for _ in range(2))
    full = kept(lambda: whole(part(torch.arange(count))).loss)
    micro = [part(ids) for ids in torch.arange(count).split(2)]
    step = cut.prepared(micro, Step(weights={}))
    most = max(kept(lambda n=n, batch=batch: cut(batch, replace(step, number=n)).loss) for n, batch in enumerate(micro))
    expected, found = gradients(whole), gradients(cut)
    scale = max(float(gradient.abs().max()) for gradient in expected.values())
    assert max(float((found[name] - gradient).abs().max()) for name, gradient in expected.items()) < 1e-5 * scale
    assert most < full / 4, f"{most} of {full} bytes"
