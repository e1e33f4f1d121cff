"""One optimizer step of text and of sound, of real and ragged lengths, beside transformers' model of the same work.

    OMP_NUM_THREADS=1 python benchmarks/peers.py text
    OMP_NUM_THREADS=1 python benchmarks/peers.py wave --data ../shared/data/spoken_digits

text: the recipe `bert_sst2` on Python's docstrings, beside `BertForMaskedLM` of the same width, depth, heads and vocabulary. That
computes logits of every token; a second peer is its encoder and head asked for the hidden tokens alone, as we do.
wave: the recipe `wav2vec2_spoken_digits`, beside `Wav2Vec2ForPreTraining` of the same stem, width, depth, heads and codebooks. Its
masks and negatives are drawn before the clock starts; ours are drawn in the step.

All sides see the same batches, of sentences or recordings as they come, padded to the longest where a peer needs it, fp32, fused
AdamW and clipping. Peers are tried with each of their attention kernels, without dropout and layers left out. The steps of all
alternate in one process, so that a noisy machine slows all of them; the numbers are medians.
"""

import argparse
import itertools
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from step import Step, alternate, optimizer_step
from torch import Tensor, nn
from transformers import BertConfig, BertForMaskedLM, Wav2Vec2Config, Wav2Vec2ForPreTraining
from transformers.models.wav2vec2.modeling_wav2vec2 import _compute_mask_indices, _sample_negative_indices

from mmssl.data import Batch
from mmssl.recipe import recipe
from mmssl.training.allocator import keep_freed_memory
from mmssl.training.run import Run
from mmssl.training.session import Session
from mmssl_modalities.audio.processor import LENGTHS, STRIDE, WAVEFORM
from mmssl_modalities.text import TextProcessor

OURS = "mmssl"
KERNELS = ("eager", "sdpa")
RECIPES = {"text": "bert_sst2", "wave": "wav2vec2_spoken_digits"}
HIDDEN = 103
"""What a hidden token is replaced by; any id will do."""

Loss = Callable[[], Tensor]


def session(options: argparse.Namespace, folder: Path) -> Session:
    """The recipe's training, on batches of so many samples as they come."""
    own: dict[str, Any] = {"text": {"data.path": "bundled:docstrings", "data.columns": None}, "wave": {"data.path": options.data}}[
        options.what
    ]
    own |= {"encoder.num_hidden_layers": options.depth, "encoder.hidden_size": options.width, "encoder.num_attention_heads": 4}
    budget = {"train.max_steps": 10**9, "train.max_minutes": None, "train.batch_tokens": None}
    budget |= {"train.batch_size": options.batch_size}
    rest = {"train.precision": "fp32", "evaluate": None, "run.dir": str(folder), "data.workers": 0, "data.cache": False}
    chosen = recipe.load(RECIPES[options.what], own | budget | rest)
    return Session(chosen, Run.open(chosen, "never"), None)


def bert(made: Session, kernel: str, sparse: bool) -> tuple[nn.Module, Callable[[Batch], Loss]]:
    """BERT of the same size, and how it makes a loss of a batch."""
    config = made.training.objective.model.config
    text = made.pieces.processor.processors["text"]
    assert isinstance(text, TextProcessor)
    model = BertForMaskedLM(
        BertConfig(
            vocab_size=text.tokens.size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            intermediate_size=4 * config.hidden_size,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            attn_implementation=kernel,
        )
    )
    ratio = recipe.load(RECIPES["text"]).objective[1]["mask"].ratio

    def loss_of(batch: Batch) -> Loss:
        inputs = batch.inputs["text"]
        ids = inputs["input_ids"]
        there = torch.arange(ids.shape[1]) < inputs["text_lengths"]
        hidden = (torch.rand(ids.shape) < ratio) & there
        seen, labels = ids.masked_fill(hidden, HIDDEN), ids.masked_fill(~hidden, -100)

        def all_tokens() -> Tensor:
            found: Tensor = model(seen, attention_mask=there.long(), labels=labels).loss
            return found

        def hidden_tokens() -> Tensor:
            states = model.bert(seen, attention_mask=there.long()).last_hidden_state
            return nn.functional.cross_entropy(model.cls(states[hidden]), ids[hidden])

        return hidden_tokens if sparse else all_tokens

    return model, loss_of


def wav2vec2(made: Session, kernel: str, _: bool) -> tuple[nn.Module, Callable[[Batch], Loss]]:
    """wav2vec 2.0 of the same size, and how it makes a loss of a batch."""
    config = made.training.objective.model.config
    chosen = recipe.load(RECIPES["wave"])
    (target,), mask = chosen.resolved()["objective"]["targets"], chosen.objective[1]["mask"]
    conv = chosen.modalities["audio"]["adapter"]["conv_width"]
    settings = Wav2Vec2Config(
        hidden_size=config.hidden_size,
        num_hidden_layers=config.num_hidden_layers,
        num_attention_heads=config.num_attention_heads,
        intermediate_size=4 * config.hidden_size,
        conv_dim=[conv] * 7,
        num_codevectors_per_group=target["codes"],
        num_codevector_groups=target["groups"],
        codevector_dim=target["code_width"],
        proj_codevector_dim=target["width"],
        num_negatives=target["loss"]["count"],
        attn_implementation=kernel,
        do_stable_layer_norm=True,
        feat_extract_norm="layer",
        **dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout", "feat_quantizer_dropout", "layerdrop"), 0.0),
    )
    model = Wav2Vec2ForPreTraining(settings)

    def loss_of(batch: Batch) -> Loss:
        inputs = batch.inputs["audio"]
        waves = inputs[WAVEFORM].flatten(1)
        there = torch.arange(waves.shape[1]) < STRIDE * inputs[LENGTHS]
        lengths = model._get_feat_extract_output_lengths(there.sum(1))
        shape = (len(waves), int(model._get_feat_extract_output_lengths(waves.shape[1])))
        places = (torch.arange(shape[1]) < lengths[:, None]).long()
        hidden = _compute_mask_indices(shape, mask.ratio, mask.length, attention_mask=places, min_masks=mask.least)
        hidden[hidden.sum(1) < 2, :2] = True  # recordings shorter than a span; a negative needs a second place
        negatives = torch.from_numpy(_sample_negative_indices(shape, settings.num_negatives, hidden))
        marked = torch.from_numpy(hidden)

        def found() -> Tensor:
            loss: Tensor = model(
                waves, attention_mask=there.long(), mask_time_indices=marked, sampled_negative_indices=negatives
            ).loss
            return loss / marked.sum()

        return found

    return model, loss_of


def our_step(made: Session, batches: Iterator[Batch]) -> Step:
    """Our training's own step."""
    return lambda: torch.tensor(made.training.step(batches)["loss"])


def their_step(module: nn.Module, loss_of: Callable[[Batch], Loss], batches: list[Batch]) -> Step:
    """A step of a transformers model."""
    losses = itertools.cycle([loss_of(batch) for batch in batches])
    return optimizer_step(module, lambda: next(losses)())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=list(RECIPES))
    parser.add_argument("--data", default="mteb/free-spoken-digit-dataset", help="the recordings of wave")
    for name, size in {"batch-size": 32, "width": 128, "depth": 4, "repeats": 11, "batches": 8}.items():
        parser.add_argument(f"--{name}", type=int, default=size)
    options = parser.parse_args()
    keep_freed_memory()
    torch.manual_seed(0)
    peer = {"text": bert, "wave": wav2vec2}[options.what]
    with tempfile.TemporaryDirectory() as folder:
        made = session(options, Path(folder))
        made.training.wrapped.train()
        feed = iter(made.feed)
        batches = [next(feed) for _ in range(options.batches)]
        steps = {OURS: our_step(made, itertools.cycle(batches))}
        for sparse in (False, True) if options.what == "text" else (False,):
            for kernel in KERNELS:
                name = f"transformers, {kernel}" + (", head on hidden tokens" if sparse else "")
                steps[name] = their_step(*peer(made, kernel, sparse), batches)
        medians = alternate(steps, options.repeats)
    lengths = [next(value for name, value in each.items() if "length" in name) for (each,) in (b.inputs.values() for b in batches)]
    filled = sum(float(each.sum()) for each in lengths) / sum(float(each.max()) * len(each) for each in lengths)
    about = f"width {options.width}, {options.depth} layers, batch {options.batch_size}, {filled:.0%} of a padded batch is filled"
    print(f"{options.what}: {about}, {torch.get_num_threads()} threads, torch {torch.__version__}, medians of {options.repeats}")
    print("| | ms a step | samples/s | ratio |")
    print("|---|---:|---:|---:|")
    for name, seconds in medians.items():
        ratio = f"{seconds / medians[OURS]:.2f}"
        print(f"| {name} | {1e3 * seconds:,.0f} | {options.batch_size / seconds:,.1f} | {ratio} |", flush=True)


if __name__ == "__main__":
    main()
