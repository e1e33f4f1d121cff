"""Prediction where samples hold several sequences: a predictor gets each of them as a sample of its own, as the encoder does."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from jaxtyping import Bool, Int
from torch import Tensor

from mmssl.draws import Draws
from mmssl.masking import Split, of_sequences
from mmssl.model import Encoder
from mmssl.objectives.predict.parts import Predicted, Predictor
from mmssl.tokens import Sequences, Tokens

Donors = Mapping[str, Any]
"""The tokens of the whole step, `pool`, and which sample of it each of the batch is, `place`; empty where none are asked for."""


def predicted(
    predictor: Predictor,
    encoder: Encoder,
    tokens: Tokens,
    parts: Split,
    draws: Draws,
    others: Sequence[Tokens],
    donors: Donors,
) -> Predicted:
    """What a predictor answers for samples, whose sequences know nothing of each other."""
    if (sequences := tokens.sequences()) is None:
        return predictor(encoder, tokens, parts, draws, others, **donors)
    rows = [taken(each, sequences.rows) for each in others]
    found = predictor(
        encoder, sequences.take(tokens), of_sequences(sequences, parts), sequences.draws(draws), rows, **given(donors, sequences)
    )
    index, real = at_samples(sequences, found.index, found.real, parts.groups)
    values, latent = (None if each is None else sequences.fold(each, parts.groups) for each in (found.values, found.latent))
    assert values is not None
    return replace(found, values=values, index=index, real=real, latent=latent)


def places(predictor: Predictor, tokens: Tokens, parts: Split) -> tuple[Int[Tensor, "b m"], Bool[Tensor, "b m"] | None]:
    """Where it will answer, and which of these places count: `index` and `real` of what `predicted` gives."""
    if (sequences := tokens.sequences()) is None:
        return predictor.places(tokens, parts)
    return at_samples(sequences, *predictor.places(sequences.take(tokens), of_sequences(sequences, parts)), parts.groups)


def altered(predictor: Predictor, tokens: Tokens, parts: Split, draws: Draws, donors: Donors) -> Bool[Tensor, "b n"]:
    """Hidden tokens that do not hold in its pass what they held before."""
    if (sequences := tokens.sequences()) is None:
        return predictor.altered(tokens, parts.hidden_places(tokens.values.shape[1]), draws, **donors)
    rows = sequences.take(tokens)
    hidden = of_sequences(sequences, parts).hidden_places(rows.values.shape[1])
    found = predictor.altered(rows, hidden, sequences.draws(draws), **given(donors, sequences))
    return sequences.put(found[..., None].float())[..., 0] > 0


def at_samples(
    sequences: Sequences, index: Int[Tensor, "s m"], real: Bool[Tensor, "s m"] | None, groups: int
) -> tuple[Int[Tensor, "b k"], Bool[Tensor, "b k"] | None]:
    """Places in sequences as places in samples."""
    return sequences.fold(sequences.index.gather(1, index), groups), sequences.there(index, real, groups)


def taken(tokens: Tokens, rows: Int[Tensor, " s"]) -> Tokens:
    """These sequences of samples, whether they hold a token or not."""
    found = tokens.sequences(rows)
    assert found is not None, "all views of a modality have as many sequences"
    return found.take(tokens)


def given(donors: Donors, sequences: Sequences) -> dict[str, Any]:
    """Donors for sequences: all sequences of the step, and which of them each is."""
    if not donors:
        return {}
    pool, place = donors["pool"], donors["place"]
    every = place.new_tensor(range(len(pool.values) * pool.num_sequences))
    own = place[sequences.sample] * pool.num_sequences + sequences.rows % sequences.count
    return {"pool": taken(pool, every), "place": own}
