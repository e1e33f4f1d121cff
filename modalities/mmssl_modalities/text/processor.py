"""Raw texts to token ids: what a text may be given as, windows of long ones, hashed n-grams."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from pydantic import Field
from torch import Tensor

from mmssl.modality import IGNORED, Inputs, Processor, Reference, pad_stack
from mmssl_modalities.text.dense import (
    COUNT,
    LABELS,
    NO_WORD,
    PADDING,
    WORDS,
    between_spaces,
    first_tokens,
    joined,
    words_of,
)
from mmssl_modalities.text.documents import is_document, read_document
from mmssl_modalities.text.tokenizers import (
    NUM_BYTES,
    ByteTokenizer,
    FastTokenizer,
    Ids,
    Tokenizer,
    load_tokenizer,
    served,
    train_bpe,
)

IDS = "input_ids"
LENGTHS = "text_lengths"
MASK = "attention_mask"
MORE = "text_more"
MORE_LENGTHS = "text_more_lengths"
"""Captions after the first, and their numbers of tokens: 0 where a sample has fewer of them than others of its batch."""

TEXT_KEY = "text"
BYTES, BPE = "bytes", "bpe"

NUM_FEATURES = 2048
NGRAMS = (3, 4)
"""Lengths of the runs of bytes in `features`. A linear probe on sst2 had 76.6 of these, 73.6 of lengths 3 to 5, 71.9 of tokens."""


SENTENCE = re.compile(r"(?<=[.!?])\s+")
"""What stands between two sentences."""
Id = Annotated[int, Field(ge=0)]
Captions = Literal["one", "list", "sentences", "words"]
SEVERAL = ("list", "sentences")


@dataclass(frozen=True, eq=False)
class Window:
    """A part of a long text, as token ids: what `TextProcessor.pieces` makes, and `TextProcessor` takes.

    words: of each token the number of the word that it begins, else -1, and count: how many words the text has; where it is words.
    """

    ids: Ids
    words: Ids | None = None
    count: int = 0


class TextProcessor(Processor):
    """A text to `input_ids`, int64 `[n]`: one id per token, with special tokens only where `before` and `after` name some.

    A raw text is a str, the bytes of UTF-8, a dict {"text": either}, a file {"path": ...}, or a `Window`. It is encoded as it
    is: nothing is stripped or normalised except by a named tokenizer, and the names of special tokens in it are plain text.

    Of several captions the first is the text, and the others are `text_more`, int64 `[m, k]`, of which a view may draw one.

    tokenizer: bytes = the UTF-8 bytes, which needs no files; bpe = a byte-pair encoding trained on the training texts; or a fast
        tokenizer of Hugging Face, a folder or a Hub id. All are kept in the settings: the model folder needs nothing else.
    vocab_size: largest number of ids of bpe, the 256 bytes included.
    max_tokens: tokens of a text at most, special ones included.
    long_texts: what becomes of longer ones: cut = windows, so that nothing is lost; truncate = the first max_tokens alone; raise =
        an error. A long text that is paired with a sample of another modality cannot be cut.
    overlap: tokens that two neighbouring windows share.
    captions: one = a raw text is one; list = it may be a list of captions of the same thing; sentences = each sentence of it, or of
        each in the list, is a caption (DreamLIP, arXiv 2403.17007). The first is the text, unless augment.caption draws another;
        words = it may be a list of the words of one text, which are joined by spaces, as where each word has a tag.
    before, after: ids of special tokens that are put in front of every text and behind it, such as those of [CLS] and [SEP].
    fill: id of a token that fills short texts up to max_tokens, and is seen by attention, as SigLIP's; null: they stay short.
    tokenizer_json: what a tokenizer.json holds, as `settings()` returns it; null: trained by `fit`, or loaded.
    """

    padding = PADDING
    whole = "long_texts: truncate"
    free = frozenset({"max_tokens", "long_texts", "overlap", "captions"})

    def __init__(
        self,
        *,
        tokenizer: str = BYTES,
        vocab_size: Annotated[int, Field(gt=NUM_BYTES)] = 8000,
        max_tokens: Annotated[int, Field(gt=0)] = 512,
        long_texts: Literal["cut", "truncate", "raise"] = "cut",
        overlap: Annotated[int, Field(ge=0)] = 0,
        captions: Captions = "one",
        before: Sequence[Id] = (),
        after: Sequence[Id] = (),
        fill: Id | None = None,
        tokenizer_json: str | None = None,
    ) -> None:
        if overlap >= max_tokens:
            raise ValueError(
                f"processor.overlap must be smaller than max_tokens; got overlap={overlap} and max_tokens={max_tokens}"
            )
        self.before, self.after, self.fill = list(before), list(after), fill
        self.room = max_tokens - len(self.before) - len(self.after)
        if self.room <= overlap:
            raise ValueError(
                f"processor.max_tokens={max_tokens} leaves {self.room} tokens beside those of before and after, no more than "
                f"overlap={overlap}. Raise it"
            )
        self.tokenizer = tokenizer
        self.vocab_size = vocab_size
        self.max_tokens = max_tokens
        self.long_texts = long_texts
        self.overlap = overlap
        self.captions = captions
        self._use(load_tokenizer(tokenizer) if tokenizer_json is None and tokenizer not in (BYTES, BPE) else tokenizer_json)

    def _use(self, content: str | None) -> None:
        self.tokenizer_json = content
        self._tokenizer: Tokenizer | None = None
        if content is not None:
            self._tokenizer = FastTokenizer(self.tokenizer, content)
        elif self.tokenizer == BYTES:
            self._tokenizer = ByteTokenizer()

    def settings(self) -> dict[str, Any]:
        return {
            "tokenizer": self.tokenizer,
            "vocab_size": self.vocab_size,
            "max_tokens": self.max_tokens,
            "long_texts": self.long_texts,
            "overlap": self.overlap,
            "captions": self.captions,
            "before": self.before,
            "after": self.after,
            "fill": self.fill,
            "tokenizer_json": self.tokenizer_json,
        }

    @property
    def windowed(self) -> bool:
        return self.long_texts == "cut"

    @property
    def fitted(self) -> bool:
        return self._tokenizer is not None

    def fit(self, samples: Iterable[Any]) -> None:
        """Train bpe on all texts; other tokenizers have nothing to learn.

        Texts that cannot be read are passed over: the loader deals with them as `data.on_error` says. ValueError if none can.
        """
        if not self.fitted:
            parts = (caption for raw in samples for caption in self._captions(raw))
            self._use(train_bpe(_readable(parts), self.vocab_size))

    @property
    def tokens(self) -> Tokenizer:
        """The tokenizer. ValueError before `fit`."""
        if self._tokenizer is None:
            raise ValueError("the vocabulary of tokenizer: bpe is not known yet: call fit(texts) with the training texts first")
        return self._tokenizer

    @property
    def special(self) -> list[int]:
        """Ids of tokens that are put to every text."""
        return sorted({*self.before, *self.after, *([] if self.fill is None else [self.fill])})

    def _ids(self, raw: Any) -> Ids:
        if isinstance(raw, Window):
            return raw.ids
        text = read_text(raw)
        ids = self.tokens.encode(text)
        if not len(ids):
            raise ValueError(
                f"tokenizer {self.tokenizer!r} makes no token of this text of {len(text)} characters: it takes them for space and "
                "control characters. Drop the text, or choose tokenizer: bytes or bpe, which keep everything"
            )
        return ids

    def absent(self, raw: Any) -> bool:
        several = self.captions != "one" and isinstance(raw, list | tuple | np.ndarray)
        return all(super(TextProcessor, self).absent(caption) for caption in raw) if several else super().absent(raw)

    def _captions(self, raw: Any) -> list[Any]:
        """The captions of a raw sample without empty ones; what is no list, or empty altogether, is judged as a text."""
        if self.captions == "one" or isinstance(raw, Window):
            return [raw]
        if self.captions == "words":
            words = words_of(raw)
            return [raw if words is None else " ".join(words)]
        found = ([each for each in raw if not self.absent(each)] or [None]) if isinstance(raw, list | tuple) else [raw]
        if self.captions == "list":
            return found
        return [part for each in found for part in (SENTENCE.split(each.strip()) if isinstance(each, str) else [each])]

    def __call__(self, raw: Any) -> Inputs:
        first, *others = [self._bounded(caption) for caption in self._captions(raw)]
        if self.captions not in SEVERAL:
            return {IDS: first}
        none = torch.zeros(0, 0, dtype=torch.int64)
        lengths = torch.tensor([len(other) for other in others], dtype=torch.int64)
        return {IDS: first, MORE: pad_stack(others) if others else none, MORE_LENGTHS: lengths}

    def _bounded(self, raw: Any) -> Int[Tensor, " n"]:
        """The ids of one text, not too many."""
        ids = self._ids(raw)
        if len(ids) > self.room and self.long_texts != "truncate":
            beside = f" less {self.max_tokens - self.room} special ones" if self.special else ""
            raise ValueError(
                f"this text has {len(ids):,} tokens, more than processor.max_tokens={self.max_tokens:,}{beside}. "
                "Cut it with pieces(text), "
                "raise max_tokens, or set processor.long_texts: truncate"
            )
        if not self.special:
            return torch.from_numpy(ids[: self.room])
        return torch.tensor(self._framed(ids, self.before, self.after, self.fill or 0))

    def _framed(self, ids: Ids, before: Sequence[int], after: Sequence[int], fill: int) -> list[int]:
        """What stands in the places of a text between those of special tokens, filled up where texts are."""
        framed = [*before, *ids[: self.room].tolist(), *after]
        missing = 0 if self.fill is None else self.max_tokens - len(framed)
        return [*framed, *[fill] * missing]

    def labelled(self, raw: Any, labels: Int[np.ndarray, "*places"] | None) -> Inputs:
        """The ids of a text of words, with the label of each word at its first token; a str has the words between its spaces.

        ValueError where there are not as many labels as words.
        """
        if self.captions != "words":
            raise ValueError(
                "tags belong to the words of a text: set processor.captions: words, which reads a list of words, or a text whose "
                "words stand between spaces"
            )
        window = raw if isinstance(raw, Window) else self._worded(raw)
        assert window.words is not None, "it was cut of words"
        if labels is not None and labels.shape != (window.count,):
            got = " x ".join(map(str, labels.shape))
            raise ValueError(
                f"a text needs a tag for each of its words: expected {window.count}, got {got}. Correct or drop the row"
            )
        none = [NO_WORD] * len(self.before), [NO_WORD] * len(self.after)
        words = torch.tensor(self._framed(window.words, *none, NO_WORD))
        found = {IDS: self._bounded(window), WORDS: words, COUNT: torch.tensor([window.count])}
        if labels is None:
            return found
        known = torch.from_numpy(labels)[words.clamp(min=0)] if len(labels) else torch.full_like(words, IGNORED)
        return found | {LABELS: known.masked_fill(words < 0, IGNORED)}

    def words(self, raw: Any) -> list[str]:
        found = words_of(raw)
        return re.findall(r"\S+", read_text(raw)) if found is None else found

    def _worded(self, raw: Any) -> Window:
        """A text of words, with the number of the word that each token begins."""
        words = words_of(raw)
        text, begins = (read_text(raw), between_spaces(read_text(raw))) if words is None else joined(words)
        return Window(self._ids(text), first_tokens(begins, self.tokens.starts(text)), len(begins))

    def pieces(self, raw: Any) -> list[Any]:
        """The text, if it is short enough; else windows of almost equal length, which give all of its tokens back in order."""
        if self.windowed and self.captions == "words":
            return self._pieces_of_words(raw)
        if not self.windowed or self.captions != "one" or len(ids := self._ids(raw)) <= self.room:
            return [raw]
        return [Window(ids[first:last]) for first, last in windows(len(ids), self.room, self.overlap)]

    def _pieces_of_words(self, raw: Any) -> list[Any]:
        """Windows that know which words their tokens begin."""
        whole = self._worded(raw)
        assert whole.words is not None
        if len(whole.ids) <= self.room:
            return [raw]
        cuts = windows(len(whole.ids), self.room, self.overlap)
        return [Window(whole.ids[first:last], whole.words[first:last], whole.count) for first, last in cuts]

    def plain(self, raw: Any) -> str:
        """The text, of several captions the first."""
        return read_text(self._captions(raw)[0])

    def beginning(self, raw: Any) -> Any:
        """As many of the first tokens as have room beside special ones."""
        return Window(self._ids(self._captions(raw)[0])[: self.room])

    def hub_tokenizer(self) -> Any:
        """For `AutoTokenizer`: the same ids as `input_ids`, with an `attention_mask`, cut at `max_tokens` if asked."""
        return None if self._tokenizer is None else served(self._tokenizer, self.max_tokens)

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """The text of ids: for bytes and bpe exactly what was encoded."""
        return self.tokens.decode(ids)

    def many(self, raw: Any) -> list[Any]:
        """The texts in a list, a pandas Series or a numpy array, or one text."""
        import pandas as pd  # takes half a second, and few need it

        if isinstance(raw, np.ndarray | pd.Series):
            return list(np.atleast_1d(np.asarray(raw, object)))
        return super().many(raw)

    def collate(self, samples: Sequence[Inputs]) -> Inputs:
        """Stack ids. If lengths differ, pad with zeros at the end, and add `text_lengths`, `[b, 1]`, the number of tokens.

        Of several captions: `text_more`, `[b, m, k]`, and `text_more_lengths`, `[b, m]`.
        """
        ids = [sample[IDS] for sample in samples]
        batch = {IDS: pad_stack(ids)}
        if any(len(row) != len(ids[0]) for row in ids):
            batch[LENGTHS] = torch.tensor([[len(row)] for row in ids])
        batch |= {
            name: pad_stack([sample[name] for sample in samples], self.padding.get(name, 0))
            for name in (LABELS, WORDS, COUNT)
            if name in samples[0]
        }
        if self.captions in SEVERAL:
            batch |= {name: pad_stack([sample[name] for sample in samples]) for name in (MORE, MORE_LENGTHS)}
        return batch

    @classmethod
    def sized(cls, inputs: Inputs) -> Inputs:
        ids = inputs[IDS]
        return {LENGTHS: torch.full((len(ids), 1), ids.shape[1], device=ids.device)} | inputs

    def features(self, inputs: Inputs) -> Float[np.ndarray, " f"]:
        """Hashed runs of three and four bytes of the text with a space around it, whatever the tokenizer."""
        ids = inputs[IDS].numpy()
        body = ids[~np.isin(ids, self.special)] if self.special else ids
        return hashed_ngrams(f" {self.decode(body)} ".encode(), NGRAMS)

    def reference(self) -> Reference:
        """Counted words and a linear model."""
        from mmssl_modalities.text.reference import counted_words  # scikit-learn, which only tables of scores need

        return counted_words(self.plain if self.captions == "words" else read_text)


def read_text(raw: Any) -> str:
    """The text of a raw sample. TypeError for what is no text; ValueError for what is not Unicode, and for nothing but space."""
    import pandas as pd  # takes half a second, and few need it

    if isinstance(raw, Mapping) and TEXT_KEY not in raw and is_document(raw):
        raw = read_document(raw)
    elif isinstance(raw, Mapping):
        if TEXT_KEY not in raw:
            raise ValueError(
                f"a text given as a dict has the key {TEXT_KEY!r}; got {_keys(raw)}. Pass {{{TEXT_KEY!r}: ...}}, or the str"
            )
        raw = raw[TEXT_KEY]
    if isinstance(raw, bytes | bytearray):
        text = _from_utf8(bytes(raw))
    elif isinstance(raw, str):
        text = _unicode(str(raw))
    elif raw is None or raw is pd.NA or raw is pd.NaT or (isinstance(raw, float | np.floating) and raw != raw):
        raise TypeError(f"the text is missing ({raw}). Fill it, drop the row, or set data.on_error: skip")
    elif isinstance(raw, list | tuple):
        raise TypeError(
            f"a text is a str, bytes of UTF-8, or a dict {{{TEXT_KEY!r}: ...}}; got {type(raw).__name__} of {len(raw)}. Pass "
            "several texts as a list of samples; where they are captions of one thing, set processor.captions: list; where "
            "they are the words of one text, captions: words"
        )
    else:
        kind = type(raw).__name__
        raise TypeError(
            f"a text is a str, bytes of UTF-8, or a dict {{{TEXT_KEY!r}: ...}}; got {kind}. Convert it, say what it stands for "
            "(data.called), or pass several as a list"
        )
    if not text.strip():
        what = f"{len(text)} characters of white space" if text else "an empty one"
        raise ValueError(
            f"a text needs at least one character that is not white space; got {what}. Give a placeholder text, or drop it"
        )
    return text


def _keys(raw: Mapping[Any, Any]) -> str:
    names = [repr(name) for name in list(raw)[:5]]
    return ", ".join(names + ["..."] * (len(raw) > 5)) or "no key"


def _from_utf8(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        raise ValueError(
            f"a text given as bytes must be UTF-8; byte {error.start} of {len(raw)}, 0x{raw[error.start]:02x}, is not: "
            f"{error.reason}. Decode it with its own encoding, as in raw.decode('latin-1'), and pass the str"
        ) from None


def _unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"a text must be valid Unicode; character {error.start} of {len(text)} is half a surrogate pair, "
            f"U+{ord(text[error.start]):04X}. Repair it with text.encode('utf-16', 'surrogatepass').decode('utf-16', 'replace')"
        ) from None
    return text


def _readable(samples: Iterable[Any]) -> Iterator[str]:
    error: Exception = ValueError("bpe is trained on one text or more; got none")
    found = False
    for raw in samples:
        try:
            text = read_text(raw)
        except (ValueError, TypeError) as bad:
            error = bad
            continue
        found = True
        yield text
    if not found:
        raise error


def windows(count: int, size: int, overlap: int) -> list[tuple[int, int]]:
    """Where as few windows as can cover `count` places start and end (exclusive): at most `size` long, all about equally."""
    new = max(count - overlap, 1)
    number = -(-new // (size - overlap))
    return [(i * new // number, min((i + 1) * new // number + overlap, count)) for i in range(number)]


def hashed_ngrams(text: bytes, lengths: Sequence[int]) -> Float[np.ndarray, " f"]:
    """Counts of the runs of bytes of some lengths, 1 + log of each, hashed into `NUM_FEATURES` places with signs; of length 1.

    Signs as in feature hashing (arXiv 0902.2206, definition 1), so that what shares a place cancels on average.
    """
    features = np.zeros(NUM_FEATURES, np.float32)
    for length in (length for length in lengths if length <= len(text)):
        runs = np.lib.stride_tricks.sliding_window_view(np.frombuffer(text, np.uint8), length)
        code = _mix(np.uint64(length) + (runs.astype(np.uint64) << np.arange(8, 8 * length + 1, 8, dtype=np.uint64)).sum(1))
        found, counts = np.unique(code, return_counts=True)
        sign = 1 - 2 * (found >> np.uint64(63)).astype(np.float32)
        np.add.at(features, (found % np.uint64(NUM_FEATURES)).astype(np.int64), sign * (1 + np.log(counts)))
    return features / max(float(np.linalg.norm(features)), 1e-6)


def _mix(x: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64 (doi:10.1145/2660193.2660195): a bijection of 64-bit integers whose output bits look random."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
