"""Entry point of the `featup` command and of `python -m featup_cli`."""

from __future__ import annotations

import gc
import os
import sys
from io import TextIOWrapper

# Libraries make a million objects that stay. To look for garbage among them, again and again while they are imported,
# takes a second or more.
YOUNG_OBJECTS = 100_000


def main() -> None:
    """Run the command line. An interrupt exits with 130, even before a command has started."""
    gc.set_threshold(YOUNG_OBJECTS)
    for stream in (sys.stdout, sys.stderr):
        # Names of files may hold bytes that are no text; they are printed as they are.
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")
    try:
        from featup_cli.cli.app import app

        app(prog_name="featup")
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)
    except SystemExit as ended:
        if os.environ.get("WORLD_SIZE", "1") != "1" and isinstance(ended.code, int):
            _leave(ended.code)
        raise
    finally:
        gc.freeze()  # at its end Python would look among them once more


def _leave(status: int) -> None:
    """End a `torchrun` process at once: after a normal exit, Gloo's threads sometimes abort it."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
