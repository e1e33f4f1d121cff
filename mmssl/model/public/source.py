"""Files of a public encoder: a folder, or a repository of the Hub."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import safe_open
from torch import Tensor
from transformers import AutoConfig
from transformers.utils import cached_file

from mmssl.model.config import refuse_kernels

CONFIG, OPEN_CLIP_CONFIG = "config.json", "open_clip_config.json"
SAFE = ("model.safetensors", "open_clip_model.safetensors")
INDEX = "model.safetensors.index.json"
PICKLED = ("pytorch_model.bin", "pytorch_model.bin.index.json", "open_clip_pytorch_model.bin")
MMSSL = "mmssl"


@dataclass(frozen=True)
class Source:
    """A folder or a Hub id. Nothing of it is executed or unpickled."""

    path: str

    def file(self, name: str) -> Path | None:
        """A file of it, which may be fetched; None if there is none."""
        if Path(self.path).is_dir():
            found = Path(self.path) / name
            return found if found.is_file() else None
        fetched = cached_file(self.path, name, _raise_exceptions_for_missing_entries=False)
        return None if fetched is None else Path(fetched)

    def json(self, name: str) -> dict[str, Any]:
        """What a file of JSON holds; empty if there is none. ValueError for one that cannot be read."""
        file = self.file(name)
        if file is None:
            return {}
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{file} is no JSON: {error}") from error
        return found if isinstance(found, dict) else {}

    @cached_property
    def raw(self) -> dict[str, Any]:
        """The configuration as it is written."""
        return self.json(CONFIG)

    @cached_property
    def kind(self) -> str | None:
        """Whose encoder it is: `model_type` of transformers, timm, open_clip, or mmssl; None: nothing that is known to be one."""
        if "model_type" in self.raw:
            return str(self.raw["model_type"])
        if "architecture" in self.raw:
            return "timm"
        return "open_clip" if self.json(OPEN_CLIP_CONFIG) else None

    @cached_property
    def config(self) -> Mapping[str, Any]:
        """The configuration of transformers with the defaults of its kind. ValueError for a kind that transformers lacks."""
        try:
            refuse_kernels(self.raw, f"{self.path}, {CONFIG}")
            found: Mapping[str, Any] = AutoConfig.from_pretrained(self.path, trust_remote_code=False).to_dict()
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"{self.path}: its {CONFIG} cannot be read: {error}") from error
        return found

    @cached_property
    def files(self) -> dict[str, Path]:
        """By name of a weight the file that holds it. ValueError if there are no weights in safetensors."""
        found: dict[str, Path] = {}
        for file in self._safe():
            with safe_open(file, "pt") as weights:
                found |= dict.fromkeys(weights.keys(), file)
        return found

    def _safe(self) -> list[Path]:
        if index := self.json(INDEX).get("weight_map"):
            shards = [self.file(name) for name in sorted(set(index.values()))]
            if None in shards:
                raise ValueError(f"{self.path}: {INDEX} names files that are not there")
            return [shard for shard in shards if shard is not None]
        for name in SAFE:
            if (file := self.file(name)) is not None:
                return [file]
        if pickled := [name for name in PICKLED if self.file(name) is not None]:
            raise ValueError(
                f"{self.path} has its weights in {pickled[0]} alone, a pickle, which can run code when it is read; mmssl reads "
                "safetensors. Convert it with transformers: from_pretrained and save_pretrained"
            )
        raise ValueError(f"{self.path} has no weights: none of {', '.join((*SAFE, INDEX))}")

    def read(self, name: str) -> Tensor:
        """One weight."""
        with safe_open(self.files[name], "pt") as weights:
            return weights.get_tensor(name)
