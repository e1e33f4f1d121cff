"""A recipe that trains in a second, and ways to run it."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from mmssl import api
from mmssl.data import Batch
from mmssl.training.loop import Made, Training
from mmssl.training.run import Run
from mmssl.training.session import Session

TINY = """
modalities:
  image: {processor: {size: 8, channels: 1}, adapter: {patch_size: 4}, augment: {flip: 0.5}}
encoder: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2, drop_path_rate: 0.1}
objective:
  name: masked
  mask: {name: random, ratio: 0.5}
  predictor: {name: transformer, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2}
data: {path: "bundled:digits", limit: 64}
train: {batch_size: 16, accumulation: 2, max_steps: 12, ema: 0.9, checkpoint_every: 4, log_every: 5}
"""
TABLE = """
modalities:
  tabular: {}
encoder: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2}
objective: {name: masked, predictor: {name: mask_token}}
data: {path: "bundled:wine"}
train: {batch_size: 16, max_steps: 3}
"""

Train = Callable[..., Run]


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Models this small are slower on more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """The report's pictures and curves take longer than the training."""
    monkeypatch.setattr(Session, "pictures", lambda *given: {})
    monkeypatch.setattr("mmssl.report.page.charts", lambda metrics, table: [])


@pytest.fixture(scope="session")
def tiny_text() -> str:
    return TINY


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The recipe, in an empty folder that is the working directory."""
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text(TINY, encoding="utf-8")
    return recipe


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe for a table, in the working directory."""
    monkeypatch.chdir(tmp_path)
    recipe = tmp_path / "table.yaml"
    recipe.write_text(TABLE, encoding="utf-8")
    return recipe


@pytest.fixture
def train(tiny: Path) -> Train:
    """Train the tiny recipe with some overrides."""

    def run(*overrides: str, recipe: Path = tiny, **options: Any) -> Run:
        return api.train(recipe, overrides, **options)

    return run


@pytest.fixture
def signal_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int, signal.Signals], None]:
    """Make this process receive a signal, once, right after an optimizer step."""

    def arrange(step: int, number: signal.Signals) -> None:
        original, sent = Training.move, list[int]()

        def move_then_signal(self: Training, micro: list[Batch]) -> Made:
            made = original(self, micro)
            if self.counters.step == step and not sent:
                sent.append(step)
                signal.raise_signal(number)
            return made

        monkeypatch.setattr(Training, "move", move_then_signal)

    return arrange
