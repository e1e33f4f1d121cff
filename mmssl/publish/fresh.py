"""A process of its own that loads a published folder and writes down what the model gives: run by `mmssl.publish.check`.

    python fresh.py FOLDER INPUTS OUTPUTS MODE

INPUTS, OUTPUTS: safetensors files, tensors by modality and name, `<modality>/<input>`. MODE: mmssl, or alone, where nothing of
mmssl can be imported and the folder brings its own code. It imports nothing of mmssl itself.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class NoMmssl(MetaPathFinder):
    """An interpreter without mmssl."""

    def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        if fullname.partition(".")[0].partition("_")[0] == "mmssl":  # its plug-ins and commands are called so too
            raise ModuleNotFoundError(f"No module named {fullname!r}: hidden on purpose", name=fullname)
        return None


def main(folder: str, inputs: str, outputs: str, mode: str) -> None:
    """Load and encode."""
    if mode == "alone":
        sys.meta_path.insert(0, NoMmssl())
    else:
        import mmssl  # noqa: F401, registers its classes

    import torch
    from safetensors.torch import load_file, save_file
    from transformers import AutoModel, AutoProcessor

    trust = {"trust_remote_code": True} if mode == "alone" else {}
    model, loading = AutoModel.from_pretrained(folder, output_loading_info=True, **trust)
    wrong = {key: sorted(map(str, loading[key])) for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if loading[key]}
    if wrong:
        raise ValueError(f"the weights are not those of the configuration: {wrong}")
    processor = AutoProcessor.from_pretrained(folder, **trust)
    if processor.settings() != {name: each["processor"] for name, each in model.config.modalities.items()}:
        raise ValueError("the processor's settings are not those of the configuration")
    found: dict[str, torch.Tensor] = {}
    given: dict[str, dict[str, torch.Tensor]] = {}
    for name, tensor in load_file(inputs).items():
        modality, _, key = name.partition("/")
        given.setdefault(modality, {})[key] = tensor
    with torch.no_grad():
        for modality, tensors in given.items():
            out = model.eval()(**tensors)
            found[f"{modality}/last_hidden_state"], found[f"{modality}/pooler_output"] = out.last_hidden_state, out.pooler_output
            if model.config.label_head is not None:
                found[f"{modality}/predicted"] = model.labelled(modality, tensors)
    save_file({name: tensor.float().contiguous() for name, tensor in found.items()}, outputs)


if __name__ == "__main__":
    main(*sys.argv[1:])
