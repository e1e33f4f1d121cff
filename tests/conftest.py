"""What every test may rely on: no network, no display, caches that vanish, draws that repeat."""

import os
import tempfile

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
