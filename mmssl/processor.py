"""`MMSSLProcessor`: raw samples of any of a model's modalities to the tensors that the model takes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import BatchFeature, ProcessorMixin
from transformers.utils import CONFIG_NAME, PROCESSOR_NAME, cached_file

from mmssl.modality import Processor, find

READING_ERRORS = (FileNotFoundError, OSError, ValueError, TypeError)
"""What a processor raises for a sample that it cannot read, narrow kinds first; subclasses may want more than a message."""

SHOWN = 5
"""Names of files that an error lists."""

_HUB_ARGUMENTS = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")


class MMSSLProcessor(ProcessorMixin):  # type: ignore[misc]
    """One processor per modality behind one call; a model with two modalities needs nothing of the others.

    processors: modality name -> processor (fitted).
    """

    def __init__(self, processors: Mapping[str, Processor]) -> None:
        self.processors = dict(processors)
        self.chat_template = None

    @classmethod
    def from_settings(cls, settings: Mapping[str, Mapping[str, Any]]) -> "MMSSLProcessor":
        """Build from what `settings()` returned."""
        return cls({name: find(name).processor(**value) for name, value in settings.items()})

    def settings(self) -> dict[str, dict[str, Any]]:
        """Per modality the constructor arguments of its processor, fitted statistics included, as JSON values."""
        return {name: processor.settings() for name, processor in self.processors.items()}

    def __call__(self, *, return_tensors: str | None = "pt", **raw: Any) -> BatchFeature:
        """Process samples: `processor(images=[...])`, `processor(table=frame)`.

        Each keyword is that of a modality and takes one raw sample or several. Returns the batched tensors under their input
        names. Where long samples are cut into pieces, each piece is a row, and `<keyword>_sample` says which sample a row is of;
        the model averages them in its `pooler_output`. Options as `audio_kwargs={"sampling_rate": 16000}` go to their processor.
        TypeError for an unknown keyword; ValueError that names the sample for one that cannot be read.
        """
        options = {key.removesuffix("_kwargs"): raw.pop(key) for key in list(raw) if key.endswith("_kwargs")}
        return_tensors = options.get("common", {}).get("return_tensors", return_tensors)
        if return_tensors not in (None, "pt"):
            raise ValueError(f"return_tensors must be 'pt' (torch tensors) or None; got {return_tensors!r}")
        names = {find(name).keyword: name for name in self.processors}
        unknown = [keyword for keyword in raw if keyword not in names]
        if unknown or not raw:
            what = f"got {unknown[0]!r}" if unknown else "got nothing"
            raise TypeError(f"this processor takes {', '.join(f'{keyword}=' for keyword in names)}; {what}")
        out = BatchFeature()
        for keyword, value in raw.items():
            out.update(self._batch(keyword, self.processors[names[keyword]], value, options.get(keyword, {})))
        return out

    def _batch(self, keyword: str, processor: Processor, value: Any, options: Mapping[str, Any]) -> dict[str, Any]:
        samples, owners = [], []
        raws = [processor.with_options(raw, options) for raw in processor.many(value)]
        if not raws:
            raise ValueError(f"{keyword}= holds no sample")
        if not processor.windowed:
            try:
                return processor.batch(raws)
            except READING_ERRORS:
                pass  # which sample it was is said below
        for number, raw in enumerate(raws):
            try:
                pieces = [processor(piece) for piece in processor.pieces(raw)]
            except READING_ERRORS as error:
                kind = next(kind for kind in READING_ERRORS if isinstance(error, kind))
                raise kind(f"{keyword}[{number}]: {error}") from error
            samples += pieces
            owners += [number] * len(pieces)
        batch = processor.collate(samples)
        return batch if len(owners) == len(raws) else batch | {f"{keyword}_sample": torch.tensor(owners)}

    @property
    def model_input_names(self) -> list[str]:
        """Nothing is known before a call: the names belong to the model's adapters."""
        return []

    def to_dict(self) -> dict[str, Any]:
        """What `processor_config.json` holds."""
        return {"processor_class": type(self).__name__, "modalities": self.settings()}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.processors)})"

    def save_pretrained(self, save_directory: str | Path, push_to_hub: bool = False, **hub: Any) -> list[str]:
        """Write `processor_config.json` to a folder; `push_to_hub=True` uploads it too (`hub`: arguments of `push_to_hub`)."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / PROCESSOR_NAME
        file.write_text(json.dumps(self.to_dict(), indent=2, allow_nan=False) + "\n", encoding="utf-8")
        if push_to_hub:
            self.push_to_hub(hub.pop("repo_id", folder.name), **hub)
        return [str(file)]

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, **hub: Any) -> "MMSSLProcessor":
        """Load from a folder or a Hub id; `hub`: cache_dir, force_download, local_files_only, token, revision, subfolder.

        A folder without `processor_config.json` is read by its `config.json`, which holds the same settings; where both are there
        they must agree. Other arguments that AutoProcessor passes on (trust_remote_code) have no use here: nothing is executed.
        """
        check_folder(pretrained_model_name_or_path, (PROCESSOR_NAME, CONFIG_NAME))
        known = {key: value for key, value in hub.items() if key in _HUB_ARGUMENTS}
        own, of_model = (read_json(pretrained_model_name_or_path, name, known) for name in (PROCESSOR_NAME, CONFIG_NAME))
        settings = None if of_model is None else settings_of(of_model)
        if own is None and settings is None:
            if not Path(pretrained_model_name_or_path).is_dir():
                raise FileNotFoundError(
                    f"no model {pretrained_model_name_or_path}: there is no such folder here, and on the Hub there is none, or it "
                    "cannot be reached"
                )
            raise FileNotFoundError(
                f"{pretrained_model_name_or_path} has no {PROCESSOR_NAME}, and no {CONFIG_NAME} of mmssl: it is no model of mmssl"
            )
        if own is not None and "modalities" not in own:
            raise ValueError(
                f"{pretrained_model_name_or_path}/{PROCESSOR_NAME} was not written by mmssl: it has no 'modalities'; its keys are "
                f"{sorted(own)}"
            )
        found: dict[str, Any] = settings or {} if own is None else own["modalities"]
        if settings is not None and (wrong := [name for name in found if name in settings and found[name] != settings[name]]):
            raise ValueError(
                f"{pretrained_model_name_or_path}: the settings of {', '.join(wrong)} in {PROCESSOR_NAME} are not those in "
                f"{CONFIG_NAME}, by which the model was built. Give both the same, or delete {PROCESSOR_NAME}"
            )
        return cls.from_settings(found)


def read_json(model: str | Path, name: str, hub: Mapping[str, Any]) -> dict[str, Any] | None:
    """What a JSON file of a model, folder or Hub id, holds; None where there is no such file. OSError if there is no such model."""
    try:
        file = cached_file(model, name, _raise_exceptions_for_missing_entries=False, **hub)
    except OSError as error:
        reason = str(error).strip().partition("\n")[0]
        raise OSError(f"no model {model}: there is no such folder here, and the Hub gives none: {reason}") from error
    found: dict[str, Any] | None = None if file is None else json.loads(Path(file).read_text(encoding="utf-8"))
    return found


def settings_of(config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings of the processors that a model's configuration speaks of; None for one that is not of mmssl."""
    modalities = config.get("modalities")
    return {name: parts["processor"] for name, parts in modalities.items()} if isinstance(modalities, dict) else None


def check_folder(model: str | Path, files: Sequence[str] = (CONFIG_NAME,)) -> None:
    """FileNotFoundError for what can only be a folder, but is none, or has none of these files: the Hub answers in riddles."""
    path = Path(model)
    parts = path.parts
    only_a_path = isinstance(model, Path) or path.is_absolute() or len(parts) > 2 or str(model).startswith((".", "~"))
    if path.is_file():
        raise FileNotFoundError(f"no model in {model}: it is a file. Give the `model` folder of a run, or a Hub id")
    if not path.is_dir():
        if only_a_path or (len(parts) == 2 and Path(parts[0]).exists()):
            raise FileNotFoundError(f"no model in {model}: there is no such folder. Give the `model` folder of a run, or a Hub id")
        return
    if not any((path / name).is_file() for name in files):
        inner = path / "model"
        if (inner / CONFIG_NAME).is_file():
            raise FileNotFoundError(f"no model in {model}, which is a run; did you mean {inner}?")
        held = ", ".join(sorted(each.name for each in path.iterdir())[:SHOWN]) or "nothing"
        raise FileNotFoundError(
            f"no model in {model}: it has no {' and no '.join(files)}; it holds {held}. Give the `model` "
            "folder of a run, or a Hub id"
        )
