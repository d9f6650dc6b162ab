"""``fxfeat code``."""

from __future__ import annotations

from fxfeat.cli.arguments import split_names
from tests.cli.conftest import Result

SHAPE = ("--input-shape", "2,3,8,8")


def test_source_is_plain_when_piped(run):
    code = "def forward(self, x):\n    x = self.conv(x)\n    body = self.body(x)\n    return {'body': body}\n"
    assert run("code", "tiny.py:Tiny", "--nodes", "body", *SHAPE) == Result(0, code, "")


def test_flatten_writes_modules_out(run):
    out = run("code", "tiny.py:Tiny", "--nodes", "body", "--flatten", *SHAPE).out
    assert "self.body(x)" not in out and "self.body" in out


def test_source_is_highlighted_on_a_terminal(run, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    assert "\x1b[" in run("code", "tiny.py:Tiny", "--nodes", "body", *SHAPE).out


def test_a_name_of_one_mode_alone(run):
    out = run("code", "tiny.py:Tiny", "--nodes", "add", "--mode", "train", *SHAPE).out
    assert "'add':" in out


def test_names_with_brackets_and_commas(run):
    out = run("code", "tiny.py:Recurrent", "--nodes", "lstm[1][0],output['a,b']", "--input-shape", "2,5,4").out
    assert "'lstm[1][0]':" in out and "\"output['a,b']\":" in out


def test_commas_split_outside_brackets_only():
    assert split_names("a, b[0,1],c['x,y'],") == ["a", "b[0,1]", "c['x,y']"]
