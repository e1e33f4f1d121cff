"""Parameter-efficient training by the peft library: small adapters in a trained model, saved as an ordinary PEFT folder."""

import copy
import json
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import torch
from pydantic import Field
from torch import nn

from mmssl.model.config import MMSSLConfig
from mmssl.model.loading import no_weights_bar, only_errors
from mmssl.model.model import LABEL, PROJECTOR, SCALE, MMSSLModel
from mmssl.model.public import is_public, open_public
from mmssl.processor import ADAPTER_CONFIG, check_folder

if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig, PeftModel

Whole = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, lt=1)]
Preset = Literal["attention", "mlp", "all-linear"]

LAYER = r"(?:.*\.)?encoder\.layers\.\d+\."
ATTENTION, MLP = r"attention\.[qkvo]_proj", r"mlp\.(?:\w+\.)?(?:up|down|gate)_proj"
PRESETS: Mapping[str, str] = {
    "attention": f"{LAYER}{ATTENTION}",
    "mlp": f"{LAYER}{MLP}",
    "all-linear": f"{LAYER}(?:{ATTENTION}|{MLP})",
}
"""Regular expressions for the full names of the encoder's linear maps; adapters of modalities, pooler and heads are never meant."""


class Adaptation(ABC):
    """What is put into a model that is trained further while its own weights stay."""

    target: Any

    @abstractmethod
    def config(self) -> "PeftConfig":
        """peft's configuration."""


@dataclass(frozen=True, kw_only=True)
class Lora(Adaptation):
    """Low-rank adaptation: W + alpha / rank x B A, with B = 0 at first (arXiv 2106.09685, eq. 3).

    rank: of the update.
    alpha: the update is scaled by alpha / rank; null: 2 x rank.
    dropout: on what goes into the update.
    target: linear maps of the encoder: attention, mlp, all-linear (both), or names of modules, as in [q_proj, v_proj].
    """

    rank: Whole = 8
    alpha: Whole | None = None
    dropout: Share = 0.0
    target: Preset | list[str] = "attention"

    def config(self) -> "PeftConfig":
        return self.lora()

    def lora(self, **more: Any) -> "LoraConfig":
        """peft's configuration, with more of its options."""
        from peft import LoraConfig  # takes half a second, and few need it

        alpha = 2 * self.rank if self.alpha is None else self.alpha
        target = PRESETS[self.target] if isinstance(self.target, str) else list(self.target)
        return LoraConfig(r=self.rank, lora_alpha=alpha, lora_dropout=self.dropout, target_modules=target, **more)


@dataclass(frozen=True, kw_only=True)
class Dora(Lora):
    """Low-rank adaptation of the direction of each weight, with a learned size (arXiv 2402.09353, eq. 5). Keys as of lora.

    rank: of the update.
    alpha: the update is scaled by alpha / rank; null: 2 x rank.
    dropout: on what goes into the update.
    target: linear maps of the encoder: attention, mlp, all-linear (both), or names of modules, as in [q_proj, v_proj].
    """

    def config(self) -> "PeftConfig":
        return self.lora(use_dora=True)


@dataclass(frozen=True, kw_only=True)
class Ia3(Adaptation):
    """Learned gains on keys, values and the inner activations of the MLP, 1 at first (arXiv 2205.05638, section 3.3).

    target: attention (keys and values), mlp (what goes into its last map), all-linear (both), or names of modules.
    """

    target: Preset | list[str] = "all-linear"

    def config(self) -> "PeftConfig":
        from peft import IA3Config  # takes half a second, and few need it

        attention, mlp = r"attention\.[kv]_proj", r"mlp\.(?:\w+\.)?down_proj"
        parts = {"attention": attention, "mlp": mlp, "all-linear": f"(?:{attention}|{mlp})"}
        if isinstance(self.target, str):
            return IA3Config(target_modules=f"{LAYER}{parts[self.target]}", feedforward_modules=f"{LAYER}{mlp}")
        return IA3Config(
            target_modules=list(self.target), feedforward_modules=[name for name in self.target if name == "down_proj"]
        )


ADAPTATIONS = {"lora": Lora, "dora": Dora, "ia3": Ia3}


def adapt(model: MMSSLModel, adaptation: Adaptation) -> None:
    """Put adapters into a model, in place; nothing else of it learns any more. ValueError: the target is nothing that can be so."""
    from peft import inject_adapter_in_model  # takes half a second, and few need it

    linear = sorted({name.rpartition(".")[2] for name, part in model.encoder.named_modules() if isinstance(part, nn.Linear)})
    try:
        inject_adapter_in_model(adaptation.config(), model)
    except ValueError as error:
        raise ValueError(
            f"peft.target: {adaptation.target} names no linear map of this model. Choose {', '.join(PRESETS)}, or names among "
            f"{', '.join(linear)} ({error})"
        ) from None


def is_adapted(model: nn.Module) -> bool:
    """Whether a model holds adapters."""
    if "peft" not in sys.modules:
        return False  # adapters are its layers
    from peft.tuners.tuners_utils import BaseTunerLayer  # takes half a second, and few need it

    return any(isinstance(part, BaseTunerLayer) for part in model.modules())


def learned_parts(model: MMSSLModel, fresh: Iterator[str] | tuple[str, ...] = ()) -> list[str]:
    """Names of the modules beside the adapters that are learned and belong to the model: its heads, and new modalities."""
    found = [f"adapters.{name}" for name in fresh]
    heads = dict(model.heads or {})
    if PROJECTOR in heads and model.config.projections is not None:
        found += [f"heads.{PROJECTOR}.{name}" for name in model.config.projections]
        found += [f"heads.{SCALE}"] if SCALE in heads else []
    return [*found, *([f"heads.{LABEL}"] if LABEL in heads else [])]


def merged(model: MMSSLModel) -> MMSSLModel:
    """A copy without adapters whose weights hold what they had learned; the model itself if it has none."""
    if not is_adapted(model):
        return model
    from peft.tuners.tuners_utils import BaseTunerLayer  # takes half a second, and few need it

    plain = copy.deepcopy(model)
    for name, part in list(plain.named_modules()):
        if isinstance(part, BaseTunerLayer):
            part.merge(safe_merge=True)
            parent, _, own = name.rpartition(".")
            setattr(plain.get_submodule(parent), own, part.get_base_layer())
    del plain.peft_config
    return plain.requires_grad_(True)


def unadapted(model: MMSSLModel) -> MMSSLModel:
    """A copy of a model without its adapters: the weights that it started from, and its heads as they are."""
    from peft.tuners.tuners_utils import BaseTunerLayer  # takes half a second, and few need it

    plain = copy.deepcopy(model)
    for name, part in list(plain.named_modules()):
        if isinstance(part, BaseTunerLayer):
            parent, _, own = name.rpartition(".")
            setattr(plain.get_submodule(parent), own, part.get_base_layer())
    del plain.peft_config
    return plain


def save_adapter(model: MMSSLModel, adaptation: Adaptation, base: str, folder: Path, *, fresh: tuple[str, ...] = ()) -> None:
    """Write what was learned as a PEFT folder, with the configuration of the whole model beside it.

    `PeftModel.from_pretrained(type(model).from_pretrained(base, config=the folder's), folder)` is the model again, with its heads.

    base: the model that was adapted, folder or Hub id. fresh: modalities that it lacked.
    """
    from peft import PeftModel  # takes half a second, and few need it
    from peft import set_peft_model_state_dict as set_state

    config = adaptation.config()
    config.base_model_name_or_path = base
    config.modules_to_save = learned_parts(model, fresh) or None
    with quiet():
        wrapped = PeftModel(unadapted(model), config)
    parts = tuple(f"{part}." for part in config.modules_to_save or ())
    learned = adapter_state(model) | {name: value for name, value in model.state_dict().items() if name.startswith(parts)}
    set_state(wrapped, {f"base_model.model.{name}": value for name, value in learned.items()})
    wrapped.save_pretrained(str(folder), save_embedding_layers=False)  # else the Hub is asked about the base
    model.config.save_pretrained(folder)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep off the screen that transformers has drawn heads anew, which then come from the folder, and what peft asks of it."""
    with only_errors(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def adapter_state(model: MMSSLModel) -> dict[str, torch.Tensor]:
    """The tensors of a model's adapters, by peft's names."""
    from peft import get_peft_model_state_dict  # takes half a second, and few need it

    found: dict[str, torch.Tensor] = get_peft_model_state_dict(model)
    return found


def is_adapter(folder: str | Path) -> bool:
    """Whether a folder is a PEFT folder."""
    return (Path(folder) / ADAPTER_CONFIG).is_file()


def load_adapted(folder: str | Path, kind: type[MMSSLModel], config: MMSSLConfig | None = None) -> MMSSLModel:
    """The model of a PEFT folder that `save_adapter` wrote, its weights with what the adapters learned.

    kind: the class of the model. config: in the place of the folder's.
    """
    from peft.utils import ModulesToSaveWrapper  # takes half a second, and few need it

    model = merged(cast(MMSSLModel, peft_model(folder, kind, config).get_base_model()))
    for name, part in list(model.named_modules()):
        if isinstance(part, ModulesToSaveWrapper):
            parent, _, own = name.rpartition(".")
            cast(Any, model.get_submodule(parent))._modules[own] = part.modules_to_save["default"]
    return model.requires_grad_(True)


def peft_model(folder: str | Path, kind: type[MMSSLModel], config: MMSSLConfig | None = None) -> "PeftModel":
    """A PEFT folder with its base, as the peft library has it. ValueError: the base is not there."""
    from peft import PeftModel  # takes half a second, and few need it

    check_folder(folder)
    said = json.loads((Path(folder) / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    base = said.get("base_model_name_or_path")
    if not base:
        raise ValueError(f"{folder}: {ADAPTER_CONFIG} names no base model (base_model_name_or_path)")
    try:
        with no_weights_bar(), quiet():
            settings = config or MMSSLConfig.from_pretrained(folder)
            if is_public(base):
                model = open_public(base, tuple(settings.modalities)).load(settings, kind)
            else:
                model = kind.from_pretrained(base, config=settings, use_safetensors=True)
    except OSError as error:
        raise ValueError(
            f"{folder} holds adapters of the model {base}, which cannot be opened: {error}. Put it there, or correct "
            f"base_model_name_or_path in {Path(folder) / ADAPTER_CONFIG}"
        ) from None
    with quiet():
        return PeftModel.from_pretrained(model, folder)


def restore_adapter(model: MMSSLModel, folder: Path) -> None:
    """Give an adapted model what a PEFT folder holds, heads included."""
    loaded = peft_model(folder, type(model)).get_base_model()
    own, other = model.state_dict(), merged_names(loaded)
    model.load_state_dict({name: other.get(name, value) for name, value in own.items()})


def merged_names(model: nn.Module) -> dict[str, torch.Tensor]:
    """A state dict in which modules that peft saves whole have their own names."""
    marks = ".modules_to_save.default"
    state = {name: value for name, value in model.state_dict().items() if ".original_module." not in name}
    return {name.replace(marks, ""): value for name, value in state.items()}
