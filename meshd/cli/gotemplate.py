"""The part of Go's text/template that scripts use with `report -f`: enough for them, and an error for all else.

    text            printed as it stands; a `-` inside the braces trims the white space on that side
    {{.A.B}}        a chain of fields from the current value; {{.}} is the value itself, {{$.A}} starts at the whole report
    {{len .A}}      the length of a list, object or string
    {{json .A}}     the value as JSON, on one line
    {{"text\\n"}}    a string literal; {{`raw`}} likewise
    {{range .A}}…{{else}}…{{end}}   once for each element, which is `.` inside; after else: what an empty list prints

Pure. Values print as Go prints them: true, <nil>, [a b], map[k:v]. Reference: https://pkg.go.dev/text/template
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass

from meshd.errors import UserError

__all__ = ["render_template"]

MAX_TEMPLATE = 64 * 1024
MAX_DEPTH = 16  # of range in range

_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "a": "\a", "b": "\b", "f": "\f", "v": "\v", "\\": "\\", '"': '"', "'": "'"}
_TOKEN = re.compile(
    r"""\s*(?:
      (?P<string>"(?:[^"\\\n]|\\.)*")
    | (?P<raw>`[^`]*`)
    | (?P<chain>\$(?:\.\w+)*|(?:\.\w+)+|\.)
    | (?P<word>[A-Za-z_]\w*)
    | (?P<close>-?\}\})
    )""",
    re.VERBOSE,
)
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|.)", re.DOTALL)


@dataclass(slots=True, frozen=True)
class _Text:
    text: str


@dataclass(slots=True, frozen=True)
class _Chain:
    text: str

    def value(self, dot: object, root: object) -> object:
        names = self.text.split(".")
        value = root if names[0] == "$" else dot
        for name in filter(None, names[1:]):
            if not isinstance(value, dict) or name not in value:
                raise _error(f"the report has no field {name} at {self.text}")
            value = value[name]
        return value


@dataclass(slots=True, frozen=True)
class _Print:
    function: str  # "" | len | json
    argument: _Text | _Chain

    def text(self, dot: object, root: object) -> str:
        value = self.argument.text if isinstance(self.argument, _Text) else self.argument.value(dot, root)
        if self.function == "json":
            return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        if self.function == "":
            return _show(value)
        if not isinstance(value, list | dict | str):
            raise _error(f"len of {self.argument.text}, which has no length")
        return str(len(value.encode() if isinstance(value, str) else value))  # Go counts a string's bytes


@dataclass(slots=True, frozen=True)
class _Range:
    over: _Chain
    body: tuple[_Node, ...]
    otherwise: tuple[_Node, ...]


_Node = _Text | _Print | _Range


def render_template(template: str, report: object) -> str:
    """No newline is added at the end. Raises UserError for what is not understood, or not there."""
    if len(template) > MAX_TEMPLATE:
        raise _error(f"longer than {MAX_TEMPLATE} characters")
    nodes, ended_by = _Parser(template).nodes(0)
    if ended_by:
        raise _error(f"{{{{{ended_by}}}}} without {{{{range}}}}")
    return "".join(_run(nodes, report, report))


def _run(nodes: tuple[_Node, ...], dot: object, root: object) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, _Text):
            yield node.text
        elif isinstance(node, _Print):
            yield node.text(dot, root)
        else:
            elements = _elements(node.over, dot, root)
            for element in elements:
                yield from _run(node.body, element, root)
            if not elements:
                yield from _run(node.otherwise, dot, root)


def _elements(chain: _Chain, dot: object, root: object) -> list[object]:
    value = chain.value(dot, root)
    if value is None:
        return []
    if isinstance(value, dict):
        return [value[key] for key in sorted(value)]  # as Go does
    if isinstance(value, list):
        return value
    raise _error(f"range over {chain.text}, which is neither a list nor an object")


class _Parser:
    """Recursive descent over the template; a node list ends at end of text, {{end}} or {{else}}."""

    def __init__(self, template: str) -> None:
        self._template = template
        self._at = 0
        self._trim = False  # the action before ended in `-}}`

    def nodes(self, depth: int) -> tuple[tuple[_Node, ...], str]:
        if depth > MAX_DEPTH:
            raise _error(f"more than {MAX_DEPTH} ranges inside one another")
        found: list[_Node] = []
        while True:
            opened = self._text(found)
            if not opened:
                return tuple(found), ""
            kind, token = self._token()
            if kind == "word" and token in ("end", "else"):
                self._close(token)
                return tuple(found), token
            found.append(self._range(depth) if (kind, token) == ("word", "range") else self._print(kind, token))

    def _text(self, found: list[_Node]) -> bool:
        """Take the text up to the next action; False at the end of the template."""
        start = self._template.find("{{", self._at)
        text = self._template[self._at : None if start < 0 else start]
        if self._trim:
            text = text.lstrip()
        self._at = start + 2
        # The marker is a dash and a white space, else {{-3}} would lose its sign (text/template, "Text and spaces").
        if start >= 0 and re.match(r"-\s", self._template[self._at :]):
            text = text.rstrip()
            self._at += 1
        if text:
            found.append(_Text(text))
        return start >= 0

    def _token(self) -> tuple[str, str]:
        match = _TOKEN.match(self._template, self._at)
        if match is None or match.lastgroup is None:
            rest = self._template[self._at : self._at + 20]
            raise _error(f"not understood: {rest!r}" if rest.strip() else "an action is not closed with }}")
        self._at = match.end()
        return match.lastgroup, match.group(match.lastgroup)

    def _print(self, kind: str, token: str) -> _Print:
        function = ""
        if kind == "word":
            if token not in ("len", "json"):
                raise _error(f"unknown function {token}", hint="there are len, json and range")
            function = token
            kind, token = self._token()
        argument = self._argument(kind, token)
        self._close(function or token)
        return _Print(function, argument)

    def _range(self, depth: int) -> _Range:
        kind, token = self._token()
        if kind != "chain":
            raise _error(f"range wants a field, not {token}")
        self._close("range")
        body, ended_by = self.nodes(depth + 1)
        otherwise: tuple[_Node, ...] = ()
        if ended_by == "else":
            otherwise, ended_by = self.nodes(depth + 1)
        if ended_by != "end":
            raise _error(f"{{{{range {token}}}}} without {{{{end}}}}")
        return _Range(_Chain(token), body, otherwise)

    def _argument(self, kind: str, token: str) -> _Text | _Chain:
        if kind == "chain":
            return _Chain(token)
        if kind == "raw":
            return _Text(token[1:-1])
        if kind == "string":
            return _Text(_ESCAPE.sub(_unescape, token[1:-1]))
        raise _error("an action is empty" if kind == "close" else f"expected a field or a string, not {token}")

    def _close(self, after: str) -> None:
        kind, token = self._token()
        if kind != "close":
            raise _error(f"expected }}}} after {after}, not {token}")
        self._trim = token.startswith("-")


def _unescape(match: re.Match[str]) -> str:
    escape = match.group(1)
    if escape[0] in "xu" and len(escape) > 1:
        return chr(int(escape[1:], 16))
    if escape not in _ESCAPES:
        raise _error(f"unknown escape \\{escape} in a string")
    return _ESCAPES[escape]


def _show(value: object) -> str:
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return f"[{' '.join(_show(element) for element in value)}]"
    if isinstance(value, dict):
        return f"map[{' '.join(f'{key}:{_show(value[key])}' for key in sorted(value))}]"
    return str(value)


def _error(text: str, *, hint: str = "") -> UserError:
    return UserError(f"template: {text}", hint=hint)
