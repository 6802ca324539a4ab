"""Which pool is the current one."""

from __future__ import annotations

import pickle
from collections.abc import Iterator

import pytest

import poolmagic as pm
from poolmagic.current import cell_pool, live_pools, set_session_pool


@pytest.fixture(autouse=True)
def _no_session_pool() -> Iterator[None]:
    """Leave the session as it was."""
    yield
    set_session_pool(None)


def test_without_a_choice_it_is_a_shared_default() -> None:
    """A prefork pool with one worker for each CPU; made once, and again after it was closed."""
    default = pm.Pool.current()

    assert "prefork" == default.config.kind.name
    assert pm.Pool.current() is default
    default.close()
    assert pm.Pool.current() is not default


def test_the_cell_comes_before_the_session() -> None:
    """And the innermost choice first."""
    session, cell, inner = pm.Pool("solo"), pm.Pool("solo"), pm.Pool("solo")
    set_session_pool(session)

    assert pm.Pool.current() is session
    with cell_pool(cell):
        assert pm.Pool.current() is cell
        with cell_pool(inner):
            assert pm.Pool.current() is inner
        assert pm.Pool.current() is cell
    assert pm.Pool.current() is session


def test_a_closed_pool_is_not_the_current_one() -> None:
    """What was chosen before it is."""
    session = pm.Pool("solo")
    set_session_pool(session)
    session.close()

    assert pm.Pool.current() is not session


def test_the_stand_in_always_means_the_current_pool() -> None:
    """Also in a function that was sent somewhere else."""
    session = pm.Pool("solo", name="mine")
    set_session_pool(session)

    assert "mine" == pm.pool.name
    assert [1, 4] == pm.pool.map(lambda x: x * x, [1, 2])
    assert "mine" in repr(pm.pool)
    assert {"map", "submit", "close"} <= set(dir(pm.pool))
    assert pickle.loads(pickle.dumps(pm.pool)) is pm.pool


def test_pools_are_listed_while_they_live() -> None:
    """From their first use to their end."""
    pool = pm.Pool("threads", 1)
    assert pool not in live_pools()
    pool.map(abs, [1])
    assert pool in live_pools()
    pool.close()
    assert pool not in live_pools()
