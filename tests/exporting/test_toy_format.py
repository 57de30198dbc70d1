"""A format of another package: one module and an entry point, nothing changed here."""

from __future__ import annotations

from pathlib import Path

from tests.plugins import install, python

TOY = '''
"""Features as lines of text, after a line with their shape."""
from featup_cli.exporting.format import Format

FORMAT = Format("toy", "features as text", ".txt", "toy_format:write", basis="pca.npz")


def write(target, source):
    import numpy as np
    with open(target, "w") as stream:
        print(*source.shape, file=stream)
        for piece in source.planes(target.parent):
            np.savetxt(stream, np.frombuffer(piece, source.dtype_name))


def read(path):
    import numpy as np
    lines = path.read_text().splitlines()
    return np.array(lines[1:], np.float32).reshape([int(side) for side in lines[0].split()])
'''
CHECK = """
import sys
from pathlib import Path
from featup_cli.exporting.registry import FORMATS
assert not {"torch", "numpy"} & set(sys.modules)
assert FORMATS["toy"].about == "features as text", list(FORMATS)
from tests.exporting.views import check_format
from toy_format import read
check_format("toy", Path(sys.argv[1]), read)
"""


def test_a_format_of_another_package_does_all_that_ours_do(tmp_path: Path) -> None:
    packages = install(tmp_path, "featup.formats", "toy_format:FORMAT", TOY)
    python("-c", CHECK, tmp_path, packages=packages)
    without = python("-c", "import featup_cli; featup_cli.export(['a'], 'toy')", status=1)
    assert "UsageError: --to toy: choose from npy, npz" in without.stderr
