"""Every Python and shell block of README.md and docs/ runs as printed.

The blocks of a page run in order, in one folder that holds `recipes/` and what `make quickstart` leaves behind (trained for a few
steps). Python blocks share a namespace. In a `console` block the lines after `$ ` are commands, the others show output. A block
that cannot run here says so to the reader of the source, with the reason, on the line above its fence:

    <!-- not run: needs a GPU -->
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "tutorials").glob("*.md"))]
QUICKSTART_STEPS = 3

FENCE = re.compile(
    r"^(?:<!-- not run: (?P<reason>.+?) -->\n)?```(?P<language>python|bash|console)\n(?P<code>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its code, the line of its first line of code, and why it does not run (None: it does)."""

    language: str
    code: str
    line: int
    reason: str | None

    def run(self, page: str, folder: Path, namespace: dict[str, Any], commands: Path | None = None) -> None:
        """Run in `folder`, which must be the working directory; a failure names the page and the line.

        commands: a folder in which the shell finds commands before all others.
        """
        if self.language == "python":
            # The newlines make tracebacks name the line of the page.
            exec(compile("\n" * (self.line - 1) + self.code, page, "exec"), namespace)
        else:
            self.run_shell(page, folder, commands)

    def run_shell(self, page: str, folder: Path, commands: Path | None = None) -> None:
        packages, found = str(folder / "packages"), [str(commands)] if commands else []
        environment = os.environ | {
            "PATH": os.pathsep.join([*found, str(Path(sys.executable).parent), os.environ["PATH"]]),
            # What a page installs stays in its folder, and comes from there: tests have no network.
            "PYTHONPATH": os.pathsep.join([packages, *filter(None, [os.environ.get("PYTHONPATH")])]),
            "PIP_TARGET": packages,
            "PIP_NO_DEPS": "1",
            "PIP_NO_INDEX": "1",
            "PIP_NO_BUILD_ISOLATION": "0",  # pip reads it as the value of build_isolation
        }
        command = ["bash", "-euo", "pipefail", "-c", self.commands()]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{page}:{self.line}: exit status {done.returncode}\n{self.code}\n{done.stdout}\n{done.stderr}"

    def commands(self) -> str:
        """The shell code of a block."""
        if self.language == "bash":
            return self.code
        return "".join(line.removeprefix("$ ") for line in self.code.splitlines(keepends=True) if line.startswith("$ "))


def blocks(text: str) -> list[Block]:
    """All Python and shell blocks of a page, in order."""
    return [
        Block(match["language"], match["code"], text.count("\n", 0, match.start("code")) + 1, match["reason"])
        for match in FENCE.finditer(text)
    ]


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that a reader has after `make quickstart`."""
    folder = tmp_path_factory.mktemp("quickstart")
    shutil.copytree(ROOT / "recipes", folder / "recipes")
    train = f"mmssl train recipes/quickstart.yaml train.max_steps={QUICKSTART_STEPS}"
    Block("bash", train, 1, None).run_shell("make quickstart", folder)
    return folder


@pytest.fixture(scope="module")
def warm() -> Iterator[Path]:
    """A folder with the command `mmssl` that pays for its imports once; see warm.py."""
    with tempfile.TemporaryDirectory(prefix="mmssl-") as folder:  # of a short name: sockets have no longer ones
        command = [sys.executable, str(Path(__file__).with_name("warm.py")), folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            yield Path(folder)
            server.kill()


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # peft asks for it
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_of_page_runs(page: Path, quickstart: Path, warm: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = None if page.name == "README.md" else warm  # which a newcomer reads first: as he starts them
    folder = shutil.copytree(quickstart, tmp_path / "folder")
    monkeypatch.chdir(folder)
    namespace: dict[str, Any] = {"__name__": page.stem}
    for block in blocks(page.read_text(encoding="utf-8")):
        if block.reason is None:
            block.run(page.name, folder, namespace, commands)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_fence_of_a_runnable_language_is_recognised(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    opened = re.findall(r"^\s*(?:```|~~~)\W*(?:py|python|python3|pycon|sh|shell|bash|console)\b", text, re.MULTILINE)
    advice = "open code with ```python, ```bash or ```console at the start of a line, nothing after it"
    assert len(opened) == len(blocks(text)), advice


SAMPLE = """\
# Title

```python
x = 1
```

```yaml
x: 2
```

<!-- not run: needs a GPU -->
```bash
make fast
```

```console
$ echo one
one
$ echo two
two
```
"""


def test_blocks_are_found_with_their_lines_and_reasons() -> None:
    assert blocks(SAMPLE) == [
        Block("python", "x = 1\n", 4, None),
        Block("bash", "make fast\n", 13, "needs a GPU"),
        Block("console", "$ echo one\none\n$ echo two\ntwo\n", 17, None),
    ]
    assert blocks(SAMPLE)[2].commands() == "echo one\necho two\n"


def test_failure_in_a_block_names_page_and_line(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        Block("python", "x = 1\n1 / 0\n", 40, None).run("page.md", tmp_path, {})
    assert (caught.traceback[-1].path, caught.traceback[-1].lineno + 1) == ("page.md", 41)
    with pytest.raises(AssertionError, match=r"page\.md:7: exit status 3"):
        Block("bash", "exit 3\n", 7, None).run("page.md", tmp_path, {})
