"""The command line `pulsebms`: one module a group of subcommands, errors on one screen without a traceback."""

from __future__ import annotations

import sys

from core.errors import PulseBmsError


def main() -> None:
    """Entry point; exit code 2 for an error that the person can mend, 130 when interrupted."""
    from serving.cli.app import app

    try:
        app()
    except PulseBmsError as error:
        sys.stderr.write(f"pulsebms: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
