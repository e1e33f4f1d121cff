"""What is read of a frozen model for each row of a dataset: pooled outputs of its layers, projections, tokens."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmssl.data import Batch, Source, Track, silent
from mmssl.data.source import OnError
from mmssl.evaluation.features import each_batch, merge_pieces, rows_of_pieces
from mmssl.model import MMSSLModel
from mmssl.processor import MMSSLProcessor
from mmssl.tokens import Tokens

EMBEDDING, TOKENS, COORDINATES = "embedding", "tokens", "coordinates"
"""Columns: vectors of the last layer; its tokens, and where they lie."""
LAST: Literal["last"] = "last"
Layer = int | Literal["last"]


@dataclass(frozen=True)
class Readout:
    """What to read.

    layers: numbers from 1 on, whose outputs are pooled without the final norm; `last` is what the model gives, with it.
    tokens: also the tokens that it gives, without CLS, registers and padding; of a long sample those of all pieces.
    projected: what `last` gives is mapped into the space that the model's modalities share.
    """

    layers: tuple[Layer, ...] = (LAST,)
    tokens: bool = False
    projected: bool = False

    def check(self, model: MMSSLModel, name: str) -> None:
        """ValueError or LookupError for what the model does not have."""
        depth = model.config.num_hidden_layers
        if not self.layers or len(set(self.layers)) < len(self.layers):
            raise ValueError(f"--layers must name at least one layer, each once; got {', '.join(map(str, self.layers)) or 'none'}")
        for layer in self.layers:
            if layer != LAST and not 1 <= layer <= depth:
                raise ValueError(f"--layers {layer}: the model has the layers 1 to {depth}; {LAST} is the model's own output")
            if layer != LAST and model.pooler is not None:
                raise ValueError(
                    f"--layers {layer}: this model pools by attention that it learned for its last layer, which says nothing of "
                    f"others; read {LAST}"
                )
        if self.projected:
            if LAST not in self.layers:
                raise ValueError(f"--project maps what the model gives; add {LAST} to --layers, or leave it out")
            model.projected(name, torch.zeros(1, model.pooled_size(name), device=model.device))

    def of(self, model: MMSSLModel, name: str, batch: Batch, source: Source) -> "Vectors":
        """What the model gives for a batch."""
        tokens, encoder = model.embed(name, batch.to(model.device).inputs[name]), model.encoder
        if self.layers == (LAST,):
            outputs, last = list[Tokens](), encoder(tokens)
        else:
            outputs = encoder.layer_outputs(tokens, model.config.num_hidden_layers)
            last = outputs[-1].with_values(encoder.norm(outputs[-1].values))
        values, merged = dict[str, Tensor](), batch
        for layer in self.layers:
            pooled, merged = merge_pieces(model.pool(last if layer == LAST else outputs[layer - 1]), batch, source)
            projected = model.projected(name, pooled) if self.projected and layer == LAST else pooled
            values[column_of(layer)] = projected.float().cpu()
        if not self.tokens:
            return Vectors(merged.ids, values)
        body = last.tail(last.values.shape[1] - encoder.num_prefix)
        valid = body.valid_or_ones()
        values |= {TOKENS: body.values[valid].float().cpu(), COORDINATES: body.coords[valid].float().cpu()}
        _, place = rows_of_pieces(batch, source)
        counts = torch.zeros(len(merged.ids), dtype=torch.int64).index_add(0, place, valid.sum(1).cpu())
        return Vectors(merged.ids, values, counts)


POOLED = Readout()
"""What the model gives, pooled."""


@dataclass(frozen=True)
class Vectors:
    """What was read of some rows, on the CPU.

    ids: places of the rows among those that the source keeps. values: by column a vector of each row; of tokens, all rows' one
    after the other. counts: tokens of each row, where they were read.
    """

    ids: Int[Tensor, " b"]
    values: Mapping[str, Float[Tensor, "_ _"]]
    counts: Int[Tensor, " b"] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return sum(tensor.nbytes for tensor in self.values.values())


def column_of(layer: Layer) -> str:
    """The column of a layer's pooled outputs."""
    return EMBEDDING if layer == LAST else f"{EMBEDDING}_{layer}"


def layers_of(given: Sequence[str]) -> tuple[Layer, ...]:
    """Layers as they are typed. ValueError for what is neither a number nor `last`."""
    if wrong := [word for word in given if word != LAST and not word.isdecimal()]:
        raise ValueError(f"--layers takes numbers from 1 on, and {LAST}; got {wrong[0]!r}")
    return tuple(LAST if word == LAST else int(word) for word in given)


def read(
    model: MMSSLModel,
    processor: MMSSLProcessor,
    source: Source,
    name: str,
    readout: Readout,
    *,
    batch_size: int = 256,
    on_error: OnError = "raise",
    track: Track = silent,
) -> Iterator[Vectors]:
    """What `readout` says of every row of a source, batch by batch; see `mmssl.evaluation.features.embed`."""
    options: dict[str, Any] = {"batch_size": batch_size, "on_error": on_error, "track": track, "title": "embeddings"}
    return each_batch(model, processor, source, name, lambda batch, source: readout.of(model, name, batch, source), **options)
