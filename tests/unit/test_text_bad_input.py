"""What is no text gets one clear error; what is odd, but a text, is encoded as it stands."""

import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mmssl.processor import MMSSLProcessor
from mmssl_modalities.text import TEXT, TextProcessor


def bpe() -> TextProcessor:
    processor = TextProcessor(tokenizer="bpe", vocab_size=300)
    processor.fit(TEXT.example(50, 0))
    return processor


PROCESSORS = {"bytes": TextProcessor(), "bpe": bpe()}
by_processor = pytest.mark.parametrize("processor", PROCESSORS.values(), ids=PROCESSORS)

MISSING = r"the text is missing \(.*\). Fill it, drop the row, or set data.on_error: skip"
EMPTY = "a text needs at least one character that is not white space; got an empty one. Give a placeholder text, or drop it"
WHITE = "needs at least one character that is not white space; got {} characters of white space"
KIND = r"a text is a str, bytes of UTF-8, or a dict {{'text': ...}}; got {}. Convert it, say what it stands for "
KIND += r"\(data.called\), or pass several as a list"
LIST = (
    r"got {} of {}\. Pass several texts as a list of samples; where they are captions of one thing, set processor\.captions: list"
)
KEY = "a text given as a dict has the key 'text'; got {}"
UTF_8 = "must be UTF-8; byte {} of {}, 0x{}, is not: .*Decode it with its own encoding"
SURROGATE = r"must be valid Unicode; character {} of {} is half a surrogate pair, U\+{}. Repair it with text.encode"

BAD: dict[str, tuple[Any, type[Exception], str]] = {
    "none": (None, TypeError, MISSING),
    "nan": (math.nan, TypeError, MISSING),
    "numpy nan": (np.float32("nan"), TypeError, MISSING),
    "pandas NA": (pd.NA, TypeError, MISSING),
    "pandas NaT": (pd.NaT, TypeError, MISSING),
    "empty": ("", ValueError, EMPTY),
    "empty bytes": (b"", ValueError, EMPTY),
    "empty in a dict": ({"text": ""}, ValueError, EMPTY),
    "spaces": ("   ", ValueError, WHITE.format(3)),
    "line ends and tabs": ("\r\n\t\v\f", ValueError, WHITE.format(5)),
    "wide and thin spaces": ("\u3000\u2009\xa0\u2028", ValueError, WHITE.format(4)),
    "spaces as bytes": (b" \n", ValueError, WHITE.format(2)),
    "a long blank": (" " * 100_000, ValueError, WHITE.format(100_000)),
    "a number": (5, TypeError, KIND.format("int")),
    "a float": (0.5, TypeError, KIND.format("float")),
    "infinity": (math.inf, TypeError, KIND.format("float")),
    "a truth value": (True, TypeError, KIND.format("bool")),
    "a decimal": (Decimal("1.5"), TypeError, KIND.format("Decimal")),
    "a complex number": (1j, TypeError, KIND.format("complex")),
    "a date": (pd.Timestamp(0), TypeError, KIND.format("Timestamp")),
    "a list of words": (["a", "b"], TypeError, LIST.format("list", 2)),
    "an empty list": ([], TypeError, LIST.format("list", 0)),
    "a tuple": (("a",), TypeError, LIST.format("tuple", 1)),
    "a set": ({"a"}, TypeError, KIND.format("set")),
    "a generator": ((word for word in "ab"), TypeError, KIND.format("generator")),
    "an array of texts": (np.array(["a", "b"]), TypeError, KIND.format("ndarray")),
    "an array of objects": (np.array(["a", None], object), TypeError, KIND.format("ndarray")),
    "an array of numbers": (np.zeros(3), TypeError, KIND.format("ndarray")),
    "a tensor": (torch.zeros(3), TypeError, KIND.format("Tensor")),
    "a series": (pd.Series(["a"]), TypeError, KIND.format("Series")),
    "a path": (Path("a.txt"), TypeError, KIND.format("PosixPath")),
    "an object": (object(), TypeError, KIND.format("object")),
    "a class": (str, TypeError, KIND.format("type")),
    "a file": (memoryview(b"abc"), TypeError, KIND.format("memoryview")),
    "a dict without keys": ({}, ValueError, KEY.format("no key")),
    "a dict with another key": ({"sentence": "a"}, ValueError, KEY.format("'sentence'")),
    "a dict with many keys": (dict.fromkeys("abcdefg"), ValueError, KEY.format("'a', 'b', 'c', 'd', 'e', ...")),
    "a dict with numbers for keys": ({0: "a"}, ValueError, KEY.format("0")),
    "a dict of nothing": ({"text": None}, TypeError, MISSING),
    "a dict of a list": ({"text": ["a"]}, TypeError, LIST.format("list", 1)),
    "a dict in a dict": ({"text": {"text": "a"}}, TypeError, KIND.format("dict")),
    "latin-1": ("café".encode("latin-1"), ValueError, UTF_8.format(3, 4, "e9")),
    "utf-16": ("abc".encode("utf-16"), ValueError, UTF_8.format(0, 8, "ff")),
    "a cut character": ("ab🚀".encode()[:-1], ValueError, UTF_8.format(2, 5, "f0")),
    "a byte that starts nothing": (b"ok \x80", ValueError, UTF_8.format(3, 4, "80")),
    "an overlong slash": (b"\xc0\xaf", ValueError, UTF_8.format(0, 2, "c0")),
    "a surrogate in bytes": (b"a\xed\xa0\x80", ValueError, UTF_8.format(1, 4, "ed")),
    "beyond the last character": (b"\xf4\x90\x80\x80", ValueError, UTF_8.format(0, 4, "f4")),
    "bytes in an array of bytes": (bytearray(b"a\xff"), ValueError, UTF_8.format(1, 2, "ff")),
    "png bytes": (b"\x89PNG\r\n\x1a\n", ValueError, UTF_8.format(0, 8, "89")),
    "a high surrogate": ("a\ud800b", ValueError, SURROGATE.format(1, 3, "D800")),
    "a low surrogate": ("\udfff", ValueError, SURROGATE.format(0, 1, "DFFF")),
    "two halves of a pair": ("\ud83d\ude00", ValueError, SURROGATE.format(0, 2, "D83D")),
    "escaped bytes of a file name": (b"a\xff".decode(errors="surrogateescape"), ValueError, SURROGATE.format(1, 2, "DCFF")),
    "a surrogate in a dict": ({"text": "a\udc00"}, ValueError, SURROGATE.format(1, 2, "DC00")),
}


@by_processor
@pytest.mark.parametrize("name", BAD)
def test_what_is_no_text_is_refused(processor: TextProcessor, name: str) -> None:
    raw, kind, message = BAD[name]
    for read in (processor, processor.pieces):
        with pytest.raises(kind, match=message) as caught:
            read(raw)
        assert type(caught.value) is kind
        assert len(str(caught.value)) < 300
        str(caught.value).encode()


def test_there_are_enough_of_both_kinds() -> None:
    assert len(BAD) >= 50
    assert len(ODD) >= 25


def test_the_way_out_of_a_surrogate_works() -> None:
    repaired = "\ud83d\ude00 a\ud800".encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    assert TextProcessor().decode(TextProcessor()(repaired)["input_ids"].tolist()) == "😀 a\ufffd"


ODD: dict[str, tuple[Any, str]] = {
    "one character": ("a", "a"),
    "one byte": (b"a", "a"),
    "a NUL": ("\x00", "\x00"),
    "NULs in a text": ("a\x00b\x00", "a\x00b\x00"),
    "control characters": ("\x01\x02\x1b[31m", "\x01\x02\x1b[31m"),
    "a zero-width space": ("\u200b", "\u200b"),
    "a byte order mark": ("\ufeffa", "\ufeffa"),
    "a byte order mark as bytes": (b"\xef\xbb\xbfa", "\ufeffa"),
    "noncharacters": ("\uffff\U0010ffff", "\uffff\U0010ffff"),
    "private use": ("\ue000", "\ue000"),
    "an emoji of several": ("👩‍👩‍👧‍👦", "👩‍👩‍👧‍👦"),
    "a flag": ("🇵🇪", "🇵🇪"),
    "right to left": ("\u202e\u05e9\u05dc\u05d5\u05dd", "\u202e\u05e9\u05dc\u05d5\u05dd"),
    "many marks": ("a" + "\u0300" * 100, "a" + "\u0300" * 100),
    "a mark alone": ("\u0301", "\u0301"),
    "decomposed": ("e\u0301", "e\u0301"),
    "spaces around": ("  a \n", "  a \n"),
    "line ends": ("a\r\nb", "a\r\nb"),
    "no spaces": ("東京都渋谷区", "東京都渋谷区"),
    "padding tokens": ("[PAD] [PAD]", "[PAD] [PAD]"),
    "a mask token": ("<mask>", "<mask>"),
    "an end of text": ("<|endoftext|>", "<|endoftext|>"),
    "the word of a missing cell": ("None", "None"),
    "nan as a word": ("nan", "nan"),
    "a format string": ("%s {0} {}", "%s {0} {}"),
    "markup": ("<script>alert(1)</script>", "<script>alert(1)</script>"),
    "a replacement character": ("\ufffd", "\ufffd"),
    "numpy text": (np.str_("é"), "é"),
    "numpy bytes": (np.bytes_(b"\xc3\xa9"), "é"),
    "bytes that can change": (bytearray(b"ab"), "ab"),
    "a dict": ({"text": "a"}, "a"),
    "a dict of bytes": ({"text": b"a"}, "a"),
    "a whole row": ({"text": "a", "label": 1}, "a"),
}


@by_processor
@pytest.mark.parametrize("name", ODD)
def test_odd_texts_are_encoded_as_they_stand(processor: TextProcessor, name: str) -> None:
    raw, text = ODD[name]
    inputs = processor(raw)
    assert processor.decode(inputs["input_ids"].tolist()) == text
    assert processor.pieces(raw) == [raw]
    assert np.isfinite(processor.features(inputs)).all()


@by_processor
@pytest.mark.parametrize(
    "text", ["a" * 1_000_000, "né " * 300_000, "\x00" * 1_000_000, "🚀" * 250_000], ids=["word", "words", "NUL", "🚀"]
)
def test_a_megabyte_is_cut_into_windows(processor: TextProcessor, text: str) -> None:
    pieces = processor.pieces(text)
    rows = [processor(piece)["input_ids"] for piece in pieces]
    assert max(map(len, rows)) <= 512
    assert processor.decode(torch.cat(rows).numpy()) == text


def test_many_takes_texts_in_every_container() -> None:
    processor = TextProcessor()
    assert processor.many("ab") == ["ab"]
    assert processor.many(b"ab") == [b"ab"]
    assert processor.many({"text": "a"}) == [{"text": "a"}]
    for several in (
        ["a", "b"],
        ("a", "b"),
        np.array(["a", "b"]),
        np.array(["a", "b"], object),
        pd.Series(["a", "b"], index=[7, 8]),
    ):
        assert processor.many(several) == ["a", "b"]
    assert processor.many(np.array("ab")) == ["ab"]
    assert processor.many([]) == []


def test_a_bad_text_among_good_ones_is_named() -> None:
    processor = MMSSLProcessor({"text": TextProcessor()})
    with pytest.raises(ValueError, match=r"^text\[1\]: a text needs at least one character"):
        processor(text=["a", " "])
    with pytest.raises(TypeError, match=r"^text\[2\]: the text is missing"):
        processor(text=np.array(["a", "b", None], object))
    with pytest.raises(ValueError, match="text= holds no sample"):
        processor(text=pd.Series([], dtype=object))


def test_bpe_reads_an_odd_corpus() -> None:
    processor = TextProcessor(tokenizer="bpe", vocab_size=300)
    processor.fit([raw for raw, _, _ in BAD.values()] + [raw for raw, _ in ODD.values()] + ["ab" * 50_000])
    for _, text in ODD.values():
        assert processor.decode(processor(text)["input_ids"].numpy()) == text


ANYTHING = st.one_of(
    st.text(st.characters(), max_size=40),  # with surrogates
    st.binary(max_size=40),
    st.none() | st.floats() | st.integers(),
    st.lists(st.text(max_size=3), max_size=3),
    st.dictionaries(st.sampled_from(["text", "sentence", ""]), st.text(max_size=5) | st.binary(max_size=5) | st.none(), max_size=2),
)


@by_processor
@given(ANYTHING)
@settings(max_examples=80)
def test_anything_is_encoded_or_refused(processor: TextProcessor, raw: Any) -> None:
    try:
        inputs = processor(raw)
    except (ValueError, TypeError) as error:
        assert str(error)
        return
    ids = inputs["input_ids"]
    assert ids.dtype == torch.int64
    assert 0 < len(ids) <= 512
    assert 0 <= ids.min() <= ids.max() < processor.tokens.size
