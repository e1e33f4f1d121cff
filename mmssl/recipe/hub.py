"""Recipes of published models."""

from pathlib import Path

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

HUB, PUBLISHED = "hf://", "recipe.yaml"
"""How a source says that it is a model of the Hub, and the file there that holds its recipe."""


def fetch(source: str) -> Path:
    """The recipe of a published model, `hf://owner/name` or `hf://owner/name@revision`, from the Hub.

    ValueError for a name that cannot be, FileNotFoundError where there is no such model, or no recipe in it.
    """
    repo, _, revision = source.removeprefix(HUB).rstrip("/").partition("@")
    if repo.count("/") > 1:
        raise ValueError(f"{source} must be hf://owner/name, a model of the Hub, perhaps with @revision behind it")
    try:
        return Path(hf_hub_download(repo, PUBLISHED, revision=revision or None))
    except HFValidationError as error:
        raise ValueError(f"{source} must be hf://owner/name, a model of the Hub: {error}") from None
    except (RepositoryNotFoundError, RevisionNotFoundError):
        raise FileNotFoundError(f"there is no model {source}, or this token may not read it; look at the name") from None
    except EntryNotFoundError as error:
        if isinstance(error, LocalEntryNotFoundError):
            raise ConnectionError(f"{source} cannot be fetched, and is not in the cache: {error}") from error
        raise FileNotFoundError(f"{source} has no {PUBLISHED}: mmssl push puts one into a model") from None
