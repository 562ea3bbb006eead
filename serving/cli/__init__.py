"""The command line `pulsebms`: one module a group of subcommands, errors on one screen without a traceback."""

from __future__ import annotations

import sys

from core.errors import PulseBmsError


def main() -> None:
    """Entry point; exit code 2 for an error that the person can mend, 130 when interrupted."""
    from serving.cli.app import app
    from stores.failures import STORE_FAILURES

    try:
        app()
    except PulseBmsError as error:
        sys.stderr.write(f"pulsebms: {error}\n")
        sys.exit(2)
    except STORE_FAILURES as error:
        # A store that was lost while it was being used; drivers' messages hold no password.
        lines = str(error).strip().splitlines() or ["no reason given"]
        sys.stderr.write(f"pulsebms: a store failed: {type(error).__name__}: {lines[0][:300]}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
