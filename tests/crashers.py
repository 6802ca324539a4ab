"""The catalogue of ways to go wrong: what tasks, arguments and results do to the pool that runs them.

Each is one bad item among forty. It must fail alone and say why, or do no harm; the other items must be right, and so
must the next map on the same pool. ``python -m tests.crashers [KIND ...]`` prints how often that is so, by kind.
"""

from __future__ import annotations

import asyncio
import atexit
import ctypes
import functools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import poolmagic as pm
from tests.tasks import KINDS, PROCESS_KINDS, TwoArguments, Unloadable, Untravelled

ITEMS: Final = 40
BAD: Final = 17
SECONDS: Final = 30.0
"""After so long a map hangs."""


@dataclass(frozen=True)
class Crasher:
    """One way to go wrong.

    Attributes:
        name: In a few words.
        act: What the task does for the bad item; its value is the result. None: the argument is what is bad.
        error: What the item's error is; None if the item must be fine.
        word: What its text must contain.
        argument: Makes the bad item.
        kinds: Where it is possible, and ours to survive.
    """

    name: str
    act: Callable[[], Any] | None = None
    error: type[BaseException] | None = None
    word: str = ""
    argument: Callable[[], Any] | None = None
    kinds: Sequence[str] = PROCESS_KINDS

    def __str__(self) -> str:
        return self.name


class Reduces:
    """Does something when it is pickled or when it is loaded, in the place that was asked for."""

    def __init__(self, *, when_pickled: Callable[[], Any] | None = None, when_loaded: str = "") -> None:
        self.when_pickled = when_pickled
        self.when_loaded = when_loaded

    def __reduce__(self) -> tuple[Any, ...]:
        if self.when_pickled is not None:
            self.when_pickled()
        return load, (self.when_loaded, os.getpid())


def load(name: str, pickled_by: int) -> str:
    """Stand in for the constructor of something that does harm when it is loaded, in another process."""
    if os.getpid() != pickled_by:
        deeds: dict[str, Callable[[], Any]] = {"segfault": segfault, "os._exit": leave, "sys.exit": sys.exit}
        deeds[name]()
    return name


class Sets:
    """Cannot take its state, in any other process than its own."""

    def __init__(self) -> None:
        self.pid = os.getpid()

    def __setstate__(self, state: dict[str, Any]) -> None:
        if state["pid"] != os.getpid():
            raise ValueError("this state is not for me")


class Dies:
    """Does something when it is collected, in any other process than the one that made it first."""

    def __init__(self, how: str, kernel: int = 0) -> None:
        self.how = how
        self.kernel = kernel or os.getpid()

    def __del__(self) -> None:
        if self.how == "raise":
            raise ValueError("in a destructor")
        if self.kernel != os.getpid():
            leave()


class Recurses:
    """Is made of itself for ever."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Recurses, (Recurses(),)


class Mute(Exception):
    """Has no text, and says so loudly."""

    def __str__(self) -> str:
        raise RuntimeError("no text")

    __repr__ = __str__


class Own(BaseException):
    """Nobody's `except Exception` catches it."""


class Unwelcome(Exception):
    """Travels well, and cannot be loaded in the kernel."""

    def __reduce__(self) -> tuple[Any, ...]:
        return load_error, (os.getpid(),)


def load_error(pid: int) -> Unwelcome:
    """Load an `Unwelcome`, where it was made."""
    if pid != os.getpid():
        raise RuntimeError("not here")
    return Unwelcome("welcome")


# What the task does ------------------------------------------------------------------------------------------------


def segfault() -> None:
    ctypes.string_at(0)


def leave() -> None:
    os._exit(3)


def refuse() -> None:
    raise ValueError("refused")


def kill_self() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def overflow() -> None:
    """Run out of stack in C, which is no RecursionError: the stack is only so large."""
    import resource

    resource.setrlimit(resource.RLIMIT_STACK, (1 << 16, resource.getrlimit(resource.RLIMIT_STACK)[1]))
    sys.setrecursionlimit(1_000_000)
    repr(nested(5_000))


def nested(depth: int) -> list[Any]:
    """Return a list in a list in a list."""
    found: list[Any] = []
    for _ in range(depth):
        found = [found]
    return found


def recurse() -> int:
    return recurse() + 1


def close_all(seconds: float = 0.0) -> int:
    """Close every descriptor, and go on for a while."""
    os.closerange(3, 4096)
    time.sleep(seconds)
    return 2 * BAD


def replace_self() -> None:
    os.execv("/bin/true", ["true"])  # noqa: S606 - that is the fault


def fill_memory() -> bytes:
    return bytes(1 << 60)


def raise_(error: type[BaseException], *args: Any) -> None:
    raise error(*args)


def hang() -> None:
    threading.Event().wait()


def at_exit(function: Callable[[], Any]) -> int:
    atexit.register(function)
    return 2 * BAD


def leave_thread() -> int:
    threading.Thread(target=hang, daemon=False).start()
    return 2 * BAD


def close_streams() -> int:
    """Close what the task prints to."""
    for stream in (sys.stdout, sys.stderr):
        stream.close()
    return 2 * BAD


def drop(how: str) -> int:
    """Leave an object to be collected whose destructor does something."""
    Dies(how)
    return 2 * BAD


def fork() -> int:
    """Fork, and go on in both."""
    pid = os.fork()
    if pid:
        os.waitpid(pid, 0)
    return 2 * BAD


def generate() -> Iterator[int]:
    yield 1


def wide_graph() -> list[dict[str, Any]]:
    return [{"number": number, "half": number / 2, "text": str(number)} for number in range(20_000)]


_LOST: Final = pm.WorkerLostError
_UNSENT: Final = pm.PayloadError
_PARALLEL: Final = tuple(kind for kind in KINDS if kind != "solo")

CRASHERS: Final[tuple[Crasher, ...]] = (
    # The process ends.
    Crasher("segfault", segfault, _LOST, "SIGSEGV"),
    Crasher("SIGKILL", kill_self, _LOST, "SIGKILL"),
    Crasher("os._exit", leave, _LOST, "3"),
    Crasher("C stack overflow", overflow, _LOST, "SIGSEGV"),
    Crasher("exec", replace_self, _LOST),
    Crasher("closes all descriptors", functools.partial(close_all, 5.0), _LOST),
    Crasher("closes all descriptors and returns", close_all, _LOST),
    # The task raises.
    Crasher("sys.exit", functools.partial(sys.exit, 3), pm.RemoteError, "SystemExit", kinds=KINDS),
    Crasher("KeyboardInterrupt", functools.partial(raise_, KeyboardInterrupt), pm.RemoteError, kinds=_PARALLEL),
    Crasher("CancelledError", functools.partial(raise_, asyncio.CancelledError), pm.RemoteError, kinds=KINDS),
    Crasher("its own BaseException", functools.partial(raise_, Own), pm.RemoteError, "Own", kinds=KINDS),
    Crasher("MemoryError", fill_memory, MemoryError, kinds=KINDS),
    Crasher("RecursionError", recurse, RecursionError, kinds=KINDS),
    Crasher("error without text", functools.partial(raise_, Mute), Exception, kinds=KINDS),
    Crasher(
        "error with two arguments",
        functools.partial(raise_, TwoArguments, 404, "x"),
        TwoArguments,
        "404: x",
        kinds=KINDS,
    ),
    Crasher("error that cannot be pickled", functools.partial(raise_, Untravelled, "x"), pm.RemoteError, "Untravelled"),
    Crasher("error that cannot be loaded here", functools.partial(raise_, Unwelcome, "x"), pm.RemoteError, "Unwelcome"),
    # The argument.
    Crasher("argument that is a socket", None, _UNSENT, "socket", argument=socket.socket),
    Crasher("argument that is a generator", None, _UNSENT, "generator", argument=generate),
    Crasher("argument that cannot be pickled", None, _UNSENT, argument=lambda: Reduces(when_pickled=refuse)),
    Crasher("argument that exits when pickled", None, _UNSENT, argument=lambda: Reduces(when_pickled=sys.exit)),
    Crasher("argument that is endless", None, _UNSENT, argument=Recurses),
    Crasher("argument that cannot be loaded", None, Exception, argument=Unloadable),
    Crasher("argument that exits when loaded", None, Exception, argument=lambda: Reduces(when_loaded="sys.exit")),
    Crasher("argument that segfaults when loaded", None, _LOST, argument=lambda: Reduces(when_loaded="segfault")),
    Crasher("argument that calls os._exit when loaded", None, _LOST, argument=lambda: Reduces(when_loaded="os._exit")),
    # The result.
    # (eventlet's own locks can be pickled.)
    Crasher("result that is a lock", threading.Lock, _UNSENT, "lock", kinds=("prefork", "gevent", "asyncio")),
    Crasher("result that is a socket", socket.socket, _UNSENT, "socket"),
    Crasher("result that is a generator", generate, _UNSENT, "generator"),
    Crasher("result that cannot be pickled", lambda: Reduces(when_pickled=refuse), _UNSENT, "refused"),
    Crasher("result that is endless", Recurses, _UNSENT),
    Crasher("result that is deep", functools.partial(nested, 100_000), _UNSENT),
    Crasher("result that is wide", wide_graph),
    Crasher("result that exits when pickled", lambda: Reduces(when_pickled=sys.exit), _UNSENT),
    Crasher("result that segfaults when pickled", lambda: Reduces(when_pickled=segfault), _LOST),
    Crasher("result that calls os._exit when pickled", lambda: Reduces(when_pickled=leave), _LOST),
    Crasher("result that cannot be loaded", Unloadable, _UNSENT),
    Crasher("result that refuses its state", Sets, _UNSENT, "this state is not for me"),
    Crasher("result that exits when loaded", lambda: Reduces(when_loaded="sys.exit"), _UNSENT),
    # Later.
    Crasher("destructor that raises", functools.partial(drop, "raise"), kinds=KINDS),
    Crasher("destructor of the argument that exits", None, _LOST, argument=functools.partial(Dies, "exit")),
    Crasher("handler at exit that hangs", functools.partial(at_exit, hang)),
    Crasher("handler at exit that raises", functools.partial(at_exit, refuse)),
    Crasher("thread that never ends", leave_thread),
    Crasher("closes stdout", close_streams),
    Crasher("forks", fork, kinds=("prefork",)),
)
NAMES: Final = {crasher.name: crasher for crasher in CRASHERS}


def attempt(name: str, item: Any) -> Any:
    """Be the task: do what the catalogue says for the bad item, and double the others."""
    if not isinstance(item, int):
        return "the argument is here"
    if item != BAD:
        return 2 * item
    act = NAMES[name].act
    assert act is not None
    return act()


async def attempt_async(name: str, item: Any) -> Any:
    """Be the task as a coroutine."""
    return attempt(name, item)


def double(item: int) -> int:
    """Be a task that does no harm."""
    return 2 * item


async def double_async(item: int) -> int:
    """Be a task that does no harm, as a coroutine."""
    return 2 * item


def judge(pool: pm.Pool, crasher: Crasher, **options: Any) -> str:
    """Run a crasher among good items, and then a map of good ones; return what is wrong, or nothing."""
    is_async = pool.config.kind.name == "asyncio"
    task = functools.partial(attempt_async if is_async else attempt, crasher.name)
    items: list[Any] = list(range(ITEMS))
    if crasher.argument is not None:
        items[BAD] = crasher.argument()
    try:
        results = pool.start(task, items, on_error="return", **options).result(SECONDS)
    except BaseException as error:
        return f"the map raised {type(error).__name__}: {str(error)[:200]}"
    finally:
        if isinstance(items[BAD], socket.socket):
            items[BAD].close()
    if wrong := [x for x in range(ITEMS) if x != BAD and results[x] != 2 * x]:
        return f"the neighbours {wrong} are wrong, the first: {results[wrong[0]]!r}"[:300]
    if problem := _problem_of(results[BAD], crasher):
        return problem
    try:
        again = pool.start(double_async if is_async else double, range(ITEMS)).result(SECONDS)
    except BaseException as error:
        return f"the next map raised {type(error).__name__}: {str(error)[:200]}"
    return "" if again == [2 * x for x in range(ITEMS)] else "the next map is wrong"


def _problem_of(result: Any, crasher: Crasher) -> str:
    """Say what is wrong with the outcome of the bad item."""
    if crasher.error is None:
        expected = crasher.act() if crasher.act is wide_graph else 2 * BAD
        return "" if result == expected else f"it should have returned: {result!r}"[:300]
    if not isinstance(result, pm.Failure):
        return f"it should have failed, and returned {result!r}"[:300]
    if not isinstance(result.exception, crasher.error):
        return f"its error is {result.exception!r}, no {crasher.error.__name__}"[:300]
    if crasher.word and crasher.word.lower() not in str(result.exception).lower():
        return f"its error does not speak of {crasher.word!r}: {result.exception}"[:300]
    return ""


def try_alone(kind: str, crasher: Crasher) -> str:
    """Judge a crasher on a pool of its own, the end of that pool included; return what is wrong, or nothing."""
    pool = pm.Pool(kind, None if kind == "solo" else 2)
    problem = judge(pool, crasher)
    began = time.monotonic()
    (pool.terminate if problem else pool.close)()
    try:
        pool.join(SECONDS)
    except TimeoutError as error:
        return problem or str(error)
    seconds = time.monotonic() - began
    return problem or (f"the pool took {seconds:.1f} s to close" if seconds > 5 else "")


def main(kinds: Sequence[str]) -> int:
    """Print the score of each kind and what went wrong; return how often something did."""
    faults = 0
    for kind in kinds:
        possible = [crasher for crasher in CRASHERS if kind in crasher.kinds]
        problems = {crasher.name: problem for crasher in possible if (problem := try_alone(kind, crasher))}
        faults += len(problems)
        print(f"{kind:8} {len(possible) - len(problems)} of {len(possible)}", flush=True)
        for name, problem in problems.items():
            print(f"    {name}: {problem}", flush=True)
    return faults


if __name__ == "__main__":
    from tests import crashers  # noqa: PLW0406 - workers shall find the tasks by that name

    sys.exit(bool(crashers.main(sys.argv[1:] or KINDS)))
