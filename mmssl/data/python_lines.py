"""Lines of Python's own library in words, with what each word is: real text whose tags are exact, as its grammar gives them."""

import ast
import io
import keyword
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from mmssl.data.tables import Row, RowTable, Table

MODULES = (
    *("argparse", "bdb", "calendar", "cmd", "codeop", "configparser", "contextlib", "copy", "csv", "dataclasses", "difflib"),
    *("fileinput", "gettext", "glob", "gzip", "imaplib", "inspect", "mailbox", "pickle"),
    *("poplib", "profile", "queue", "random", "sched", "shelve", "shutil", "smtplib", "socketserver"),
    *("string", "tarfile", "textwrap", "threading", "timeit", "trace", "uuid"),
)
TESTED = 5
"""One in so many modules is in the test split: its names are mostly its own."""
EACH = 60
"""Lines of a module: the first ones that have enough words."""
FEWEST, MOST = 4, 40
"""Words of a line."""
KINDS = {tokenize.NUMBER: "number", tokenize.STRING: "string", tokenize.OP: "sign"}
BEHIND = {"def": "function", "class": "class"}

Place = tuple[int, int]


def python_table(split: str | None) -> Table:
    """`words`, `tags` and the `module` of each line."""
    numbers = range(len(MODULES))
    wanted = [number for number in numbers if split is None or (number % TESTED == TESTED - 1) == (split == "test")]
    return RowTable([row for number in wanted for row in lines_of(MODULES[number])], "tags")


@cache
def lines_of(module: str) -> tuple[Row, ...]:
    """Lines of a module; none where this Python has no such file, or it is not plain ASCII."""
    library = Path(ast.__file__).parent
    found = [file for file in (library / f"{module}.py", library / module / "__init__.py") if file.is_file()]
    source = found[0].read_bytes() if found else b""
    if not source.isascii():
        return ()
    rows = (line for line in tagged(source.decode()) if FEWEST <= len(line) <= MOST)
    return tuple(
        {"words": [word for word, _ in line], "tags": [tag for _, tag in line], "module": module}
        for line, _ in zip(rows, range(EACH), strict=False)
    )


def tagged(source: str) -> Iterator[list[tuple[str, str]]]:
    """The words of each logical line with their tags; lines with comments, or with text of several words, are left out."""
    known, line, good = names_of(ast.parse(source)), list[tuple[str, str]](), True
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.NEWLINE:
            if good and line:
                yield line
            line, good = [], True
        elif token.type not in (tokenize.NL, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER):
            good = good and len(token.string.split()) == 1 and token.type in (*KINDS, tokenize.NAME)
            before = line[-1][0] if line else ""
            line.append((token.string, BEHIND.get(before) or tag(token, known)))


def tag(token: tokenize.TokenInfo, known: dict[Place, str]) -> str:
    """What a token is."""
    if token.type != tokenize.NAME:
        return KINDS.get(token.type, "other")
    return "keyword" if keyword.iskeyword(token.string) else known.get(token.start, "variable")


def names_of(tree: ast.AST) -> dict[Place, str]:
    """What names are that are no plain variables, by where they begin (line and column)."""
    found: dict[Place, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.arg):
            found[node.lineno, node.col_offset] = "parameter"
        elif isinstance(node, ast.keyword) and node.arg is not None:
            found[node.lineno, node.col_offset] = "keyword argument"
        elif isinstance(node, ast.Attribute):
            found.setdefault(end_of(node), "attribute")
        elif isinstance(node, ast.alias):
            found[node.lineno, node.col_offset] = "import"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            found[node.func.lineno, node.func.col_offset] = "call"
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            found[end_of(node.func)] = "method call"
    return found


def end_of(node: ast.Attribute) -> Place:
    """Where the name of an attribute begins."""
    assert node.end_lineno is not None and node.end_col_offset is not None
    return node.end_lineno, node.end_col_offset - len(node.attr)
