"""Pages that people read: short sentences, numbers in tables."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DIARY = ("log.md",)
"""Pages of measurements by date."""
GUIDES = [README, *(page for page in sorted((ROOT / "docs").rglob("*.md")) if page.name not in DIARY)]
LONGEST = 30
"""Words of a sentence."""
SPOKEN = 450
"""Words that are read aloud in three minutes."""


def prose(page: str) -> list[str]:
    """The paragraphs of a page: without code, tables, headings, comments and pictures; links as their words."""
    page = re.sub(r"^```.*?^```", "", page, flags=re.DOTALL | re.MULTILINE)
    page = re.sub(r"^    \S.*$", "", page, flags=re.MULTILINE)
    page = re.sub(r"<!--.*?-->", "", page, flags=re.DOTALL)
    page = re.sub(r"!\[[^\]]*\]\([^)]*\)", "", page)
    page = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", page)
    page = re.sub(r"`[^`]*`", "code", page).replace("**", "")
    lines = ["" if line.startswith(("|", "#")) else line for line in page.splitlines()]
    items = re.sub(r"^- ", "\n", "\n".join(lines), flags=re.MULTILINE)
    return [" ".join(part.split()) for part in items.split("\n\n") if part.strip()]


def sentences(page: str) -> list[str]:
    return [sentence for part in prose(page) for sentence in re.split(r"(?<=[.!?:])\s+", part)]


def test_prose_is_what_is_read() -> None:
    page = "# A 1\n\nOne [two](three.md) `four five`. Six: seven\neight.\n\n- nine\n- ten\n\n"
    page += "| 11 |\n\n```\n12\n```\n<!-- 13 -->\n\n    14\n"
    assert prose(page) == ["One two code. Six: seven eight.", "nine", "ten"]
    assert sentences(page) == ["One two code.", "Six:", "seven eight.", "nine", "ten"]


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: str(page.relative_to(ROOT)))
def test_sentences_are_short(page: Path) -> None:
    long = [sentence for sentence in sentences(page.read_text(encoding="utf-8")) if len(sentence.split()) > LONGEST]
    assert not long, long


def test_the_readme_is_read_in_three_minutes() -> None:
    assert len(" ".join(prose(README.read_text(encoding="utf-8"))).split()) <= SPOKEN


def test_numbers_of_the_readme_stand_in_tables() -> None:
    said = [sentence for sentence in sentences(README.read_text(encoding="utf-8")) if re.search(r"(?<![-\w.])\d", sentence)]
    assert not said, said
