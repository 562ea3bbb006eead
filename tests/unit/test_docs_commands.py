"""Every `pulsebms ...` that README.md and docs/ tell a reader to type is one that the command line understands."""

import re
from pathlib import Path

import pytest
import typer
from typer.main import get_command

from serving.cli.app import app

ROOT = Path(__file__).parents[2]
COMMAND = re.compile(r"(?:(?<=`)|^)(?:\.venv/bin/)?pulsebms ([^`#\n]+)", re.MULTILINE)
USAGE_ERROR = typer.BadParameter.__mro__[1]
"""Typer's own; newer versions bring their own copy of click."""


def written():
    pages = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
    return [(page.name, found[1].strip()) for page in pages for found in COMMAND.finditer(page.read_text())]


def understand(line):
    """Parse it as far as click does without running it; a command named without its arguments is understood."""
    words = re.findall(r'(?:[^\s"]|"[^"]*")+', re.sub(r"[\[\]]", "", line))  # [--option X] may be left out
    command, context = get_command(app), None
    while hasattr(command, "get_command"):
        if not words or words[0] == "--help":
            return
        name = words.pop(0)
        context = command.context_class(command, info_name=name, parent=context)
        found = command.get_command(context, name)
        assert found is not None, f"no command {name!r} in: pulsebms {line}"
        command = found
    if words and words != ["--help"]:
        command.make_context(command.name, words, parent=context)


def test_there_are_commands_to_look_at():
    assert len(written()) > 20


@pytest.mark.parametrize(("page", "line"), written())
def test_a_command_in_the_docs_is_understood(page, line):
    understand(line)


@pytest.mark.parametrize(
    "line",
    [
        "twin run --sight demo",
        "command send DEVICE update_parameters reset_latch=1",
        "twin comparee",
        "dispatch --metrics-port x",
    ],
)
def test_a_wrong_one_is_not(line):
    with pytest.raises((USAGE_ERROR, AssertionError)):
        understand(line)
