"""The vectors of a dataset on their way to a file."""

from collections.abc import Iterable

from jaxtyping import Float
from torch import Tensor


def check_finite(values: Float[Tensor, "b ..."], rows: Iterable[int], of: str) -> None:
    """ValueError that names the first row whose values are NaN or infinite; values: those of each of the rows of a source."""
    for row, good in zip(rows, values.isfinite().flatten(1).all(1).tolist(), strict=True):
        if not good:
            raise ValueError(
                f"row {row} of {of}: its embedding is NaN or infinite. If all are, the model's numbers are out of range; "
                "if only this one is, so is the sample: look at it"
            )
