"""The one training loop, on Accelerate. It knows no objective and no modality."""

import math
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from accelerate.state import AcceleratorState
from accelerate.utils import GradientAccumulationPlugin
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

from mmssl.data import Batch, processes, with_others
from mmssl.data.processes import OtherFailed
from mmssl.model import Encoder, MMSSLModel
from mmssl.objectives import Clock, Objective, Output, Step
from mmssl.objectives.networks import AVERAGE, Moving
from mmssl.objectives.terms import Metric, joined
from mmssl.recipe.options import Attention, Precision, TrainOptions
from mmssl.training.allocator import keep_freed_memory, keep_kernels
from mmssl.training.asked import Asked, taken
from mmssl.training.checkpoint import rng_state, set_rng_state
from mmssl.training.health import BEGINNING
from mmssl.training.launch import check_in_force, refuse_other_settings, start
from mmssl.training.optim import adamw, groups_of, set_lr, set_weight_decay
from mmssl.training.sharding.alike import alike, marks, unlike
from mmssl.training.sharding.choice import strategy_of
from mmssl.training.sharding.strategy import Strategy, check_architecture


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


def kernel_of(attention: Attention, device: torch.device, precision: str) -> str:
    """The attention kernel that is meant: `auto` is the fused one, but for half precision on a CPU, where its backward is slow.

    precision: what Accelerate calls it. Measured in docs/log.md, 2026-11-30.
    """
    if attention != "auto":
        return attention
    return "eager" if device.type == "cpu" and precision != "no" else "sdpa"


def set_attention(objective: Objective, attention: Attention, device: torch.device, precision: str = "no") -> None:
    """Choose the attention kernel of every encoder in an objective: the model's, decoders, predictors, teachers."""
    objective.model.set_attn_implementation(kernel_of(attention, device, precision))
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


@dataclass(frozen=True)
class Made:
    """An optimizer step as one process made it: its measurements still lie on the device.

    losses, metrics, ids: of each micro-batch.
    """

    clock: Clock
    lr: float
    seconds: float
    losses: Sequence[Float[Tensor, ""]]
    metrics: Sequence[Mapping[str, Metric]]
    grad_norm: Float[Tensor, ""]
    ids: Sequence[Int[Tensor, " _"]]

    def on_cpu(self) -> "Made":
        """The same, to be sent."""
        metrics = [{name: metric.map(Tensor.cpu) for name, metric in each.items()} for each in self.metrics]
        losses, ids = [loss.cpu() for loss in self.losses], [each.cpu() for each in self.ids]
        return replace(self, losses=losses, metrics=metrics, grad_norm=self.grad_norm.cpu(), ids=ids)


class Training:
    """An objective with its optimizer: makes steps, saves and restores its whole state.

    stand_in: a micro-batch of another process, for a step in which this one has no sample that can be read. unlike: whether, in the
        step that was read, processes would run different layers; see `alike`.
    reading_failed: whether all processes know that one of them cannot read the next step: what was trained before it is whole.

    objective: what to train; options: how; brought: its weights that wait while `warm_heads` lasts.
    shard: whether the strategy that the launch asks for counts: what is not trained any more is not sharded.
    `steps_per_epoch` says how long a pass over the data is, for a budget of epochs.
    """

    def __init__(
        self,
        objective: Objective,
        options: TrainOptions,
        *,
        brought: Sequence[nn.Parameter] = (),
        project_dir: str | None = None,
        shard: bool = True,
    ) -> None:
        self.brought = brought if options.warm_heads else ()
        check_heads(objective, self.brought)
        self.options, self.counters, self.steps_per_epoch = options, Counters(), 1.0
        self.grad_norm = torch.tensor(0.0)
        self.reading_failed, self.unlike, self.begin = False, False, time.perf_counter()
        start(options.timeout)
        precision = accelerate_precision(options.precision)
        refuse_other_settings(precision, options.accumulation, os.environ)
        AcceleratorState._reset_state()  # or the precision of an earlier run in this process could not be changed
        self.accelerator = Accelerator(
            mixed_precision=precision,
            # The number alone would give way to ACCELERATE_GRADIENT_ACCUMULATION_STEPS of `accelerate launch`.
            gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=options.accumulation, sync_with_dataloader=False),
            log_with=list(options.trackers) or None,
            project_dir=project_dir,
            kwargs_handlers=[
                # What must be the same on all processes is made so where it changes; buffers would be sent at every forward pass.
                DistributedDataParallelKwargs(find_unused_parameters=len(objective.modalities) > 1, broadcast_buffers=False)
            ],
        )
        check_in_force(self.accelerator)
        if self.device.type == "cpu":
            keep_freed_memory()
            keep_kernels()
        self.objective = objective
        set_attention(objective, options.attention, self.device, precision)
        if options.gradient_checkpointing:
            for module in objective.modules():
                if isinstance(module, Encoder):
                    module.recompute_activations()
        if options.ema:
            objective.networks.want(AVERAGE, Moving(options.ema, options.ema))
        self.waiting = names_of(objective, self.brought)
        wanted = taken(os.environ) if shard else Asked()
        self.strategy = strategy_of(wanted, self.accelerator, objective, options, precision)
        objective.networks.steady = self.strategy.gathers
        self.strategy.prepare(
            self.make_optimizer, clip=options.clip_norm, compiled=options.compile, accumulation=options.accumulation
        )
        self.wrapped, self.optimizer = self.strategy.wrapped, self.strategy.optimizer

    def make_optimizer(self) -> torch.optim.Optimizer:
        """AdamW of the objective's parameters, as they are."""
        options = self.options
        groups = groups_of(self.objective, options)
        return adamw(groups, lr=options.lr, betas=options.betas, eps=options.eps)

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
        micro = self.read(batches)
        assert micro is not None
        return self.settled([self.move(micro)])[0]

    def read(self, batches: Iterator[Batch], stop: bool = False) -> list[Batch] | None:
        """The micro-batches of the next step; None where a process says `stop`. A step of bad samples alone is passed over.

        OtherFailed where another process cannot read.
        """
        self.begin = time.perf_counter()
        while True:
            micro, error = list[Batch](), None
            try:
                micro = [] if stop else [next(batches) for _ in range(self.options.accumulation)]
            except Exception as failed:
                error = failed
            skipped, samples = sum(len(batch.skipped) for batch in micro), sum(map(len, micro))
            own = marks(micro, self.objective.modalities, self.options.accumulation) if self.strategy.gathers else []
            found = processes.gathered_numbers([samples, skipped, stop, error is not None, *own]).long()
            counts, skips, stops, failures = found[:, :4].T.tolist()
            self.reading_failed = any(failures)
            if error is not None:
                raise error
            if any(failures):
                raise OtherFailed(f"{processes.name(failures.index(1))} cannot read step {self.counters.step + 1}; it says why")
            if any(stops):
                return None
            self.counters.skipped += sum(skips)
            if any(counts):
                if self.strategy.gathers:
                    self.unlike = unlike(found[:, 4:].tolist(), self.strategy.name, self.objective.modalities)
                elif not all(counts):
                    self.stand_in = next(batch for own in processes.gathered(micro) for batch in own if len(batch))
                self.counters.samples += sum(counts)
                return micro

    def move(self, micro: list[Batch]) -> "Made":
        """One optimizer step on micro-batches. On a CPU, TrainingError at once if it is not finite; see `settled`."""
        lr = self.lr
        set_lr(self.optimizer, lr)
        set_weight_decay(self.optimizer, self.progress)
        micro = self.with_donors(micro)
        micro, told = self.choose(self.alike(micro) if self.unlike else micro)
        outputs = self.backward(micro or [self.standing_in()])
        self.counters.step += 1
        seconds = self.counters.seconds
        # The clock is that of the first process.
        self.counters.seconds = float(processes.gathered_numbers([seconds + time.perf_counter() - self.begin])[0, 0])
        if not self.optimizer.step_was_skipped:
            self.objective.keep(outputs[-1].state)
            self.strategy.after_step(lambda: self.objective.after_step(self.clock))
        return Made(
            self.clock,
            lr,
            self.counters.seconds - seconds,
            [output.loss.detach() for output in outputs],
            [*(output.metrics for output in outputs), told],
            self.grad_norm,
            [batch.ids for batch in micro],
        )

    def settled(self, steps: Sequence["Made"]) -> list[dict[str, float]]:
        """The loss and the metrics of whole steps, over all micro-batches and processes; waits for the device, once.

        TrainingError if a loss or a gradient was not finite.
        """
        everyone = [steps] if processes.world() == 1 else processes.gathered([one.on_cpu() for one in steps])
        rows = []
        for parts in zip(*everyone, strict=True):
            own = parts[0]
            measured = joined([metrics for part in parts for metrics in part.metrics])
            losses = [loss for part in parts for loss in part.losses]
            row = numbers({"loss": torch.stack(losses).sum(), "grad_norm": own.grad_norm} | measured)
            self.check(own.clock.step, parts, row)
            norm = row.pop("grad_norm")
            rows.append(row | {"lr": own.lr, "grad_norm": norm, "step_seconds": own.seconds})
        return rows

    def check(self, step: int, parts: Sequence["Made"], row: Mapping[str, float]) -> None:
        """TrainingError if the loss, or the gradient, of a step is not finite. parts: the step as each process made it."""
        if not math.isfinite(row["loss"]):
            pairs = [(loss, ids) for part in parts for loss, ids in zip(part.losses, part.ids, strict=True)]
            loss, ids = next(((loss, ids) for loss, ids in pairs if not loss.isfinite()), pairs[0])
            raise TrainingError(f"the loss is {float(loss)} at step {step}", ids.tolist())
        if not math.isfinite(row["grad_norm"]) and self.accelerator.scaler is None:
            ids = torch.cat([ids for part in parts for ids in part.ids])
            raise TrainingError(f"the gradient's norm is {row['grad_norm']} at step {step}", ids.tolist())

    def with_donors(self, micro: list[Batch]) -> list[Batch]:
        """Micro-batches on the device; where something of a sample may come from others, with all samples of all processes.

        One of bad samples alone counts as nothing, and is left out.
        """
        if not self.objective.mixes:
            return [batch.to(self.device) for batch in micro if len(batch)]
        everyone = [batch for own in processes.gathered(micro) for batch in own]
        first = len(micro) * processes.rank()
        places = [place for place, batch in enumerate(everyone) if len(batch)]
        found = with_others([everyone[place].to(self.device) for place in places])
        return [batch for place, batch in zip(places, found, strict=True) if first <= place < first + len(micro)]

    def choose(self, micro: list[Batch]) -> tuple[list[Batch], dict[str, Metric]]:
        """The samples of a step that the objective trains on, and what to log of them; a process may be left without any."""
        if not self.objective.chooses:
            return micro, {}
        own, step = micro or [self.standing_in()], Step(self.clock)
        with self.accelerator.autocast():
            kept, told = self.strategy.within(lambda: self.objective.chosen(own, step))
        if self.strategy.gathers:
            return self.alike(kept), told
        if not kept:
            self.stand_in = own[0].take(torch.zeros(1, dtype=torch.int64, device=self.device))
        return kept, told

    def alike(self, micro: Sequence[Batch]) -> list[Batch]:
        """The micro-batches with those that stand in; see `mmssl.training.sharding.alike`."""
        return alike(micro, self.objective.modalities, self.device, self.strategy.name)

    def standing_in(self) -> Batch:
        """A micro-batch that does not count, for a process that has none, which must take part in every step."""
        return replace(self.stand_in.to(self.device), counts=False)

    def backward(self, micro: Sequence[Batch]) -> list[Output]:
        """Forward and backward of the micro-batches of a step, whose losses add up to its loss; then the optimizer moves."""
        step, outputs, shares, counted = self.what_is_known(micro), list[Output](), self.options.accumulation, 0
        for _ in range(shares - len(micro)):
            with self.accelerator.accumulate(*self.strategy.reduced):
                pass  # Accelerate moves the optimizer at every `shares`-th: those without samples come first
        for left, batch in zip(reversed(range(len(micro))), micro, strict=True):
            # Those that are more than `shares`, with copies that stand in, come first too, and unknown to it.
            with self.accelerator.accumulate(*self.strategy.reduced) if left < shares else nullcontext():
                self.strategy.expect(last=not left)
                with self.accelerator.autocast():
                    output: Output = self.wrapped(batch, replace(step, number=counted))
                output = output if batch.counts else Output(output.loss * 0, state=output.state)
                outputs.append(output)
                counted += batch.counts
                self.strategy.backward(output.loss, last=not left)
                if not left:
                    self.hold()
                    self.grad_norm = self.strategy.clip()
                    self.check_at_once(outputs, micro)
                    self.strategy.step()
        return outputs

    def what_is_known(self, micro: Sequence[Batch]) -> Step:
        """What the objective is told of the step; of several micro-batches the weights of all, before the first backward pass."""
        done, every = self.counters.step, self.options.log_every
        step = Step(self.clock, diagnose=done < BEGINNING or (done + 1) % every == 0)
        if len(micro) * self.accelerator.num_processes == 1:
            return step
        weights = self.strategy.within(lambda: self.observed(micro, step))
        names = list(dict.fromkeys(name for each in weights for name in each))
        if len(self.objective.modalities) > 1:  # of rows that lack a modality the terms of a process may lack one too
            everyone = [names] if self.strategy.gathers else processes.gathered(names)
            names = sorted({name for known in everyone for name in known})
        none = torch.zeros((), device=self.device)
        pairs = list(zip(weights, micro, strict=True))
        total = {name: self.total([each.get(name, none) * batch.counts for each, batch in pairs]) for name in names}
        step = replace(step, weights=total)
        if self.options.accumulation == len(micro) == 1:
            return step
        with self.accelerator.autocast():
            return self.strategy.within(lambda: self.objective.prepared(micro, step))

    def observed(self, micro: Sequence[Batch], step: Step) -> list[dict[str, Num[Tensor, ""]]]:
        """Let the objective see the micro-batches of a step; the weights of its terms in each."""
        self.objective.observe(micro, step)
        with self.accelerator.autocast():
            return [self.objective.weights(batch, step) for batch in micro]

    def check_at_once(self, outputs: Sequence[Output], micro: Sequence[Batch]) -> None:
        """TrainingError, before the optimizer moves, if a step is not finite: on a CPU, where nothing waits for the answer."""
        if self.device.type != "cpu":
            return
        bad = not all(output.loss.isfinite() for output in outputs)
        bad |= self.accelerator.scaler is None and not self.grad_norm.isfinite()
        if processes.gathered_numbers([bad]).any():
            clock = self.clock_at(self.counters.step + 1)
            losses, ids = [output.loss.detach() for output in outputs], [batch.ids for batch in micro]
            self.settled([Made(clock, self.lr, 0.0, losses, [{} for _ in losses], self.grad_norm, ids)])

    def total(self, values: Sequence[Tensor]) -> Tensor:
        """The sum of a number over the micro-batches and processes of a step."""
        own = torch.stack(list(values)).sum()
        return own if self.accelerator.num_processes == 1 else self.accelerator.reduce(own, "sum")

    def hold(self) -> None:
        """While only the heads learn, drop the gradient of the rest: AdamW then moves no weight, and no moment, of it.

        Every process does so alike: gradients are those of all by now.
        """
        if self.progress < self.options.warm_heads:
            self.strategy.drop(self.waiting)

    def state(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "counters": vars(self.counters),
            "objective": self.strategy.weights(),
            "optimizer": self.strategy.moments(),
            "scaler": None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict(),
            "rng": rng_state(),
            "rngs": processes.gathered(rng_state()) if processes.world() > 1 else [],
            "average_warms_up": self.objective.networks.average_warms_up,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from `state()`. ValueError that lists the differences if it belongs to another architecture.

        The state may be that of other options: then those of this training count from here on.
        """
        self.strategy.load_weights(self.objective.upgraded(state["objective"], state.get("average")))
        load_moments(self.strategy, state["optimizer"])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])
        # A run that began before averages warmed up goes on without, to the weights that it would have had.
        self.objective.networks.average_warms_up = state.get("average_warms_up", False)
        self.counters = Counters(**state["counters"])
        rngs = state.get("rngs", [])
        set_rng_state(rngs[processes.rank()] if len(rngs) == processes.world() else state["rng"])

    def published(self) -> MMSSLModel:
        """The model to publish."""
        return self.objective.published()


def check_heads(objective: Objective, brought: Sequence[nn.Parameter]) -> None:
    """ValueError if all that learns was brought along: nothing would learn while it waits."""
    waiting = {id(parameter) for parameter in brought}
    if waiting and not any(parameter.requires_grad and id(parameter) not in waiting for parameter in objective.parameters()):
        raise ValueError(
            "train.warm_heads: all weights of this objective come from init, so there are no heads to warm up; set it to 0"
        )


def names_of(objective: Objective, parameters: Sequence[nn.Parameter]) -> list[str]:
    """What an objective calls these of its parameters."""
    wanted = {id(parameter) for parameter in parameters}
    return [name for name, parameter in objective.named_parameters() if id(parameter) in wanted]


def numbers(values: Mapping[str, Tensor]) -> dict[str, float]:
    """Scalars as Python numbers, after one wait for the device."""
    return dict(zip(values, torch.stack([value.detach().float() for value in values.values()]).tolist(), strict=True))


def load_weights(module: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Load a state dict; ValueError that names the parameters that are missing, not expected or of another shape."""
    check_architecture({name: tensor.shape for name, tensor in module.state_dict().items()}, state)
    module.load_state_dict(state)


def load_moments(strategy: Strategy, state: dict[str, Any]) -> None:
    """Load an optimizer's state, but keep the options of its groups. ValueError if they group the parameters in another way."""
    optimizer = strategy.optimizer
    options = [{key: value for key, value in group.items() if key != "params"} for group in optimizer.param_groups]
    sizes = strategy.group_sizes
    saved = [len(group["params"]) for group in state["param_groups"]]
    if sizes != saved:
        raise ValueError(
            f"the optimizer groups the parameters in another way than the checkpoint: groups of {sizes}, not {saved}. Use the "
            "train.layer_decay and train.parts that it was made with, and a train.weight_decay of 0 only if it had 0"
        )
    strategy.load_moments(state)
    for group, own in zip(optimizer.param_groups, options, strict=True):
        group.update(own)


def fit(training: Training, batches: Iterator[Batch], on_step: Callable[[dict[str, float]], bool]) -> None:
    """Train until the budget is used up or `on_step`, called after each optimizer step with its metrics, returns True (stop).

    batches: one per micro-batch.
    """
    run_steps(training, batches, lambda made: on_step(training.settled([made])[0]))


def run_steps(training: Training, batches: Iterator[Batch], on_step: Callable[[Made], bool]) -> None:
    """Train like `fit`; `on_step` is given steps whose measurements nobody waited for. All processes stop where one wants to."""
    training.wrapped.train()
    stop = False
    while training.progress < 1:
        micro = training.read(batches, stop)
        if micro is None:
            break
        stop = on_step(training.move(micro))
