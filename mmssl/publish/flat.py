"""Some classes of a package with all that they need of it, as files of one flat folder: what transformers' remote code is made of.

Sources are read, never run. Of each module that is needed those statements stay that define a name which is needed, and imports of
the package become `from .x import y`. Types in signatures go, and with them the packages that they come from.
"""

import ast
from collections.abc import Collection, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path

SHAPES = "jaxtyping"
"""The package whose types say the shapes of arrays: of `Float[Tensor, "b d"]` the array stays."""

Names = dict[str, list[ast.stmt]]


class Module:
    """A module's statements by the names that they define; imports of a name stand alone."""

    def __init__(self, name: str, source: str) -> None:
        self.name = name
        tree = ast.parse(source)
        self.doc = ast.get_docstring(tree)
        shapes = {
            alias.asname or alias.name
            for node in tree.body
            if isinstance(node, ast.ImportFrom) and node.module == SHAPES
            for alias in node.names
        }
        tree = ast.fix_missing_locations(Untyped(shapes).visit(tree))
        self.body: list[ast.stmt] = [part for node in tree.body for part in _apart(node)]
        self.names: Names = {}
        for node in self.body:
            for defined in _defined(node):
                self.names.setdefault(defined, []).append(node)


class Untyped(ast.NodeTransformer):
    """Takes types out of signatures and assignments, and shapes out of those of a class's fields."""

    def __init__(self, shapes: Collection[str]) -> None:
        self.shapes, self.in_class = shapes, False

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        before, self.in_class = self.in_class, True
        self.generic_visit(node)
        self.in_class = before
        node.body = node.body or [ast.Pass()]
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        before, self.in_class = self.in_class, False
        node.returns = None
        self.generic_visit(node)
        self.in_class = before
        node.body = node.body or [ast.Pass()]
        return node

    def visit_arg(self, node: ast.arg) -> ast.AST:
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        self.generic_visit(node)
        if self.in_class:
            return node
        return None if node.value is None else ast.Assign(targets=[node.target], value=node.value)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        self.generic_visit(node)
        if isinstance(node.value, ast.Name) and node.value.id in {*self.shapes, "Annotated"} and isinstance(node.slice, ast.Tuple):
            return node.slice.elts[0]
        return node


def _apart(node: ast.stmt) -> Iterator[ast.stmt]:
    """An import of several names as one of each."""
    if isinstance(node, ast.Import):
        yield from (ast.Import(names=[alias]) for alias in node.names)
    elif isinstance(node, ast.ImportFrom):
        yield from (ast.ImportFrom(module=node.module, names=[alias], level=node.level) for alias in node.names)
    else:
        yield node


def _defined(node: ast.stmt) -> set[str]:
    """The names that a statement at the top of a module gives a value."""
    match node:
        case ast.Import(names=[alias]):
            return {alias.asname or alias.name.partition(".")[0]}
        case ast.ImportFrom(names=[alias]):
            return {alias.asname or alias.name}
        case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            return {name}
    return {part.id for part in ast.walk(node) if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)}


def _used(node: ast.AST) -> Iterator[str]:
    """The names that a statement reads, at any depth."""
    for part in ast.walk(node):
        if isinstance(part, ast.Name):
            yield part.id
        elif isinstance(part, ast.Constant) and isinstance(part.value, str) and part.value.isidentifier():
            yield part.value  # a class that a type names before it is there; others are no names of the module


class Flat:
    """The flat form of what `add` asks for.

    ours: top packages that become files; imports of others stay. replaced: sources that stand for those of modules. cut: changes a
    module's tree before it is read. titles: names of files, for modules that have a usual one.
    """

    def __init__(
        self, ours: Collection[str], replaced: Mapping[str, str], cut: ast.NodeTransformer, titles: Mapping[str, str]
    ) -> None:
        self.ours, self.replaced, self.cut, self.titles = set(ours), replaced, cut, titles
        self.modules: dict[str, Module] = {}
        self.kept: dict[str, set[int]] = {}
        self.done: set[tuple[str, str]] = set()

    def title(self, module: str) -> str:
        """The name of a module's file, without its suffix."""
        return self.titles.get(module, module.replace(".", "_"))

    def module(self, name: str) -> Module:
        """A module's statements. LookupError if there is no source of it."""
        if name not in self.modules:
            source = self.replaced.get(name)
            if source is None:
                spec = find_spec(name)
                if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
                    raise LookupError(f"there is no source of the module {name!r}")
                source = Path(spec.origin).read_text(encoding="utf-8")
            tree = ast.fix_missing_locations(self.cut.visit(ast.parse(source)))
            self.modules[name] = Module(name, ast.unparse(tree))
            self.kept[name] = set()
        return self.modules[name]

    def add(self, module: str, name: str) -> None:
        """Ask for a name of a module, and with it for all that it reads. LookupError if there is none."""
        asked = [(module, name)]
        while asked:
            place = asked.pop()
            if place in self.done:
                continue
            self.done.add(place)
            found = self.module(place[0])
            if place[1] not in found.names:
                raise LookupError(f"the module {place[0]!r} has no {place[1]!r} to make flat; import it from where it is defined")
            for node in found.names[place[1]]:
                if id(node) not in self.kept[found.name]:
                    self.kept[found.name].add(id(node))
                    asked += self.needs(found, node)

    def needs(self, module: Module, node: ast.stmt) -> Iterator[tuple[str, str]]:
        """The names of modules that a statement reads."""
        for name in _used(node):
            if name in module.names:
                yield module.name, name
        for part in ast.walk(node):
            if isinstance(part, ast.ImportFrom) and self.is_ours(part):
                assert part.module is not None
                yield from ((part.module, alias.name) for alias in part.names)

    def is_ours(self, node: ast.ImportFrom) -> bool:
        """Whether an import is of one of the packages that become files."""
        assert node.level == 0, "the packages import by full names"
        return (node.module or "").partition(".")[0] in self.ours

    def files(self, header: str) -> dict[str, str]:
        """The files by their names, each opened by `header`."""
        return {f"{self.title(name)}.py": self.source(name, header) for name, kept in self.kept.items() if kept}

    def source(self, name: str, header: str) -> str:
        """The text of a module with what is kept of it, its imports first."""
        module = self.modules[name]
        body = [node for node in module.body if id(node) in self.kept[name]]
        parts = [*([ast.Expr(ast.Constant(module.doc))] if module.doc else []), *body]
        tree = ast.Module(body=[self.relative(node) for node in parts], type_ignores=[])
        return f"{header}\n{ast.unparse(ast.fix_missing_locations(tree))}\n"

    def relative(self, node: ast.stmt) -> ast.stmt:
        """A statement whose imports of our packages are those of the folder."""
        for part in ast.walk(node):
            if isinstance(part, ast.ImportFrom) and part.level == 0 and self.is_ours(part):
                part.module, part.level = self.title(part.module or ""), 1
        return node
