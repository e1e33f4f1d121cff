"""Saved weights that are all there, belong to the model, and are numbers: transformers replaces what is missing by random ones."""

import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from accelerate.utils import other
from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.utils import logging

from mmssl.model.config import MMSSLConfig
from mmssl.processor import check_there

M = TypeVar("M", bound=PreTrainedModel)

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
"""Endings of files of weights that Python would have to unpickle."""
NAMED = 3
"""Weights that an error names."""


def model_of(model: str | Path) -> str | Path:
    """The model's folder or Hub id, where a run may be named in its place."""
    inner = Path(model) / "model"
    return inner if not (Path(model) / "config.json").exists() and (inner / "config.json").exists() else model


@contextmanager
def no_weights_bar() -> Iterator[None]:
    """Keep transformers' own progress bar over the weights of a model off the screen."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


@contextmanager
def without_deepspeed() -> Iterator[None]:
    """Save a model without importing DeepSpeed, where it is installed, to ask whether the model is one of its engines.

    Nothing is where nobody has imported it.
    """
    available = other.is_deepspeed_available
    other.is_deepspeed_available = lambda: "deepspeed" in sys.modules
    try:
        yield
    finally:
        other.is_deepspeed_available = available


@contextmanager
def only_errors() -> Iterator[None]:
    """Keep transformers' table of missing and left over weights off the screen."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def load_whole(kind: type[M], model: str | Path, config: MMSSLConfig | None = None) -> M:
    """A saved model, folder or Hub id, as one of class `kind`; `config` in the place of its own.

    ValueError if weights are missing, left over, no numbers or cannot be read; but parts that only one of the two configurations
    speaks of (a modality, a head, learned pooling) may be new, or stay behind.
    """
    check_there(model)
    check_no_pickle(model)
    saved = MMSSLConfig.from_pretrained(model)
    try:
        with no_weights_bar(), only_errors():
            loaded, report = kind.from_pretrained(
                model, config=config, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True
            )
    except SafetensorError as error:
        raise ValueError(f"the weights of {model} cannot be read: {error}. Copy the file again, or publish again") from error
    if wrong := [
        f"{name} is {list(found)} there, and not {list(needed)}" for name, found, needed in sorted(report["mismatched_keys"])
    ]:
        more = f"; and {len(wrong) - NAMED:,} more" if len(wrong) > NAMED else ""
        raise ValueError(
            f"the weights of {model} do not have the sizes of {'its config.json' if config is None else 'the model asked for'}: "
            f"{'; '.join(wrong[:NAMED])}{more}. Random weights would take their place"
        )
    free = re.compile("|".join(parts_of_one(saved, config or saved)) or "(?!)")
    wrong = [
        f"{len(names):,} weights {what}, such as {', '.join(names[:NAMED])}"
        for key, what in (("missing_keys", "are missing"), ("unexpected_keys", "belong to no part of it"))
        if (names := sorted(name for name in report[key] if not free.search(name)))
    ]
    if wrong:
        raise ValueError(
            f"the weights of {model} do not fit its config.json: {'; '.join(wrong)}. Random weights would take their place: give a "
            "folder as mmssl, or save_pretrained, wrote it"
        )
    if odd := [name for name, value in loaded.state_dict().items() if value.is_floating_point() and not value.isfinite().all()]:
        raise ValueError(
            f"the weights of {model} are not all numbers: NaN or infinite values in {len(odd):,} tensors, such as "
            f"{', '.join(odd[:NAMED])}. Its training diverged, or the file is damaged: take an earlier checkpoint, or copy it again"
        )
    return loaded


def check_no_pickle(model: str | Path) -> None:
    """ValueError for a folder without weights in safetensors: pickled ones would be run as code when they are read."""
    folder = Path(model)
    if not folder.is_dir() or any(folder.glob("*.safetensors")):
        return
    held = ", ".join(sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED))
    way = (
        f"{held} may be pickled, which can run code and is not read: whoever made it can save it again as safetensors"
        if held
        else "copy it there too"
    )
    raise ValueError(f"{model} holds no model.safetensors; {way}")


def parts_of_one(a: MMSSLConfig, b: MMSSLConfig) -> Iterable[str]:
    """Patterns of the names of weights that a model of one configuration has, and a model of the other has not."""
    names = "|".join(map(re.escape, sorted(set(a.modalities) ^ set(b.modalities))))
    if names:
        yield rf"^(adapters|encoder\.layers\.\d+\.mlp|heads\.\w+)\.({names})\."
    if (a.pooling == "attention") != (b.pooling == "attention"):
        yield r"^pooler\."
    if (a.projections, a.logit_scale, a.logit_bias, a.label_head) != (b.projections, b.logit_scale, b.logit_bias, b.label_head):
        yield r"^heads\."
