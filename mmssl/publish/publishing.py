"""Publishing a run: assembled, loaded again and compared, searched for what must not leave, and only then sent."""

import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mmssl import files
from mmssl.publish.adapters import assemble_adapter, base_of, check_adapter
from mmssl.publish.bundle import assemble
from mmssl.publish.card import Licence
from mmssl.publish.check import Mode, check_reload, outputs_of
from mmssl.publish.chosen import Weights, chosen, open_run, sample_inputs
from mmssl.publish.hub import Target, open_target, upload
from mmssl.publish.local import Machine
from mmssl.publish.scan import check_nothing_leaks


@dataclass(frozen=True)
class Pushed:
    """What `push` did. place: the address of the commit, or the folder. kind: student, teacher or average, where that is known.

    names: of the files. difference: the largest one between outputs here and in a fresh process. notes: what a user should know.
    """

    place: str
    kind: str | None
    names: tuple[str, ...]
    difference: float
    notes: tuple[str, ...]


def push(
    run: str | Path,
    repo: str | None = None,
    *,
    folder: str | Path | None = None,
    weights: Weights = "published",
    license: str | None = None,
    license_name: str | None = None,
    license_link: str | None = None,
    private: bool = False,
    update: bool = False,
    with_code: bool = True,
    adapter: bool = False,
    words: Collection[str] = (),
    allowed: Collection[str] = (),
) -> Pushed:
    """Publish the model of a run on the Hub, or write what would be published to a folder.

    run: folder of a run. repo: owner/name, or the name alone. folder: in the place of a repository.
    weights: student, teacher or average; published: the one that the run chose.
    license, license_name, license_link: as the Hub's metadata have them. private: only its owners see a new repository.
    update: the repository, or the folder, may exist already. with_code: bring code by which transformers loads it without mmssl.
    adapter: only what adapters learned, as a repository of the peft library, whose base is a model of the Hub.
    words: texts that must not be in it. allowed: texts that may, though they look like paths or secrets.

    ValueError, OSError, RuntimeError with the reason where something is in the way: then nothing is published.
    """
    if (repo is None) == (folder is None):
        raise ValueError("give either a repository of the Hub, or a folder with --dir FOLDER")
    licence, own = Licence(key=license, name=license_name, link=license_link), open_run(run)
    target = None if repo is None else open_target(repo, update=update)
    place = None if folder is None else Path(folder)
    if place is not None and place.exists() and not update:
        raise FileExistsError(f"{place} exists already; give another folder, or replace it with --update")
    if adapter:
        base_of(own)
        if weights != "published":
            raise ValueError("--adapter pushes what the run published; leave --weights out")
    found, machine = chosen(own, weights), Machine.here()
    inputs, note = sample_inputs(own, found)
    name = own.folder.resolve().name if target is None else target.repo.partition("/")[2]
    with TemporaryDirectory(prefix="mmssl-push-") as temporary:
        made = Path(temporary) / "model"
        made.mkdir()
        said: dict[str, Any] = {"name": name, "repo": target.repo if target else None, "licence": licence}
        asked = list[str]()
        if adapter:
            assemble_adapter(made, own, found, machine, **said)
            difference = check_adapter(made, found, inputs)
        else:
            asked = assemble(made, own, found, machine, with_code=with_code, **said)
            expected = outputs_of(found.model, inputs)
            modes: tuple[Mode, ...] = ("mmssl", "alone") if with_code else ("mmssl",)
            difference = max(check_reload(made, inputs, expected, mode) for mode in modes)
        check_nothing_leaks(made, machine, words=words, allowed=allowed, owner=target.owner if target else "")
        names = tuple(sorted(path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file()))
        where = _put(made, place) if place is not None else _send(made, target, private, name)
    notes = (
        *([note] if note else []),
        *asked,
        *([] if license else ["no licence is set: without one nobody may use it (--license)"]),
    )
    return Pushed(where, found.kind, names, difference, notes)


def _put(made: Path, place: Path) -> str:
    """Copy the folder to its place, whole or not at all."""
    with files.new_folder(place) as new:
        shutil.copytree(made, new, dirs_exist_ok=True)
    return str(place)


def _send(made: Path, target: Target | None, private: bool, name: str) -> str:
    assert target is not None
    return upload(target, made, private=private, message=f"Publish {name} with mmssl")
