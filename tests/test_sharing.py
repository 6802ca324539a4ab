"""What `share` gives: one object wherever it is, packed once."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import poolmagic as pm
from poolmagic import memory
from poolmagic.errors import PayloadError
from poolmagic.memory import Payload
from poolmagic.payload import Pickled, weigh
from tests.conftest import MakePool
from tests.tasks import for_kind

SIZE = 100_000


def array(start: int = 0) -> np.ndarray[Any, Any]:
    return np.arange(start, start + SIZE, dtype=float)


class Counting:
    """Counts how often it is pickled."""

    def __init__(self) -> None:
        self.pickled = 0
        self.content = array()

    def __getstate__(self) -> dict[str, Any]:
        self.pickled += 1
        return {"content": self.content}


def files_of(payload: Any) -> set[memory.MemoryFile]:
    return set(payload.files) if isinstance(payload, Payload) else set()


# The handle --------------------------------------------------------------------------------------------------------


def test_here_it_is_the_object_itself() -> None:
    """Making a handle does nothing but that."""
    value = {"a": [1]}
    handle = pm.share(value)
    assert handle.value is value
    assert "<Shared dict>" == repr(handle)


def test_any_copy_of_a_handle_is_the_handle() -> None:
    """However it was made: copied, deeply copied, or pickled and loaded again with any protocol."""
    handle = pm.share({"a": array()})
    assert copy.copy(handle) is handle
    assert copy.deepcopy([handle])[0] is handle
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(handle, protocol)) is handle


@pytest.mark.parametrize("protocol", [4, 5])
@pytest.mark.parametrize("value", [array(), "x" * (8 * SIZE), [1], array()[::2], {"a": np.asfortranarray(array())}])
def test_a_pickled_handle_can_be_loaded_when_the_handle_is_gone(protocol: int, value: Any) -> None:
    """In a later session, say: the pickle holds the object."""
    handle = pm.share(value)
    pickled = pickle.dumps(handle, protocol)
    del handle
    gc.collect()

    loaded = pickle.loads(pickled)

    assert "<Shared, not loaded>" == repr(loaded)
    np.testing.assert_equal(loaded.value, value)
    assert loaded.value is loaded.value


def test_what_it_held_when_it_was_first_sent_is_what_is_sent() -> None:
    """Later changes of the object are seen here only."""
    handle = pm.share([1])
    first = pickle.dumps(handle)
    handle.value.append(2)
    assert first == pickle.dumps(handle)


def test_a_handle_may_hold_another_but_not_itself() -> None:
    """The second is a clear error, and the handle can be used when it is mended."""
    value: list[Any] = [array()]
    handle = pm.share(value)
    value.append(handle)
    with pytest.raises(pickle.PicklingError, match="a shared object cannot hold the handle that it is shared by"):
        pickle.dumps(handle)
    value[1] = pm.share("other")
    assert pickle.loads(pickle.dumps(handle)) is handle


def test_what_cannot_be_pickled_is_a_clear_error() -> None:
    """It names the variable, as for anything that is captured."""
    lock = pm.share(threading.Lock())

    def f(x: int) -> object:
        return lock.value

    with pytest.raises(PayloadError, match="f -> closure 'lock' -> attribute '_value': cannot pickle"):
        Pickled().pack_function(f)
    _, broken = Pickled().pack_values([lock])
    assert "argument -> attribute '_value': cannot pickle '_thread.lock' object" in str(broken[0])


def test_many_threads_may_send_it_at_once() -> None:
    """It is packed by the first of them."""
    value = Counting()
    handle = pm.share(value)
    threads = [threading.Thread(target=pickle.dumps, args=(handle, 5)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 == value.pickled


# Its files ---------------------------------------------------------------------------------------------------------


def capture(handle: Any, more: Any = None) -> Callable[[int], Any]:
    def f(x: int) -> Any:
        return handle.value, more, x

    return f


def test_it_is_packed_once_for_functions_items_and_pools() -> None:
    """All of them refer to the same memory file; a large pickle is in it, too."""
    for value in (array(), "x" * (8 * SIZE), [array(), "y" * (8 * SIZE)]):
        handle = pm.share(value)
        first, second = Pickled(), Pickled()
        payloads = [first.pack_function(capture(handle)), second.pack_function(capture(handle, "other"))]
        payloads += [codec.pack_values([["nested", {"in": handle}]])[0] for codec in (first, second)]
        assert all(isinstance(payload, Payload) for payload in payloads)
        (shared,) = set.intersection(*map(files_of, payloads))
        assert shared.size >= SIZE


def test_its_memory_does_not_count_as_the_payloads() -> None:
    """A batch of items that share a gigabyte is a light one, and a function that captures it need not be told of."""
    handle = pm.share(array())
    payload, _ = Pickled().pack_values([(handle, number) for number in range(1000)])
    assert weigh(payload) < 8 * SIZE


def test_its_memory_goes_with_it() -> None:
    """Though a pool keeps what the last function captured."""
    gc.collect()
    before = len(memory._open), len(memory._mapped), len(memory._shared)
    codec = Pickled()
    handle = pm.share([pm.share(array()), array(5)])
    codec.pack_function(capture(handle))
    assert len(memory._shared) == before[2] + 2
    del handle, codec
    gc.collect()
    after = len(memory._open), len(memory._mapped), len(memory._shared)
    assert all(now <= then for now, then in zip(after, before, strict=True))


def test_without_memory_files_it_travels_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is sent is still what it was at the first time."""

    def refuse(*_: Any) -> Any:
        raise OSError("no")

    monkeypatch.setattr(memory.MemoryFile, "create", refuse)
    value = array()
    handle = pm.share(value)
    first = pickle.dumps(handle)
    value[0] = -1
    assert first == pickle.dumps(handle)
    del handle
    assert np.array_equal(array(), pickle.loads(first).value)


# In pools ----------------------------------------------------------------------------------------------------------


def test_it_can_be_captured_and_be_in_items(kind: str, make_pool: MakePool) -> None:
    """Directly, and deep inside of something."""
    pool = make_pool(kind, None if kind == "solo" else 2)
    value: dict[str, Any] = {"a": array(), "b": "text"}
    handle = pm.share(value)

    captured = pool.map(for_kind(kind, lambda i: (float(handle.value["a"][i]), handle.value["b"])), range(20))
    items = pool.map(for_kind(kind, lambda item: float(item["in"][0].value["a"][7])), [{"in": (handle,)}] * 20)

    assert [(float(i), "text") for i in range(20)] == captured
    assert [7.0] * 20 == items


def test_one_that_comes_back_is_the_one_that_went(kind: str, make_pool: MakePool) -> None:
    """And not a copy of all that it holds."""
    handle = pm.share(array())
    results = make_pool(kind).map(for_kind(kind, lambda x: [handle, x]), [handle] * 3)
    assert all(one is handle for result in results for one in result)


def test_one_that_a_task_makes_arrives(process_kind: str, make_pool: MakePool) -> None:
    """As a handle, with what it holds."""

    def make(x: int) -> Any:
        return pm.share([x, array(x)])

    handles = make_pool(process_kind).map(for_kind(process_kind, make), range(5))
    for x, handle in enumerate(handles):
        assert x == handle.value[0]
        assert np.array_equal(array(x), handle.value[1])


def test_a_task_may_write_into_it_and_nobody_else_sees_it(process_kind: str, make_pool: MakePool) -> None:
    """The mapping is private; what was read-only stays so."""
    value = array()
    fixed = array()
    fixed.flags.writeable = False
    handle = pm.share((value, fixed))

    def write(i: int) -> tuple[float, bool]:
        handle.value[0][i] = -1
        return float(handle.value[0][i]), handle.value[1].flags.writeable

    pool = make_pool(process_kind)
    assert [(-1.0, False)] * 10 == pool.map(for_kind(process_kind, write), range(10))
    assert np.array_equal(array(), value)
    read = for_kind(process_kind, lambda i: float(handle.value[0][i]))
    assert [float(i) for i in range(10)] == make_pool(process_kind, 1).map(read, range(10))


def test_three_hundred_of_them_fit_into_one_function(make_pool: MakePool) -> None:
    """More than descriptors fit into one message."""
    handles = [pm.share(np.full(17_000, float(number))) for number in range(300)]
    pool = make_pool("prefork", 2)
    assert list(range(300)) == pool.map(lambda i: float(handles[i].value[-1]), range(300))
    assert list(range(300)) == pool.map(lambda handle: float(handle.value[0]), handles)


def test_nothing_is_copied_on_threads_and_solo(make_pool: MakePool) -> None:
    """The value is the object itself."""
    value = Counting()
    handle = pm.share(value)
    for kind in ("threads", "solo"):
        assert [True] == make_pool(kind).map(lambda one: handle.value is value and one.value is value, [handle])
    assert 0 == value.pickled
