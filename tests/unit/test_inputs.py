"""What a model is called with: names that it does not know, and what is no tensor, are refused; the names of transformers work."""

import re
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from mmssl.modality import find
from mmssl.model import MMSSLForClassification
from mmssl.plugins import installed
from mmssl.processor import MMSSLProcessor
from mmssl.testing import inputs_of, small_model, small_processor

TEXTS = ["a fine film", "bad bad bad bad bad story with music"]


def classifier(name: str) -> MMSSLForClassification:
    torch.manual_seed(0)
    return MMSSLForClassification(small_model(name).config.derive(num_labels=2)).eval()


@pytest.mark.parametrize("name", installed())
@pytest.mark.parametrize("make", [small_model, classifier])
@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"padding_mask": torch.ones(6, 9)}, "no modality of this model has an input 'padding_mask'; its inputs are "),
        ({"positions": [1, 2]}, "no modality of this model has an input 'positions'"),
    ],
)
def test_an_unknown_input_is_refused(name: str, make: Any, extra: dict[str, Any], message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        make(name)(**inputs_of(name), **extra)


@pytest.mark.parametrize("name", installed())
def test_what_is_no_tensor_is_refused(name: str) -> None:
    inputs = inputs_of(name)
    for key, value in inputs.items():
        with pytest.raises(TypeError, match=re.escape(f"{key} must be a torch tensor; got ndarray. Convert it")):
            small_model(name)(**inputs | {key: value.numpy()})


@pytest.mark.parametrize("name", installed())
@torch.no_grad()
def test_what_trainers_add_may_pass(name: str) -> None:
    model, inputs = small_model(name), inputs_of(name)
    extra = {"labels": torch.zeros(6), "num_items_in_batch": 6, "return_loss": True, "inputs_embeds": None, "use_cache": False}
    assert torch.equal(model(**inputs, **extra).pooler_output, model(**inputs).pooler_output)


def test_a_misspelt_input_is_told_its_name() -> None:
    x = MMSSLProcessor({"text": small_processor("text")})(text=TEXTS)
    with pytest.raises(TypeError, match=re.escape("has an input 'text_length'; its inputs are input_ids, text_lengths, attention")):
        small_model("text")(input_ids=x["input_ids"], text_length=x["text_lengths"])
    with pytest.raises(TypeError, match=re.escape("Did you mean text_lengths?")):
        small_model("text")(input_ids=x["input_ids"], text_length=x["text_lengths"])


@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_an_attention_mask_says_what_is_no_token(side: str) -> None:
    model, processor = small_model("text"), small_processor("text")
    alone = [processor(text)["input_ids"] for text in TEXTS]
    n = max(map(len, alone))
    pads = [(n - len(ids), 0) if side == "left" else (0, n - len(ids)) for ids in alone]
    ids = torch.stack([torch.nn.functional.pad(row, pad, value=7) for row, pad in zip(alone, pads, strict=True)])
    mask = torch.stack([torch.nn.functional.pad(torch.ones_like(row), pad) for row, pad in zip(alone, pads, strict=True)])
    found = model(input_ids=ids, attention_mask=mask).pooler_output
    expected = torch.cat([model(input_ids=row[None]).pooler_output for row in alone])
    assert_close(found, expected, rtol=1e-4, atol=1e-5)
    target = model.adapter("text").target({"input_ids": ids, "attention_mask": mask})["tokens"]
    assert torch.equal(target != -100, mask > 0)


@pytest.mark.parametrize("name", installed())
def test_names_belong_to_one_modality(name: str) -> None:
    others = {key for other in installed() if other != name for key in small_model(other).adapter(other).input_names}
    assert others.isdisjoint(small_model(name).adapter(name).input_names)
    assert small_model(name).adapter(name).keyword == find(name).keyword
