"""What every test may rely on: no network, no display, caches that vanish, draws that repeat."""

import importlib
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

_caches = tempfile.TemporaryDirectory(prefix="mmssl-tests-")

# Before any import of the libraries that read them; child processes inherit them.
os.environ.update(
    HF_HUB_OFFLINE="1",
    HF_DATASETS_OFFLINE="1",
    HF_HOME=f"{_caches.name}/huggingface",
    MPLCONFIGDIR=f"{_caches.name}/matplotlib",
    MPLBACKEND="agg",
    TOKENIZERS_PARALLELISM="false",
)

# A deadline measures how busy the machine is; stored examples would make two runs differ.
settings.register_profile("repeatable", deadline=None, derandomize=True, database=None)
settings.load_profile("repeatable")


def pytest_unconfigure(config: pytest.Config) -> None:
    _caches.cleanup()


@pytest.fixture(scope="session")
def benchmark_module() -> Callable[[str], ModuleType]:
    """A script of benchmarks/ as a module; it finds its neighbours."""
    folder = str(Path(__file__).parents[1] / "benchmarks")

    def found(name: str) -> ModuleType:
        sys.path.insert(0, folder)
        try:
            return importlib.import_module(name)
        finally:
            sys.path.remove(folder)

    return found
