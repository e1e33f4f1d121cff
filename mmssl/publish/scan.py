"""Whether a folder holds anything that must not leave: secrets, paths, names, private columns, the state of an optimizer."""

import json
import re
import struct
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from mmssl.publish.local import EVERYBODY, SHORTEST, Machine

ALLOWED = (".json", ".jsonl", ".md", ".png", ".py", ".safetensors", ".txt", ".yaml")
"""What a published folder consists of. Nothing else is ever sent, so no pickle is, and no checkpoint."""
TOKENS = {
    "a token of Hugging Face": r"\bhf_[A-Za-z0-9]{20,}",
    "a token of GitHub": r"\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_\w{20,}",
    "a token of GitLab": r"\bglpat-[\w-]{16,}",
    "a key of AWS": r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b",
    "a key of Google": r"\bAIza[\w-]{35}",
    "an API key": r"\bsk-[A-Za-z0-9_-]{20,}",
    "a token of Slack": r"\bxox[abprs]-[\w-]{10,}",
    "a JSON web token": r"\beyJ[\w-]{10,}\.eyJ[\w-]{10,}\.[\w-]{10,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
    "a password in an address": r"\b[a-z][a-z0-9+.-]*://[^\s/:@]+:[^\s/:@]+@",
}
OPTIMIZER = re.compile(r"exp_avg|exp_avg_sq|momentum_buffer|(^|\W)optimizer(\W|$)")
"""Names of tensors that belong to an optimizer."""
MOST = 20
"""Findings that a message lists."""


def check_nothing_leaks(
    folder: Path, machine: Machine, *, words: Collection[str] = (), allowed: Collection[str] = (), owner: str = ""
) -> None:
    """ValueError that lists what of a folder must not be published; see `leaks`."""
    found = list(leaks(folder, machine, words=words, allowed=allowed, owner=owner))
    if found:
        more = f"\n  and {len(found) - MOST} more" if len(found) > MOST else ""
        listed = "\n  ".join(found[:MOST])
        raise ValueError(
            f"nothing was published: what would be holds what must not leave this machine:\n  {listed}{more}\n"
            "Take it out of the recipe, or of the data, and train again; what is harmless goes with --allow TEXT"
        )


def leaks(
    folder: Path, machine: Machine, *, words: Collection[str] = (), allowed: Collection[str] = (), owner: str = ""
) -> Iterator[str]:
    """What must not leave, a line each: the file, its line, what it is.

    Looks into every text, and into the headers of safetensors and pictures: for tokens of common services, values of secret
    variables, absolute paths, the user's and the machine's name.

    words: others that must not appear, such as names of private columns. allowed: texts that may. owner: of the repository, whose
    name is no secret.
    """
    looked_for = _looked_for(machine, words, owner)
    for path in sorted(path for path in folder.rglob("*") if not path.is_dir()):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink() or path.suffix not in ALLOWED:
            yield f"{name}: a link, or no file of a published model ({', '.join(ALLOWED)})"
            continue
        if path.suffix == ".safetensors":
            yield from (f"{name}: the tensor {tensor!r} is of an optimizer" for tensor in tensors(path) if OPTIMIZER.search(tensor))
        for number, line in enumerate(texts(path), 1):
            for what, pattern in looked_for:
                if any(match[0] not in allowed for match in pattern.finditer(line)):
                    yield f"{name}, line {number}: {what}"
            yield from (f"{name}, line {number}: the path {found}" for found in machine.paths(line) if found not in allowed)


def _looked_for(machine: Machine, words: Collection[str], owner: str) -> list[tuple[str, re.Pattern[str]]]:
    """What is looked for in every line, and what to call it. A secret is not told."""
    found = [(what, re.compile(pattern)) for what, pattern in TOKENS.items()]
    secrets = [(what, value) for what, value in machine.secrets.items() if len(value) >= SHORTEST]
    found += [(f"the value of {what}", re.compile(re.escape(value))) for what, value in secrets]
    if machine.home not in ("", "/"):
        found.append(("the home folder", re.compile(re.escape(machine.home) + r"(?![\w-])")))
    names = {"the user's name": machine.user, "the machine's name": machine.host}
    for what, name in names.items():
        if len(name) > 2 and name.lower() not in {*EVERYBODY, "localhost", owner.lower()}:
            found.append((f"{what}, {name}", _word(name)))
    return [*found, *((f"the private word {word!r}", _word(word)) for word in words)]


def _word(text: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(text)}(?!\w)", re.IGNORECASE)


def texts(path: Path) -> Sequence[str]:
    """The lines of a text; the header of a safetensors file; the texts of a picture. JSON also without its escapes."""
    if path.suffix == ".safetensors":
        return [json.dumps(header(path), ensure_ascii=False)]
    if path.suffix == ".png":
        return _png_texts(path.read_bytes())
    lines = path.read_text(encoding="utf-8").splitlines()
    if path.suffix == ".json" and any("\\" in line for line in lines):
        lines += json.dumps(json.loads("\n".join(lines)), ensure_ascii=False, indent=1).splitlines()
    return lines


def header(path: Path) -> dict[str, object]:
    """The header of a safetensors file: its metadata, and the place of every tensor."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        found: dict[str, object] = json.loads(file.read(length))
    return found


def tensors(path: Path) -> list[str]:
    """The names of the tensors in a safetensors file."""
    return [name for name in header(path) if name != "__metadata__"]


def _png_texts(content: bytes) -> list[str]:
    """The chunks of a PNG that are no pixels."""
    found, place = [], 8
    while place + 8 <= len(content):
        length, kind = struct.unpack(">I4s", content[place : place + 8])
        if kind not in (b"IHDR", b"IDAT", b"IEND", b"PLTE"):
            found.append(content[place + 8 : place + 8 + length].decode("latin-1"))
        place += 12 + length
    return found
