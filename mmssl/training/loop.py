"""The one training loop, on Accelerate. It knows no objective and no modality."""

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.optimizer import AcceleratedOptimizer
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, gather_object
from torch import Tensor, nn

from mmssl.data import Batch, with_others
from mmssl.model import Encoder, MMSSLModel
from mmssl.objectives import Clock, Objective, Output, Step
from mmssl.objectives.networks import AVERAGE, Moving
from mmssl.objectives.terms import joined
from mmssl.recipe.options import Attention, Precision, TrainOptions
from mmssl.training.allocator import keep_freed_memory, keep_kernels
from mmssl.training.checkpoint import rng_state, set_rng_state
from mmssl.training.health import BEGINNING
from mmssl.training.optim import adamw, parameter_groups, set_lr


class TrainingError(RuntimeError):
    """Training cannot go on. samples: places in the source of those that were trained on when it failed."""

    def __init__(self, message: str, samples: Sequence[int]) -> None:
        super().__init__(message)
        self.samples = samples


def native_bf16() -> bool:
    """Whether the device multiplies bf16 matrices natively."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    abilities = torch.cpu.get_capabilities()
    return bool(abilities.get("avx512_bf16") or abilities.get("amx_bf16") or abilities.get("bf16"))


def accelerate_precision(precision: Precision) -> str:
    """Accelerate's name of a precision; `auto` asks the hardware."""
    if precision == "auto":
        return "bf16" if native_bf16() else "no"
    return "no" if precision == "fp32" else precision


def set_attention(objective: Objective, attention: Attention, device: torch.device) -> None:
    """Choose the attention kernel of every encoder in an objective: the model's, decoders, predictors, teachers."""
    chosen = attention if attention != "auto" else "eager" if device.type == "cpu" else "sdpa"
    objective.model.set_attn_implementation(chosen)
    for module in objective.modules():
        if isinstance(module, Encoder):
            module.config._attn_implementation = objective.model.config._attn_implementation


@dataclass
class Counters:
    """How far a run is: steps and samples done, seconds trained, samples left out, and whether a budget is used up."""

    step: int = 0
    samples: int = 0
    seconds: float = 0.0
    skipped: int = 0


class Training:
    """An objective with its optimizer: makes steps, saves and restores its whole state.

    objective: what to train; options: how. `steps_per_epoch` says how long a pass over the data is, for a budget of epochs.
    """

    def __init__(self, objective: Objective, options: TrainOptions, *, project_dir: str | None = None) -> None:
        self.options, self.counters, self.steps_per_epoch = options, Counters(), 1.0
        self.grad_norm = 0.0
        AcceleratorState._reset_state()  # or the precision of an earlier run in this process could not be changed
        self.accelerator = Accelerator(
            mixed_precision=accelerate_precision(options.precision),
            gradient_accumulation_steps=options.accumulation,
            log_with=list(options.trackers) or None,
            project_dir=project_dir,
            kwargs_handlers=[
                # What must be the same on all processes is made so where it changes; buffers would be sent at every forward pass.
                DistributedDataParallelKwargs(find_unused_parameters=len(objective.modalities) > 1, broadcast_buffers=False)
            ],
        )
        if self.device.type == "cpu":
            keep_freed_memory()
            keep_kernels()
        self.objective = objective
        set_attention(objective, options.attention, self.device)
        if options.gradient_checkpointing:
            for module in objective.modules():
                if isinstance(module, Encoder):
                    module.recompute_activations()
        if options.ema:
            objective.networks.want(AVERAGE, Moving(options.ema, options.ema))
        if options.compile:
            objective.compile()
        self.wrapped, self.optimizer = self.prepare()

    def prepare(self) -> tuple[nn.Module, AcceleratedOptimizer]:
        """The objective in its place, then the copies of its model, placed or sharded as the student is; then the optimizer."""
        options = self.options
        wrapped = self.accelerator.prepare(self.objective)
        self.objective.networks.make()
        groups = parameter_groups(
            self.objective, self.objective.model.encoder, weight_decay=options.weight_decay, layer_decay=options.layer_decay
        )
        return wrapped, self.accelerator.prepare(adamw(groups, lr=options.lr, betas=options.betas, eps=options.eps))

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def clock(self) -> Clock:
        """How far the run is; the only place that knows."""
        return self.clock_at(self.counters.step)

    def clock_at(self, step: int) -> Clock:
        """How far the run is once it has made that many steps, by the time that it has taken so far."""
        options = self.options
        shares = [
            step / options.max_steps if options.max_steps else 0.0,
            step / (options.max_epochs * self.steps_per_epoch) if options.max_epochs else 0.0,
            self.counters.seconds / 60 / options.max_minutes if options.max_minutes else 0.0,
        ]
        return Clock(step, min(1.0, max(shares)))

    @property
    def progress(self) -> float:
        """Consumed share of the budget, 0 to 1."""
        return self.clock.progress

    @property
    def lr(self) -> float:
        """Learning rate of the next step: the peak, where a warmup from 0 would be all there is."""
        share = self.options.schedule(self.counters.step, self.progress)
        alone = self.counters.step == 0 and self.clock_at(1).progress >= 1
        return self.options.lr * (1.0 if alone and share == 0 else share)

    def step(self, batches: Iterator[Batch]) -> dict[str, float]:
        """One optimizer step on the next micro-batches; returns the loss and the metrics of all of them together.

        TrainingError if the loss or the gradient is not finite (of fp16 the loss only: the gradient's scale adapts to overflow).
        """
        begin = time.perf_counter()
        lr = self.lr
        set_lr(self.optimizer, lr)
        micro = self.with_donors(self.read(batches))
        outputs = self.backward(micro)
        self.counters.step += 1
        self.counters.samples += sum(map(len, micro)) * self.accelerator.num_processes
        seconds = self.counters.seconds
        self.counters.seconds = self.agreed(seconds + time.perf_counter() - begin)
        if not self.optimizer.step_was_skipped:
            self.objective.after_step(self.clock)
        row = numbers({"loss": self.total([output.loss.detach() for output in outputs])} | joined([o.metrics for o in outputs]))
        return row | {"lr": lr, "grad_norm": self.grad_norm, "step_seconds": self.counters.seconds - seconds}

    def read(self, batches: Iterator[Batch]) -> list[Batch]:
        """The micro-batches of the next step that has samples; where all of a step were bad, they are counted and passed over.

        ValueError if one of several processes has no sample in a step: it could not take part.
        """
        while True:
            micro = [next(batches) for _ in range(self.options.accumulation)]
            self.counters.skipped += sum(len(batch.skipped) for batch in micro)
            counts = [sum(map(len, micro))]
            if self.accelerator.num_processes > 1:
                counts = gather_object(counts)
            if all(counts):
                return micro
            if any(counts):
                skipped = "; ".join(batch.skipped[-1] for batch in micro if batch.skipped) or "see the other processes"
                raise ValueError(
                    f"one of {len(counts)} processes has no sample that can be read in a step: {skipped}. Give each process more "
                    "samples (train.batch_size), or drop the bad ones"
                )

    def with_donors(self, micro: list[Batch]) -> list[Batch]:
        """Micro-batches on the device; where something of a sample may come from others, with all samples of all processes.

        One of bad samples alone counts as nothing, and is left out.
        """
        if not self.objective.mixes:
            return [batch.to(self.device) for batch in micro if len(batch)]
        everyone, first = gather_object(micro), len(micro) * self.accelerator.process_index
        places = [place for place, batch in enumerate(everyone) if len(batch)]
        found = with_others([everyone[place].to(self.device) for place in places])
        return [batch for place, batch in zip(places, found, strict=True) if first <= place < first + len(micro)]

    def backward(self, micro: Sequence[Batch]) -> list[Output]:
        """Forward and backward of the micro-batches of a step, whose losses add up to its loss; then the optimizer moves."""
        step, outputs, shares = self.what_is_known(micro), list[Output](), self.options.accumulation
        for _ in range(shares - len(micro)):
            with self.accelerator.accumulate(self.wrapped):
                pass  # Accelerate moves the optimizer at every `shares`-th: those without samples come first
        for batch in micro:
            with self.accelerator.accumulate(self.wrapped):
                with self.accelerator.autocast():
                    output: Output = self.wrapped(batch, step)
                outputs.append(output)
                # Accelerate divides by the micro-batches, DistributedDataParallel by the processes: each loss is a share of a sum.
                self.accelerator.backward(output.loss * (shares * self.accelerator.num_processes))
                if self.accelerator.sync_gradients:
                    self.check(outputs, micro)
                    self.clip([i for each in micro for i in each.ids.tolist()])
                self.optimizer.step()
                self.optimizer.zero_grad()
        return outputs

    def what_is_known(self, micro: Sequence[Batch]) -> Step:
        """What the objective is told of the step; of several micro-batches the weights of all, before the first backward pass."""
        done, every = self.counters.step, self.options.log_every
        step = Step(self.clock, diagnose=done < BEGINNING or (done + 1) % every == 0)
        if len(micro) * self.accelerator.num_processes == 1:
            return step
        self.objective.observe(micro, step)
        with self.accelerator.autocast():
            weights = [self.objective.weights(batch, step) for batch in micro]
        total = {name: self.total([each[name] for each in weights]) for name in weights[0]}
        return replace(step, weights=total)

    def check(self, outputs: Sequence[Output], micro: Sequence[Batch]) -> None:
        """TrainingError if a loss of the step is not finite."""
        losses = torch.stack([output.loss.detach() for output in outputs]).tolist()
        for loss, batch in zip(losses, micro, strict=True):
            if not math.isfinite(loss):
                raise TrainingError(f"the loss is {loss} at step {self.counters.step + 1}", batch.ids.tolist())

    def total(self, values: Sequence[Tensor]) -> Tensor:
        """The sum of a number over the micro-batches and processes of a step."""
        own = torch.stack(list(values)).sum()
        return own if self.accelerator.num_processes == 1 else self.accelerator.reduce(own, "sum")

    def agreed(self, value: float) -> float:
        """A number of the first process, on all of them: clocks differ."""
        if self.accelerator.num_processes == 1:
            return value
        (found,) = broadcast_object_list([value])
        return float(found)

    def clip(self, samples: Sequence[int]) -> None:
        """Measure the norm of the gradient of `samples`, then bring it down to the limit if there is one."""
        limit = math.inf if self.options.clip_norm is None else self.options.clip_norm
        self.grad_norm = float(self.accelerator.clip_grad_norm_(self.wrapped.parameters(), limit))
        if not math.isfinite(self.grad_norm) and self.accelerator.scaler is None:
            raise TrainingError(f"the gradient's norm is {self.grad_norm} at step {self.counters.step + 1}", samples)

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "counters": vars(self.counters),
            "objective": self.objective.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict(),
            "rng": rng_state(),
            "average_warms_up": self.objective.networks.average_warms_up,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state()`. ValueError that lists the differences if it belongs to another architecture.

        The state may be that of other options: then those of this training count from here on.
        """
        load_weights(self.objective, self.objective.upgraded(state["objective"], state.get("average")))
        load_moments(self.optimizer, state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        # A run that began before averages warmed up goes on without, to the weights that it would have had.
        self.objective.networks.average_warms_up = state.get("average_warms_up", False)
        self.counters = Counters(**state["counters"])
        set_rng_state(state["rng"])

    def published(self) -> MMSSLModel:
        """The model to publish."""
        return self.objective.published()


def numbers(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars as Python numbers, after one wait for the device."""
    return dict(zip(values, torch.stack([value.detach().float() for value in values.values()]).tolist(), strict=True))


def load_weights(module: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Load a state dict; ValueError that names the parameters that are missing, not expected or of another shape."""
    own = module.state_dict()
    wrong = [f"missing {key}" for key in own.keys() - state.keys()]
    wrong += [f"unexpected {key}" for key in state.keys() - own.keys()]
    wrong += [
        f"{key} is {list(state[key].shape)}, expected {list(own[key].shape)}"
        for key in own.keys() & state.keys()
        if state[key].shape != own[key].shape
    ]
    if wrong:
        shown = "; ".join(sorted(wrong)[:5]) + (f"; and {len(wrong) - 5} more" if len(wrong) > 5 else "")
        raise ValueError(f"the weights belong to another architecture: {shown}. Use the recipe that they were trained with")
    module.load_state_dict(state)


def load_moments(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load an optimizer's state, but keep the options of its groups. ValueError if they group the parameters in another way."""
    options = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    sizes = [len(group["params"]) for group in optimizer.param_groups]
    saved = [len(group["params"]) for group in state["param_groups"]]
    if sizes != saved:
        raise ValueError(
            f"the optimizer groups the parameters in another way than the checkpoint: groups of {sizes}, not {saved}. Use the "
            "train.layer_decay that it was made with, and a train.weight_decay of 0 only if it had 0"
        )
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, options, strict=True):
        group.update(own)


def fit(training: Training, batches: Iterator[Batch], on_step: Callable[[dict[str, float]], bool]) -> None:
    """Train until the budget is used up or `on_step`, called after each optimizer step with its metrics, returns True (stop).

    batches: one per micro-batch.
    """
    training.wrapped.train()
    while training.progress < 1 and not on_step(training.step(batches)):
        pass
