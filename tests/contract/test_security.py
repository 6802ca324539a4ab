"""Nobody else gets in: what the processes of running pools have open, and what can be read about them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import poolmagic as pm
from poolmagic.processes import Surroundings
from tests.conftest import MakePool
from tests.tasks import PROCESS_KINDS, for_kind

pytestmark = [pytest.mark.faults, pytest.mark.skipif(sys.platform != "linux", reason="/proc tells what is open")]

SECRET = "hunter2-correct-horse"  # noqa: S105

SCRIPT = """
import asyncio, json, os, sys, tempfile, time
import psutil
import poolmagic as pm
from pathlib import Path

def places():
    return sorted(str(path) for root in ("/dev/shm", tempfile.gettempdir()) for path in Path(root).iterdir())

os.umask(int(sys.argv[1], 8))
before = places()
big = bytes(3_000_000)

def hold(item):
    captured = big
    time.sleep(100)

async def hold_async(item):
    captured = big
    await asyncio.sleep(100)

pools = [pm.Pool(kind, 2) for kind in ("prefork", "gevent", "eventlet", "asyncio", "threads")]
arguments = [bytes(4_000_000) for _ in range(2)]
runs = [
    pool.start(hold_async if pool.config.kind.name == "asyncio" else hold, arguments, chunksize=1) for pool in pools
]
end = time.monotonic() + 60
while sum(run.snapshot().busy for run in runs) < 10 and time.monotonic() < end:
    time.sleep(0.01)

def descriptors(pid):
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{name}")
            inode = os.stat(f"/proc/{pid}/fd/{name}").st_ino
            flags = Path(f"/proc/{pid}/fdinfo/{name}").read_text().split("flags:")[1].split()[0]
        except FileNotFoundError:
            continue
        found.append((int(name), f'{target} {inode}', bool(int(flags, 8) & os.O_CLOEXEC)))
    return found

def sockets(process):
    list_them = getattr(process, "net_connections", None) or process.connections
    return [(one.status, str(one.laddr or ""), str(one.raddr or "")) for one in list_them(kind="all")]

me = psutil.Process()
facts = {
    "busy": sum(run.snapshot().busy for run in runs),
    "new": [path for path in places() if path not in before],
    "kernel": me.pid,
    "workers": {worker.pid: pool.name for pool in pools[:-1] for worker in pool.snapshot().workers},
    "reprs": [repr(thing) for pool, run in zip(pools, runs) for thing in (pool, pool.config, pool.snapshot(), run)],
    "processes": {
        process.pid: {
            "descriptors": descriptors(process.pid),
            "sockets": sockets(process),
            "command": process.cmdline(),
        }
        for process in [me, *me.children(recursive=True)]
    },
}
print(json.dumps(facts))
os._exit(0)
"""


@pytest.fixture(scope="module", params=["0", "077"], ids=["umask 0", "umask 077"])
def facts(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What was seen of a kernel with a busy pool of each kind that has large arguments.

    It has a folder for temporary files to itself: other tests, which may run at the same time, have theirs.
    """
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, request.param],
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
        env={**os.environ, "PASSWORD": SECRET, "TMPDIR": str(tmp_path_factory.mktemp("temporary"))},
        cwd=Path(__file__).parents[2],
    )
    facts: dict[str, Any] = json.loads(done.stdout)
    assert facts["busy"] == 10
    assert len(facts["workers"]) == 5
    return facts


def test_nothing_has_a_name(facts: dict[str, Any]) -> None:
    """No file, no segment, no named or listening socket; what is shared are socket pairs and deleted memory."""
    assert facts["new"] == []
    for process in facts["processes"].values():
        assert [one for one in process["sockets"] if one[0] == "LISTEN" or one[1] or one[2]] == []
        for number, target, _ in process["descriptors"]:
            anonymous = target.startswith(("socket:", "pipe:", "anon_inode:", "/memfd:", "/dev/null", "/dev/urandom"))
            own = target.startswith(f"/proc/{facts['kernel']}/")
            assert number <= 2 or anonymous or own or " (deleted) " in target, (number, target)


def test_processes_have_no_lines_of_others(facts: dict[str, Any]) -> None:
    """Each socket belongs to one process, and no worker has another's status board."""
    owners: dict[str, str] = {}
    for pid, process in facts["processes"].items():
        for number, target, _ in process["descriptors"]:
            is_board = "-board" in target and int(pid) != facts["kernel"]
            if number > 2 and (is_board or target.startswith(("socket:", "pipe:"))):
                assert owners.setdefault(target, pid) == pid, (target, pid, owners[target])


def test_programs_that_tasks_start_inherit_nothing(facts: dict[str, Any]) -> None:
    """Every descriptor is closed when a process executes another program."""
    left = {
        pid: [one for one in process["descriptors"] if one[0] > 2 and not one[2]]
        for pid, process in facts["processes"].items()
    }
    assert not any(left.values()), left


def test_secrets_of_the_environment_are_not_shown(facts: dict[str, Any]) -> None:
    """Neither in texts nor on command lines, which everybody on the machine can read."""
    assert SECRET not in json.dumps(facts)


def test_errors_show_no_secrets(kind: str, make_pool: MakePool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever goes wrong."""
    monkeypatch.setenv("PASSWORD", SECRET)
    pool = make_pool(kind)
    texts = [repr(pool), repr(pool.config), repr(Surroundings.now({}))]
    for task in (lambda x: 1 // x, lambda x: (_ for _ in range(x)), lambda _: os.environ["NO_SUCH_NAME"]):
        try:
            pool.map(for_kind(kind, task), range(3))
        except Exception as error:
            texts += [repr(error), str(error), *getattr(error, "__notes__", []), repr(error.run)]  # type: ignore[attr-defined]
    with pytest.raises(pm.UsageError) as caught:
        pm.Pool(kind, memory_limit=-1)
    texts.append(str(caught.value))

    assert SECRET not in "".join(texts)
    assert len(texts) > 7


@pytest.mark.parametrize("mask", [0, 0o077, 0o777])
@pytest.mark.parametrize("process", PROCESS_KINDS)
def test_the_umask_does_not_matter(process: str, mask: int, make_pool: MakePool) -> None:
    """Nothing is ever opened by its name."""
    before = os.umask(mask)
    try:
        with make_pool(process, 2) as pool:
            blocks = pool.map(for_kind(process, lambda block: block[::-1]), [bytes(2_000_000) + b"x"] * 3)
    finally:
        os.umask(before)

    assert [b"x" + bytes(2_000_000)] * 3 == blocks
