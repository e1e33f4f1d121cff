"""`MMSSLProcessor`: one call for several modalities, errors that name the sample, a round trip through JSON."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from mmssl.modality import Inputs, find
from mmssl.processor import MMSSLProcessor
from mmssl.testing import small_processor

IMAGES = find("image").example(3, 0)
ROWS = find("tabular").example(3, 0)


@pytest.fixture(scope="module")
def processor() -> MMSSLProcessor:
    return MMSSLProcessor({name: small_processor(name) for name in ("image", "tabular")})


def assert_same(found: Inputs, expected: Inputs) -> None:
    assert found.keys() == expected.keys()
    for name in found:
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=0, equal_nan=True)


def test_a_call_is_the_collated_batch_of_the_modality(processor: MMSSLProcessor) -> None:
    for keyword, name, raws in (("images", "image", IMAGES), ("table", "tabular", ROWS)):
        own = processor.processors[name]
        assert_same(processor(**{keyword: raws}), own.sized(own.collate([own(raw) for raw in raws])))
        assert_same(processor(**{keyword: raws[0]}), own.sized(own.collate([own(raws[0])])))


def test_modalities_go_through_one_call(processor: MMSSLProcessor) -> None:
    both = processor(images=IMAGES, table=ROWS, return_tensors=None)
    assert_same(both, {**processor(images=IMAGES), **processor(table=ROWS)})


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({}, TypeError, "this processor takes images=, table=; got nothing"),
        ({"image": IMAGES}, TypeError, "this processor takes images=, table=; got 'image'"),
        ({"images": IMAGES, "text": "a"}, TypeError, "this processor takes images=, table=; got 'text'"),
        ({"images": []}, ValueError, "images= holds no sample"),
        ({"images": IMAGES, "return_tensors": "np"}, ValueError, "return_tensors must be 'pt' (torch tensors) or None; got 'np'"),
        ({"images": [*IMAGES, 5]}, TypeError, "images[3]: an image is a PIL image"),
        ({"images": [IMAGES[0], b"text"]}, ValueError, "images[1]: the image is no image in a format that Pillow reads"),
        ({"images": ["nowhere.png"]}, FileNotFoundError, "images[0]: no image file nowhere.png"),
        ({"table": [ROWS[0], {}]}, ValueError, "table[1]: "),
    ],
)
def test_bad_calls(processor: MMSSLProcessor, arguments: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=re.escape(message)) as caught:
        processor(**arguments)
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), ValueError),
        (json.JSONDecodeError("Expecting value", "x", 0), ValueError),
        (PermissionError(13, "Permission denied"), OSError),
        (FileNotFoundError("no image file"), FileNotFoundError),
    ],
)
def test_errors_with_arguments_of_their_own_still_name_the_sample(
    error: Exception, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not every kind of error can be made from a message alone."""

    def refuse(self: object, raw: object) -> Inputs:
        raise error

    own = small_processor("image")
    monkeypatch.setattr(type(own), "__call__", refuse)
    with pytest.raises(kind, match=re.escape(f"images[0]: {error}")) as caught:
        MMSSLProcessor({"image": own})(images=IMAGES)
    assert type(caught.value) is kind
    assert caught.value.__cause__ is error


# Saved and loaded


def test_round_trip(processor: MMSSLProcessor, tmp_path: Path) -> None:
    file = tmp_path / "deep" / "processor_config.json"
    assert processor.save_pretrained(file.parent) == [str(file)]
    content = json.loads(file.read_text())
    assert content == {"processor_class": "MMSSLProcessor", "modalities": processor.settings()}
    loaded = MMSSLProcessor.from_pretrained(file.parent, trust_remote_code=False)
    assert loaded.settings() == processor.settings()
    assert_same(loaded(images=IMAGES, table=ROWS), processor(images=IMAGES, table=ROWS))
    assert repr(loaded) == "MMSSLProcessor(image, tabular)"


def test_one_modality_needs_nothing_of_the_others(processor: MMSSLProcessor) -> None:
    settings = processor.settings()
    alone = MMSSLProcessor.from_settings({"image": settings["image"]})
    assert_same(alone(images=IMAGES), processor(images=IMAGES))
    with pytest.raises(TypeError, match=re.escape("this processor takes images=; got 'table'")):
        alone(table=ROWS)


def test_a_file_that_somebody_else_wrote(tmp_path: Path) -> None:
    (tmp_path / "processor_config.json").write_text('{"processor_class": "CLIPProcessor", "image_processor": {}}')
    message = "processor_config.json was not written by mmssl: it has no 'modalities'; its keys are ['image_processor', 'processor"
    with pytest.raises(ValueError, match=re.escape(message)):
        MMSSLProcessor.from_pretrained(tmp_path)


def test_a_folder_without_processor(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    message = f"no model in {tmp_path}: it has no processor_config.json and no config.json; it holds notes.txt. Give"
    with pytest.raises(FileNotFoundError, match=re.escape(message)):
        MMSSLProcessor.from_pretrained(tmp_path)


def test_saving_uploads_on_demand(processor: MMSSLProcessor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(MMSSLProcessor, "push_to_hub", lambda self, repo_id, **hub: calls.append((repo_id, hub)))
    processor.save_pretrained(tmp_path / "digits")
    processor.save_pretrained(tmp_path / "digits", push_to_hub=True, private=True)
    processor.save_pretrained(tmp_path / "digits", push_to_hub=True, repo_id="me/other")
    assert calls == [("digits", {"private": True}), ("me/other", {})]
