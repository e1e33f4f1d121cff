"""The one training loop, on Accelerate. It knows no objective and no modality."""

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from torch import nn

from mmssl.checkpoint import rng_state, set_rng_state
from mmssl.data import Batch
from mmssl.encoder import Encoder
from mmssl.memory import keep_freed_memory, keep_kernels
from mmssl.model import MMSSLModel
from mmssl.objectives import Objective, Output
from mmssl.optim import adamw, parameter_groups, set_lr
from mmssl.options import Attention, Precision, TrainOptions
from mmssl.teacher import ema_copy, ema_update


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
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=len(objective.modalities) > 1)],
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
        self.average: MMSSLModel | None = ema_copy(objective.model).to(self.device) if options.ema else None
        groups = parameter_groups(
            objective, objective.model.encoder, weight_decay=options.weight_decay, layer_decay=options.layer_decay
        )
        optimizer = adamw(groups, lr=options.lr, betas=options.betas, eps=options.eps)
        if options.compile:
            objective.compile()
        self.wrapped, self.optimizer = self.accelerator.prepare(objective, optimizer)

    @property
    def device(self) -> torch.device:
        return self.accelerator.device

    @property
    def progress(self) -> float:
        """Consumed share of the budget, 0 to 1."""
        options, done = self.options, self.counters
        shares = [
            done.step / options.max_steps if options.max_steps else 0.0,
            done.step / (options.max_epochs * self.steps_per_epoch) if options.max_epochs else 0.0,
            done.seconds / 60 / options.max_minutes if options.max_minutes else 0.0,
        ]
        return min(1.0, max(shares))

    @property
    def lr(self) -> float:
        """Learning rate of the next step."""
        return self.options.lr * self.options.schedule(self.counters.step, self.progress)

    def step(self, batches: Iterator[Batch]) -> dict[str, float]:
        """One optimizer step on the next micro-batches; returns its loss and metrics.

        TrainingError if the loss or the gradient is not finite (of fp16 the loss only: the gradient's scale adapts to overflow).
        """
        begin = time.perf_counter()
        lr = self.lr
        set_lr(self.optimizer, lr)
        results, samples = [], list[int]()
        for _ in range(self.options.accumulation):
            batch = next(batches)
            samples += batch.ids.tolist()
            results.append(self.micro_step(batch.to(self.device), samples))
            self.counters.samples += len(batch) * self.accelerator.num_processes
            self.counters.skipped += len(batch.skipped)
        self.counters.step += 1
        if self.average is not None and self.options.ema:
            ema_update(self.average, self.objective.model, self.options.ema)
        self.objective.after_step(self.progress)
        seconds = time.perf_counter() - begin
        self.counters.seconds += seconds
        mean = {key: sum(row[key] for row in results) / len(results) for key in results[0]}
        return mean | {"lr": lr, "grad_norm": self.grad_norm, "step_seconds": seconds}

    def micro_step(self, batch: Batch, samples: Sequence[int]) -> dict[str, float]:
        """Forward and backward of one micro-batch; the optimizer moves at the last one of a step, after all of `samples`."""
        with self.accelerator.accumulate(self.wrapped):
            with self.accelerator.autocast():
                output: Output = self.wrapped(batch)
            loss = output.loss.item()
            if not math.isfinite(loss):
                raise TrainingError(f"the loss is {loss} at step {self.counters.step + 1}", batch.ids.tolist())
            self.accelerator.backward(output.loss)
            if self.accelerator.sync_gradients:
                self.clip(samples)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return {"loss": loss} | {key: value.item() for key, value in output.metrics.items()}

    def shared(self, value: float) -> float:
        """The mean of a number over all processes."""
        if self.accelerator.num_processes == 1:
            return value
        return float(self.accelerator.reduce(torch.tensor(value, device=self.device), "mean"))

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
            "average": None if self.average is None else self.average.state_dict(),
            "scaler": None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict(),
            "rng": rng_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state()`. ValueError that lists the differences if it belongs to another architecture.

        The state may be that of other options: then those of this training count from here on.
        """
        load_weights(self.objective, state["objective"])
        load_moments(self.optimizer, state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"] or self.objective.model.state_dict())
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        self.counters = Counters(**state["counters"])
        set_rng_state(state["rng"])

    def published(self) -> MMSSLModel:
        """The model to publish: the average of the weights where the recipe asks for one, else what the objective says."""
        return self.average if self.average is not None else self.objective.published()


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
