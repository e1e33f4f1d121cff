"""Self-supervised pretraining: one recipe in, a Hugging Face model out.

Importing mmssl registers its classes with transformers' AutoConfig, AutoModel and AutoProcessor: at once where these are imported
already, else when they are. So it takes no time itself, and neither torch nor transformers is imported before it is used.
"""

import sys
import threading
from importlib import import_module
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from types import ModuleType
from typing import Any

_HOMES = {
    "MMSSLConfig": "mmssl.model",
    "MMSSLForClassification": "mmssl.model",
    "MMSSLForFrameClassification": "mmssl.model",
    "MMSSLForRegression": "mmssl.model",
    "MMSSLForSemanticSegmentation": "mmssl.model",
    "MMSSLForTimeSeriesPrediction": "mmssl.model",
    "MMSSLForTokenClassification": "mmssl.model",
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
    if name == "model":
        return import_module("mmssl.model")
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


class _Importing(threading.local):
    """How many modules of transformers and mmssl this thread is in the midst of importing."""

    count = 0


class _Telling(SourceFileLoader):
    """Imports a module, and then registers, unless one that imports it is still half imported: what is registered may need that."""

    importing = _Importing()

    def exec_module(self, module: ModuleType) -> None:
        self.importing.count += 1
        try:
            super().exec_module(module)
        finally:
            self.importing.count -= 1
        if not self.importing.count:
            _register()


class _Registering(MetaPathFinder):
    """Finds modules of transformers and mmssl as ever, and has mmssl's classes registered when they are imported."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if fullname.startswith(("transformers.", "mmssl.")) else None
        if spec is not None and type(spec.loader) is SourceFileLoader:
            spec.loader = _Telling(fullname, spec.loader.path)
        return spec


def _register() -> None:
    """Register with those Auto classes that are imported: once `mmssl.model` is, which registers itself at its end."""
    if "transformers.models.auto.configuration_auto" in sys.modules:
        model = import_module("mmssl.model")
        if "register" in vars(model):
            model.register()


sys.meta_path.append(_OldPaths())
sys.meta_path.insert(0, _Registering())
_register()
