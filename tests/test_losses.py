"""Why a worker died, in words."""

from __future__ import annotations

import pickle
import signal
import traceback

import pytest

from poolmagic import losses
from poolmagic.errors import MemoryLimitExceeded, WorkerLostError
from poolmagic.losses import Loss, explain_exit

STACK = """Fatal Python error: Segmentation fault

Stack (most recent call first):
  File "{library}", line 519 in string_at
  File "/home/me/cell.py", line 5 in parse
  File "/home/me/cell.py", line 9 in task
  File "{own}/worker/slots.py", line 118 in _run
  File "<string>", line 1 in <module>

Extension modules: numpy.core._multiarray_umath (total: 1)
"""


@pytest.fixture(autouse=True)
def _gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(losses, "memory_limit", lambda: 4 << 30)


def stack() -> str:
    """Return a stack as faulthandler writes it."""
    return STACK.format(library=pickle.__file__, own=losses.__file__.rpartition("/")[0])


@pytest.mark.parametrize(
    ("exitcode", "words"),
    [
        (0, "exited with code 0"),
        (3, "exited with code 3"),
        (-signal.SIGKILL, "was killed by SIGKILL"),
        (-signal.SIGSEGV, "was killed by SIGSEGV"),
        (-signal.SIGSTOP, "was stopped by SIGSTOP and did not go on, so that its pool ended it"),
        (-200, "was killed by signal 200"),
        (None, "ended, nobody knows how"),
    ],
)
def test_an_exit_is_told_in_words(exitcode: int | None, words: str) -> None:
    """A number means nothing to most people."""
    assert words == explain_exit(exitcode)


@pytest.mark.parametrize(
    ("loss", "text"),
    [
        (
            Loss(3, 100, -signal.SIGKILL),
            "worker 3 was killed by SIGKILL while it ran this item; its other items go on elsewhere",
        ),
        (
            Loss(3, 100, -signal.SIGKILL, peak=3 << 30, oom_killed=True),
            (
                "worker 3 was killed by the system's OOM killer (SIGKILL, for want of memory) while it ran this item; "
                "it took up to 3 GB of memory (there is 4 GB); its other items go on elsewhere"
            ),
        ),
        (
            Loss(3, 100, 3, oom_killed=True),
            (
                "worker 3 exited with code 3 (by os._exit, perhaps in a library) while it ran this item; "
                "its other items go on elsewhere"
            ),
        ),
        (
            Loss(3, 100, -signal.SIGSEGV, stack=stack()),
            (
                "worker 3 was killed by SIGSEGV (a crash in C code) while it ran this item, in line 5 of parse; "
                "its other items go on elsewhere"
            ),
        ),
        (
            Loss(3, 100, -signal.SIGKILL, is_cut=True),
            (
                "worker 3 closed its line to the kernel, or became another program, so that its pool ended it while it "
                "ran this item; its other items go on elsewhere"
            ),
        ),
        (
            Loss(3, 100, -signal.SIGKILL, peak=3 << 30, limit=2 << 30),
            "worker 3 took 3 GB of memory, and may have 2 GB: its pool ended it",
        ),
        (
            Loss(3, None, None),
            "worker 3 ended, nobody knows how, while it ran this item; its other items go on elsewhere",
        ),
    ],
)
def test_a_loss_is_told_in_a_sentence(loss: Loss, text: str) -> None:
    """How it ended, where it was, and what it took."""
    error = loss.error()

    assert text == str(error)
    assert (loss.pid, loss.exitcode, loss.peak, loss.oom_killed) == (
        error.pid,
        error.exitcode,
        error.peak_memory,
        error.oom_killed,
    )
    assert bool(loss.limit) == isinstance(error, MemoryLimitExceeded)


def test_an_item_that_was_not_alone_may_be_innocent() -> None:
    """The error does not claim more than is known."""
    assert "beside others, any of which may have done it" in str(Loss(3, 100, 3).error(alone=False))


def test_the_traceback_is_that_of_the_task() -> None:
    """From the task's own function on; ours is of no interest."""
    error = Loss(3, 100, -signal.SIGSEGV, stack=stack()).error()

    frames = [(frame.name, frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    assert [("task", 9), ("parse", 5), ("string_at", 519)] == frames
    assert stack() == error.stack


def test_a_stack_that_was_not_written_at_the_end_is_not_shown() -> None:
    """A task may survive what faulthandler calls fatal."""
    error = Loss(3, 100, -signal.SIGKILL, stack=stack()).error()

    assert "" == error.stack
    assert error.__traceback__ is None


def test_what_the_task_printed_is_a_note() -> None:
    """Often it says more than all else."""
    error = Loss(3, 100, 1, printed="reading 17\nbad header\n").error()

    assert ["the last that it printed:\nreading 17\nbad header"] == error.__notes__


def test_the_error_can_be_pickled() -> None:
    """It may have to travel, from the kernel of a nested pool say."""
    error = Loss(3, 100, -signal.SIGSEGV, 1 << 30, stack(), "words\n").error()

    copy = pickle.loads(pickle.dumps(error))

    assert isinstance(copy, WorkerLostError)
    assert (str(error), error.__dict__) == (str(copy), copy.__dict__)


@pytest.mark.parametrize(
    "text", ["", "garbage", '  File "x', '  File "a", line 5 in ', "\n" * 1000, '  File "<string>", line 0 in <module>']
)
def test_a_stack_that_is_none_does_no_harm(text: str) -> None:
    """The worker may have written anything there."""
    assert "SIGSEGV" in str(Loss(1, 2, -signal.SIGSEGV, stack=text).error())
