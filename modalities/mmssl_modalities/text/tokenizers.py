"""Text to token ids and back: bytes, and the fast tokenizers of Hugging Face, of which one is trained on a recipe's own corpus."""

import json
import os
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import tokenizers
from jaxtyping import Int
from tokenizers import decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

NUM_BYTES = 256
TRAINED = 2000
"""Characters of a text that byte pairs are trained on at a time: training takes the square of the longest word's length."""
PADDING = "<|pad|>"
"""The token that pads texts in a batch of transformers' tokenizers."""
RARE = "\U00013000"
"""A hieroglyph that few vocabularies hold: shows what a tokenizer makes of a character that it does not know."""

Ids = Int[np.ndarray, " n"]


@runtime_checkable
class Tokenizer(Protocol):
    """Text to ids below `size`; `unknown` is the id of characters that the vocabulary lacks (None: there are none)."""

    size: int
    unknown: int | None

    def encode(self, text: str) -> Ids: ...

    def starts(self, text: str) -> Ids:
        """For each id of a text the place of its first character that is no space; -1 where there is none."""
        ...

    def decode(self, ids: Sequence[int] | Ids) -> str: ...

    def token(self, number: int) -> str:
        """One token as it stands inside a text, with the space in front of it."""
        ...


class ByteTokenizer:
    """The bytes of the UTF-8 text: needs no files, knows every character, has no special tokens."""

    size: int = NUM_BYTES
    unknown: int | None = None

    def encode(self, text: str) -> Ids:
        return np.frombuffer(text.encode(), np.uint8).astype(np.int64)

    def starts(self, text: str) -> Ids:
        owner = np.repeat(np.arange(len(text)), [len(letter.encode()) for letter in text])
        return np.array([-1 if text[place].isspace() else place for place in owner.tolist()], dtype=np.int64)

    def decode(self, ids: Sequence[int] | Ids) -> str:
        """The text; where the ids cut a character apart, the replacement character."""
        return bytes(np.asarray(ids, np.uint8)).decode(errors="replace")

    def token(self, number: int) -> str:
        return chr(number) if number < 128 else f"{number:02x}"


class FastTokenizer:
    """A tokenizer of the `tokenizers` library, as a `tokenizer.json` describes it.

    It adds no special tokens, and never cuts or pads. Special tokens that a user writes into a text ("[PAD]") are plain text.
    ValueError if it cannot be read, or loses characters that it does not know.
    """

    def __init__(self, name: str, content: str) -> None:
        self.name = name
        self.content = content
        try:
            self.backend = tokenizers.Tokenizer.from_str(content)
            model = json.loads(content)["model"]
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"the tokenizer.json of tokenizer {name!r} cannot be read: {error}") from error
        self.backend.no_truncation()
        self.backend.no_padding()
        self.backend.encode_special_tokens = True
        self.size = max(self.backend.get_vocab().values(), default=-1) + 1
        self.unknown = _unknown_id(self.backend, model)
        added = self.backend.get_added_tokens_decoder()
        self.special = {number: token.content for number, token in added.items() if token.special and number != self.unknown}
        if not len(self.encode(RARE)):
            raise ValueError(
                f"tokenizer {name!r} loses characters that it does not know: it has no unknown token, and does not fall back to "
                "bytes. Choose another one, or bytes or bpe"
            )

    def __reduce__(self) -> tuple[Any, ...]:
        # The library's own pickles forget that special tokens are plain text.
        return type(self), (self.name, self.content)

    def encode(self, text: str) -> Ids:
        ids = self._plain(text)
        if not self.special.keys().isdisjoint(ids):
            # Some vocabularies hold the text of special tokens as ordinary pieces, which are avoided by cutting it in two.
            ids = [number for part in self._inside_special.split(text) for number in self._plain(part)]
        return np.asarray(ids, np.int64)

    def starts(self, text: str) -> Ids:
        parts = [text] if self.special.keys().isdisjoint(self._plain(text)) else self._inside_special.split(text)
        found, place = list[int](), 0
        for part in parts:
            for start, end in self._encoded(part).offsets:
                inner = next((at for at in range(start, end) if not part[at].isspace()), None)
                found.append(-1 if inner is None else place + inner)
            place += len(part)
        return np.asarray(found, np.int64)

    def _plain(self, text: str) -> list[int]:
        return self._encoded(text).ids

    def _encoded(self, text: str) -> tokenizers.Encoding:
        try:
            return self.backend.encode(text, add_special_tokens=False)
        except Exception as error:  # the library raises nothing narrower
            raise ValueError(f"tokenizer {self.name!r} cannot encode this text: {error}") from error

    @cached_property
    def _inside_special(self) -> re.Pattern[str]:
        """The places behind the first character of a special token."""
        cuts = (f"(?<={re.escape(text[:1])})(?={re.escape(text[1:])})" for text in self.special.values() if len(text) > 1)
        return re.compile("|".join(cuts) or "(?!)")

    def decode(self, ids: Sequence[int] | Ids) -> str:
        return self.backend.decode([int(number) for number in ids], skip_special_tokens=False)

    def token(self, number: int) -> str:
        """Behind an "a", since many decoders say only there whether a space precedes it."""
        before = self.encode("a").tolist()
        text, start = self.decode([*before, number]), self.decode(before)
        return text.removeprefix(start) if text.startswith(start) else self.decode([number])


def _unknown_id(backend: tokenizers.Tokenizer, model: dict[str, Any]) -> int | None:
    if model.get("byte_fallback"):
        return None
    number, text = model.get("unk_id"), model.get("unk_token")
    if isinstance(number, int):
        return number
    return backend.token_to_id(text) if isinstance(text, str) else None


def served(tokenizer: Tokenizer, max_tokens: int) -> PreTrainedTokenizerFast:
    """A tokenizer as transformers knows them: no special tokens around a text, padding behind it by a token of its own.

    The id of that token lies beyond the vocabulary: the adapter never looks up what an attention mask hides.
    """
    content = json.loads(tokenizer.content if isinstance(tokenizer, FastTokenizer) else byte_level())
    content["post_processor"], content["truncation"], content["padding"] = None, None, None
    found: PreTrainedTokenizerFast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer.from_str(json.dumps(content)),
        model_max_length=max_tokens,
        model_input_names=["input_ids", "attention_mask"],
        pad_token=PADDING,
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
    )
    return found


def byte_level() -> str:
    """The tokenizer.json of one that makes the bytes of UTF-8 of a text, as `ByteTokenizer`."""
    backend = tokenizers.Tokenizer(models.BPE({letter: byte for byte, letter in enumerate(bytes_alphabet())}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return str(backend.to_str())


def bytes_alphabet() -> list[str]:
    """The letter that stands for each byte in byte-level vocabularies (GPT-2): printable ones stand for themselves."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(NUM_BYTES, 2 * NUM_BYTES))
    return [chr(byte if byte in plain else next(others)) for byte in range(NUM_BYTES)]


def train_bpe(texts: Iterable[str], vocab_size: int) -> str:
    """The tokenizer.json of a byte-pair encoding (arXiv 1508.07909) of UTF-8 bytes, as in GPT-2, with at most `vocab_size` ids.

    The 256 bytes are in its vocabulary, so that it knows every text, and it decodes to exactly what it encoded.
    """
    backend = tokenizers.Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, min_frequency=2, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator((text[i : i + TRAINED] for text in texts for i in range(0, len(text), TRAINED)), trainer)
    # Training ran in threads; without this every process that a loader forks would print a warning about them.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    return backend.to_str()


def load_tokenizer(name: str) -> str:
    """The tokenizer.json of a fast tokenizer: a folder, or a model on the Hub. Code from there is never run.

    ValueError if there is none.
    """
    file = Path(name) / "tokenizer.json"
    try:
        if file.is_file() and not file.with_name("tokenizer_config.json").is_file():
            return file.read_text(encoding="utf-8")
        found = AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, LookupError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"processor.tokenizer: no tokenizer can be loaded from {name!r}: {reason} Give bytes, bpe, a folder with a "
            "tokenizer.json, or the Hub id of a model with a fast tokenizer"
        ) from error
    if not found.is_fast:
        raise ValueError(
            f"processor.tokenizer: {name!r} has a tokenizer in Python alone ({type(found).__name__}); a fast one, which a "
            "tokenizer.json describes, is needed. Convert it, or choose bytes or bpe"
        )
    return str(found.backend_tokenizer.to_str())
