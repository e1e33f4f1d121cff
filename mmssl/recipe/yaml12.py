"""YAML 1.2 as plain data, from texts that nobody vouches for: no tags, no repeated keys, no bombs."""

import re
import sys
from dataclasses import dataclass
from typing import Any

import yaml

MAX_CHARS, MAX_NODES, MAX_DEPTH = 200_000, 50_000, 50
"""Limits on a text, on its values with all aliases written out, and on their nesting."""

_CORE_SCALARS = {
    "bool": ("true|True|TRUE|false|False|FALSE", "tTfF"),
    "int": ("[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", "-+0123456789"),
    "float": (
        r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?|[-+]?\.(?:inf|Inf|INF)|\.(?:nan|NaN|NAN)",
        "-+.0123456789",
    ),
    "null": ("~|null|Null|NULL|", ["~", "n", "N", ""]),
}
"""Scalars of YAML 1.2, core schema (yaml.org/spec/1.2.2, section 10.3.2). PyYAML's YAML 1.1 has `1e-3` as text, `on` as true."""


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 (the name and the type are PyYAML's)


class _Dumper(yaml.SafeDumper):
    """Quotes what YAML 1.1 or 1.2 would take for something other than text."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: _Dumper, value: str) -> yaml.ScalarNode:
    """Double quotes around the line breaks that PyYAML would write as they are, and read back as spaces."""
    quoted = any(character in value for character in "\x85\u2028\u2029")
    return dumper.represent_scalar("tag:yaml.org,2002:str", value, '"' if quoted else None)


_Dumper.add_representer(str, _text)
for _name, (_pattern, _first) in _CORE_SCALARS.items():
    _Loader.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), _first)
    _Dumper.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), _first)


def parse(text: str, where: str) -> Any:
    """The value of a YAML text: dicts, lists, text, numbers, true, false and null. ValueError, with the line, otherwise."""
    if len(text) > MAX_CHARS:
        raise ValueError(f"{where}: the text may have {MAX_CHARS} characters; it has {len(text)}")
    try:
        node = yaml.compose(text, _Loader)
    except yaml.MarkedYAMLError as error:
        assert error.problem_mark is not None
        tab = "\\t" in str(error.problem)
        problem = "YAML cannot be indented with tabs; use spaces" if tab else error.problem
        raise ValueError(f"{where}, line {error.problem_mark.line + 1}: {problem}") from None
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: {str(error).splitlines()[0]}") from None
    except RecursionError:
        raise ValueError(f"{where}: nested too deeply") from None
    except (ValueError, OverflowError) as error:  # PyYAML leaks those of chr() and int(), for "\\UFFFFFFFF" among others
        raise ValueError(f"{where}: {error}") from None
    return None if node is None else _Reading(where).value(node)


@dataclass
class _Reading:
    """YAML nodes to values."""

    where: str
    nodes: int = 0

    def error(self, node: yaml.Node, text: str) -> ValueError:
        return ValueError(f"{self.where}, line {node.start_mark.line + 1}: {text}")

    def value(self, node: yaml.Node, depth: int = 0) -> Any:
        self.nodes += 1
        if self.nodes > MAX_NODES:
            raise self.error(node, f"more than {MAX_NODES} values, aliases written out")
        if depth > MAX_DEPTH:
            raise self.error(node, "nested too deeply, or an anchor that contains itself")
        kind = node.tag.removeprefix("tag:yaml.org,2002:")
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self.mapping(node, depth)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.value(item, depth + 1) for item in node.value]
        if isinstance(node, yaml.ScalarNode) and (kind == "str" or kind in _CORE_SCALARS):
            return self.scalar(node, kind)
        raise self.error(node, f"the tag {node.tag!r} is not allowed: write plain data")

    def mapping(self, node: yaml.MappingNode, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = self.value(key_node, depth + 1)
            if not isinstance(key, str):
                raise self.error(key_node, f"a key must be text, got {key!r}; put it in quotes")
            if key in found:
                raise self.error(key_node, f"the key {key!r} is given twice")
            found[key] = self.value(value_node, depth + 1)
        return found

    def scalar(self, node: yaml.ScalarNode, kind: str) -> Any:
        text = node.value
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise self.error(node, "half of a surrogate pair is not text")
        if kind != "str" and not re.fullmatch(_CORE_SCALARS[kind][0], text):
            raise self.error(node, f"{text[:60]!r} is not of the type !!{kind}")
        if kind == "int":
            base = {"0o": 8, "0x": 16}.get(text[:2], 10)
            if len(text) > 100:
                raise self.error(node, f"the number {text[:60]!r} has too many digits")
            return int(text, base)
        if kind == "float":
            return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
        return {"str": text, "bool": text.lower() == "true", "null": None}[kind]


def line(value: Any) -> str:
    """A value on one line of YAML, which `parse` reads back."""
    text = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=sys.maxsize, default_flow_style=True)
    return text.removesuffix("...\n").rstrip("\n")


def dump(data: dict[str, Any]) -> str:
    """The YAML text of plain data, which `parse` reads back."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
