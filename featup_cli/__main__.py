"""Entry point of the `featup` command and of `python -m featup_cli`."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line; an interrupt before any command has started exits with 130 like one after."""
    try:
        from featup_cli.cli.app import app

        app(prog_name="featup")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
