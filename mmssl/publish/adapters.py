"""The adapters of a run as an ordinary repository of the peft library, whose base is a model of the Hub."""

import json
import shutil
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard, ModelCardData

from mmssl.evaluation.history import History
from mmssl.model import faced, load_model
from mmssl.processor import ADAPTER_CONFIG
from mmssl.publish.card import HUB_NAME, Licence
from mmssl.publish.check import TOLERANCE, outputs_of
from mmssl.publish.chosen import Chosen
from mmssl.publish.local import Machine
from mmssl.training.run import Run

SENT = (ADAPTER_CONFIG, "adapter_model.safetensors", "config.json", "processor_config.json")
"""What of the folder of adapters is sent as it is."""

BODY = """
# {name}

Adapters ({method}) for [{base}](https://huggingface.co/{base}), trained with mmssl. They are {share:.1%} of the size of the model.

```python
from mmssl.model import {face}, MMSSLConfig  # registers its classes with transformers
from peft import PeftModel

config = MMSSLConfig.from_pretrained("{place}")
model = PeftModel.from_pretrained({face}.from_pretrained("{base}", config=config), "{place}").eval()
```

`mmssl predict` and `mmssl embed` take the repository as well, in a folder of this machine.
"""


def base_of(run: Run) -> str:
    """The model of the Hub that a run adapted. ValueError where it has no adapters, or their base is on this machine alone."""
    file = run.adapter_folder / ADAPTER_CONFIG
    if not file.is_file():
        raise ValueError(
            f"--adapter: the run {run.folder} has no adapters; it was trained without peft. Leave --adapter out to push its model"
        )
    base = str(json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"])
    if not HUB_NAME.fullmatch(base) or Path(base).exists():
        raise ValueError(
            f"--adapter: these adapters belong to the model {Path(base).name}, a folder of this machine, and would be useless "
            "elsewhere. Push that model first (mmssl push BASE_RUN owner/base), and train with init=owner/base; or leave --adapter "
            "out: the merged model is pushed"
        )
    return base


def assemble_adapter(
    folder: Path, run: Run, found: Chosen, machine: Machine, *, name: str, repo: str | None, licence: Licence
) -> None:
    """Fill a folder with the adapters of a run, the processor, and a card."""
    base = base_of(run)
    for each in SENT:
        shutil.copy(run.adapter_folder / each, folder / each)
    (folder / "adapter_model.safetensors").chmod((folder / "config.json").stat().st_mode)
    said: dict[str, Any] = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    history = History(
        tuple(type(entry)(**vars(entry) | {"path": machine.cleaned(entry.path)}) for entry in found.history.trained),
        found.history.complete,
    )
    history.write(folder)
    header = ModelCardData(
        library_name="peft",
        base_model=base,
        base_model_relation="adapter",
        license=licence.key,
        license_name=licence.name,
        license_link=licence.link,
        tags=["mmssl", str(said["peft_type"]).lower(), *found.model.config.modalities],
    )
    sizes = [(folder / "adapter_model.safetensors").stat().st_size, (run.model_folder / "model.safetensors").stat().st_size]
    body = BODY.format(
        name=name,
        method=said["peft_type"],
        base=base,
        share=sizes[0] / sizes[1],
        face=type(faced(found.model)).__name__,
        place=repo or "path/to/this/folder",
    )
    (folder / "README.md").write_text(str(ModelCard(f"---\n{header}\n---\n{body}")), encoding="utf-8")


def check_adapter(folder: Path, found: Chosen, inputs: Any) -> float:
    """The largest difference between outputs of the trained model and of base and adapters as they are sent.

    RuntimeError where it is more than rounding.
    """
    expected, given = outputs_of(found.model, inputs), outputs_of(load_model(folder), inputs)
    worst = 0.0
    for key, value in expected.items():
        difference = (value - given[key]).abs().max().item()
        if not difference <= MERGED * max(1.0, value.abs().max().item()):
            raise RuntimeError(
                f"nothing was published: {key} of the base with its adapters differs by {difference:.3g} from the trained model's. "
                "Has the base been changed since?"
            )
        worst = max(worst, difference)
    return worst


MERGED = 10 * TOLERANCE
"""Largest difference between merged and unmerged adapters, as a share of the largest value where that is above 1."""
