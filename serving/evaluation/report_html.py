"""Small pieces of HTML that the pages of a report are made of. Not here: what a report says (serving.evaluation.report)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Heads are escaped, cells are HTML."""
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>{body}</table>"


def name(row: Mapping[str, Any]) -> str:
    """Of a policy; baselines in grey."""
    text = escape(row["policy"])
    return f"<span class=base>{text}</span>" if row["baseline"] else f"<b>{text}</b>"


def bad(text: str) -> str:
    """In red."""
    return f"<span class=bad>{escape(text)}</span>" if text else ""


def note(text: str) -> str:
    """A paragraph of HTML."""
    return f"<p class=note>{text}</p>"


def number(value: float | None, digits: int) -> str:
    """With so many decimals; a dash for none."""
    return "-" if value is None else f"{value:,.{digits}f}"


def between(interval: Mapping[str, float] | None, digits: int) -> str:
    """The interval's ends."""
    return "-" if interval is None else f"{interval['low']:.{digits}f} to {interval['high']:.{digits}f}"


def triple(interval: Mapping[str, float] | None, digits: int) -> str:
    """The value with its interval."""
    return "-" if interval is None else f"{interval['value']:.{digits}f} [{between(interval, digits)}]"


def counts(found: Mapping[str, int]) -> str:
    """Kinds with how often."""
    return "; ".join(f"{kind}: {count}" for kind, count in found.items())


def image(png_base64: str, what: str) -> str:
    """Inside the page itself."""
    return f'<img alt="{escape(what)}" src="data:image/png;base64,{png_base64}">'
