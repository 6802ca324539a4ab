"""Outputs go to where they belong. How kernels take them is tested with real ones, in `tests/notebook`."""

from __future__ import annotations

import contextvars
import sys
import threading
import types
from typing import Any

import pytest

from poolmagic.inbox import next_number
from poolmagic.origin import Origin, origin_of


class Publisher:
    """A display publisher as that of ipykernel 6: one header for all threads, and hooks of each thread's own."""

    def __init__(self) -> None:
        self.parent_header: dict[str, Any] = {"msg_id": "first"}
        self.sent: list[dict[str, Any]] = []
        self._hooks = threading.local()

    def register_hook(self, hook: Any) -> None:
        self._hooks.__dict__.setdefault("hooks", []).append(hook)

    def unregister_hook(self, hook: Any) -> None:
        self._hooks.hooks.remove(hook)

    def publish(self, data: Any, metadata: Any = None, *, transient: Any = None, update: bool = False) -> None:
        message = {"parent_header": self.parent_header, "data": data, "transient": transient, "update": update}
        for hook in self._hooks.__dict__.get("hooks", []):
            message = hook(message)
        self.sent.append(message)


@pytest.fixture
def publisher(monkeypatch: pytest.MonkeyPatch) -> Publisher:
    """That of the kernel that this process seems to be."""
    publisher = Publisher()
    shell = types.SimpleNamespace(kernel=object(), display_pub=publisher)
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    return publisher


def in_a_thread(f: Any, *args: Any) -> None:
    """Call `f` in a new thread, whose context is empty."""
    thread = threading.Thread(target=f, args=args)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()


def test_code_of_another_thread_runs_in_the_context_of_the_origin() -> None:
    """By this a kernel knows which cell an output belongs to; what is set there does not stay."""
    cell = contextvars.ContextVar("cell", default=0)
    seen = []

    def task() -> None:
        seen.append(cell.get())
        cell.set(9)

    cell.set(1)
    origin = Origin.here()
    cell.set(2)
    in_a_thread(origin.run, task)
    in_a_thread(origin.run, task)
    assert [1, 1] == seen
    assert 2 == cell.get()


def test_several_threads_are_in_one_origin_at_once() -> None:
    """A context can be entered only once at a time, so each gets a copy."""
    origin = Origin.here()
    meeting = threading.Barrier(3, timeout=30)
    threads = [threading.Thread(target=origin.run, args=(meeting.wait,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    meeting.wait()
    for thread in threads:
        thread.join(30)
    assert not meeting.broken


def test_what_works_for_a_cell_has_its_origin(publisher: Publisher) -> None:
    """A run that is started in the thread of another one belongs to the same cell, whatever cell runs then."""
    origin = Origin.here()
    publisher.parent_header = {"msg_id": "second"}
    in_a_thread(origin.run, lambda: Origin.here().publish({"text/plain": "nested"}))
    assert "first" == publisher.sent[0]["parent_header"]["msg_id"]


def test_a_run_is_found_with_its_origin_while_it_is_there() -> None:
    """Nothing keeps the origin of a run that is over."""
    number = next_number()
    origin = Origin.here()
    origin.remember(number)
    assert origin_of(number) is origin
    del origin
    assert origin_of(number) is None


def test_results_and_errors_come_through() -> None:
    """It returns what the function returns, and raises what it raises."""
    assert 5 == Origin.here().run(lambda a, b: a + b, 2, b=3)
    with pytest.raises(ZeroDivisionError):
        Origin.here().run(lambda: 1 / 0)


def test_a_script_is_no_kernel_and_prints_the_plain_text(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a rich display it shows the text, and of an update nothing, because what is printed stays."""
    origin = Origin.here()
    assert not origin.is_kernel
    origin.publish({"text/plain": "a table", "text/html": "<table>"})
    origin.publish({"text/plain": "another"}, display_id="x", update=True)
    assert "a table\n" == capsys.readouterr().out


def test_a_display_of_an_old_kernel_goes_to_the_cell_that_it_is_for(publisher: Publisher) -> None:
    """Another cell runs, and its own displays stay in it."""
    origin = Origin.here()
    assert origin.is_kernel
    publisher.parent_header = {"msg_id": "second"}
    in_a_thread(origin.publish, {"text/plain": "late"})
    in_a_thread(origin.run, publisher.publish, {"text/plain": "the user's"})
    publisher.publish({"text/plain": "now"})
    assert ["first", "first", "second"] == [message["parent_header"]["msg_id"] for message in publisher.sent]


def test_an_update_names_the_display(publisher: Publisher) -> None:
    """It is found again by its name."""
    Origin.here().publish({"text/plain": "50 %"}, display_id="bar", update=True)
    assert {"display_id": "bar"} == publisher.sent[0]["transient"]
    assert publisher.sent[0]["update"]
