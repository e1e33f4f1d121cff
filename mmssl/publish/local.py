"""What belongs to this machine alone: its paths, its user, its secrets; and texts without its paths."""

import getpass
import os
import platform
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from huggingface_hub import get_token

EVERYBODY = {"admin", "administrator", "debian", "ec2-user", "jovyan", "nobody", "root", "runner", "ubuntu", "user", "users"}
"""Names of users that say nothing of anybody."""
HOMES = {"home", "Users"}
"""Folders at the root that hold those of people, on whatever machine."""
SECRET = re.compile(r"TOKEN|SECRET|PASSWORD|PASSWD|API_?KEY|ACCESS_?KEY|CREDENTIAL", re.IGNORECASE)
"""What variables of the environment are called whose values are nobody's business."""
SHORTEST = 8
"""Characters from which on such a value is looked for."""

_PATH = re.compile(r"(?<![\w/.:~<>\\-])(?:file://)?/[\w.@+-]+(?:/[\w.@+ -]*[\w.@+-])+/?")
_HOME = re.compile(r"(?<![\w/.])~[\w-]*(?:/[\w.@+-]+)+/?")
_DRIVE = re.compile(r"(?<![\w])[A-Za-z]:\\(?:[^\\\s\"'<>|]+\\)+[^\\\s\"'<>|]*")


@dataclass(frozen=True)
class Machine:
    """What tells of a machine and its user.

    tops: folders at the root, by which a path is known as one of a machine. secrets: values, by where they stand.
    """

    tops: frozenset[str]
    home: str
    user: str
    host: str
    secrets: Mapping[str, str]

    @classmethod
    def here(cls) -> "Machine":
        """This one."""
        named = {f"the variable {name}": value for name, value in os.environ.items() if SECRET.search(name)}
        token = get_token()
        return cls(
            tops=frozenset(path.name for path in Path("/").iterdir() if path.is_dir()) | HOMES,
            home=str(Path.home()),
            user=_user(),
            host=platform.node(),
            secrets=named | ({} if token is None else {"the token of the Hub": token}),
        )

    def paths(self, text: str) -> list[str]:
        """The absolute paths in a text, and those of a home."""
        rooted = [found for found in _PATH.findall(text) if found.removeprefix("file://").split("/")[1] in self.tops]
        return [*rooted, *_HOME.findall(text), *_DRIVE.findall(text)]

    def without_paths(self, text: str) -> str:
        """A text with the last part of each path alone."""
        for path in sorted(self.paths(text), key=len, reverse=True):
            text = text.replace(path, last_part(path))
        return text

    def cleaned(self, value: Any) -> Any:
        """JSON values whose texts hold no paths."""
        if isinstance(value, str):
            return last_part(value) if Path(value).is_absolute() or ".." in Path(value).parts else self.without_paths(value)
        if isinstance(value, Mapping):
            return {key: self.cleaned(item) for key, item in value.items()}
        return [self.cleaned(item) for item in value] if isinstance(value, list | tuple) else value


def last_part(path: str) -> str:
    """The name of a file or folder."""
    kind = PureWindowsPath if "\\" in path else PurePosixPath
    return kind(path).name


def _user() -> str:
    """The name of the user; empty where the system knows none."""
    try:
        return getpass.getuser()
    except OSError:
        return ""
