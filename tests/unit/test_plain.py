"""Samples as encoders read them that mmssl did not train: pictures in colour, and texts."""

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from mmssl.evaluation.spaces import PICTURES, TEXTS, check_space
from mmssl.modality import find
from mmssl.plugins import installed

READS = {PICTURES: Image.Image, TEXTS: str}
GREY = np.array([[0, 51], [102, 255]], np.uint8)
COLOUR = np.stack([GREY, GREY[::-1], GREY * 0], -1)


@pytest.mark.parametrize("name", [name for name in installed() if find(name).served in READS])
def test_examples_of_what_is_served_so_are_plain(name: str) -> None:
    modality = find(name)
    processor, samples = modality.processor(), modality.example(4, 0)
    assert modality.served is not None
    assert all(isinstance(processor.plain(raw), READS[modality.served]) for raw in samples)


@pytest.mark.parametrize(
    ("channels", "raw", "expected"),
    [
        (1, Image.fromarray(COLOUR), COLOUR),
        (3, Image.fromarray(GREY), np.stack([GREY] * 3, -1)),
        (1, GREY, np.stack([GREY] * 3, -1)),
        (3, COLOUR.astype(np.float32) / 255, COLOUR),
        (3, torch.from_numpy(COLOUR).permute(2, 0, 1), COLOUR),
        (1, GREY.astype(np.uint16) * 257, np.stack([GREY] * 3, -1)),
        (4, np.concatenate([COLOUR, COLOUR[..., 2:]], -1), np.full_like(COLOUR, 255)),
    ],
    ids=["colour for a grey model", "grey file", "grey", "floats", "tensor", "deep", "transparent"],
)
def test_pictures_are_in_colour_and_of_their_own_size(channels: int, raw: Any, expected: Any) -> None:
    found = find("image").processor(channels=channels, size=32).plain(raw)
    assert found.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(found), expected)


def test_channels_that_are_no_colours_are_refused() -> None:
    with pytest.raises(ValueError, match="images of this model have 2 channels of another kind"):
        find("image").processor(channel_names=["near", "far"]).plain(np.zeros((4, 4, 2)))


def test_of_several_captions_the_first_is_read() -> None:
    assert find("text").processor(captions="list").plain(["", "one", "two"]) == "one"
    with pytest.raises(TypeError, match="the text is missing"):
        find("text").processor().plain(None)


def test_other_modalities_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"compare x: .* what is scored is text and timeseries, of which timeseries is neither. Leave it out"
    ):
        check_space("x", "open_clip:ViT-B-32/openai", ["text", "timeseries"])
    with pytest.raises(NotImplementedError, match="gives no plain samples"):
        find("timeseries").processor().plain([1.0])
