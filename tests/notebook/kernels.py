"""Real kernels of several versions of ipykernel: the installed one, and older ones beside it."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jupyter_client.manager import KernelManager

from tests.notebook.conftest import Kernel

__all__ = ["VERSIONS", "start_kernel"]

VERSIONS = (None, "6.31.0", *filter(None, os.environ.get("POOLMAGIC_KERNELS", "").split(",")))
"""The versions that outputs and background cells are tested on; None is the installed one.

More can be named in the environment. 7.3.0 is not among them because it stalls now and then by itself, with threads
that print and no poolmagic: at a request that comes when the cell before is idle and has not been answered yet.
"""

_CACHE = Path(__file__).parents[2] / ".cache"


def _folder_of(version: str) -> Path:
    """Return a folder with just this version of ipykernel, and the rest of the environment not in it.

    It is kept between runs of the tests. It gets its name when it is complete, so that tests beside this one see all
    of it or nothing.
    """
    folder = _CACHE / f"ipykernel-{version}"
    if not folder.exists():
        _CACHE.mkdir(exist_ok=True)
        target = Path(tempfile.mkdtemp(prefix="ipykernel-", dir=_CACHE))
        pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
        subprocess.run(
            [*pip, "install", "--no-deps", "--target", str(target), f"ipykernel=={version}"], check=True, timeout=300
        )
        try:
            target.rename(folder)
        except OSError:  # somebody else was faster
            shutil.rmtree(target)
    return folder


@contextlib.contextmanager
def start_kernel(version: str | None = None) -> Iterator[Kernel]:
    """Run a fresh kernel with the extension loaded.

    Args:
        version: Of ipykernel, such as ``"6.31.0"``, which is installed beside the environment when it is first wanted;
            None is the one of the environment.
    """
    env = dict(os.environ)
    if version is not None:
        env["PYTHONPATH"] = os.pathsep.join(filter(None, (str(_folder_of(version)), env.get("PYTHONPATH"))))
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(env=env)
    kernel = Kernel(manager)
    try:
        if version is not None:
            assert kernel.run("import ipykernel\nipykernel.__version__").result == repr(version)
        assert kernel.run("%load_ext poolmagic").status == "ok"
        yield kernel
    finally:
        kernel.close()
