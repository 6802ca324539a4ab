"""Random numbers of items: where they come from, and that nobody else's are touched."""

from __future__ import annotations

import random
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import poolmagic as pm
from poolmagic import randomness
from poolmagic.magics.arguments import parse_pool_line
from poolmagic.options import RunOptions
from poolmagic.randomness import LARGEST, Place, Task, at, fresh_seed, keep_globals, make_generator, stream

seeds = st.integers(0, LARGEST)
indices = st.integers(0, 2**40)


def first_of(seed: int, index: int) -> float:
    with stream(seed, index):
        return float(pm.rng().random())


@given(seeds, indices)
def test_a_stream_depends_on_seed_and_index(seed: int, index: int) -> None:
    """Any seed and any index will do, and give a generator of NumPy's."""
    assert first_of(seed, index) == first_of(seed, index)
    with stream(seed, index):
        assert isinstance(pm.rng(), np.random.Generator)
        assert isinstance(pm.rng().bit_generator, np.random.PCG64)
        assert pm.rng() is pm.rng()


def test_streams_are_different() -> None:
    """From item to item, and from seed to seed."""
    firsts = {first_of(seed, index) for seed in range(30) for index in range(30)}
    assert 900 == len(firsts)


def test_the_numbers_stay_the_same_from_version_to_version() -> None:
    """Somebody has written them down."""
    assert 0.7978591868433563 == first_of(7, 0)
    with stream(7, 3, seeds_globals=True):
        assert (0.920233478003077, 0.08819795471326997) == (random.random(), np.random.rand())  # noqa: NPY002
    with pytest.MonkeyPatch.context() as patch, stream(7, 3):
        patch.setitem(sys.modules, "numpy", None)
        assert 0.26378137683150327 == pm.rng().random()


def test_a_stream_of_an_item_can_be_had_anywhere() -> None:
    """Within each other, too; what comes after it knows nothing of it."""
    with stream(1, 2):
        outer = pm.rng()
        with stream(1, 3):
            assert pm.rng() is not outer
        assert pm.rng() is outer
    with pytest.raises(pm.UsageError, match=r"pm.rng\(\) is for tasks"):
        pm.rng()


def test_a_stream_may_have_the_globals_with_it() -> None:
    """As the item's task had them on a pool; they are put back, even if it fails."""
    drawn = pm.Pool("solo").map(lambda _: (random.random(), np.random.rand()), range(5), seed=9)  # noqa: NPY002
    before = random.getstate(), str(np.random.get_state())  # noqa: NPY002

    found = []

    def fail() -> None:
        with stream(9, 4, seeds_globals=True):
            found.append((random.random(), np.random.rand()))  # noqa: NPY002
            raise LookupError

    with pytest.raises(LookupError):
        fail()
    assert [drawn[4]] == found

    assert before == (random.getstate(), str(np.random.get_state()))  # noqa: NPY002


def test_a_place_makes_a_generator_for_each_attempt_and_only_if_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A task that draws nothing costs nothing."""
    made: list[tuple[int, int]] = []

    def make(seed: int, index: int) -> Any:
        made.append((seed, index))
        return make_generator(seed, index)

    monkeypatch.setattr(randomness, "make_generator", make)
    now: list[Task | None] = [Task(1, 5, 0)]
    place = Place(lambda: now[0])
    with at(place):
        assert [] == made
        first = pm.rng()
        assert pm.rng() is first
        now[0] = Task(2, 5, 0)
        assert pm.rng() is not first
        assert [(5, 0), (5, 0)] == made
        now[0] = None
        with pytest.raises(pm.UsageError):
            pm.rng()


def test_the_globals_are_kept_as_they_were() -> None:
    """Whatever is done to them."""
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    wanted = random.gauss(0, 1), np.random.normal(), random.gauss(0, 1), np.random.normal()  # noqa: NPY002
    random.seed(3)
    np.random.seed(3)  # noqa: NPY002
    halves = [random.gauss(0, 1), np.random.normal()]  # noqa: NPY002
    with keep_globals():
        random.seed(4)
        np.random.seed(4)  # noqa: NPY002
        random.gauss(0, 1)
        np.random.normal()  # noqa: NPY002
    assert wanted == (*halves, random.gauss(0, 1), np.random.normal())  # noqa: NPY002


@pytest.mark.parametrize("seed", [-1, 1.5, True, "7", LARGEST + 1, [1]])
def test_what_is_no_seed_is_refused(seed: Any) -> None:
    """Before anything is started."""
    with pytest.raises(pm.UsageError, match=r"seed=.*: use a whole number from 0 to 2\*\*128 - 1"):
        pm.Pool("solo").map(abs, [1], seed=seed)


@pytest.mark.parametrize("seed", [0, 7, LARGEST, np.int64(5), None])
def test_what_is_a_seed_is_taken(seed: Any) -> None:
    """Also one of NumPy's; the run records a plain number."""
    run = pm.Pool("solo").start(abs, [1], seed=seed)
    assert type(run.seed) is int
    assert seed in (None, run.seed)


def test_a_seed_may_be_given_on_a_line() -> None:
    """As an option of the runs of its pool."""
    assert 7 == parse_pool_line("prefork -c 2 --seed 7").config()[1].seed
    assert RunOptions() == parse_pool_line("prefork -c 2").config()[1]
    with pytest.raises(pm.UsageError, match="seed"):
        parse_pool_line("prefork --seed x")


def test_seeds_are_drawn_by_the_system() -> None:
    """Two are never the same, whatever was seeded."""
    random.seed(1)
    first = fresh_seed()
    random.seed(1)
    assert first != fresh_seed()


def test_nothing_is_imported_for_those_who_draw_nothing() -> None:
    """A map without `seed` and without `rng` does not bring NumPy."""
    code = "import sys, poolmagic as pm; pm.Pool('solo').map(abs, [1]); assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
