"""What a strategy does not train, known in one place: to whoever trains, and to whoever says before what would fit."""

from dataclasses import dataclass

from mmssl.recipe.options import TrainOptions


@dataclass(frozen=True)
class Refusal:
    """name: of the strategy. what: it does not train with. way: why, and the way out."""

    name: str
    what: str
    way: str

    def __str__(self) -> str:
        return f"{self.name} does not train with {self.what}: {self.way}"


def of_options(name: str, options: TrainOptions) -> Refusal | None:
    """Why a strategy does not train what a recipe says; None: it does."""
    if name != "ddp" and options.precision == "fp16":
        return Refusal(name, "train.precision=fp16", "set bf16, which needs no scaling, or launch with --strategy ddp")
    if name.startswith("zero") and options.compile:
        return Refusal(name, "train.compile=true", "leave it out, or launch with --strategy fsdp2")
    if name.startswith("zero") and options.warm_heads:
        return Refusal(name, "train.warm_heads", "it moves all that learns. Set it to 0, or launch with --strategy fsdp2")
    return None


def of_unequal(name: str) -> Refusal | None:
    """Why a strategy does not train steps in which processes hold other micro-batches, or fewer; None: it does."""
    if name.startswith("zero"):
        return Refusal(
            name, "a step of which one process has fewer micro-batches", "launch with --strategy fsdp2, or --strategy ddp"
        )
    return None


def of_lacking(name: str) -> Refusal | None:
    """Why a strategy does not train several modalities where some sample does not hold all of them; None: it does."""
    if name.startswith("zero"):
        way = "it would move, by its moments, what has no gradient in a step. Launch with --strategy fsdp2, or --strategy ddp"
        return Refusal(name, "samples that lack a modality", way)
    return None
