"""Names in the order of the numbers in them."""

import re
from collections.abc import Sequence
from itertools import pairwise

_NUMBER = re.compile(r"(?<![\d.])\d+\.\d+(?![\d.])|\d+")


def by_number(names: Sequence[str]) -> list[str]:
    """Names that are alike but for their numbers in the order of these, t2 before t10, whatever the order they come in.

    Names that fall from each to the next, as in lag 3, lag 2, lag 1, stay so. Those of one kind stand together, the kind that comes
    first before the others.
    """
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(_NUMBER.sub("#", name), []).append(name)
    return [name for alike in kinds.values() for name in _sorted(alike)]


def _sorted(alike: Sequence[str]) -> list[str]:
    numbers = [tuple(map(float, _NUMBER.findall(name))) for name in alike]
    if all(a > b for a, b in pairwise(numbers)):
        return list(alike)
    return [name for _, name in sorted(zip(numbers, alike, strict=True), key=lambda pair: pair[0])]
