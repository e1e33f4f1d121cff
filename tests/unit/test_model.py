"""The Hugging Face face: Auto classes in a fresh process, outputs, pooling, backends, LoRA, bad calls."""

import copy
import math
import pickle
import re
import subprocess
import sys
from itertools import product
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any, get_args

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from mmssl.modality import find
from mmssl.model import MMSSLConfig, MMSSLModel
from mmssl.model.pooling import Pooling
from mmssl.plugins import installed
from mmssl.processor import MMSSLProcessor
from mmssl.testing import inputs_of, small_model, small_processor

MODALITIES = {"image": "images", "tabular": "table"}
POOLINGS = [pooling for pooling in get_args(Pooling) if pooling != "concat"]
# transformers 5.23 has new names for these methods; the old ones work in every version that we allow, and PEFT calls them.
old_names = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing:FutureWarning")


def make(**settings: Any) -> tuple[MMSSLModel, MMSSLProcessor]:
    """A small model of two modalities and its processor."""
    torch.manual_seed(0)
    processor = MMSSLProcessor({name: small_processor(name) for name in MODALITIES})
    modalities = {name: {"processor": value, "adapter": {}} for name, value in processor.settings().items()}
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    return MMSSLModel(MMSSLConfig(modalities=modalities, **shape | settings)).eval(), processor


def raw(name: str, count: int = 4) -> list[Any]:
    """Raw samples that fit in a file: arrays or dicts."""
    return [np.asarray(sample) if name == "image" else sample for sample in find(name).example(count, 3)]


# Saved, and loaded in a fresh process

FRESH = """
import pickle, sys
from pathlib import Path
import mmssl
import torch
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModel, AutoProcessor

folder = Path(sys.argv[1])
config, model, processor = (auto.from_pretrained(folder) for auto in (AutoConfig, AutoModel, AutoProcessor))
assert [type(part).__name__ for part in (config, model, processor)] == ["MMSSLConfig", "MMSSLModel", "MMSSLProcessor"]
assert not model.training and model.dtype == torch.float32
found = {}
for keyword, samples in pickle.loads((folder / "samples.pickle").read_bytes()).items():
    with torch.no_grad():
        output = model(**processor(**{keyword: samples}))
    found |= {f"{keyword}.{name}": output[name] for name in ("last_hidden_state", "pooler_output")}
save_file(found, folder / "found.safetensors")
"""


def test_auto_classes_in_a_fresh_process(tmp_path: Path) -> None:
    """`import mmssl` is all that AutoConfig, AutoModel and AutoProcessor need; weights are safetensors."""
    model, processor = make(pooling="attention", num_register_tokens=1)
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["config.json", "model.safetensors", "processor_config.json"]
    samples = {keyword: raw(name) for name, keyword in MODALITIES.items()}
    (tmp_path / "samples.pickle").write_bytes(pickle.dumps(samples))
    done = subprocess.run([sys.executable, "-c", FRESH, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = load_file(tmp_path / "found.safetensors")
    for keyword, batch in samples.items():
        with torch.no_grad():
            output = model(**processor(**{keyword: batch}))
        for name, expected in output.items():
            torch.testing.assert_close(found[f"{keyword}.{name}"], expected, rtol=1e-5, atol=1e-6)


def test_configuration_survives_the_round_trip(tmp_path: Path) -> None:
    model, _ = make(norm="rmsnorm", mlp="swiglu", qk_norm=True, layer_scale=0.1, rotary_base=(9.0, 8.0, 7.0, 6.0))
    model.config.save_pretrained(tmp_path)
    loaded, expected = (config.to_dict() for config in (MMSSLConfig.from_pretrained(tmp_path), model.config))
    assert list(loaded.pop("rotary_base")) == list(expected.pop("rotary_base"))
    assert loaded == expected


@pytest.mark.parametrize("name", MODALITIES)
@torch.no_grad()
def test_loading_in_half_precision(name: str, tmp_path: Path) -> None:
    model, processor = make(pooling="attention")
    model.save_pretrained(tmp_path)
    half = AutoModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    inputs = processor(**{MODALITIES[name]: raw(name)})
    expected, found = model(**inputs), half(**inputs)
    assert found.last_hidden_state.dtype == found.pooler_output.dtype == torch.bfloat16
    torch.testing.assert_close(found.last_hidden_state.float(), expected.last_hidden_state, rtol=0.05, atol=0.1)


@pytest.mark.parametrize("pooling", POOLINGS)
@torch.no_grad()
def test_autocast(pooling: str) -> None:
    """Weights in float32, products in bfloat16, as the training loop has it."""
    model, inputs = small_model("image", pooling=pooling), inputs_of("image")
    expected = model(**inputs).pooler_output
    with torch.autocast("cpu", torch.bfloat16):
        found = model(**inputs).pooler_output
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.1)


# Outputs


@pytest.mark.parametrize(("name", "tokens"), [("image", 16), ("tabular", 5)])
@torch.no_grad()
def test_output_of_a_call(name: str, tokens: int) -> None:
    model, processor = make(num_register_tokens=2)
    inputs = processor(**{MODALITIES[name]: raw(name)})
    output = model(**inputs)
    assert isinstance(output, BaseModelOutputWithPooling)
    assert list(output) == ["last_hidden_state", "pooler_output"]
    assert output.last_hidden_state.shape == (4, 3 + tokens, 32)
    assert output.pooler_output.shape == (4, 32)
    encoded = model.encode(name, dict(inputs))
    assert torch.equal(output.last_hidden_state, encoded.values)
    assert torch.equal(output.pooler_output, model.pool(encoded))
    last, pooled = model(**inputs, return_dict=False)
    assert torch.equal(last, output.last_hidden_state) and torch.equal(pooled, output.pooler_output)


@torch.no_grad()
def test_hidden_states_are_the_inputs_of_the_layers_and_the_result() -> None:
    model, inputs = small_model("image", num_hidden_layers=3), inputs_of("image")
    states = model(**inputs, output_hidden_states=True).hidden_states
    assert len(states) == 4
    start = model.encoder.prepend(model.embed("image", inputs))
    assert torch.equal(states[0], start.values)
    mask, turn = model.encoder.mask(start.values, start.valid), model.encoder.rotary(start.coords)
    for number in range(2):
        assert torch.equal(states[number + 1], model.encoder.layers[number](states[number], mask, turn, 0))
    assert torch.equal(states[3], model(**inputs).last_hidden_state)
    model.config.output_hidden_states = True
    assert len(model(**inputs).hidden_states) == 4


@torch.no_grad()
def test_attentions_are_weights_over_the_valid_tokens() -> None:
    model, inputs = small_model("image", attn_implementation="eager"), inputs_of("image")
    output = model(**inputs, output_attentions=True)
    valid = model.encode("image", inputs).valid
    assert not valid.all()
    assert len(output.attentions) == 2
    for weights in output.attentions:
        assert weights.shape == (6, 2, 17, 17)
        torch.testing.assert_close(weights.sum(-1), torch.ones(6, 2, 17))
        assert not weights.masked_select(~valid[:, None, None]).any()
        assert (weights.masked_select(valid[:, None, None]) > 0).all()


def statistic_by_loops(body: list[Tensor], name: str) -> Tensor:
    columns = [[float(state[i]) for state in body] for i in range(len(body[0]))]
    by_name = {"mean": fmean, "max": max, "min": min, "std": lambda values: max(pstdev(values), 1e-3)}
    return torch.tensor([by_name[name](values) for values in columns], dtype=torch.float64)


def pooled_by_loops(model: MMSSLModel, pooling: str, states: Tensor, valid: Tensor) -> Tensor:
    """The pooled vector of one sample from its encoded tokens, the first of which is CLS, in float64."""
    states = states.double()
    if pooling == "cls":
        return states[0]
    body = [state for state, real in zip(states[1:], valid[1:], strict=True) if real]
    if pooling in ("first", "last"):
        return body[0 if pooling == "first" else -1]
    if pooling == "concat":
        return torch.cat(body)
    if pooling != "attention":
        return torch.cat([statistic_by_loops(body, name) for name in pooling.split("_")])
    w = {name: tensor.double() for name, tensor in model.pooler.state_dict().items()}
    heads, size, out = model.config.num_attention_heads, 16, []
    for h in range(heads):
        part = slice(h * size, (h + 1) * size)
        keys = [(w["k_proj.weight"] @ x + w["k_proj.bias"])[part] for x in body]
        values = [(w["v_proj.weight"] @ x + w["v_proj.bias"])[part] for x in body]
        powers = [math.exp(float(w["query"][part] @ key) / math.sqrt(size)) for key in keys]
        out.append(sum(p * value for p, value in zip(powers, values, strict=True)) / sum(powers))
    return torch.cat(out)


@pytest.mark.parametrize(("name", "pooling"), [*product(MODALITIES, POOLINGS), ("tabular", "concat")])
@torch.no_grad()
def test_pooling_matches_loops(name: str, pooling: str) -> None:
    model, inputs = small_model(name, pooling=pooling), inputs_of(name)
    if model.pooler is not None:
        torch.nn.init.normal_(model.pooler.query)
    output, valid = model(**inputs), model.encode(name, inputs).valid_or_ones()
    expected = [pooled_by_loops(model, pooling, *row) for row in zip(output.last_hidden_state, valid, strict=True)]
    torch.testing.assert_close(output.pooler_output.double(), torch.stack(expected), rtol=1e-5, atol=1e-5)


# Backends and memory


@torch.no_grad()
def test_attention_can_be_exchanged() -> None:
    model, inputs = small_model("image"), inputs_of("image")
    results = {}
    for backend in ("eager", "sdpa"):
        model.set_attn_implementation(backend)
        assert model.encoder.layers[0].attention.config._attn_implementation == backend
        output = model(**inputs)
        results[backend] = output.last_hidden_state[model.encode("image", inputs).valid]
    torch.testing.assert_close(results["eager"], results["sdpa"], rtol=1e-5, atol=1e-5)


def test_attentions_that_are_not_kept_are_refused() -> None:
    model, inputs = small_model("image", attn_implementation="sdpa"), inputs_of("image")
    with pytest.raises(ValueError, match=re.escape("sdpa attention keeps no weights, so there are none to return: call model.set")):
        model(**inputs, output_attentions=True)
    model.set_attn_implementation("eager")
    assert len(model(**inputs, output_attentions=True).attentions) == 2


@torch.no_grad()
def test_a_model_that_has_shown_its_hidden_states_can_be_pickled() -> None:
    model, inputs = small_model("image", attn_implementation="eager"), inputs_of("image")
    expected = model(**inputs, output_hidden_states=True, output_attentions=True)
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), copy.copy(model)):
        found = other(**inputs, output_hidden_states=True, output_attentions=True)
        assert len(found.hidden_states) == 3 and len(found.attentions) == 2
        assert all(torch.equal(a, b) for a, b in zip(found.hidden_states, expected.hidden_states, strict=True))


@old_names
def test_gradient_checkpointing() -> None:
    """As transformers' Trainer switches it on, and off."""
    model, inputs = small_model("image").train(), inputs_of("image")
    model(**inputs).pooler_output.square().sum().backward()
    expected = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    model.gradient_checkpointing_enable()
    assert model.is_gradient_checkpointing and all(layer.gradient_checkpointing for layer in model.encoder.layers)
    model(**inputs).pooler_output.square().sum().backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], msg=lambda text, name=name: f"{name}: {text}")
    model.gradient_checkpointing_disable()
    assert not model.is_gradient_checkpointing


@old_names
@pytest.mark.parametrize("checkpointing", [False, True])
def test_lora_trains_and_merges(checkpointing: bool) -> None:
    """PEFT finds q_proj and v_proj, their adapters alone learn, and merging them gives the same output."""
    model, inputs = small_model("image"), inputs_of("image")
    before = model(**inputs).pooler_output.detach()
    if checkpointing:
        model.gradient_checkpointing_enable()
    tuned = get_peft_model(model, LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False))
    tuned.train()(**inputs).pooler_output.square().sum().backward()
    trained = [name for name, parameter in tuned.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 2 * 2  # layers, projections, A and B
    assert all(".lora_" in name for name in trained)
    for name, parameter in tuned.named_parameters():
        assert (parameter.grad is not None and bool(parameter.grad.any())) == (name in trained), name
    with torch.no_grad():
        found = tuned.eval()(**inputs).pooler_output
        merged = tuned.merge_and_unload()(**inputs).pooler_output
    assert (found - before).abs().max() > 1e-3
    torch.testing.assert_close(merged, found, rtol=1e-4, atol=1e-5)


# Bad calls


def test_several_modalities_in_one_call_are_those_of_each_alone() -> None:
    model, _ = make()
    inputs = {name: inputs_of(name) for name in ("image", "tabular")}
    with torch.no_grad():
        found = model(**inputs["image"], **inputs["tabular"])
        for name, alone in inputs.items():
            torch.testing.assert_close(found[f"{name}_output"].pooler_output, model(**alone).pooler_output)
    assert list(found) == ["image_output", "tabular_output"]
    with pytest.raises(ValueError, match=re.escape("got none of them in []")):
        model()


def test_inputs_of_no_modality_are_named() -> None:
    model, _ = make()
    with pytest.raises(TypeError, match=re.escape("no modality of this model has an input 'input_ids'")):
        model(input_ids=torch.zeros(1, 3))


def test_a_modality_that_is_not_installed() -> None:
    known = ", ".join(installed())
    message = f"no modality named 'smell'; installed: {known}. If you just added it to setup.cfg, run `pip install -e .` again."
    with pytest.raises(LookupError, match=re.escape(message)):
        MMSSLModel(MMSSLConfig(modalities={"smell": {"processor": {}, "adapter": {}}}))
