"""How the cells of table files are written, where they do not say it themselves."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Annotated, Literal

from pydantic import Field

from mmssl.data.forecast import ForecastOptions
from mmssl.data.series import SeriesOptions

Arrays = Literal["one", "many"]
ColumnType = Literal["string", "number"]
Decimal = Literal[".", ","]
Delimiter = Annotated[str, Field(pattern=r"^(.|tab|\t)$")]
Sign = Annotated[str, Field(min_length=1)]
TAB = "tab"
SIGNS = {TAB: "\t"}
"""Delimiters that have a name, as they are hard to type."""


@dataclass(frozen=True, kw_only=True)
class TableFormat:
    """What a user says of the cells of csv, jsonl and parquet files.

    missing: what stands for a missing value besides an empty cell, such as NA, ? or -999.
    types: string or number for columns that would be read as the other: {zip: string}.
    delimiter: between the cells of a csv file, one character or the word tab; null: a comma, in .tsv files a tab.
    decimal: the decimal sign of numbers in csv files.
    header: whether the first line of csv files names the columns; else these are called c0, c1, ...
    series: how rows make series; null: a row is a sample.
    lists: columns whose cells hold several values, with the sign that parts them: {genres: "|"}; an empty cell holds none.
    forecast: how windows are cut of the series, to learn what follows; null: a series is a sample.
    arrays: whether a .npy or .npz file is one sample, or holds many along its first axis; null: by the axes, and labels beside.
    background: of labels that are segments of time (start, end, label), the class of steps outside of all; null: none.
    """

    missing: tuple[str, ...] = ()
    types: Mapping[str, ColumnType] = field(default_factory=dict)
    delimiter: Delimiter | None = None
    decimal: Decimal = "."
    header: bool = True
    series: SeriesOptions | None = None
    lists: Mapping[str, Sign] = field(default_factory=dict, repr=False)  # no copy of files depends on it
    forecast: ForecastOptions | None = field(default=None, repr=False)
    arrays: Arrays | None = field(default=None, repr=False)
    background: Sign | None = field(default=None, repr=False)

    @property
    def table_format(self) -> "TableFormat":
        """Only what is said of the cells, of options that say more."""
        return TableFormat(**{own.name: getattr(self, own.name) for own in fields(TableFormat)})

    @property
    def sign(self) -> str | None:
        """The delimiter as the character that it is."""
        return None if self.delimiter is None else SIGNS.get(self.delimiter, self.delimiter)

    def check(self, builder: str, path: str) -> None:
        """ValueError for a key that says something of csv files where there are none."""
        asked: list[tuple[str, object]] = [("delimiter", self.delimiter)] if self.delimiter is not None else []
        asked += [("header", self.header)] if not self.header else []
        asked += [("decimal", self.decimal)] if self.decimal != "." else []
        if asked and builder != "csv":
            key, value = asked[0]
            raise ValueError(f"{key}={value!r} is for csv files, and {path} holds {builder}: leave it out")


PLAIN = TableFormat()
"""Of files of which nothing is said."""
