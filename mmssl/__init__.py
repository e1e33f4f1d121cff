"""Self-supervised pretraining: one recipe in, a Hugging Face model out.

Importing mmssl registers its classes with transformers' AutoConfig, AutoModel and AutoProcessor, always: the `mmssl` command, which
should show its help before torch is imported, starts in `mmssl_cli`.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "MMSSLConfig": "mmssl.config",
    "MMSSLModel": "mmssl.model",
    "MMSSLProcessor": "mmssl.processor",
    "check": "mmssl.api",
    "embed": "mmssl.api",
    "evaluate": "mmssl.api",
    "train": "mmssl.api",
}

__version__ = "0.1.0"
__all__ = [*_HOMES, "__version__"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mmssl' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


import_module("mmssl.model")
