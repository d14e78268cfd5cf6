"""`report -f`: the templates that scripts use, and one line for all that is not understood."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from meshd.cli.gotemplate import MAX_TEMPLATE, render_template
from meshd.control.report import build_report
from meshd.errors import UserError
from tests.control.samples import HOST1, alone, router_view

DATA = {
    "Name": "n",
    "List": ["a", "b"],
    "None": None,
    "True": True,
    "Number": 7,
    "Float": 0.5,
    "Empty": [],
    "Map": {"b": 2, "a": [1, None]},
    "Rows": [{"Name": "x", "In": ["1", "2"]}, {"Name": "y", "In": []}],
}


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{{range .Router.Targets}}{{.}}\n{{end}}", "192.168.48.12\nhost3.example.com:6800\n"),
        ('{{range .Router.Targets}}{{.}}{{"\\n"}}{{end}}', "192.168.48.12\nhost3.example.com:6800\n"),
        ("{{.Router.Name}}", HOST1),
        ("{{.Router.Name}}({{.Router.NickName}})", f"{HOST1}(host1)"),
        ("{{len .Router.Peers}}", "3"),
        ("{{.VersionCheck.Enabled}}", "false"),
        ("{{.Version}}", "0.1.0"),
    ],
)
def test_the_templates_in_use(template: str, expected: str) -> None:
    assert render_template(template, build_report(router_view())) == expected


def test_one_peer_alone() -> None:
    assert render_template("{{len .Router.Peers}}", build_report(alone())) == "1"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("", ""),
        ("no action }} here", "no action }} here"),
        ("{{ .Name }}", "n"),
        ("a {{- .Name -}} b", "anb"),
        ("a\n\t{{- .Name }} b", "an b"),
        ("{{.List}} {{.Map}}", "[a b] map[a:[1 <nil>] b:2]"),
        ("{{.None}} {{.True}} {{.Number}} {{.Float}}", "<nil> true 7 0.5"),
        ("{{len .List}}{{len .Map}}{{len .Name}}{{len .Empty}}", "2210"),
        ('{{len "héé"}}', "5"),  # Go's strings are bytes
        ("{{json .Map}}", '{"b":2,"a":[1,null]}'),
        ('{{json "a\\"b"}}', '"a\\"b"'),
        ("{{`raw \\n }}`}}", "raw \\n }}"),
        ('{{"}}"}}', "}}"),
        ('{{"\\t\\x41\\u00e9\\\\"}}', "\tAé\\"),
        ("{{range .Empty}}x{{end}}", ""),
        ("{{range .None}}x{{else}}none{{end}}", "none"),
        ("{{range .List}}{{.}},{{else}}none{{end}}", "a,b,"),
        ("{{range .Map}}{{.}};{{end}}", "[1 <nil>];2;"),
        ("{{range .Rows}}{{.Name}}:{{range .In}}{{.}}{{$.Number}}{{end}};{{end}}", "x:1727;y:;"),
        ("{{$.Name}}{{range .List}}{{$.Name}}{{end}}", "nnn"),
        ("{{range .List -}}\n  {{.}}\n{{- end}}", "ab"),
    ],
)
def test_what_is_understood(template: str, expected: str) -> None:
    assert render_template(template, DATA) == expected


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{.Nope}}", "the report has no field Nope at .Nope"),
        ("{{.Name.Nope}}", "the report has no field Nope at .Name.Nope"),
        ("{{.DNS.Domain}}", "the report has no field DNS at .DNS.Domain"),
        ("{{", "an action is not closed with }}"),
        ("{{.Name", "an action is not closed with }}"),
        ("{{}}", "an action is empty"),
        ("{{.Name}", "not understood: '}'"),
        ("{{.Name | len}}", "not understood: ' | len}}'"),
        ("{{if .Name}}x{{end}}", "unknown function if; there are len, json and range"),
        ("{{len}}", "an action is empty"),
        ("{{len len}}", "expected a field or a string, not len"),
        ("{{len .Number}}", "len of .Number, which has no length"),
        ("{{.Name .Name}}", "expected }} after .Name, not .Name"),
        ("{{range .List}}x", "{{range .List}} without {{end}}"),
        ("{{range .List}}x{{else}}y{{else}}z{{end}}", "{{range .List}} without {{end}}"),
        ("{{range .Name}}{{end}}", "range over .Name, which is neither a list nor an object"),
        ("{{range len}}{{end}}", "range wants a field, not len"),
        ("x{{end}}", "{{end}} without {{range}}"),
        ("x{{else}}", "{{else}} without {{range}}"),
        ('{{"open}}', "not understood: '\"open}}'"),
        ('{{"\\q"}}', "unknown escape \\q in a string"),
        ("{{range .List}}" * 20, "more than 16 ranges inside one another"),
        ("x" * (MAX_TEMPLATE + 1), "longer than 65536 characters"),
    ],
)
def test_what_is_not_understood_is_one_line(template: str, message: str) -> None:
    with pytest.raises(UserError) as caught:
        render_template(template, DATA)
    assert str(caught.value) == f"template: {message}"


PIECES = [
    "{{",
    "}}",
    "{{-",
    "-}}",
    "range ",
    "end",
    "else",
    "len ",
    ".List",
    ".",
    '"a"',
    "`b`",
    "$",
    " ",
    "x",
    "\\",
    '"',
]


@given(st.lists(st.sampled_from(PIECES)).map("".join))
def test_any_text_renders_or_is_refused(template: str) -> None:
    try:
        assert isinstance(render_template(template, DATA), str)
    except UserError:
        return
