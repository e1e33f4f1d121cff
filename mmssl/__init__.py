"""Self-supervised pretraining: one recipe in, a Hugging Face model out.

Importing mmssl registers its classes with transformers' AutoConfig, AutoModel and AutoProcessor, always: the `mmssl` command, which
should show its help before torch is imported, starts in `mmssl_cli`.
"""

import sys
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_HOMES = {
    "MMSSLConfig": "mmssl.model",
    "MMSSLForClassification": "mmssl.model",
    "MMSSLForRegression": "mmssl.model",
    "MMSSLForTimeSeriesPrediction": "mmssl.model",
    "MMSSLModel": "mmssl.model",
    "MMSSLProcessor": "mmssl.processor",
    "check": "mmssl.api",
    "embed": "mmssl.api",
    "evaluate": "mmssl.api",
    "evaluate_pairs": "mmssl.api",
    "new": "mmssl.api",
    "predict": "mmssl.api",
    "push": "mmssl.publish",
    "search": "mmssl.api",
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


_OLD_PATHS = {
    "mmssl.cli": "mmssl_cli",
    "mmssl.config": "mmssl.model",
    "mmssl.encoder": "mmssl.model",
    "mmssl.teacher": "mmssl.model.teacher",
}
"""Paths by which other packages import what is elsewhere now."""


class _OldPaths(MetaPathFinder, Loader):
    """Finds the module of today by its old path."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self) if fullname in _OLD_PATHS else None

    def exec_module(self, module: ModuleType) -> None:
        sys.modules[module.__name__] = import_module(_OLD_PATHS[module.__name__])


sys.meta_path.append(_OldPaths())
import_module("mmssl.model")
