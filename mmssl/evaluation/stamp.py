"""What a file of embeddings remembers of the model and the data that they are of."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import xxhash
from pydantic import TypeAdapter
from torch import nn

from mmssl.data import Source
from mmssl.data.identity import content_digits
from mmssl.data.source import Columns
from mmssl.data.table_format import PLAIN, TableFormat
from mmssl.data.walk import MAGIC
from mmssl.evaluation.readout import POOLED, Layer, Readout
from mmssl.evaluation.sources import columns_of
from mmssl.model import MMSSLModel
from mmssl.processor import MMSSLProcessor

STAMP = "mmssl"
"""Key of the metadata of a file of embeddings."""
STAMP_FILE = "mmssl.json"
"""The same in the folder of a dataset, which keeps no metadata."""
CHANGEABLE = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
"""Keys of a configuration that say nothing of what a model gives."""


def fingerprint(model: MMSSLModel, processor: MMSSLProcessor) -> str:
    """16 digits that two models share which make the same vectors: of weights, configuration and processors."""
    digest = xxhash.xxh3_64()
    said = {key: value for key, value in model.config.to_diff_dict().items() if key not in CHANGEABLE}
    digest.update(json.dumps([said, processor.settings()], sort_keys=True, default=str).encode())
    module: nn.Module = model
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Stamp:
    """What a file of embeddings remembers.

    model: folder or Hub id of the model that made them. fingerprint: what it is known by, wherever it lies; see `fingerprint`.
    modality: that was read. layers, projected: what was read of it, as `Readout` has it.
    data, split, columns, table_format: what was read, as `Source` takes it. content: what the data are known by.
    """

    model: str
    fingerprint: str
    modality: str
    layers: list[Layer]
    projected: bool
    data: str
    split: str | None
    columns: Columns | None
    table_format: Mapping[str, Any]
    content: str | None

    @classmethod
    def of(
        cls,
        folder: str | Path,
        model: MMSSLModel,
        processor: MMSSLProcessor,
        name: str,
        source: Source,
        readout: Readout = POOLED,
        table_format: TableFormat = PLAIN,
    ) -> "Stamp":
        """That of the vectors of a source. folder: what the model was loaded from."""
        return cls(
            model=absolute(folder),
            fingerprint=fingerprint(model, processor),
            modality=name,
            layers=list(readout.layers),
            projected=readout.projected,
            data=absolute(source.path),
            split=source.split,
            columns=source.columns,
            table_format=asdict(table_format),
            content=content_digits(source, columns_of(source, name)),
        )

    def to_json(self) -> str:
        """For the metadata of a file."""
        return json.dumps(asdict(self), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes, path: Path) -> "Stamp":
        """What the file at `path` remembers. ValueError if it is none that this version of mmssl can read."""
        found = json.loads(text)
        known = {field.name for field in fields(cls)}
        if not isinstance(found, dict) or found.keys() != known:
            raise ValueError(
                f"{path} was written by another version of mmssl, which remembered other things of its embeddings: embed the data "
                "again"
            )
        return cls(**found)

    def source(self, data: str | Path | None = None) -> Source:
        """The data that were embedded, or the same elsewhere. ValueError if they hold something else by now."""
        path = self.data if data is None else str(data)
        table_format = TypeAdapter(TableFormat).validate_python(self.table_format)
        source = Source(path=path, split=self.split, columns=self.columns, table_format=table_format)
        if content_digits(source, columns_of(source, self.modality)) != self.content:
            raise ValueError(f"{source} is not what was embedded: it holds other rows")
        return source


def absolute(path: str | Path) -> str:
    """The whole path of a file, a folder or a pattern of files; anything else, as a Hub id, as it is."""
    local = Path(path).expanduser()
    return str(local.absolute()) if local.exists() or MAGIC.search(str(path)) else str(path)
