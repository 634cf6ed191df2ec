"""Reading YAML as DVC does, version 1.2, always in UTF-8; broken and hostile files are refused in one message."""

import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode
from ruamel.yaml.representer import SafeRepresenter

from diffalign.core.errors import UserError

MAX_BYTES = 500_000
"""Largest size of a file; the default params.yaml has 12,000."""
MAX_VALUES = 20_000
"""Most values in a file, counted again for each alias that repeats them; the default params.yaml has about 300."""
MAX_DEPTH = 32
"""Deepest nesting of mappings and lists."""
OLD_BOOLEANS = ("y", "n", "yes", "no", "on", "off")
"""Words that YAML 1.1, which other programs still read, takes for true or false."""


def read(path: Path) -> Any:
    """Returns what a YAML file holds, as plain Python values.

    Raises FileNotFoundError, and UserError with file and line for what isn't YAML 1.2 in UTF-8, for a key that is
    there twice or isn't text, for a tag, and for more than anybody writes by hand.
    """
    with path.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise UserError(f"{path}: expected at most {MAX_BYTES:,} bytes, got {path.stat().st_size:,}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: expected UTF-8, got the byte 0x{data[error.start]:02x} at {error.start}. Save it as UTF-8"
        ) from None
    return parse(text, str(path))


def parse(text: str, name: str) -> Any:
    """Returns what YAML text holds, as plain Python values; raises UserError as `read` does, with this name."""
    yaml = YAML(typ="safe", pure=True)  # what DVC reads with, in Python: the C parser can't be told limits
    yaml.Composer = _Composer
    try:
        return yaml.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = ", ".join(part for part in (error.context, error.problem) if part)
        raise UserError(f"{name}, line {mark.line + 1}: {what}") from None
    except (YAMLError, ValueError) as error:  # ValueError: the 31st of February, a number of 5,000 digits
        raise UserError(f"{name} can't be read as YAML: {str(error).splitlines()[0]}") from None


def dump(value: Any) -> str:
    """Returns plain Python values as YAML 1.2, mappings in their order, which YAML 1.1 reads the same."""
    yaml: Any = YAML(typ="safe", pure=True)
    yaml.Representer = _Representer
    yaml.default_flow_style, yaml.sort_base_mapping_type_on_output, yaml.width = False, False, 1_000_000
    buffer = io.StringIO()
    yaml.dump(value, buffer)
    return buffer.getvalue()


class _Composer(Composer):
    """Composes nodes as ruamel does, and refuses what a file of settings has no use for."""

    def __init__(self, loader: Any = None) -> None:
        super().__init__(loader)
        self.composed = 0
        self.sizes: dict[int, int] = {}
        """Number of values in each finished node, by the node's id; an alias's values count each time."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Composes a node; raises MarkedYAMLError for a tag, an anchor or a key that's wrong, too much of anything."""
        event = self.parser.peek_event()
        mark = event.start_mark
        if getattr(event, "ctag", None) is not None and str(event.ctag) != "!":
            raise refused(mark, f"expected no tag, got {event.ctag}: remove it")
        if not isinstance(event, AliasEvent) and event.anchor in self.anchors:
            raise refused(mark, f"the anchor {event.anchor!r} is there twice: name one of them otherwise")
        if self.depth >= MAX_DEPTH:
            raise refused(mark, f"expected at most {MAX_DEPTH} levels, got more")
        node = super().compose_node(parent, index)
        if isinstance(parent, MappingNode) and index is None:
            check_key(node, mark)
        self.composed += 1
        if id(node) not in self.sizes:
            self.sizes[id(node)] = self.size(node, mark)
        if max(self.composed, self.sizes[id(node)]) > MAX_VALUES:
            raise refused(mark, f"expected at most {MAX_VALUES:,} values, aliases counted each time, got more")
        return node

    def compose_mapping_node(self, anchor: Any) -> Any:
        """Composes a mapping; raises MarkedYAMLError where a key is there twice."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if key.value in seen:
                raise refused(key.start_mark, f"the key {key.value!r} is there twice: remove one")
            seen.add(key.value)
        return node

    def size(self, node: Node, mark: Any) -> int:
        """Returns how many values a new node has, itself included."""
        if isinstance(node, ScalarNode):
            return 1
        children = [child for pair in node.value for child in pair] if isinstance(node, MappingNode) else node.value
        if node.end_mark is None or any(id(child) not in self.sizes for child in children):
            raise refused(mark, "expected a value, got an alias of what it stands in")
        return 1 + sum(self.sizes[id(child)] for child in children)


def check_key(node: Node, mark: Any) -> None:
    """Raises MarkedYAMLError unless a mapping's key is text to every reader of YAML."""
    if not isinstance(node, ScalarNode):
        raise refused(mark, "expected a name before the colon, got a list or a mapping")
    if str(node.tag) == "tag:yaml.org,2002:merge":
        return
    if str(node.tag) != "tag:yaml.org,2002:str" or (node.style is None and node.value.lower() in OLD_BOOLEANS):
        got = node.value or "nothing"
        raise refused(
            mark,
            f"expected a name, got {got}, which readers of YAML take for true, false, null or a number. "
            f'If it is one, quote it: "{got}"',
        )


def refused(mark: Any, problem: str) -> MarkedYAMLError:
    """Returns the error for a place in a file."""
    return MarkedYAMLError(problem=problem, problem_mark=mark)


class _Representer(SafeRepresenter):
    """Writes lists on one line, and quotes the words that YAML 1.1 takes for true or false."""

    def represent_list(self, data: Iterable[Any]) -> Any:
        """Represents a list on one line."""
        return self.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=True)

    def represent_str(self, data: str) -> Any:
        """Represents text, in quotes where a reader might take it for something else."""
        # A list on one line with a ? in it is another thing to the parser that DVC uses.
        style = '"' if data.lower() in OLD_BOOLEANS or "?" in data else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Representer.add_representer(list, _Representer.represent_list)
_Representer.add_representer(str, _Representer.represent_str)
