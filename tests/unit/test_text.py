"""The text modality: tokenizers, windows of long texts, batches, tokens, views, features, pictures."""

import json
import math
import pickle
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from torch import Tensor
from transformers import AutoProcessor, PreTrainedTokenizerFast

from mmssl.draws import Draws, keys
from mmssl.modality import Inputs
from mmssl.processor import MMSSLProcessor
from mmssl.recipe.sections import section
from mmssl_modalities.text import TEXT, TextAdapter, TextAugment, TextProcessor
from mmssl_modalities.text.picture import COLUMNS, drawable
from mmssl_modalities.text.processor import hashed_ngrams, windows

CORPUS = TEXT.example(200, 0)
HARD = ["Zürich 東京 🏳️‍🌈", "e\u0301 = é", "\x00\x1f\x7f", "שלום עולם", "a\r\n\tb  c\u2028d", "\ufeffBOM", "𓀀 \U0010ffff"]
"""Texts of characters that no corpus here holds: combining, joined, control, right to left, beyond the basic plane."""

few = settings(max_examples=60)


def bpe(**keys: Any) -> TextProcessor:
    processor = TextProcessor(tokenizer="bpe", **{"vocab_size": 400} | keys)
    processor.fit(CORPUS)
    return processor


def ids_of(processor: TextProcessor, raw: Any) -> list[int]:
    return processor(raw)["input_ids"].tolist()


def assert_same(left: Inputs, right: Inputs) -> None:
    assert left.keys() == right.keys()
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=0, atol=0)


# Bytes and byte pairs


def test_bytes_are_those_of_utf_8() -> None:
    assert ids_of(TextProcessor(), "aé🚀") == [0x61, 0xC3, 0xA9, 0xF0, 0x9F, 0x9A, 0x80]
    assert TextProcessor().tokens.size == 256
    assert [TextProcessor().tokens.token(number) for number in (97, 0xC3)] == ["a", "c3"]


PROCESSORS = {"bytes": TextProcessor(max_tokens=10_000), "bpe": bpe(max_tokens=10_000)}
by_processor = pytest.mark.parametrize("processor", PROCESSORS.values(), ids=PROCESSORS)


@by_processor
@given(text=st.text(min_size=1, max_size=200).filter(str.strip))
@few
def test_every_text_comes_back(processor: TextProcessor, text: str) -> None:
    ids = processor(text)["input_ids"]
    assert processor.decode(ids.tolist()) == text
    assert ids.max() < processor.tokens.size


@by_processor
@pytest.mark.parametrize("text", [*HARD, " ".join(HARD), *CORPUS[:5]])
def test_hard_texts_come_back(processor: TextProcessor, text: str) -> None:
    assert processor.decode(ids_of(processor, text)) == text
    assert ids_of(processor, text.encode()) == ids_of(processor, text)


def test_bpe_has_the_bytes_and_what_is_frequent() -> None:
    processor = bpe()
    assert 256 < processor.tokens.size <= 400
    assert processor.tokens.unknown is None
    tokens = {processor.tokens.token(number) for number in range(processor.tokens.size)}
    assert {" remembers", " never", "the"} <= tokens
    assert len(ids_of(processor, CORPUS[0])) < len(CORPUS[0].encode()) / 3


def test_bpe_is_the_same_every_time_and_passes_over_bad_texts() -> None:
    again = TextProcessor(tokenizer="bpe", vocab_size=400)
    assert not again.fitted
    again.fit([None, "\ud800", *CORPUS, b"\xff"])
    assert again.settings() == bpe().settings()


def test_bpe_needs_a_text() -> None:
    with pytest.raises(ValueError, match="bpe is trained on one text or more; got none"):
        TextProcessor(tokenizer="bpe").fit([])
    with pytest.raises(TypeError, match="the text is missing"):
        TextProcessor(tokenizer="bpe").fit([" ", None])
    with pytest.raises(ValueError, match=r"the vocabulary of tokenizer: bpe is not known yet: call fit\(texts\)"):
        TextProcessor(tokenizer="bpe")("a")


def test_an_error_while_the_corpus_is_read_is_not_hidden() -> None:
    def samples() -> Iterator[str]:
        yield "a b c"
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="the disk is gone"):
        TextProcessor(tokenizer="bpe").fit(samples())


@pytest.mark.parametrize("keys", [{}, {"max_tokens": 7, "overlap": 2}, {"tokenizer": "bpe", "long_texts": "truncate"}])
def test_settings_survive_json_and_pickle(keys: dict[str, Any]) -> None:
    processor = TextProcessor(**{"vocab_size": 300} | keys)
    assert TextProcessor(**json.loads(json.dumps(processor.settings()))).fitted == (processor.tokenizer == "bytes")
    processor.fit(CORPUS)
    plain = json.loads(json.dumps(processor.settings(), allow_nan=False))
    for again in (TextProcessor(**plain), TextProcessor(**section(TextProcessor).model_validate(plain).arguments())):
        assert again.settings() == processor.settings()
        for other in (again, pickle.loads(pickle.dumps(again))):
            assert [ids_of(other, text) for text in ("a", "né [P]")] == [ids_of(processor, text) for text in ("a", "né [P]")]


# Fast tokenizers of Hugging Face


def word_piece() -> Tokenizer:
    """As BERT's: lower case, no accents, an unknown token; set to cut and pad, as sentence encoders are published."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "sea", "##s", "pad", "[", "]", "a", "##d"]
    backend = Tokenizer(models.WordPiece({word: number for number, word in enumerate(words)}, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.add_special_tokens(words[:5])
    backend.enable_truncation(2)
    backend.enable_padding(length=9)
    return backend


def unigram(**keys: Any) -> Tokenizer:
    """As sentencepiece's, whose vocabulary holds the text of its special tokens."""
    pieces = [("<pad>", 0.0), ("<unk>", 0.0), ("▁", -2.0), ("▁the", -3.0), ("sea", -4.0)]
    pieces += [(character, -6.0) for character in "<pad>sethy"]
    backend = Tokenizer(models.Unigram(list(dict(pieces).items()), **{"unk_id": 1} | keys))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    backend.add_special_tokens(["<pad>", "<unk>"])
    return backend


def saved_alone(backend: Tokenizer, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    backend.save(str(folder / "tokenizer.json"))
    return folder


def saved_by_transformers(backend: Tokenizer, folder: Path) -> Path:
    PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)
    return folder


@pytest.mark.parametrize("save", [saved_alone, saved_by_transformers])
def test_a_tokenizer_of_a_folder_travels_in_the_settings(save: Callable[[Tokenizer, Path], Path], tmp_path: Path) -> None:
    folder = save(word_piece(), tmp_path / "tokenizer")
    processor = TextProcessor(tokenizer=str(folder))
    assert processor.fitted
    expected = [5, 6, 7, 1, 5]  # the sea ##s [UNK] the: not cut, not padded, nothing added
    assert ids_of(processor, "The SEAS Ω the") == expected
    MMSSLProcessor({"text": processor}).save_pretrained(tmp_path / "model")
    for file in folder.iterdir():
        file.unlink()
    assert [file.name for file in (tmp_path / "model").iterdir()] == ["processor_config.json"]
    loaded = AutoProcessor.from_pretrained(tmp_path / "model")
    assert loaded(text="The SEAS Ω the")["input_ids"].tolist() == [expected]
    assert [processor.tokens.token(number) for number in (5, 7)] == [" the", "s"]


@pytest.mark.parametrize("backend", [word_piece(), unigram()], ids=["WordPiece", "Unigram"])
def test_special_tokens_in_a_text_are_plain_text(backend: Tokenizer, tmp_path: Path) -> None:
    processor = TextProcessor(tokenizer=str(saved_alone(backend, tmp_path)))
    for other in (processor, pickle.loads(pickle.dumps(processor))):
        for text in ("[PAD]", "<pad>", "the [MASK] sea", "the<pad>sea <pad>", "[CLS] [SEP]"):
            ids = ids_of(other, text)
            special = {number for number, token in backend.get_added_tokens_decoder().items() if number != 1}
            assert special.isdisjoint(ids)
            assert len(ids) > 1
    assert processor.decode(ids_of(processor, "the sea")) == "the sea"


@pytest.mark.parametrize("text", ["[PAD]", "<mask>", "<|endoftext|>", "</s>", "[CLS]"])
@by_processor
def test_bytes_and_bpe_have_no_special_tokens(processor: TextProcessor, text: str) -> None:
    assert processor.decode(ids_of(processor, text)) == text
    assert len(ids_of(processor, text)) > 2


def test_an_unknown_character_is_kept_and_never_predicted(tmp_path: Path) -> None:
    processor = TextProcessor(tokenizer=str(saved_alone(unigram(), tmp_path)))
    adapter = TextAdapter(8, processor)
    assert adapter.sparse_target
    batch = processor.collate([processor(text) for text in ("the Ω", "sea sea sea")])
    assert (batch["input_ids"][0] == 1).sum() == 1
    assert ((adapter.target(batch)["tokens"] == -100) == ((batch["input_ids"] == 1) | ~adapter(batch).valid_or_ones())).all()
    assert not TextAdapter(8, TextProcessor()).sparse_target


def test_a_tokenizer_that_loses_characters_is_refused(tmp_path: Path) -> None:
    lossy = Tokenizer(models.BPE({"a": 0, "b": 1}, []))
    with pytest.raises(ValueError, match="loses characters that it does not know: it has no unknown token, and does not fall back"):
        TextProcessor(tokenizer=str(saved_alone(lossy, tmp_path)))
    strict = Tokenizer(models.WordLevel({"a": 0}, unk_token="[UNK]"))
    with pytest.raises(ValueError, match=r"cannot encode this text: .*UNK"):
        TextProcessor(tokenizer=str(saved_alone(strict, tmp_path)))
    falling_back = {f"<0x{byte:02X}>": byte for byte in range(256)} | {"a": 256}
    safe = Tokenizer(models.BPE(falling_back, [], byte_fallback=True, unk_token="a"))
    assert ids_of(TextProcessor(tokenizer=str(saved_alone(safe, tmp_path))), "aΩ") == [256, 0xCE, 0xA9]
    assert TextProcessor(tokenizer=str(tmp_path)).tokens.unknown is None


def test_a_tokenizer_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"processor.tokenizer: no tokenizer can be loaded from 'acme/none'.* Give bytes, bpe, a"):
        TextProcessor(tokenizer="acme/none")
    with pytest.raises(ValueError, match=r"no tokenizer can be loaded from .* Give bytes, bpe, a folder with a tokenizer.json"):
        TextProcessor(tokenizer=str(tmp_path))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ValueError, match=r"the tokenizer.json of tokenizer .* cannot be read: "):
        TextProcessor(tokenizer=str(tmp_path))


# Long texts


@given(st.integers(1, 300), st.integers(1, 20), st.data())
@few
def test_windows_cover_everything_evenly(count: int, size: int, data: st.DataObject) -> None:
    overlap = data.draw(st.integers(0, size - 1))
    found = windows(count, size, overlap)
    assert (found[0][0], found[-1][1]) == (0, count)
    lengths = [last - first for first, last in found]
    assert min(lengths) > 0
    assert max(lengths) <= size
    assert max(lengths) - min(lengths) <= 1
    assert all(before[1] - after[0] == overlap for before, after in pairwise(found))
    assert len(found) == max(1, -(-(count - overlap) // (size - overlap)))


@by_processor
@pytest.mark.parametrize("overlap", [0, 3])
def test_windows_of_a_long_text_give_all_of_it_back(processor: TextProcessor, overlap: int) -> None:
    text = " ".join(CORPUS[:20] + HARD)
    short = TextProcessor(**processor.settings() | {"max_tokens": 16, "overlap": overlap})
    pieces = short.pieces(text)
    assert len(pieces) > 10
    rows = [ids_of(short, piece) for piece in pieces]
    assert max(map(len, rows)) <= 16
    joined = [number for row in rows for number in row[: len(row) - overlap]] + rows[-1][len(rows[-1]) - overlap :]
    assert processor.decode(joined) == text
    assert [ids_of(short, piece) for piece in pickle.loads(pickle.dumps(pieces))] == rows
    assert short.pieces("short") == ["short"]


def test_a_long_text_is_cut_truncated_or_refused() -> None:
    text = "abcdefghij"
    with pytest.raises(
        ValueError, match=r"has 10 tokens, more than processor.max_tokens=4. Cut it with pieces\(text\), raise max_tok"
    ):
        TextProcessor(max_tokens=4)(text)
    strict = TextProcessor(max_tokens=4, long_texts="raise")
    assert (strict.windowed, strict.pieces(text)) == (False, [text])
    with pytest.raises(ValueError, match=r"or set processor\.long_texts: truncate"):
        strict(text)
    first = TextProcessor(max_tokens=4, long_texts="truncate")
    assert (first.windowed, first.pieces(text), bytes(ids_of(first, text))) == (False, [text], b"abcd")
    with pytest.raises(ValueError, match=r"processor.overlap must be smaller than max_tokens; got overlap=4 and max_tokens=4"):
        TextProcessor(max_tokens=4, overlap=4)


def test_the_processor_of_a_model_returns_a_row_per_window() -> None:
    batch = MMSSLProcessor({"text": TextProcessor(max_tokens=4)})(text=["abcdef", "gh"])
    assert batch["input_ids"].tolist() == [[97, 98, 99], [100, 101, 102], [103, 104, 0]]
    assert batch["text_lengths"].tolist() == [[3], [3], [2]]
    assert batch["text_sample"].tolist() == [[0, 2], [0, 2], [1, 1]]


# Batches and tokens


def test_lengths_come_with_padding_only() -> None:
    processor = TextProcessor()
    assert processor.collate([processor(text) for text in ("ab", "cd")]).keys() == {"input_ids"}
    batch = processor.collate([processor(text) for text in ("a", "bcd")])
    assert (batch["input_ids"].tolist(), batch["text_lengths"].tolist()) == ([[97, 0, 0], [98, 99, 100]], [[1], [3]])


def test_tokens_are_normalised_rows_of_the_table_in_time() -> None:
    processor = TextProcessor()
    adapter = TextAdapter(8, processor)
    batch = processor.collate([processor(text) for text in ("abca", "\x00bcd", "é")])
    tokens = adapter(batch)
    rows = adapter.embedding.weight[batch["input_ids"]]
    expected = (rows - rows.mean(-1, keepdim=True)) / (rows.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(tokens.values, expected)
    assert tokens.coords[1].tolist() == [[float(place), 0, 0, 0] for place in range(4)]
    assert tokens.valid is not None
    assert tokens.valid.tolist() == [[True] * 4, [True] * 4, [True, True, False, False]]
    assert adapter.target(batch)["tokens"].tolist() == [[97, 98, 99, 97], [0, 98, 99, 100], [0xC3, 0xA9, -100, -100]]
    assert adapter({"input_ids": batch["input_ids"]}).valid is None
    assert adapter.target_sizes == {"tokens": 256}
    assert adapter.bfloat16()(batch).values.dtype == torch.bfloat16


def test_the_adapter_on_the_meta_device() -> None:
    with torch.device("meta"):
        adapter = TextAdapter(8, TextProcessor())
        inputs = {"input_ids": torch.zeros(2, 5, dtype=torch.int64), "text_lengths": torch.ones(2, 1, dtype=torch.int64)}
        assert adapter(inputs).values.device.type == adapter.target(inputs)["tokens"].device.type == "meta"
    assert not list(adapter.buffers())


# Views

VIEWS: dict[str, dict[str, Any]] = {
    "crop": {"crop": (0.3, 0.8)},
    "delete": {"delete": 0.3},
    "replace": {"replace": 0.4},
    "shuffle": {"shuffle": 3},
    "all": {"crop": (0.1, 1.0), "delete": 0.5, "replace": 0.2, "shuffle": 2},
}
by_view = pytest.mark.parametrize("settings", VIEWS.values(), ids=VIEWS)
SIZES = torch.tensor([[40], [1], [7], [33], [40], [2]])


def padded() -> Inputs:
    """Texts in which every id occurs once, so that a view tells where each came from; padding is 999."""
    ids = 100 * torch.arange(len(SIZES))[:, None] + torch.arange(40)
    return {"input_ids": ids.masked_fill(torch.arange(40) >= SIZES, 999), "text_lengths": SIZES}


def draws_of(ids: Tensor) -> Draws:
    return Draws(keys(0, 3, ids))


def rows_of(view: Inputs) -> list[list[int]]:
    return [row[:length].tolist() for row, length in zip(view["input_ids"], view.get("text_lengths", SIZES), strict=True)]


@by_view
def test_a_view_depends_on_its_own_text_only(settings: dict[str, Any]) -> None:
    augment, inputs, numbers = TextAugment(**settings), padded(), torch.arange(len(SIZES))
    whole = rows_of(augment(inputs, draws_of(numbers)))
    assert whole != rows_of(inputs)
    assert rows_of(augment(inputs, draws_of(numbers + 9))) != whole
    for number, size in enumerate(SIZES[:, 0].tolist()):
        alone = {"input_ids": inputs["input_ids"][number : number + 1, :size]}
        view = augment(alone, draws_of(numbers[number : number + 1]))
        kept = view.get("text_lengths", torch.tensor([[size]]))
        assert view["input_ids"][0, : kept[0]].tolist() == whole[number]
    assert_same(inputs, padded())


@by_view
def test_padding_has_no_part_in_a_view(settings: dict[str, Any]) -> None:
    view = TextAugment(**settings)(padded(), draws_of(torch.arange(len(SIZES))))
    assert view["input_ids"].shape == (len(SIZES), 40 if "crop" not in settings else math.ceil(40 * settings["crop"][1]))
    for number, row in enumerate(rows_of(view)):
        assert row
        assert {token // 100 for token in row} == {number}


def test_a_crop_is_a_span_of_a_drawn_length() -> None:
    ids = torch.arange(100).expand(2000, -1)
    view = TextAugment(crop=(0.2, 0.5))({"input_ids": ids}, draws_of(torch.arange(2000)))
    lengths, first = view["text_lengths"][:, 0], view["input_ids"][:, 0]
    assert (int(lengths.min()), int(lengths.max())) == (21, 50)
    assert (int(first.min()), int((first + lengths).max())) == (0, 100)
    for row, start, length in zip(view["input_ids"][:20], first, lengths, strict=False):
        assert row[:length].tolist() == list(range(int(start), int(start + length)))


def test_deleted_tokens_leave_the_others_in_order() -> None:
    view = TextAugment(delete=0.25)({"input_ids": torch.arange(100).expand(500, -1)}, draws_of(torch.arange(500)))
    assert abs(view["text_lengths"].float().mean() - 75) < 1
    rows = [row[:length] for row, length in zip(view["input_ids"], view["text_lengths"], strict=True)]
    assert all((row.diff() > 0).all() for row in rows)
    assert rows[0].tolist() != rows[1].tolist()
    whole = TextAugment(delete=1.0)({"input_ids": torch.arange(4)[None]}, draws_of(torch.arange(1)))
    assert whole["text_lengths"].tolist() == [[4]]  # a text of which nothing would be left stays whole


def test_replaced_tokens_are_tokens_of_the_text() -> None:
    view = TextAugment(replace=0.25)({"input_ids": torch.arange(100).expand(500, -1)}, draws_of(torch.arange(500)))
    changed = view["input_ids"] != torch.arange(100)
    assert abs(changed.float().mean() - 0.25 * 0.99) < 0.01
    assert sorted(Counter(view["input_ids"][changed].tolist())) == list(range(100))


def test_shuffled_tokens_move_by_a_few_places() -> None:
    view = TextAugment(shuffle=3)(padded(), draws_of(torch.arange(len(SIZES))))
    for row, text in zip(rows_of(view), rows_of(padded()), strict=True):
        assert sorted(row) == text
        assert max(abs(token % 100 - place) for place, token in enumerate(row)) <= 3
    long = TextAugment(shuffle=3)({"input_ids": torch.arange(100).expand(200, -1)}, draws_of(torch.arange(200)))["input_ids"]
    assert set((long - torch.arange(100)).flatten().tolist()) == set(range(-3, 4))


def test_the_default_view_is_the_text_itself() -> None:
    assert_same(TextAugment()(padded(), draws_of(torch.arange(len(SIZES)))), padded())


def test_a_crop_that_is_the_wrong_way_round() -> None:
    with pytest.raises(ValueError, match=r"augment.crop gives the smallest share of the tokens first; got \[0.9, 0.1\]"):
        TextAugment(crop=(0.9, 0.1))


# Features


def test_features_are_hashed_counts_of_length_one() -> None:
    one = hashed_ngrams(b"aaab", [1])
    assert sorted(np.abs(one[one != 0]).tolist()) == pytest.approx(
        sorted(np.array([1 + np.log(3), 1]) / np.hypot(1 + np.log(3), 1))
    )
    two = hashed_ngrams(b"aaab", [1, 2])
    runs = np.array([1 + np.log(3), 1, 1 + np.log(2), 1])  # a, b, aa, ab
    assert sorted(np.abs(two[two != 0]).tolist()) == pytest.approx(sorted(runs / np.linalg.norm(runs)))
    assert (hashed_ngrams(b"ab", [2]) != hashed_ngrams(b"ba", [2])).any()


@by_processor
def test_features_have_one_size_and_tell_texts_apart(processor: TextProcessor) -> None:
    near = [
        processor.features(processor(text)) for text in ("the cook likes the sea", "the cook likes the seas", "Jürgen 猫: twice!")
    ]
    assert all(vector.shape == (2048,) and abs(np.linalg.norm(vector) - 1) < 1e-6 for vector in near)
    assert near[0] @ near[1] > 0.8
    assert abs(near[0] @ near[2]) < 0.3
    assert (processor.features(processor("the cook likes the sea")) == near[0]).all()


def test_hashed_places_and_signs_are_spread() -> None:
    signs = np.sign([hashed_ngrams(number.to_bytes(4, "little"), [4]) for number in range(2000)])
    count = np.abs(signs).sum(0)  # about a Poisson variable of mean 0.98
    assert abs((count == 0).mean() - np.exp(-2000 / 2048)) < 0.04
    assert count.max() < 9
    assert abs(signs.sum()) < 5 * 2000**0.5


# Examples and pictures


def test_examples_repeat_and_differ() -> None:
    texts = TEXT.example(20, 0)
    assert texts == TEXT.example(20, 0) != TEXT.example(20, 1)
    assert len({len(text) for text in texts}) > 5
    assert not all(text.isascii() for text in texts)


def pictured(processor: TextProcessor, texts: list[str]) -> list[tuple[str, str]]:
    """The words of the picture of texts whose odd tokens are hidden and predicted to be those before them, each with its colour."""
    batch = processor.collate([processor(text) for text in texts])
    ids = batch["input_ids"]
    hidden = (torch.arange(ids.shape[1]) % 2 == 1) & TextAdapter(8, processor)(batch).valid_or_ones()
    scores = torch.nn.functional.one_hot(ids.roll(1, 1), processor.tokens.size).float().masked_fill(~hidden[..., None], torch.nan)
    figure = TEXT.picture(batch, hidden, {"tokens": scores}, processor)
    figure.canvas.draw()
    return [(text.get_text(), text.get_color()) for text in figure.axes[0].texts]


def test_the_picture_shows_hidden_tokens_and_predictions() -> None:
    words = pictured(TextProcessor(), ["aab d", "x"])
    assert words[0][0] == "Hidden tokens (shaded) and predictions: 50% right (always the most frequent: 50%)"
    black, right, wrong = "black", "#1a7f37", "#c0392b"
    expected = [("a", black), ("a", black), ("a", right), ("b", black), ("·", black), ("b", wrong), ("d", black), ("x", black)]
    assert words[1:] == expected


def test_the_picture_shows_the_words_of_the_tokenizer() -> None:
    known = [word for word, _ in pictured(bpe(), CORPUS[:3])[1:]]
    assert any("remembers" in word or "likes" in word or "never" in word for word in known)


@pytest.mark.parametrize("processor", [TextProcessor(max_tokens=4000), bpe(max_tokens=4000)], ids=["bytes", "bpe"])
def test_the_picture_of_any_text_draws_without_a_warning(processor: TextProcessor) -> None:
    texts = [*HARD, "$x^2_1$ \\frac 100% {a}", "猫" * 300, "a" * 1000]
    words = pictured(processor, texts)
    assert max(len(word) for word, _ in words[1:]) <= COLUMNS
    assert drawable("a\t$猫é\u0301🚀") == "a $□é□□"


def test_a_picture_without_hidden_tokens() -> None:
    nothing = torch.zeros(1, 1, dtype=torch.bool)
    figure = TEXT.picture({"input_ids": torch.tensor([[97]])}, nothing, {"tokens": torch.zeros(1, 1, 256)}, TextProcessor())
    assert [text.get_text() for text in figure.axes[0].texts] == ["no token is hidden", "a"]


# Captions


def captions(**settings: Any) -> TextProcessor:
    return TextProcessor(captions="list", **settings)


def texts_of(ids: Any, lengths: Any) -> list[str]:
    return [bytes(row[:length].tolist()).decode() for row, length in zip(ids, lengths, strict=True)]


def test_the_first_of_several_captions_is_the_text_and_the_others_stand_beside_it() -> None:
    processor = captions()
    samples = [processor(raw) for raw in (["ab", "c", "def"], "gh", ["", "i", None])]
    batch = processor.collate(samples)
    assert texts_of(batch["input_ids"], batch["text_lengths"]) == ["ab", "gh", "i"]
    assert batch["text_more_lengths"].tolist() == [[1, 3], [0, 0], [0, 0]]
    assert texts_of(batch["text_more"][0], batch["text_more_lengths"][0]) == ["c", "def"]
    assert processor.join([processor.collate(samples[:1]), processor.collate(samples[1:])]).keys() == batch.keys()


def test_sentences_are_captions() -> None:
    raw = ["A dog runs. It is brown!  Is it 3.5 years old?", "One more"]
    processor = TextProcessor(captions="sentences")
    found = processor(raw)
    texts = [*texts_of(found["input_ids"][None], [None]), *texts_of(found["text_more"], found["text_more_lengths"])]
    assert texts == ["A dog runs.", "It is brown!", "Is it 3.5 years old?", "One more"]


def test_a_row_without_captions_lacks_its_text() -> None:
    assert captions().absent([]) and captions().absent(["", None]) and not captions().absent(["", "a"])
    with pytest.raises(TypeError, match="the text is missing"):
        captions()([])
    with pytest.raises(ValueError, match=r"this text has 3 tokens, more than processor\.max_tokens=2"):
        captions(max_tokens=2)(["a", "bcd"])


def test_each_caption_is_drawn_alike_often_whatever_it_is_batched_with() -> None:
    processor, count = captions(), 3000
    raws = [["a", "bb", "ccc"], ["dddd"], ["e", "ff"]]
    batch = processor.collate([processor(raw) for raw in raws * (count // 3)])
    found = TextAugment(caption="drawn")(batch, Draws(keys(0, 0, torch.arange(count))))
    texts = texts_of(found["input_ids"], found["text_lengths"])
    for number, raw in enumerate(raws):
        shares = {text: texts[number::3].count(text) * 3 / count for text in raw}
        assert set(texts[number::3]) == set(raw)
        assert all(abs(share - 1 / len(raw)) < 0.06 for share in shares.values()), shares
    alone = TextAugment(caption="drawn")(processor.collate([processor(raws[0])]), Draws(keys(0, 0, torch.tensor([3]))))
    assert texts_of(alone["input_ids"], alone["text_lengths"]) == texts[3:4]


def test_bpe_learns_from_every_caption() -> None:
    processor = TextProcessor(tokenizer="bpe", vocab_size=300, captions="list")
    processor.fit([["x", "banana banana"], ["y", "banana"]] * 20)
    assert len(processor(["banana"])["input_ids"]) == 1
