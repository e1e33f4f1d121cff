"""What a modality took raw samples for, part by part, and what looks odd: as lines, notes and records, for people."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from mmssl.modality import Content

LISTED = 40
"""Parts that `mmssl check` lists one by one; of more it lists the odd ones, and counts the others by kind."""
NAMED = 8
"""Parts that a note names."""
SHOWN = 32
"""Characters of an example."""


def record(content: Content) -> dict[str, Any]:
    """A part as JSON values."""
    odd = [f"{odd.what}{_in_brackets(odd.how)}" for odd in content.odd]
    return asdict(content) | {"example": cut(content.example), "odd": odd}


def cut(text: str) -> str:
    """A text for a line: without line breaks, and not long."""
    line = " ".join(text.split())
    return line if len(line) <= SHOWN else f"{line[: SHOWN - 3]}..."


def lines(contents: Sequence[Content]) -> list[str]:
    """A line for each part; of very many for the odd ones, and one that counts the others by kind."""
    many = len(contents) > LISTED
    shown = [content for content in contents if content.odd][:LISTED] if many else contents
    width = min(SHOWN, max((len(content.name) for content in shown), default=0))
    found = [_line(content, width) for content in shown]
    if many:
        kinds = Counter(content.kind for content in contents)
        told = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common())
        found.insert(0, f"{len(contents):,} parts ({told}); {'those that look odd:' if shown else 'none looks odd'}")
    return found


def _line(content: Content, width: int) -> str:
    parts = [content.kind + (f", {content.detail}" if content.detail else "")]
    if content.missing:
        parts.append(f"{share(content.missing)} missing")
    if content.example:
        parts.append(f"such as {cut(content.example)}")
    odd = "".join(f"; {odd.what}{_in_brackets(odd.how)}" for odd in content.odd)
    return f"{cut(content.name):{width}}  {', '.join(parts)}{odd}"


def notes(contents: Sequence[Content]) -> list[str]:
    """A sentence for everything odd, with the parts that share it and the way out."""
    groups: dict[tuple[str, str], list[str]] = {}
    for content in contents:
        for odd in content.odd:
            groups.setdefault((odd.what, odd.way_out), []).append(f"{cut(content.name)}{_in_brackets(odd.how)}")
    return [f"{what}: {_listed(names)}. {way_out}" for (what, way_out), names in groups.items()]


def share(part: float) -> str:
    """A share in percent, never rounded to all or nothing."""
    text = f"{100 * part:.1f}"
    return {"0.0": "under 0.1", "100.0": "over 99.9" if part < 1 else "100"}.get(text, text) + " %"


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - NAMED:,} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _in_brackets(text: str) -> str:
    return f" ({text})" if text else ""
