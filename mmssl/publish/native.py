"""A model as one of transformers' own classes, for people who have no mmssl: `mmssl export MODEL --native FOLDER`."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from mmssl.model import MMSSLModel, load_model
from mmssl.model.loading import model_of, no_weights_bar, only_errors
from mmssl.model.public import Family
from mmssl.model.public.bring import families
from mmssl.model.public.give import Difference, differences, native_config, ours_of, write_native
from mmssl.model.public.table import Native, Ours
from mmssl.processor import MMSSLProcessor
from mmssl.publish.place import Exported, differing, new_place

SHOWN = 8
"""Settings in the way that an error names."""


def export_native(model: str | Path, folder: str | Path, kind: str | None = None) -> Exported:
    """Write a saved model of one modality as a stock model of transformers, with its processor, to a new folder.

    model: folder of a model or of a run, or Hub id. kind: the `model_type` to make; None: the first one that can be it.
    Only the encoder goes along; a pooled output is made of its tokens as `pooling` says. Before the folder gets its name, raw
    samples go through transformers' own classes: RuntimeError where tokens differ by more than `TOLERANCE`.
    ValueError with the settings that stand in the way, and what they would have to be, if no class can be the model.
    """
    loaded = load_model(model_of(model)).eval().float()
    name, ours = ours_of(loaded.config)
    with new_place(folder) as new:
        family, native = fitting(name, ours, kind)
        begin(family, native, ours, new)
        write_native(loaded, family, native, name, ours, new)
        largest = compared(loaded, native, name, ours, new)
    how = f"{native.opener} opens it as a {family.name}; its embedding is {pooled(loaded)}"
    return Exported(Path(folder), how, largest)


def fitting(name: str, ours: Ours, kind: str | None = None) -> tuple[Family, Native]:
    """The family that a model can be. ValueError: there is none; with the one that comes nearest."""
    known = [(family, family.native) for modality, family in families() if modality == name and family.native is not None]
    if not known:
        raise ValueError(f"transformers has no class for models of {name}; export it with --onnx or --remote-code")
    wanted = [each for each in known if kind in (None, each[1].kind)]
    if not wanted:
        raise ValueError(f"a model of {name} can become one of {', '.join(native.kind for _, native in known)}; got {kind!r}")
    found: list[tuple[Family, list[Difference]]] = []
    for family, native in wanted:
        with TemporaryDirectory(prefix="mmssl-native-") as place:
            begin(family, native, ours, Path(place))
            wrong = differences(family, native, name, ours, Path(place))
        if not wrong:
            return family, native
        found.append((family, wrong))
    family, wrong = min(found, key=lambda each: len(each[1]))
    rest = "" if len(wrong) <= SHOWN else f"\n  and {len(wrong) - SHOWN} more"
    raise ValueError(
        f"no class of transformers can be this model; the nearest one is {family.name}, where\n  "
        + "\n  ".join(map(str, wrong[:SHOWN]))
        + f"{rest}\nTrain with these settings, or export it with --onnx or --remote-code"
    )


def begin(family: Family, native: Native, ours: Ours, folder: Path) -> None:
    """Write the configuration and the processor."""
    config = native_config(family, native, ours)
    config.save_pretrained(folder)
    native.serve(folder, ours, config.to_dict())


@torch.no_grad()
def compared(model: MMSSLModel, native: Native, name: str, ours: Ours, folder: Path) -> float:
    """The largest difference between tokens of the stock model, of raw samples, and of ours."""
    samples = native.samples(ours)
    with no_weights_bar(), only_errors():
        found, there = native.run(folder, samples)
    processor = MMSSLProcessor.from_settings({name: model.config.modalities[name]["processor"]})
    wanted = model(**processor(samples, windows=False)).last_hidden_state
    if found.shape != wanted.shape:
        raise RuntimeError(
            f"nothing was exported: transformers' processor makes {list(found.shape)} tokens, not {list(wanted.shape)}"
        )
    return differing("last_hidden_state", found[there], wanted[there], "in transformers")


def pooled(model: MMSSLModel) -> str:
    """In words how a vector is made of tokens."""
    count = model.encoder.num_prefix
    body = "last_hidden_state" if not count else f"last_hidden_state[:, {count}:]"
    return {"cls": "last_hidden_state[:, 0]", "first": f"the first of {body}", "last": f"the last token of {body}"}.get(
        model.config.pooling, f"the {model.config.pooling} of {body}, of real tokens"
    )
