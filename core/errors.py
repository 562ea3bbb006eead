"""The errors that a person sees, each on one line that says what to mend.

Here: the exception types. Not here: how a terminal prints them (serving.cli does).
"""

from __future__ import annotations

from difflib import get_close_matches


class PulseBmsError(Exception):
    """Base of every error that is reported to a person without a traceback."""


class InputError(PulseBmsError):
    """A value from outside is not acceptable.

    Attributes: ``source`` (file, table or collection), ``field`` (dotted path, or column),
    ``value`` (as received), ``expected`` (what would have been accepted).
    """

    def __init__(self, *, source: str, field: str, value: object, expected: str) -> None:
        self.source = source
        self.field = field
        self.value = value
        self.expected = expected
        super().__init__(f"{source}: {field}: got {_short(value)}, expected {expected}")


class StoreError(PulseBmsError):
    """A store is unreachable, wrongly set up, or refused an operation."""


class SolverError(PulseBmsError):
    """No solver of the chain returned a plan that passed the independent replay."""


def nearest(name: str, known: list[str]) -> str:
    """A hint for an unknown key: ``"; did you mean 'x'?"`` or the list of the known ones."""
    match = get_close_matches(name, known, n=1, cutoff=0.6)
    if match:
        return f"; did you mean {match[0]!r}?"
    return f"; known keys: {', '.join(sorted(known))}"


def _short(value: object, limit: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 1] + "…"
