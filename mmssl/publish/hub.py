"""Sending a folder to the Hub in one commit, so that a reader sees all of it or nothing."""

from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalTokenNotFoundError

LOG_IN = "log in with a token that may write (hf auth login), or set HF_TOKEN"
EXISTS = "exists already; give another name, or add a commit to it with --update"


@dataclass(frozen=True)
class Target:
    """A repository of models that may be written to. exists: whether it is there already."""

    api: HfApi
    repo: str
    exists: bool

    @property
    def owner(self) -> str:
        """Whose it is."""
        return self.repo.partition("/")[0]


def open_target(repo: str, *, update: bool) -> Target:
    """Look whether a repository can be written, before anything is done.

    repo: owner/name; without an owner that of the token. update: it may exist already.
    ValueError for a name that the Hub refuses, PermissionError without a good token, FileExistsError if it is there.
    """
    api = HfApi(library_name="mmssl", library_version=version("mmssl"))
    try:
        who: str = api.whoami()["name"]
        name = repo if "/" in repo else f"{who}/{repo}"
        exists = api.repo_exists(name)
    except HFValidationError as error:
        raise ValueError(f"nothing was published: a repository is called owner/name; {error}") from None
    except LocalTokenNotFoundError:
        raise PermissionError(f"nothing was published: there is no token for {api.endpoint}; {LOG_IN}") from None
    except HfHubHTTPError as error:
        raise _refused(error, repo, api) from error
    except Exception as error:  # what the library raises without a connection differs by its version
        raise ConnectionError(f"nothing was published: {api.endpoint} cannot be reached: {_told(error)}") from error
    if exists and not update:
        raise FileExistsError(f"nothing was published: {name} {EXISTS}")
    return Target(api, name, exists)


def upload(target: Target, folder: Path, *, private: bool, message: str) -> str:
    """Send all files of a folder in one commit, and look whether they arrived; returns the address of the commit.

    `upload_folder` cuts a slow upload into several commits, between which a reader finds a model without weights. A repository
    that was made for it is deleted where the upload breaks. OSError that says what broke.
    """
    api, repo = target.api, target.repo
    if not target.exists:
        try:
            api.create_repo(repo, private=private or None)
        except HfHubHTTPError as error:
            raise _refused(error, repo, api) from error
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    try:
        added = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in names]
        done = api.create_commit(repo, added, commit_message=message)
        arrived = set(api.list_repo_files(repo, revision=done.oid))
        if lacking := [name for name in names if name not in arrived]:
            raise OSError(f"it has not got {', '.join(lacking)}")
    except BaseException as error:
        left = "it is as it was" if target.exists else _undone(api, repo)
        if not isinstance(error, Exception):
            raise
        if isinstance(error, HfHubHTTPError) and error.response.status_code in (401, 403):
            raise _refused(error, repo, api) from error
        raise OSError(f"the upload to {repo} broke: {_told(error)}; {left}. Run the same command again") from error
    return str(done.commit_url)


def _undone(api: HfApi, repo: str) -> str:
    """Delete the repository that this process made a moment ago; what became of it, in words."""
    with suppress(Exception):  # the first error is the one to tell
        api.delete_repo(repo, missing_ok=True)
        return "nothing of it is left there"
    return f"an empty repository of that name is left there: delete it at {api.endpoint}/{repo}/settings"


def _refused(error: HfHubHTTPError, repo: str, api: HfApi) -> OSError:
    """What to tell of an answer of the Hub."""
    code = error.response.status_code
    if code == 409:
        return FileExistsError(f"nothing was published: {repo} {EXISTS}")
    if code in (401, 403):
        return PermissionError(
            f"nothing was published: {api.endpoint} does not let this token write to {repo} ({code}); {LOG_IN}; look at the owner"
        )
    return OSError(f"nothing was published: {api.endpoint} refused {repo}: {_told(error)}")


def _told(error: BaseException) -> str:
    """An error in one line, and what caused it."""
    cause = f" ({_told(error.__cause__)})" if error.__cause__ is not None else ""
    return (" ".join(str(error).split()) or type(error).__name__) + cause
