"""Access to the hub that serves published weights, and the error where they are unavailable."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from huggingface_hub import constants as hub_constants

from featup_cli.core.errors import WeightsError, first_line

_TIMEOUT = 5.0  # seconds


def is_offline() -> bool:
    """Whether the hub client uses its cache only."""
    return hub_constants.HF_HUB_OFFLINE


@contextmanager
def hub_access(offline: bool, needed: bool) -> Iterator[None]:
    """In this context the hub client uses its cache only: if `offline`, or if the hub is `needed` and doesn't answer.

    Without this the client retries every file for half a minute when there is no network.
    """
    if not (offline or (needed and not _hub_answers())):
        yield
        return
    # The client reads its environment once, at import; the variable is for anything that reads it later.
    before = os.environ.get("HF_HUB_OFFLINE"), hub_constants.HF_HUB_OFFLINE
    os.environ["HF_HUB_OFFLINE"], hub_constants.HF_HUB_OFFLINE = "1", True
    try:
        yield
    finally:
        hub_constants.HF_HUB_OFFLINE = before[1]
        if before[0] is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before[0]


def _hub_answers() -> bool:
    from huggingface_hub import get_session  # with the whole client

    try:
        get_session().head(hub_constants.ENDPOINT, timeout=_TIMEOUT)
    except Exception:  # the client's transport library, and so its errors, differ between versions
        return False
    return True


def unavailable(name: str, source: str, error: Exception | None = None) -> WeightsError:
    """The error for missing weights of `name`, with the reason and the remedies; `source` is their location."""
    if not source:
        reason, connect = "none are published under this name", "use a name that has weights"
    elif is_offline() and not source.startswith("local-dir:") and isinstance(error, OSError | None):
        reason = "the network is unavailable or switched off, and they are not cached"
        connect = f"connect once so that {source} is cached"
    else:
        reason = f"{type(error).__name__}: {first_line(error)}" if error else "they can't be read"
        connect = f"check {source}"
    return WeightsError(
        f"no weights for {name}: {reason}. Ways out: {connect}; give a file with --weights FILE; "
        "use --backbone tiny, which needs none; or, for tests, use an untrained network with --random-weights"
    )
