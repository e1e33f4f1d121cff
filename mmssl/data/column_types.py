"""One type for a column: over all rows of a file, and over all files.

Texts of a csv file are numbers if the numbers read back as the same texts: `01234`, `1e5` and numbers of 20 digits are codes, and
stay text. Whole numbers and decimals together are decimals. Cells of a JSON column that have no common type stay what they are.
"""

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from mmssl.data.table_format import ColumnType, Decimal

JSON = {b"mmssl": b"json"}
"""Metadata of a field whose cells are JSON, as their types differ."""

EXACT = 2**53
"""Whole numbers up to here are the same as float64."""

_BOOLEANS = ("true", "false", "True", "False", "TRUE", "FALSE")
_DECIMAL = (
    r"^(-?(0|[1-9][0-9]{0,14}|(0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+)"  # at most 15 digits where no decimal point follows
    r"|-?((0|[1-9][0-9]*)\.?[0-9]*[eE][+-]|((0|[1-9][0-9]*)\.[0-9]*|\.[0-9]+)[eE])[0-9]+"
    r"|[nN]a[nN]|-?[iI]nf(inity)?)$"
)
"""Decimals as programs write them. Without a point or a sign, 1e5 is a code."""


class Guess:
    """What type the texts of a column have, after all that were seen: the narrowest of truth values, whole numbers and decimals.

    decimal: the decimal sign. asked: what the user says; ValueError for a text that is no number where numbers are asked for.
    type: null as long as no cell was there.
    """

    def __init__(self, decimal: Decimal = ".", asked: ColumnType | None = None) -> None:
        self.decimal: Decimal = decimal
        self.asked: ColumnType | None = asked
        self.type = pa.null()
        self._rows = 0
        self._exact = True  # all whole numbers so far are the same as float64

    def see(self, texts: pa.StringArray) -> pa.Array:
        """Widen the type by more cells, nulls for missing ones; returns them as what they were taken for."""
        seen, self._rows = self._rows, self._rows + len(texts)
        if pa.types.is_string(self.type) or texts.null_count == len(texts):
            return texts
        if self.asked == "string":
            self.type = pa.string()
            return texts
        if self.asked == "number":
            self._check(texts, seen)
        elif self.type in (pa.null(), pa.bool_()) and _all(pc.is_in(texts.drop_null(), pa.array(_BOOLEANS))):
            self.type = pa.bool_()
            return texts
        plain = _plain(texts, self.decimal)
        if pa.types.is_null(self.type) or pa.types.is_int64(self.type):
            numbers = _whole(plain)
            if numbers is not None:
                self.type, self._exact = pa.int64(), self._exact and fits_float(numbers)
                return numbers
        if not pa.types.is_boolean(self.type) and self._exact:
            numbers = _cast(plain, pa.float64())
            if numbers is not None and (self.asked == "number" or _are_decimals(plain, numbers)):
                self.type = pa.float64()
                return numbers
        self.type = pa.string()
        return texts

    def read(self, texts: pa.StringArray, seen: pa.Array | None = None) -> pa.Array:
        """The cells in the type of the column. seen: what `see` took them for."""
        if pa.types.is_string(self.type):
            return texts
        if pa.types.is_null(self.type):
            return pa.nulls(len(texts))
        if pa.types.is_boolean(self.type):
            return pc.ascii_lower(texts).cast(pa.bool_())
        numbers = _plain(texts, self.decimal) if seen is None or pa.types.is_string(seen.type) else seen
        return numbers.cast(self.type)

    def _check(self, texts: pa.StringArray, seen: int) -> None:
        """ValueError naming the first cell that is no number, whatever its leading zeros."""
        plain = _plain(texts, self.decimal)
        if _cast(plain, pa.float64()) is not None:
            return
        for row, text in enumerate(plain.to_pylist()):
            if text is not None and _cast(pa.array([text]), pa.float64()) is None:
                raise ValueError(
                    f"row {seen + row}: {texts[row].as_py()!r} is no number, and types asks for one. Say what is missing with "
                    "data.missing, what the decimal sign is with data.decimal, or read the column as text"
                )


def _plain(texts: pa.StringArray, decimal: Decimal) -> pa.StringArray:
    """Texts without blanks around them, and with a decimal point. A point beside decimal commas groups thousands: no number."""
    trimmed = pc.ascii_trim_whitespace(texts)
    if decimal == ".":
        return trimmed
    return pc.replace_substring(pc.replace_substring(trimmed, ".", "_"), ",", ".")


def _all(values: pa.BooleanArray) -> bool:
    return bool(pc.all(values, min_count=0).as_py())


def _cast(texts: pa.StringArray, kind: pa.DataType) -> pa.Array | None:
    try:
        return texts.cast(kind)
    except pa.ArrowInvalid:
        return None


def _whole(texts: pa.StringArray) -> pa.Int64Array | None:
    """Whole numbers, if these read back as the same texts."""
    numbers = _cast(texts, pa.int64())
    return numbers if numbers is not None and _all(pc.equal(numbers.cast(pa.string()), texts)) else None


def _are_decimals(texts: pa.StringArray, numbers: pa.DoubleArray) -> bool:
    """Whether all texts are decimals as programs write them, of a size that a float holds."""
    odd = pc.invert(pc.match_substring(texts, "."))
    for start in ("0", "-0"):
        odd = pc.or_(odd, pc.and_not(pc.starts_with(texts, start), pc.starts_with(texts, start + ".")))
    for sign in ("e", "E", "+"):
        odd = pc.or_(odd, pc.match_substring(texts, sign))
    if not _all(pc.match_substring_regex(texts.filter(odd), _DECIMAL)):
        return False
    infinite = pc.is_inf(numbers)
    return not pc.any(infinite).as_py() or _all(pc.match_substring_regex(texts.filter(infinite), "^-?[iI]nf"))


def common(types: Sequence[pa.DataType]) -> pa.DataType | None:
    """The type that all parts of a column can have without another meaning; None if there is none: numbers are no text."""
    found = pa.null()
    for kind in types:
        joined = _common(found, kind)
        if joined is None:
            return None
        found = joined
    return found


def _common(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    if a == b or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    if _is_text(a) and _is_text(b):
        return pa.large_string()
    if _is_bytes(a) and _is_bytes(b):
        return pa.large_binary()
    if {_family(a), _family(b)} == {"integer", "decimal"}:
        return pa.float64()
    if _family(a) != _family(b):
        return None
    try:
        return pa.unify_schemas([pa.schema([("c", a)]), pa.schema([("c", b)])], promote_options="permissive").field(0).type
    except pa.ArrowException:
        return None


def _family(kind: pa.DataType) -> str:
    """Types of one family have a common type that changes no value's meaning."""
    if pa.types.is_integer(kind):
        return "integer"
    if pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "decimal"
    if is_list(kind):
        return "list of " + _family(kind.value_type).replace("integer", "decimal")
    return "struct" if pa.types.is_struct(kind) else str(kind).partition("[")[0]


def is_json(field: pa.Field) -> bool:
    """Whether cells are JSON, as their types differ; `datasets` has a type of its own for such columns."""
    return JSON.items() <= (field.metadata or {}).items() or getattr(field.type, "extension_name", "") == "arrow.json"


def is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def converted(column: pa.Array, kind: pa.DataType) -> pa.Array:
    """A part of a column in the common type. ValueError if a whole number is too large for decimals."""
    if column.type == kind:
        return column
    if pa.types.is_null(column.type):
        return pa.nulls(len(column), kind)
    if pa.types.is_integer(column.type) and pa.types.is_floating(kind) and not fits_float(column):
        raise ValueError(f"whole numbers beyond 2^53, such as {_largest(column)}, beside decimals would lose their last digits")
    return column.cast(kind)


def fits_float(column: pa.Array) -> bool:
    """Whether whole numbers are the same as float64."""
    return _largest(column) <= EXACT


def _largest(column: pa.Array) -> int:
    ends = pc.min_max(column).as_py()
    return max(abs(ends["min"] or 0), abs(ends["max"] or 0))


def to_json(cells: Sequence[Any]) -> pa.StringArray:
    """Cells as JSON, which keeps the type of each."""
    return pa.array([None if cell is None else json.dumps(cell) for cell in cells], pa.string())


def asked_type(kind: pa.DataType, asked: ColumnType) -> pa.DataType:
    """The type of a typed column that the user calls text or number."""
    if asked == "string":
        return kind if _is_text(kind) else pa.string()
    return kind if _family(kind) in ("integer", "decimal") else pa.float64()


def as_asked(column: pa.Array, asked: ColumnType) -> pa.Array:
    """A typed column as text or number. ValueError for a text that is no number."""
    kind = asked_type(column.type, asked)
    if column.type == kind or pa.types.is_null(column.type) or asked == "string":
        return column.cast(kind)
    texts = column.cast(pa.string())
    guess = Guess(asked="number")
    return guess.see(texts).cast(kind)


def without(column: pa.Array, missing: Sequence[str]) -> pa.Array:
    """A column with nulls where a cell is one of these words, or the number that such a word is."""
    kind = column.type
    if missing and _is_text(kind):
        hit = pc.is_in(pc.utf8_trim_whitespace(column), pa.array(missing, kind))
    elif missing and _family(kind) in ("integer", "decimal"):
        numbers = [found[0].as_py() for word in missing if (found := _cast(pa.array([word]), pa.float64())) is not None]
        hit = pc.is_in(column.cast(pa.float64(), safe=False), pa.array(numbers, pa.float64()))
    else:
        return column
    return pc.if_else(hit, pa.scalar(None, kind), column)
