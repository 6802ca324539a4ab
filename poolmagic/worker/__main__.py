"""Entry of an exec'ed worker: patch first, then import the rest.

Arguments: kind; the descriptors of the line, the board and two tapes; slots; start as JSON.

`native` is imported before the patch because it must keep the originals; nothing else may be.
"""

from __future__ import annotations

import gc
import json
import sys

from poolmagic.worker import native

__all__ = ["main"]


def main() -> None:
    """Be a worker; returns never."""
    kind, *descriptors, slots, start = sys.argv[1:]
    assert native is not None
    _patch(kind)
    from poolmagic.lifelines import die_within_a_second
    from poolmagic.worker.preload import import_quietly
    from poolmagic.worker.process import make_runner, run_worker
    from poolmagic.worker.start import take_over

    settings = json.loads(start)
    die_within_a_second(settings["parent"])
    take_over(settings)
    errors = {module: import_quietly(module) for module in settings["preload"]}
    remarks = "".join(f"poolmagic: preload={module!r}: {error}\n" for module, error in errors.items() if error)
    gc.enable()
    run_worker([int(one) for one in descriptors], make_runner(kind, int(slots)), remarks)


def _patch(kind: str) -> None:
    """Make the blocking calls of this process cooperative."""
    if kind == "gevent":
        from gevent import monkey

        monkey.patch_all()
    elif kind == "eventlet":
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its deprecation: poolmagic says it itself, once, in the kernel
            import eventlet
        eventlet.monkey_patch()


if __name__ == "__main__":
    main()
