"""Signs that a run goes wrong, told while it runs: a flag with its number, its rule and what to change."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Any

from mmssl.objectives.networks import KEPT

WINDOW = 21
"""Steps whose median a rule sees: one odd batch raises no flag."""
ROWS = 5
"""The same of what is not measured in every step: measurements."""
BEGINNING = 5
"""Steps whose median counts as the start."""
PATIENCE = 100
"""Steps, and a fifth of the budget, that a run has to become better than a constant prediction."""


@dataclass(frozen=True)
class Flag:
    """name: of the rule; step: when it was raised; message: number, rule, and what to change."""

    name: str
    step: int
    message: str


@dataclass
class Trend:
    """Course of the metrics: medians over the last steps, and over the first."""

    steps: int = 0
    progress: float = 0.0
    starts: dict[str, float] = field(default_factory=dict)
    windows: dict[str, list[float]] = field(default_factory=dict)

    def add(self, row: Mapping[str, float], progress: float) -> None:
        self.steps, self.progress = self.steps + 1, progress
        for key in WATCHED:
            if key in row:
                window = self.windows.setdefault(key, [])
                window.append(row[key])
                del window[: -self.length(key)]
                if len(window) == BEGINNING and key not in self.starts:
                    self.starts[key] = median(window)

    def now(self, key: str) -> float | None:
        """The median of the last steps; None for a metric that the objective does not have, and before there are enough."""
        window = self.windows.get(key, [])
        return median(window) if len(window) == self.length(key) and self.steps >= WINDOW else None

    def length(self, key: str) -> int:
        """How many of the last measurements of a metric a rule sees."""
        return WINDOW if key in EVERY_STEP else ROWS

    def below_start(self, key: str, share: float) -> str | None:
        """`0.01 (0.5 at the start)` if a metric fell below a share of its start."""
        now, start = self.now(key), self.starts.get(key)
        return f"{now:.3g} ({start:.3g} at the start)" if now is not None and start is not None and now < share * start else None


def constant(trend: Trend) -> str | None:
    """All samples look alike to the encoder."""
    now = trend.now("input_std")
    if now is None or now >= 1e-4:
        return None
    return f"input_std is {now:.1e}, below 1e-4: all samples are the same to the encoder. Check the data, and how they are read"


def diverging(trend: Trend) -> str | None:
    """The loss rises far above its start."""
    now, start = trend.now("loss"), trend.starts.get("loss")
    if now is None or start is None or start <= 0 or now <= 1.5 * start:
        return None
    return f"the loss is {now:.3g}, above 1.5 x {start:.3g}, its start. Lower train.lr to a tenth, or warm up for longer"


def collapse(trend: Trend) -> str | None:
    """The teacher's outputs become alike."""
    rules = {"target_std": 0.3, "target_sample_std": 0.2, "target_rank": 0.25}
    found = {key: text for key, share in rules.items() if (text := trend.below_start(key, share)) is not None}
    if not found:
        return None
    key, text = next(iter(found.items()))
    advice = "Lower train.lr, raise the momentum of the teacher, or predict larger blocks"
    return f"{key} is {text}, below {rules[key]:g} of it: what is to be predicted becomes the same for all. {advice}"


def no_teacher(trend: Trend) -> str | None:
    """The teacher is nearly the student itself."""
    now = trend.now("momentum")
    if now is None or now >= 0.5:
        return None
    how = "the teacher follows the student at once, and nothing keeps both from a constant output"
    return f"the teacher's momentum is {now:.3g}, below 0.5: {how}. Start from 0.99 or more"


def untaught(trend: Trend) -> str | None:
    """At its end, the run has a teacher that still holds the weights that it began with."""
    found = trend.windows.get("teacher_left", [])
    if not found or trend.progress < 1 or trend.steps < WINDOW or found[-1] <= KEPT:
        return None
    what = f"teacher_left is {found[-1]:.2g} at the end, above {KEPT:g}: so much of the teacher is the weights that it began with"
    return f"{what}. Train for longer, or lower the teacher's first momentum, to 1 - 6 / steps for a course that ends at 1"


def flat(trend: Trend) -> str | None:
    """The loss is not below that of a constant prediction."""
    now = trend.now("unexplained")
    if now is None or trend.steps < PATIENCE or trend.progress < 0.2 or now <= 0.98:
        return None
    how = f"the loss is {now:.3g} times that of a constant prediction, after {trend.steps} steps not below 0.98"
    return f"{how}. Change train.lr (too high and too low both look like this), hide less, or check the targets"


def alike(trend: Trend) -> str | None:
    """What is compared of all samples points the same way, or in few ways."""
    now = trend.now("feature_std")
    if now is not None and now < 0.05:
        what = f"feature_std is {now:.2g}, below 0.05: the projections of all samples are nearly alike"
        return f"{what}. Lower train.lr, give a teacher more momentum, or add a loss that spreads them (koleo, sigreg, vicreg)"
    if text := trend.below_start("feature_rank", 0.25):
        what = f"feature_rank is {text}, below 0.25 of it: pooled outputs differ in few directions only"
        return f"{what}. Lower train.lr, or add a loss that spreads them (koleo, sigreg, vicreg)"
    return None


def one_prototype(trend: Trend) -> str | None:
    """The teacher gives all samples the same prototype."""
    now = trend.now("prototypes_used")
    if now is None or now >= 1.5:
        return None
    way_out = "Set centring: sinkhorn, raise the lower teacher_temperature, or give the teacher more momentum"
    return f"prototypes_used is {now:.3g}, below 1.5: one prototype takes all samples. {way_out}"


def uniform(trend: Trend) -> str | None:
    """The teacher gives all prototypes alike: the loss stands at ln K."""
    now = trend.now("target_entropy")
    if now is None or now <= 0.995:
        return None
    way_out = "Lower teacher_temperature, use fewer prototypes, or slow the centre down (momentum)"
    return f"target_entropy is {now:.4g} of ln K, above 0.995: the teacher tells no prototypes apart. {way_out}"


def scale_at_its_bound(trend: Trend) -> str | None:
    """The learned factor on similarities can grow no further."""
    now = trend.now("logit_scale")
    if now is None or now < 99.9:
        return None
    way_out = "Pairs are told apart with ease, or are memorised: use a larger batch, more data or augmentation"
    return f"logit_scale is {now:.3g}, at its limit of 100. {way_out}"


def no_pairs(trend: Trend) -> str | None:
    """No row of the last steps holds two modalities."""
    now = trend.now("pairs")
    if now is None or now > 0:
        return None
    return "pairs is 0: no row of the last steps holds two modalities, so that none can agree. Check data.columns, and the cells"


Rule = Callable[[Trend], str | None]
RULES: dict[str, Rule] = {
    rule.__name__: rule
    for rule in (
        constant,
        diverging,
        collapse,
        no_teacher,
        untaught,
        flat,
        alike,
        one_prototype,
        uniform,
        scale_at_its_bound,
        no_pairs,
    )
}
EVERY_STEP = ("loss", "momentum", "teacher_left")
"""Metrics of every step; the others are measured in the first steps and where a row is logged."""
PREDICTING = ("unexplained", "input_std", "target_std", "target_sample_std", "target_rank")
AGREEING = ("feature_std", "feature_rank", "prototypes_used", "target_entropy", "logit_scale", "pairs")
WATCHED = (*EVERY_STEP, *PREDICTING, *AGREEING)


class Watch:
    """Sees the metrics of each step and raises each flag once. Its state goes into checkpoints."""

    def __init__(self) -> None:
        self.trend = Trend()
        self.flags: list[Flag] = []

    def see(self, step: int, row: Mapping[str, float], progress: float) -> list[Flag]:
        """The flags that this step raises. progress: consumed share of the budget."""
        self.trend.add(row, progress)
        raised = {flag.name for flag in self.flags}
        found = []
        for name, rule in RULES.items():
            # Whatever else is odd about constant data follows from that.
            if name not in raised and "constant" not in raised and (message := rule(self.trend)) is not None:
                found.append(Flag(name, step, message))
                raised.add(name)
        self.flags += found
        return found

    def state(self) -> dict[str, Any]:
        """Plain values that `restore` takes."""
        return {"trend": asdict(self.trend), "flags": [asdict(flag) for flag in self.flags]}

    def restore(self, state: Mapping[str, Any]) -> None:
        self.trend = Trend(**state["trend"])
        self.flags = [Flag(**flag) for flag in state["flags"]]
