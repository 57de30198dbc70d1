"""A disk of its own for a test: one that can be full or read-only, also for root."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# On the machines of a continuous integration nobody minds a mount; elsewhere only root may, and knows it.
_AS_ROOT = ["sudo", "-n"] if os.environ.get("CI") and sys.platform == "linux" and os.geteuid() else []


@dataclass(frozen=True)
class Disk:
    """A small file system in memory, mounted at `path`."""

    path: Path

    def mount(self) -> bool:
        """Whether it could be mounted."""
        self.path.mkdir()
        return sys.platform == "linux" and _succeeds("mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(self.path))

    def remount(self, options: str) -> None:
        """Change it, as `size=2m`, `ro` or `rw`."""
        assert _succeeds("mount", "-o", f"remount,{options}", str(self.path))

    def unmount(self) -> None:
        """Take it away."""
        assert _succeeds("umount", "--lazy", str(self.path))


def _succeeds(*command: str) -> bool:
    try:
        return subprocess.run([*_AS_ROOT, *command], capture_output=True).returncode == 0
    except OSError:
        return False
