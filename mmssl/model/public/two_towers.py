"""Models of open_clip as they are: an encoder of pictures and one of texts, which lie in one space."""

import difflib
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

OPEN_CLIP, SAFE_SUFFIX = "open_clip:", ".safetensors"


def find_two_towers(path: str, key: str) -> tuple[str, str]:
    """The names of the model and of its weights, a tag or a file, in open_clip:MODEL/PRETRAINED.

    key: of who names it, for messages. ValueError: there is no such model, tag or file, or it is no safetensors file.
    """
    import open_clip  # takes most of a second, which only those who use it should wait

    name, _, pretrained = path.removeprefix(OPEN_CLIP).partition("/")
    if name not in open_clip.list_models():
        raise ValueError(f"{key}: open_clip has no model {name!r}{near(name, open_clip.list_models())}")
    tags = open_clip.list_pretrained_tags_by_model(name)
    if pretrained not in tags and not Path(pretrained).is_file():
        raise ValueError(
            f"{key}: open_clip has no weights {pretrained!r} for {name}{near(pretrained, tags)}; known ones: "
            f"{', '.join(tags) or 'none'}; or a {SAFE_SUFFIX} file"
        )
    if pretrained not in tags and not pretrained.endswith(SAFE_SUFFIX):
        raise ValueError(f"{key}: weights are read from {SAFE_SUFFIX} files alone; got {pretrained}")
    return name, pretrained


def load_two_towers(path: str, key: str) -> Any:
    """A model of open_clip in float32 and evaluation mode. ValueError as of `find_two_towers`, or if the weights do not fit it."""
    import open_clip

    name, pretrained = find_two_towers(path, key)
    try:
        return open_clip.create_model(name, pretrained=pretrained).eval()
    except (RuntimeError, SafetensorError) as error:
        if not pretrained.endswith(SAFE_SUFFIX):
            raise
        raise ValueError(f"{key}: the weights in {pretrained} are not those of open_clip's {name}: {error}") from error


def near(name: str, known: list[str]) -> str:
    """The names most like one that does not exist."""
    found = difflib.get_close_matches(name, known, 3)
    return f"; did you mean {' or '.join(found)}?" if found else ""
