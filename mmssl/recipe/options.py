"""The sections `train` and `run` of a recipe."""

import re
from dataclasses import dataclass, field
from typing import Annotated, Literal

from pydantic import Field

from mmssl.recipe.schedules import Schedule, cosine

Precision = Literal["fp32", "bf16", "fp16", "auto"]
Attention = Literal["auto", "sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"]
Tracker = Literal["tensorboard", "wandb", "trackio"]
Whole = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Decay = Annotated[float, Field(ge=0)]

PARTS = {
    "adapters": r"^networks\.student\.adapters\.",
    "encoder": r"^networks\.student\.encoder\.",
    "prototypes": r"(^|\.|_)prototypes\.",
    "heads": r"^(?!networks\.student\.(adapters|encoder|pooler)\.)",
}
"""Names of parts of an objective, and what the names of their parameters match."""


@dataclass(frozen=True, kw_only=True)
class PartOptions:
    """Parameters that learn at a rate, or with a weight decay, of their own.

    match: adapters, encoder, prototypes, heads = all that is neither adapters, encoder nor pooling (predictors and prototypes among
        it), or a regular expression that is found in the names of the parameters: `\\.layers\\.0\\.`. Of several parts the first
        that matches a parameter counts.
    lr: factor on the learning rate, beside that of `layer_decay`; 0: they stay as they are.
    weight_decay: as `train.weight_decay`, in its place; null: that of the rest.
    """

    match: str
    lr: Annotated[float, Field(ge=0)] = 1.0
    weight_decay: Decay | tuple[Decay, Decay] | None = None

    def __post_init__(self) -> None:
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise ValueError(
                f"match is one of {', '.join(PARTS)}, or a regular expression, which {self.match!r} is not: {error}"
            ) from None

    @property
    def pattern(self) -> str:
        """The regular expression."""
        return PARTS.get(self.match, self.match)

    def matches(self, name: str) -> bool:
        """Whether the parameter of that name is one of these."""
        return re.search(self.pattern, name) is not None


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """How long and how fast to train.

    batch_size: samples per optimizer step, over all devices and accumulation steps.
    batch_tokens: tokens per optimizer step, padding included, in the place of batch_size: many short samples, or few long ones.
    freeze: part of the model that stays as it is: encoder = what `init` brought along, so that only the adapters of the recipe's
        modalities learn, and the experts of those that the saved model lacked; null: none.
    warm_heads: share of the budget during which only what did not come from `init` learns (heads, predictors, prototypes, new
        adapters), so that fresh heads do not spoil a trained encoder; a teacher follows meanwhile, which moves its heads alone.
        Without `init` nothing waits.
    accumulation: micro-batches per optimizer step.
    max_steps: budget in optimizer steps.
    max_epochs: budget in passes over the data.
    max_minutes: budget in minutes of training; evaluation does not count. The first budget that is used up ends the run.
    lr: peak learning rate, as it is (no scaling with the batch size).
    schedule: course of the learning rate.
    weight_decay: decoupled weight decay of projection matrices; biases, norms and embeddings have none. A pair goes from the first
        to the second by half a cosine over the budget (DINO, arXiv 2104.14294, section 3.2; I-JEPA).
    parts: parts of the objective that learn at another rate or with another weight decay: prototypes, heads, adapters.
    betas: AdamW's decay rates of the gradient's first and second moment.
    eps: AdamW's epsilon.
    layer_decay: factor on the learning rate from each layer to the one below it; 1: none.
    clip_norm: largest norm of the gradient; null: no clipping.
    ema: momentum of an average of the weights, which is then what is published, at most (1 + step) / (10 + step), so that the
        average of a short run does not hold on to its first weights; null: none.
    precision: auto = bf16 where the hardware has it natively, else fp32.
    compile: torch.compile the objective.
    gradient_checkpointing: recompute activations in the backward pass to save memory.
    attention: attention kernel; auto = sdpa, but eager for bf16 and fp16 on a CPU, where it is faster up to some 200 tokens.
    log_every: steps between rows of metrics.jsonl.
    checkpoint_every: steps between checkpoints; one is always written at the end and on interruption.
    keep_last: checkpoints kept.
    async_save: write checkpoints beside the training, from a copy in main memory; false: training waits, and nothing is copied.
    trackers: experiment trackers, beside the local metrics.jsonl.
    timeout: seconds after which processes that wait in a step for one that is gone, or hangs, end the run.
    """

    batch_size: Whole = 256
    batch_tokens: Whole | None = None
    freeze: Literal["encoder"] | None = None
    warm_heads: Share = 0.0
    accumulation: Whole = 1
    max_steps: Whole | None = None
    max_epochs: Annotated[float, Field(gt=0)] | None = None
    max_minutes: Annotated[float, Field(gt=0)] | None = None
    lr: Annotated[float, Field(gt=0)] = 1e-3
    schedule: Schedule = field(default_factory=cosine)
    weight_decay: Decay | tuple[Decay, Decay] = 0.05
    parts: tuple[PartOptions, ...] = ()
    betas: tuple[Share, Share] = (0.9, 0.95)
    eps: Annotated[float, Field(gt=0)] = 1e-8
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1.0
    clip_norm: Annotated[float, Field(gt=0)] | None = 1.0
    ema: Share | None = None
    precision: Precision = "fp32"
    compile: bool = False
    gradient_checkpointing: bool = False
    attention: Attention = "auto"
    log_every: Whole = 10
    checkpoint_every: Whole = 500
    keep_last: Whole = 3
    async_save: bool = True
    trackers: tuple[Tracker, ...] = ()
    timeout: Annotated[float, Field(gt=0)] = 600.0

    def __post_init__(self) -> None:
        if self.max_steps is None and self.max_epochs is None and self.max_minutes is None:
            raise ValueError("the run needs a budget: set train.max_steps, train.max_epochs or train.max_minutes")
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"train.batch_size must be a multiple of train.accumulation; got {self.batch_size} and {self.accumulation}"
            )


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Where a run is kept, and its seed.

    dir: folder of all runs.
    name: folder of this run inside it; null: the recipe's name. A taken name gets -2, -3, ...
    seed: seed of the weights, of the order of samples and of every random draw.
    """

    dir: str = "runs"
    name: str | None = None
    seed: Annotated[int, Field(ge=0)] = 0
