"""Files that hold a raw sample in every line."""

from collections.abc import Sequence
from pathlib import Path

from mmssl.data.tables import Row, RowTable, Table
from mmssl.files import NO_TEXT, not_utf8, opened


def lines_table(columns: Sequence[str], files: Sequence[Path], path: str) -> Table:
    """The lines of files that are not blank, under a name for each modality that reads them. ValueError for what is no UTF-8."""
    rows: list[Row] = []
    blank = 0
    for file in files:
        try:
            with opened(file) as content:
                for number, line in enumerate(content, 1):
                    text = decoded(line, file, number).strip("\r\n")
                    if text.strip():
                        rows.append(dict.fromkeys(columns, text))
                    else:
                        blank += 1
        except OSError as error:
            raise ValueError(f"cannot read {file}: {error}. Replace it") from error
    if not rows:
        raise ValueError(f"{path} has no rows: it has no line that is not blank")
    table = RowTable(rows)
    told = f"{path}: every line is a sample, {len(rows):,} in all"
    table.notes = [f"{told}; {blank:,} blank {'line is' if blank == 1 else 'lines are'} left out." if blank else f"{told}."]
    return table


def decoded(line: bytes, file: Path, number: int) -> str:
    """A line of a file as text. ValueError naming file and line for what is no UTF-8."""
    if number == 1 and line.startswith(NO_TEXT):
        raise ValueError(f"cannot read {file}: {not_utf8(line, str(file))}")
    try:
        return line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError:
        raise ValueError(f"cannot read {file}: {not_utf8(line, str(file), f'line {number}')}") from None
