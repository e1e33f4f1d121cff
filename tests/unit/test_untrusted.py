"""Nothing that a stranger hands over is run: no pickle is read, and no code comes from a recipe, a card or a configuration."""

import ast
import json
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModel, AutoProcessor, ViTConfig, ViTModel

from mmssl.model import MMSSLConfig, load_model
from mmssl.model.config import IMPLEMENTATIONS
from mmssl.objectives.foreign import load_foreign
from mmssl.processor import MMSSLProcessor
from mmssl.recipe import RecipeError, load
from mmssl.testing import small_model

ROOT = Path(__file__).parents[2]
FOLDERS = ("mmssl", "modalities", "benchmarks", "docs", "recipes")
SOURCES = sorted([*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))])

PICKLES = {"cPickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "pickle", "shelve"}
"""Modules that run code when they read."""
MAY = {
    "mmssl/testing/modalities.py": {"pickle"},  # a law: processors go to workers, which are ours
    "mmssl/publish/fresh.py": {"trust_remote_code"},  # code that this very command has made
}
"""What files may do of this, and why."""
READERS = {"read_pickle", "unsafe_load", "full_load", "load_all", "unsafe_load_all", "add_safe_globals", "load_pickle"}
RUNNERS = {"eval", "exec", "compile", "__import__"}


def name_of(node: ast.expr) -> str:
    """A dotted name, as it stands in the source."""
    return ast.unparse(node) if isinstance(node, ast.Name | ast.Attribute) else ""


def constant(call: ast.Call, keyword: str) -> Any:
    """The value of a keyword where it is written out; None where it is left out, or computed."""
    found = next((each.value for each in call.keywords if each.arg == keyword), None)
    return found.value if isinstance(found, ast.Constant) else None


def dangers(source: str) -> Iterator[tuple[int, str]]:
    """Line and kind of all in a source that could run what a stranger wrote."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names) if any(alias.name.partition(".")[0] in PICKLES for alias in names):
                yield node.lineno, "pickle"
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in PICKLES:
                yield node.lineno, "pickle"
            case ast.Constant(value="trust_remote_code"):
                yield node.lineno, "trust_remote_code"
            case ast.Call(func=function):
                name = name_of(function)
                last = name.rpartition(".")[2]
                if name in ("torch.load", "torch.hub.load", "th.load") and constant(node, "weights_only") is not True:
                    yield node.lineno, "torch.load"
                if name.startswith("torch.hub."):
                    yield node.lineno, "torch.hub"
                if name in ("np.load", "numpy.load") and constant(node, "allow_pickle") is not False:
                    yield node.lineno, "np.load"
                if name == "yaml.load" or last in READERS:
                    yield node.lineno, last
                if isinstance(function, ast.Name) and name in RUNNERS:
                    yield node.lineno, name
                if name in ("os.system", "os.popen") or constant(node, "shell") is True:
                    yield node.lineno, "shell"
                if (
                    any(each.arg == "trust_remote_code" for each in node.keywords)
                    and constant(node, "trust_remote_code") is not False
                ):
                    yield node.lineno, "trust_remote_code"
                foreign = last == "from_pretrained" and name.startswith("Auto")
                if foreign and constant(node, "trust_remote_code") is not False:
                    yield node.lineno, "asks whether to run code"


ASKS = {"mmssl/testing/modalities.py", "mmssl/publish/fresh.py"}
"""Load models that they have just saved."""


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_source_runs_what_others_wrote(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    may = MAY.get(name, set()) | ({"asks whether to run code"} if name in ASKS else set())
    found = [f"line {line}: {what}" for line, what in dangers(path.read_text(encoding="utf-8")) if what not in may]
    assert found == []


DANGEROUS = """
import pickle
from dill import loads
torch.load(path)
torch.load(path, weights_only=False)
torch.load(path, weights_only=True)
torch.hub.load("a/b", "c")
np.load(path)
np.load(path, allow_pickle=False)
yaml.load(text, Loader)
yaml.unsafe_load(text)
pd.read_pickle(path)
eval(text)
model.eval()
exec(text)
subprocess.run(text, shell=True)
os.system(text)
AutoModel.from_pretrained(path)
AutoModel.from_pretrained(path, trust_remote_code=False)
AutoModel.from_pretrained(path, trust_remote_code=trust)
options = {"trust_remote_code": True}
"""


def test_all_kinds_are_found() -> None:
    found = sorted({line for line, _ in dangers(DANGEROUS)})
    harmless = {6, 9, 14, 19}
    assert found == [line for line in range(2, 22) if line not in harmless]


# Recipes

TAGS = [
    "!!python/object/apply:os.system ['touch {marker}']",
    "!!python/object/new:os.system ['touch {marker}']",
    "!!python/object/apply:builtins.exec [\"open('{marker}', 'w')\"]",
    "!!python/name:os.system",
    "!!python/module:os",
    "!!python/tuple [1, 2]",
    "!!binary aGVsbG8=",
    "!include /etc/passwd",
    "!!set {{a, b}}",
    "&a [*a]",
]


@pytest.mark.parametrize("tag", TAGS)
@pytest.mark.parametrize("key", ["init: {}", "run: {{name: {}}}", "train: {{max_steps: {}}}", "{}", "? {}\n: 1"])
def test_a_recipe_is_never_run(tag: str, key: str, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    recipe = tmp_path / "recipe.yaml"
    head = "modalities: {image: {}}\nobjective: {name: masked}\ndata: {path: 'bundled:digits'}\n"
    body = key.format(tag.format(marker=marker))
    recipe.write_text(body if key == "{}" else head + body + "\n")
    with pytest.raises(RecipeError):
        load(recipe)
    with pytest.raises(RecipeError):
        load({}, [f"init={tag.format(marker=marker)}"])
    assert not marker.exists()


@given(
    st.lists(
        st.sampled_from([*"{}[]:,&*!|>-#%@?'\" \n", "!!python/object/apply:os._exit", "[9]", "<<", "a", "1e3", "~"]), max_size=40
    )
)
def test_whatever_stands_in_a_recipe_is_data_or_an_error(pieces: list[str]) -> None:
    from mmssl.recipe import yaml12

    try:
        value = yaml12.parse("".join(pieces), "recipe")
    except ValueError:
        return
    json.dumps(value, allow_nan=True)


# Configurations and weights

CODE = "from pathlib import Path\nPath({marker!r}).touch()\n"


def planted(folder: Path) -> tuple[Path, Path]:
    """A model whose folder holds code that leaves a mark when it is run."""
    model, marker = small_model("text"), folder / "marker"
    model.save_pretrained(folder)
    MMSSLProcessor.from_settings({name: parts["processor"] for name, parts in model.config.modalities.items()}).save_pretrained(
        folder
    )
    for name in ("modeling_evil", "configuration_evil", "processing_evil", "custom", "__init__", "setup", "conftest"):
        (folder / f"{name}.py").write_text(CODE.format(marker=str(marker)))
    return folder, marker


def change(file: Path, **keys: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | keys))


EVIL = {
    "AutoConfig": "configuration_evil.Config",
    "AutoModel": "modeling_evil.Model",
    "AutoProcessor": "processing_evil.Processor",
    "AutoTokenizer": ["processing_evil.Tokenizer", None],
}


def test_code_beside_a_model_is_not_run(tmp_path: Path) -> None:
    folder, marker = planted(tmp_path)
    change(folder / "config.json", auto_map=EVIL, custom_pipelines={"x": {"impl": "custom.Pipeline", "pt": ["AutoModel"]}})
    change(folder / "processor_config.json", auto_map=EVIL)
    for opened in (load_model, AutoModel.from_pretrained, AutoConfig.from_pretrained, MMSSLConfig.from_pretrained):
        opened(folder)
    for other in (MMSSLProcessor.from_pretrained, AutoProcessor.from_pretrained):
        other(folder)
    assert not marker.exists()


@pytest.fixture
def no_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any step towards code of the Hub fails the test."""

    def reached(*given: Any, **options: Any) -> None:
        pytest.fail("transformers was asked for code of the Hub")

    monkeypatch.setattr("transformers.integrations.hub_kernels.load_and_register_attn_kernel", reached)


@pytest.mark.parametrize("key", IMPLEMENTATIONS)
@pytest.mark.parametrize("value", ["evil/kernel", "evil/kernel@main:run", "paged|evil/kernel", {"": "evil/kernel"}])
def test_a_configuration_names_no_kernel(key: str, value: Any, tmp_path: Path, no_kernels: None) -> None:
    folder, _ = planted(tmp_path)
    change(folder / "config.json", **{key: value})
    for opened in (load_model, AutoModel.from_pretrained, AutoConfig.from_pretrained):
        with pytest.raises(ValueError, match=rf"config\.json: {key} names code of the Hub, '.*evil/kernel.*'.* Remove the key"):
            opened(folder)


def test_an_inner_implementation_is_dropped(tmp_path: Path, no_kernels: None) -> None:
    folder, _ = planted(tmp_path)
    change(folder / "config.json", _attn_implementation_internal="evil/kernel", _commit_hash="evil")  # CVE-2026-4372
    assert load_model(folder).config._attn_implementation == "sdpa"


def test_a_public_encoder_names_no_kernel_and_brings_no_code(tmp_path: Path, no_kernels: None) -> None:
    config = ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=8, patch_size=4)
    ViTModel(config).save_pretrained(tmp_path)
    change(tmp_path / "config.json", attn_implementation="evil/kernel")
    with pytest.raises(ValueError, match="attn_implementation names code of the Hub, 'evil/kernel'"):
        load_foreign(str(tmp_path))
    (tmp_path / "configuration_evil.py").write_text(CODE.format(marker=str(tmp_path / "marker")))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": EVIL}))
    with pytest.raises((ValueError, OSError), match=r"trust_remote_code|evil"):
        load_foreign(str(tmp_path))
    assert not (tmp_path / "marker").exists()


class Bomb:
    """Pickled, it leaves a mark when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.safetensors"])
def test_pickled_weights_are_refused(name: str, tmp_path: Path) -> None:
    folder, marker = planted(tmp_path)
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Bomb(marker)))
    told = r"holds no model\.safetensors; pytorch_model\.bin may be pickled, which can run code and is not read"
    with pytest.raises(ValueError, match=told if name.endswith(".bin") else "header"):
        load_model(folder)
    torch.save({"x": Bomb(marker)}, folder / name)
    with pytest.raises(Exception, match=r"model\.safetensors|header"):
        load_model(folder)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Bomb(marker)))
    assert marker.exists(), "the bomb works"


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, 5)
    | st.sampled_from(["", "evil/kernel", "os.system", "__import__('os')", "../x", "cls"]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "processor", "auto_map", "x"]), inner, max_size=3)
    ),
    max_leaves=6,
)
KEYS = [
    "auto_map",
    "modalities",
    "architectures",
    "model_type",
    "pooling",
    "label_head",
    "projections",
    "torch_dtype",
    *IMPLEMENTATIONS,
]


@given(st.dictionaries(st.sampled_from(KEYS), VALUES, min_size=1, max_size=4))
def test_whatever_stands_in_a_configuration_runs_nothing(changes: dict[str, Any]) -> None:
    """A fuzz: a configuration is refused, or read; in neither case anything is imported that it names, nor fetched."""
    import sys
    import tempfile

    before = set(sys.modules)
    with tempfile.TemporaryDirectory() as folder:
        content = {"model_type": "mmssl", "modalities": {}, "hidden_size": 16, "num_attention_heads": 2} | changes
        Path(folder, "config.json").write_text(json.dumps(content))
        try:
            MMSSLConfig.from_pretrained(folder)
        except Exception as error:  # whatever is wrong with it, it is told
            assert not isinstance(error, AssertionError | ImportError | NameError), error
    assert not {name for name in set(sys.modules) - before if "evil" in name or name.startswith("transformers_modules")}
