"""Numbers in few characters."""

import math

SCALES = ((1e12, 1e12, "T"), (1e9, 1e9, "G"), (1e6, 1e6, "M"), (1e4, 1e3, "k"), (0.0, 1.0, ""))
"""From which size on a number is divided by what, and the suffix that says so."""


def compact(value: int | float, digits: int = 4) -> str:
    """A number in few characters, with `digits` significant digits: 0, 0.5000, 9876, 12.35k, 1.000e-3."""
    size = abs(value)
    if size == 0 or not math.isfinite(size):
        return f"{value:g}"
    if size < 1e-2 or size >= 1e15:
        mantissa, exponent = f"{value:.{digits - 1}e}".split("e")
        return f"{mantissa}e{int(exponent)}"
    scale, suffix = next((scale, suffix) for limit, scale, suffix in SCALES if size >= limit)
    decimals = max(0, digits - 1 - math.floor(math.log10(size / scale)))
    return f"{value / scale:.{decimals}f}{suffix}"
