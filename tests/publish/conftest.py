"""A small server that speaks as much of the Hub's HTTP API as the client library needs, and runs to publish."""

import base64
import hashlib
import json
import os
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import huggingface_hub.constants
import huggingface_hub.hf_api
import pytest
import torch

from mmssl import api
from mmssl.training.run import Run

TOKEN = "hf_" + "testtoken" * 4
"""Of the one user that the server knows, `anna`; in this form no token of anybody."""


@dataclass
class Repository:
    """files: of each commit, the newest last."""

    private: bool = False
    commits: list[dict[str, bytes]] = field(default_factory=lambda: [{}])


@dataclass
class Hub:
    """What the server holds, and what it refuses.

    break_at: (method, part of a path) of requests that are answered with 500. forbidden: owners that the token may not write to.
    seen: all requests.
    """

    url: str = ""
    repos: dict[str, Repository] = field(default_factory=dict)
    blobs: dict[str, bytes] = field(default_factory=dict)
    break_at: tuple[str, str] | None = None
    forbidden: set[str] = field(default_factory=lambda: {"other"})
    seen: list[str] = field(default_factory=list)

    def put(self, repo: str, files: dict[str, bytes]) -> None:
        """A repository that is there already."""
        self.repos[repo] = Repository(commits=[{}, files])

    def files(self, repo: str) -> dict[str, bytes]:
        """Those of the newest commit."""
        return self.repos[repo].commits[-1]


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def answer(self, code: int, content: Any = None, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content if content is not None else {}).encode()
        self.send_response(code)
        for name, value in {"Content-Type": "application/json", **(headers or {}), "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def fail(self, code: int, kind: str, message: str) -> None:
        self.answer(code, {"error": message}, {"X-Error-Code": kind, "X-Error-Message": message})

    def handle_any(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlparse(self.path).path)
        self.hub.seen.append(f"{self.command} {path}")
        if self.hub.break_at and self.command == self.hub.break_at[0] and self.hub.break_at[1] in path:
            self.fail(500, "Broken", "the server broke on purpose")
            return
        if self.command == "PUT" and path.startswith("/lfs/"):
            self.hub.blobs[path.removeprefix("/lfs/")] = body
            self.answer(200)
        elif path == "/api/whoami-v2":
            self.answer(200, {"type": "user", "name": "anna", "orgs": []}) if self.may else self.fail(401, "", "Invalid token")
        elif path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif path == "/api/repos/create":
            self.create(json.loads(body))
        elif path == "/api/repos/delete":
            asked = json.loads(body)
            self.hub.repos.pop(f"{asked['organization']}/{asked['name']}")
            self.answer(200)
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/\w+", path):
            files = [
                {"path": each["path"], "uploadMode": "lfs" if each["path"].endswith("s") else "regular", "shouldIgnore": False}
                for each in json.loads(body)["files"]
            ]
            self.answer(200, {"files": files})
        elif match := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            objects = [
                {**each, "actions": {"upload": {"href": f"{self.hub.url}/lfs/{each['oid']}"}}}
                for each in json.loads(body)["objects"]
            ]
            self.answer(200, {"transfer": "basic", "objects": objects})
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/\w+", path):
            self.commit(match[1], body)
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/\w+", path):
            files = self.hub.files(match[1])
            self.answer(
                200, [{"type": "file", "path": name, "size": len(data), "oid": digest(data)} for name, data in files.items()]
            )
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/\w+)?", path):
            if match[1] in self.hub.repos:
                siblings = [{"rfilename": name} for name in self.hub.files(match[1])]
                self.answer(200, {"id": match[1], "sha": "0" * 40, "private": False, "siblings": siblings, "tags": []})
            else:
                self.fail(404, "RepoNotFound", "Repository not found")
        elif match := re.fullmatch(r"/((?:datasets/)?[^/]+/[^/]+)/resolve/\w+/(.+)", path):
            self.resolve(match[1], match[2])
        else:
            self.fail(404, "EntryNotFound", f"the server of the tests does not know {path}")

    do_GET = do_POST = do_PUT = do_DELETE = do_HEAD = handle_any

    @property
    def may(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def create(self, asked: dict[str, Any]) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if not self.may or asked["organization"] in self.hub.forbidden:
            self.fail(403, "", "You don't have the rights to create a model under this namespace")
        elif name in self.hub.repos:
            self.fail(409, "", "You already created this model repo")
        else:
            self.hub.repos[name] = Repository(asked.get("visibility") == "private" or bool(asked.get("private")))
            self.answer(200, {"url": f"{self.hub.url}/{name}", "id": name})

    def commit(self, repo: str, body: bytes) -> None:
        files = dict(self.hub.files(repo))
        for line in body.splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                files[value["path"]] = self.hub.blobs[value["oid"]]
        self.hub.repos[repo].commits.append(files)
        oid = f"{len(self.hub.repos[repo].commits):040d}"
        self.answer(200, {"commitUrl": f"{self.hub.url}/{repo}/commit/{oid}", "commitOid": oid, "success": True})

    def resolve(self, repo: str, name: str) -> None:
        if repo not in self.hub.repos:
            self.fail(404, "RepoNotFound", "Repository not found")
        elif name not in self.hub.files(repo):
            self.fail(404, "EntryNotFound", "Entry not found")
        else:
            data = self.hub.files(repo)[name]
            self.answer(200, data, {"ETag": f'"{digest(data)}"', "X-Repo-Commit": "0" * 40})


def digest(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    """The server, and a client library that talks to it as `anna`."""
    found = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Own", (Handler,), {"hub": found}))
    server.daemon_threads = True
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    constants = huggingface_hub.constants
    for name, value in {
        "ENDPOINT": found.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": found.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_OFFLINE": False,
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", found.url)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


RECIPE = """
modalities:
  image: {processor: {size: 8, channels: 1}, adapter: {patch_size: 4}}
encoder: {hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2}
objective: {name: jepa, predictor: {name: transformer, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2}}
data: {path: "bundled:digits", limit: 64}
train: {batch_size: 16, max_steps: 6, log_every: 2, lr: 0.01, precision: fp32}
evaluate: {train_limit: 64, test_limit: 32}
"""


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with a student and a teacher, scored, in a folder whose path is nobody's business."""
    here, folder = Path.cwd(), tmp_path_factory.mktemp("private")
    (folder / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    threads = torch.get_num_threads()
    os.chdir(folder)
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mmssl.training.session.Session.pictures", lambda *given: {})
        made = api.train(folder / "tiny.yaml", [f"run.dir={folder}/runs", "run.name=tiny"])
    torch.set_num_threads(threads)
    os.chdir(here)
    return made
