"""Changes values of a YAML file in its text, so that comments, order and layout stay as their author wrote them."""

import json
from collections.abc import Mapping
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, SequenceNode

from diffalign.core import yaml_file


def changed(text: str, values: Mapping[str, Any]) -> str:
    """Returns YAML text with other values at dotted paths; a comment behind a value keeps its column.

    A value becomes text on one line; a mapping or a list replaces all that was there. A key that its section lacks is
    added at the section's end. Raises KeyError where there's no such section.
    """
    for path, value in values.items():
        node: Node = YAML(typ="safe", pure=True).compose(text)
        *above, key = path.split(".")
        for name in above:
            node = child(node, name)
        text = replaced(text, child(node, key), value) if has(node, key) else added(text, node, key, value)
    return text


def replaced(text: str, node: Node, value: Any) -> str:
    """Returns the text with another value in a node's place."""
    start, end = node.start_mark.index, last(node)
    new = one_line(value)
    return text[:start] + new + aligned(text[end:], len(new) - (end - start))


def added(text: str, section: Node, key: str, value: Any) -> str:
    """Returns the text with one more key of a section; raises KeyError where that is none."""
    if not isinstance(section, MappingNode):
        raise KeyError(key)
    entry = f"{one_line(key)}: {one_line(value)}"
    if section.flow_style:
        end = section.end_mark.index - 1
        return text[:end] + (", " if section.value else "") + entry + text[end:]
    end = text.find("\n", last(section))
    end = len(text) if end < 0 else end
    return f"{text[:end]}\n{' ' * section.value[0][0].start_mark.column}{entry}{text[end:]}"


def has(node: Node, key: str) -> bool:
    """Tells whether a node is a section with a key."""
    return isinstance(node, MappingNode) and any(name.value == key for name, _ in node.value)


def child(node: Node, key: str) -> Node:
    """Returns the value of a key; raises KeyError where there's none."""
    for name, value in node.value if isinstance(node, MappingNode) else ():
        if name.value == key:
            found: Node = value
            return found
    raise KeyError(key)


def last(node: Node) -> int:
    """Returns the place behind a node's last character; a block's end mark is behind the comments that follow it."""
    if not isinstance(node, MappingNode | SequenceNode) or node.flow_style or not node.value:
        return int(node.end_mark.index)
    inner = node.value[-1]
    return last(inner[1] if isinstance(inner, tuple) else inner)


def one_line(value: Any) -> str:
    """Returns a value as YAML on one line, in quotes only where it needs them."""
    if isinstance(value, str):
        plain = yaml_file.dump([value]).strip()[1:-1]
        return plain if "," not in value and "\n" not in plain else json.dumps(value, ensure_ascii=False)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{one_line(key)}: {one_line(inner)}" for key, inner in value.items()) + "}"
    return json.dumps(value, ensure_ascii=False)


def aligned(rest: str, longer: int) -> str:
    """Returns the text behind a value that grew by so many characters, with the comment on its line where it was."""
    spaces = len(rest) - len(rest.lstrip(" "))
    if not spaces or rest[spaces : spaces + 1] != "#":
        return rest
    return " " * max(spaces - longer, 1) + rest[spaces:]
