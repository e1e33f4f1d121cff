"""A model as a folder that brings its own code: `AutoModel.from_pretrained(FOLDER, trust_remote_code=True)` without mmssl."""

import ast
import shutil
from importlib.metadata import version
from pathlib import Path

from transformers.utils import CONFIG_NAME, PROCESSOR_NAME

from mmssl.model import MMSSLConfig, faced, load_model, no_weights_bar, without_deepspeed
from mmssl.model.auto import write_auto_files
from mmssl.model.loading import model_of
from mmssl.model.needed import autos_of, name_classes, served_of, task_of
from mmssl.model.public import saved_processor
from mmssl.model.sentence import write_sentence_files
from mmssl.plugins import points
from mmssl.publish.flat import Flat
from mmssl.publish.place import Exported, new_place

TITLES = {
    "mmssl.model.config": "configuration_mmssl",
    "mmssl.model.model": "modeling_mmssl",
    "mmssl.model.tasks": "modeling_mmssl_tasks",
    "mmssl.model.auto": "processing_mmssl_served",
    "mmssl.processor": "processing_mmssl",
    "mmssl_catalogue": "mmssl_catalogue",
}
"""The usual names of files of code in a model's folder."""
TRAINING = {"augment", "mask", "example", "golden", "picture", "draw", "strong", "claim", "suited"}
"""Fields of a modality that only training, its pictures and its tests ask for."""
TRAINED = {"fit", "contents", "reference", "aspect", "pictures", "render", "made_up"}
"""Methods of processors and adapters that only training asks for."""

INSTALLED = "def installed():\n    return list(points())\n\ndef load(point):\n    return point()\n"


class WithoutTraining(ast.NodeTransformer):
    """Takes out of modalities what only training asks for."""

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
        if bases & {"Adapter", "Processor"}:
            node.body = [part for part in node.body if not (isinstance(part, ast.FunctionDef) and part.name in TRAINED)]
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        if isinstance(node.func, ast.Name) and node.func.id == "Modality":
            for keyword in node.keywords:
                if keyword.arg in TRAINING:
                    keyword.value = ast.Tuple(elts=[]) if keyword.arg == "strong" else ast.Constant(None)
        return node


def code_of(config: MMSSLConfig) -> dict[str, str]:
    """The files of code that a model needs, by name: the encoder, and its own modalities with their processors."""
    found = {name: points()[name] for name in config.modalities}
    loaders = "\n".join(
        f"def _{name}():\n    from {point.module} import {point.attr}\n    return {point.attr}\n" for name, point in found.items()
    )
    table = ", ".join(f"{name!r}: _{name}" for name in found)
    replaced = {
        "mmssl.plugins": f"from mmssl_catalogue import points\n\n{INSTALLED}",
        "mmssl_catalogue": f"{loaders}\ndef points():\n    return {{{table}}}\n",
    }
    ours = {"mmssl", "mmssl_catalogue"} | {point.module.partition(".")[0] for point in found.values()}
    flat = Flat(ours, replaced, WithoutTraining(), TITLES)
    flat.add("mmssl.model.config", "MMSSLConfig")
    flat.add("mmssl.model.model", "MMSSLModel")
    flat.add("mmssl.processor", "MMSSLProcessor")
    if config.label_head is not None:
        flat.add("mmssl.model.tasks", task_of(config))
    for name in served_of(config).values():
        flat.add("mmssl.model.auto", name)
    header = (
        f"# Made by mmssl {version('mmssl')} from its own sources, for people who have no mmssl (Apache-2.0). Not to be edited: "
        "comments and\n# types are in the original.\n"
    )
    return flat.files(header)


def write_remote_code(folder: Path, config: MMSSLConfig) -> None:
    """Put the code beside a saved model, and tell transformers in its files which classes are where."""
    for name, text in code_of(config).items():
        (folder / name).write_text(text, encoding="utf-8")
    classes = {"AutoConfig": "configuration_mmssl.MMSSLConfig", "AutoModel": "modeling_mmssl.MMSSLModel"}
    if config.label_head is not None:
        classes |= dict.fromkeys(autos_of(config), f"modeling_mmssl_tasks.{task_of(config)}")
    processor = {"AutoProcessor": "processing_mmssl.MMSSLProcessor"}
    served = {auto: f"processing_mmssl_served.{name}" for auto, name in served_of(config).items()}
    name_classes(folder / CONFIG_NAME, classes | processor | served)
    name_classes(folder / PROCESSOR_NAME, processor)


def export_remote_code(model: str | Path, folder: str | Path) -> Exported:
    """Write a saved model with the code that it needs to a new folder.

    model: folder of a model or of a run, or Hub id. FileExistsError if the folder is there already.
    """
    source = model_of(model)
    loaded, processor = load_model(source), saved_processor(source)
    with new_place(folder) as new:
        with no_weights_bar(), without_deepspeed():
            faced(loaded).save_pretrained(new)
        processor.save_pretrained(new)
        write_sentence_files(new, processor.processors)
        write_auto_files(new, processor)
        if (card := Path(source) / "README.md").is_file():
            shutil.copy(card, new / card.name)
        write_remote_code(new, loaded.config)
        (new / "model.safetensors").chmod((new / "config.json").stat().st_mode)
    return Exported(Path(folder), "it loads with trust_remote_code=True, without mmssl")
