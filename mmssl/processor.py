"""`MMSSLProcessor`: raw samples of any of a model's modalities to the tensors that the model takes."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any

import torch
from transformers import BatchFeature, ProcessorMixin
from transformers.dynamic_module_utils import custom_object_save
from transformers.processing_utils import ProcessingKwargs
from transformers.utils import CONFIG_NAME, PROCESSOR_NAME, cached_file

from mmssl.modality import Processor, find, rebuilt

READING_ERRORS = (FileNotFoundError, OSError, ValueError, TypeError)
"""What a processor raises for a sample that it cannot read, narrow kinds first; subclasses may want more than a message."""

HARMLESS = {
    "padding": (True, False, None, "longest"),
    "truncation": (True, False, None, "longest_first", "do_not_truncate"),
    "return_tensors": ("pt", None),
}
"""Options that callers of transformers' processors pass by habit, with the values that change nothing here."""
USUAL = tuple(ProcessingKwargs.__annotations__)
"""Groups of options that transformers' callers pass even where a processor takes no such samples."""
NO_TOKENS = SimpleNamespace(
    eos_token_id=None, bos_token_id=None, pad_token_id=None, padding_side="right", model_max_length=None, name_or_path=""
)
ADAPTER_CONFIG = "adapter_config.json"
"""What the peft library writes into a folder of adapters."""
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
        return cls({name: rebuilt(find(name).processor, value, f"processor of {name}") for name, value in settings.items()})

    def settings(self) -> dict[str, dict[str, Any]]:
        """Per modality the constructor arguments of its processor, fitted statistics included, as JSON values."""
        return {name: processor.settings() for name, processor in self.processors.items()}

    def __call__(self, *sample: Any, windows: bool = True, return_tensors: str | None = "pt", **raw: Any) -> BatchFeature:
        """Process samples: `processor(images=[...])`, `processor(table=frame)`; of one modality also `processor([...])`.

        Each keyword is that of a modality and takes one raw sample or several. Returns the batched tensors under their input names,
        always the same ones. Where long samples are cut into pieces, each piece is a row, and `<keyword>_sample` `[rows, 2]` says
        which sample a row is of, and into how many pieces that was cut; the model averages them in its `pooler_output`.

        windows: false = a row for each sample: of a long one its beginning. For what keeps rows in step, as `datasets` does.
        Options as `audio_kwargs={"sampling_rate": 16000}` go to their processor.
        TypeError for an unknown keyword or option; ValueError that names the sample for one that cannot be read.
        """
        options = {key.removesuffix("_kwargs"): dict(raw.pop(key)) for key in list(raw) if key.endswith("_kwargs")}
        common = options.pop("common", {}) | {key: raw.pop(key) for key in list(raw) if key in HARMLESS}
        return_tensors = common.pop("return_tensors", return_tensors)
        if return_tensors not in (None, "pt"):
            raise ValueError(f"return_tensors must be 'pt' (torch tensors) or None; got {return_tensors!r}")
        names = {find(name).keyword: name for name in self.processors}
        if sample:
            if len(sample) > 1 or len(names) > 1 or raw:
                keywords = ", ".join(f"{keyword}=" for keyword in names)
                raise TypeError(
                    f"say by a keyword what the samples are: this processor takes {keywords}; got {len(sample)} without one"
                )
            raw = {next(iter(names)): sample[0]}
        unknown = [keyword for keyword in raw if keyword not in names]
        if unknown or not raw:
            what = f"got {unknown[0]!r}" if unknown else "got nothing"
            raise TypeError(f"this processor takes {', '.join(f'{keyword}=' for keyword in names)}; {what}")
        for keyword, given in options.items():
            if keyword in names:
                check_options(f"{keyword}_kwargs", given, self.processors[names[keyword]].options)
            elif f"{keyword}_kwargs" not in USUAL:
                raise TypeError(f"no modality has {keyword}_kwargs; there are {', '.join(f'{name}_kwargs' for name in names)}")
        check_options("common_kwargs", common, ())
        out = BatchFeature()
        for keyword, value in raw.items():
            if isinstance(value, Sequence) and not isinstance(value, str | bytes):
                value = list(value)  # a column of `datasets` is a sequence of another type
            given = options.get(keyword, {})
            out.update(self._batch(keyword, self.processors[names[keyword]], value, given, bool(given.pop("windows", windows))))
        return out

    def _batch(self, keyword: str, processor: Processor, value: Any, options: Mapping[str, Any], windows: bool) -> dict[str, Any]:
        samples, counts = [], []
        raws = [processor.with_options(raw, options) for raw in processor.many(value)]
        if not raws:
            raise ValueError(f"{keyword}= holds no sample")
        if not processor.windowed:
            try:
                return processor.sized(processor.batch(raws))
            except READING_ERRORS:
                pass  # which sample it was is said below
        for number, raw in enumerate(raws):
            try:
                pieces = [processor(piece) for piece in (processor.pieces(raw) if windows else [processor.beginning(raw)])]
            except READING_ERRORS as error:
                kind = next(kind for kind in READING_ERRORS if isinstance(error, kind))
                raise kind(f"{keyword}[{number}]: {error}") from error
            samples += pieces
            counts.append(len(pieces))
        batch = processor.sized(processor.collate(samples))
        if not (processor.windowed and windows):
            return batch
        owners = [(number, count) for number, count in enumerate(counts) for _ in range(count)]
        return batch | {f"{keyword}_sample": torch.tensor(owners)}

    @property
    def tokenizer(self) -> Any:
        """The tokenizer of the modality that has one; else something whose special tokens are None, for transformers' Trainer."""
        found = (processor.hub_tokenizer() for processor in self.processors.values())
        return next((each for each in found if each is not None), NO_TOKENS)

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
        """Write `processor_config.json` to a folder; `push_to_hub=True` uploads it too (`hub`: arguments of `push_to_hub`).

        One that came with the code of its folder takes the code along.
        """
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        file, content = folder / PROCESSOR_NAME, self.to_dict()
        if self._auto_class is not None:
            custom_object_save(self, folder, config=content)
        file.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")
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
            check_there(pretrained_model_name_or_path, known)
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


def check_options(where: str, given: Mapping[str, Any], known: Sequence[str]) -> None:
    """TypeError for an option that has no meaning here, or a value of one that cannot be followed."""
    for key, value in given.items():
        if key in HARMLESS and value not in HARMLESS[key]:
            raise TypeError(f"{where}: {key}={value!r} cannot be followed; the sizes of samples are the processor's own settings")
        if key not in (*HARMLESS, *known, "windows"):
            raise TypeError(f"{where}: no option {key!r}; there are {', '.join([*known, 'windows', *HARMLESS])}. Leave it out")


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


def check_there(model: str | Path, hub: Mapping[str, Any] = MappingProxyType({})) -> None:
    """FileNotFoundError if there is no configuration of a model, neither in a folder nor on the Hub."""
    check_folder(model)
    if not Path(model).is_dir() and read_json(model, CONFIG_NAME, hub) is None:
        raise FileNotFoundError(
            f"no model {model}: there is no such folder here, and on the Hub there is none, or it cannot be reached"
        )


def check_folder(model: str | Path, files: Sequence[str] = (CONFIG_NAME,)) -> None:
    """FileNotFoundError for what can only be a folder, but is none, or has none of these files: the Hub answers in riddles."""
    path = Path(model)
    parts = path.parts
    only_a_path = isinstance(model, Path) or path.is_absolute() or len(parts) > 2 or str(model).startswith((".", "~"))
    if path.is_file():
        raise FileNotFoundError(f"no model in {model}: it is a file. Give the `model` folder of a run, or a Hub id")
    if not path.is_dir():
        if only_a_path or (len(parts) == 2 and Path(parts[0]).exists()):
            made = f" Train the run {parts[-2]} first, as the header of a recipe may say." if parts[-1] == "model" else ""
            raise FileNotFoundError(
                f"no model in {model}: there is no such folder.{made} Give the `model` folder of a run, or a Hub id"
            )
        return
    if not any((path / name).is_file() for name in files):
        if (path / ADAPTER_CONFIG).is_file():
            raise FileNotFoundError(
                f"{model} is a PEFT folder without {' and '.join(files)}: write them beside the adapters, with "
                f"model.config.save_pretrained({str(model)!r}) and processor.save_pretrained({str(model)!r})"
            )
        inner = path / "model"
        if (inner / CONFIG_NAME).is_file():
            raise FileNotFoundError(f"no model in {model}, which is a run; did you mean {inner}?")
        held = ", ".join(sorted(each.name for each in path.iterdir())[:SHOWN]) or "nothing"
        raise FileNotFoundError(
            f"no model in {model}: it has no {' and no '.join(files)}; it holds {held}. Give the `model` "
            "folder of a run, or a Hub id"
        )
