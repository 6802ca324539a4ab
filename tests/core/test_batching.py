"""Batch sizes: what a sizer learns, and how busy it keeps the workers, in a simulation with a clock of its own."""

from __future__ import annotations

import math
from functools import cache
from random import Random

import pytest

from poolmagic.core.batching import FLOOR, GROWTH, SLOW, TARGET, Plan, Sizer
from tests.core.simulation import Costs, Simulation

# The sizer ---------------------------------------------------------------------------------------------------------


def plan(sizer: Sizer, slots: int = 1, remaining: int | None = None, workers: int = 2) -> Plan:
    return sizer.plan(slots, remaining, workers)


def taught(pace: float, slots: int = 1, chunksize: int | None = None) -> Sizer:
    """Return a sizer that has seen many items of so many seconds."""
    sizer = Sizer(chunksize)
    count = max(1, math.ceil(TARGET / pace))
    for _ in range(10):
        sizer.learn(count, count * pace, slots)
    return sizer


def test_the_first_batch_is_one_item_for_each_slot() -> None:
    """Nothing is known yet, and one item may take an hour."""
    assert [1, 5] == [plan(Sizer(), slots).size for slots in (1, 5)]
    assert [1, 5] == [plan(Sizer(), slots).limit for slots in (1, 5)]


def test_batches_grow_to_their_target() -> None:
    """Not at once: never to more than four times what has been seen."""
    sizer, sizes = Sizer(), []
    for _ in range(6):
        sizes.append(plan(sizer, workers=1).size)
        sizer.learn(sizes[-1], sizes[-1] * 0.0001, 1)
    assert [1, 4, 20, 100, 500, 500] == sizes
    assert GROWTH * sum(sizes[:3]) == sizes[3]


def test_what_many_workers_saw_counts_by_the_root_of_their_number() -> None:
    """Each saw little, and they get their next batches all at once."""
    sizer = Sizer()
    sizer.learn(100, 0.0001, 1)
    assert [400, 400, 200, 50] == [plan(sizer, workers=workers).size for workers in (1, 2, 4, 64)]


def test_there_is_no_batch_in_advance_until_batches_have_their_size() -> None:
    """It would be twice the risk for nothing: the first one is over before it could be reported on."""
    sizer = Sizer()
    for size in (1, 4, 20, 100):
        assert size == plan(sizer, workers=1).limit
        sizer.learn(size, size * 0.0001, 1)
    assert 2 * 500 == plan(sizer, workers=1).limit


def test_a_slow_item_is_believed_at_once() -> None:
    """A batch that is too small costs less than one that is too big."""
    sizer = taught(0.0001)
    sizer.learn(1, 1.0, 1)
    assert 1 == plan(sizer).size


def test_slow_items_get_no_batch_in_advance() -> None:
    """They would wait behind the one that runs while another worker has nothing to do."""
    assert 1 == plan(taught(SLOW * 1.01)).limit
    assert 2 == plan(taught(SLOW * 0.99)).limit


def test_batches_shrink_towards_the_end() -> None:
    """To the half of an even share, so that workers end together, but never to crumbs."""
    sizer, crumb = taught(0.0001), round(FLOOR / 0.0001)
    sizes = [plan(sizer, 1, remaining, 4).size for remaining in (100_000, 1000, 100, 3, 0)]
    assert [500, 125, crumb, crumb, crumb] == sizes
    assert 2 * 125 == plan(sizer, 1, 1000, 4).limit


def test_one_worker_has_nobody_to_share_with() -> None:
    """Its batches stay as they are to the end."""
    assert 500 == plan(taught(0.0001), 1, 3, 1).size


def test_a_worker_of_many_slots_has_an_item_in_advance_for_each() -> None:
    """Many of them may end at the same time; towards the end it is no more than the worker's share."""
    assert 200 == plan(taught(1.0, 100), 100).limit
    assert 1000 + 1000 == plan(taught(0.0001, 1000), 1000).limit
    assert 100 + 10 == plan(taught(1.0, 100), 100, 40, 2).limit


def test_a_size_that_the_user_chose_is_kept() -> None:
    """Whatever is measured; how many batches a worker has in hand still goes by time."""
    assert [7, 7, 7] == [plan(sizer, 1, 3, 5).size for sizer in (Sizer(7), taught(1e-5, 1, 7), taught(10.0, 1, 7))]
    assert 100 == plan(taught(0.001, 1, 1)).limit


@pytest.mark.parametrize("seconds", [0.0, 1e-12, 1e9])
@pytest.mark.parametrize("count", [1, 10**6])
def test_any_measurement_can_be_learned(count: int, seconds: float) -> None:
    """A clock may not have moved between two looks, and a computer may have slept between them."""
    sizer = Sizer()
    for _ in range(3):
        sizer.learn(count, seconds, 1)
        assert 1 <= plan(sizer).least <= plan(sizer).size <= plan(sizer).limit <= 10**9


@pytest.mark.parametrize(("count", "takers"), [(1, 2), (2, 2), (3, 1), (100, 2), (1000, 65), (10, 1)])
def test_a_taker_gets_half_at_most(count: int, takers: int) -> None:
    """He may be held up like the one from whom the items were taken back."""
    assert 1 <= taught(0.0001).share(count, takers) <= (count + 1) // 2


# The simulation ----------------------------------------------------------------------------------------------------

WORKERS = (2, 4, 16, 64)


def _either(number: int, short: float, long: float, share: float) -> list[float]:
    random = Random(1)
    return [long if random.random() < share else short for _ in range(number)]


def _heavy(number: int, median: float, sigma: float) -> list[float]:
    random = Random(1)
    return [random.lognormvariate(math.log(median), sigma) for _ in range(number)]


@cache
def durations(name: str, workers: int) -> list[float]:
    """Return durations of items, about one or two seconds for each worker."""
    rising = [0.0002 + 0.0598 * place / (60 * workers) for place in range(60 * workers)]
    short = [0.001] * 500 * workers
    return {
        "0.1 ms": [0.0001] * 10_000 * workers,
        "1 ms": [0.001] * 1500 * workers,
        "10 ms": [0.01] * 150 * workers,
        "0.5 s": [0.5] * 6 * workers,
        "rising": rising,
        "falling": rising[::-1],
        "one in 5 of 200 ms among 10 ms": _either(40 * workers, 0.01, 0.2, 0.2),
        "one in 20 of 50 ms among 0.1 ms": _either(600 * workers, 0.0001, 0.05, 0.05),
        "one in 50 of 1 s among 1 ms": _either(200 * workers, 0.001, 1.0, 0.02),
        "heavy-tailed": _heavy(300 * workers, 0.001, 2.0),
        "one giant, first": [1.5, *short, *short],
        "one giant, in the middle": [*short, 1.5, *short],
        "one giant, last": [*short, *short, 1.5],
        "a short one, and then 30 ms": [0.000001] + [0.03] * 50 * workers,
        "1 ms, and then 100 ms": short + [0.1] * 20 * workers,
        "100 ms, and then 1 ms": [0.1] * 10 * workers + short + short,
    }[name]


LEAST = {
    "0.1 ms": (0.98, 0.98, 0.97, 0.91),
    "1 ms": (0.99, 0.99, 0.98, 0.95),
    "10 ms": (0.99, 0.99, 0.99, 0.97),
    "0.5 s": (0.99, 0.99, 0.99, 0.98),
    "rising": (0.99, 0.99, 0.99, 0.98),
    "falling": (0.99, 0.99, 0.99, 0.97),
    "one in 5 of 200 ms among 10 ms": (0.98, 0.96, 0.97, 0.98),
    "one in 20 of 50 ms among 0.1 ms": (0.98, 0.98, 0.98, 0.96),
    "one in 50 of 1 s among 1 ms": (0.98, 0.97, 0.98, 0.97),
    "heavy-tailed": (0.98, 0.98, 0.98, 0.98),
    "one giant, first": (0.99, 0.99, 0.99, 0.99),
    "one giant, in the middle": (0.99, 0.99, 0.99, 0.98),
    "one giant, last": (0.99, 0.99, 0.99, 0.97),
    "a short one, and then 30 ms": (0.99, 0.99, 0.99, 0.98),
    "1 ms, and then 100 ms": (0.99, 0.98, 0.98, 0.97),
    "100 ms, and then 1 ms": (0.98, 0.98, 0.98, 0.93),
}
"""For each number of workers, the least share of what a scheduler achieves that hands out item by item at no cost. One
that knew the future would do no better but for a giant that is not the first item: nobody sees it coming."""


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("name", LEAST)
def test_workers_are_kept_busy(name: str, workers: int) -> None:
    """Whatever the items' durations are, in whatever order they come, with a message or two for each `TARGET`."""
    items = durations(name, workers)
    simulation = Simulation(workers, items).run()
    assert LEAST[name][WORKERS.index(workers)] <= simulation.quality
    assert simulation.efficiency <= 1.0
    # There is an order, a batch and a report for each TARGET, for twice as many of the tail, or for each item.
    assert simulation.messages < 3 * min(len(items), 2 * sum(items) / TARGET) + 60 * workers


@pytest.mark.parametrize("workers", [2, 16])
@pytest.mark.parametrize("name", LEAST)
def test_workers_are_kept_busy_when_nobody_knows_how_many_items_there_are(name: str, workers: int) -> None:
    """Nothing can shrink towards an end that nobody sees; what is in hand then is taken back and shared."""
    simulation = Simulation(workers, durations(name, workers), knows_total=False).run()
    assert LEAST[name][WORKERS.index(workers)] - 0.005 <= simulation.quality


@pytest.mark.parametrize("name", ["0.1 ms", "10 ms", "rising", "heavy-tailed", "one giant, in the middle"])
def test_a_worker_that_is_hard_of_hearing_is_kept_busy_too(name: str) -> None:
    """Pure Python holds the interpreter for 5 ms at a time, twice until a message is read: so late comes a batch."""
    costs = Costs(deafness=0.01)
    assert Simulation(4, durations(name, 4), costs=costs).run().quality > 0.96


@pytest.mark.parametrize(("workers", "most"), [(2, 1.5), (16, 2.0)])
def test_items_that_take_no_time_cost_few_messages(workers: int, most: float) -> None:
    """Half a million in a few batches, in little more than the time that the parent needs for the items themselves."""
    simulation = Simulation(workers, [0.0] * 500_000).run()
    assert max(simulation.ends.values()) < most * 2 * 500_000 * Costs().item
    assert len(simulation.batches) < 20 * workers


def test_a_short_item_makes_no_long_batch() -> None:
    """One fast item is no reason to believe that the next hundred thousand are: four at most go together."""
    for slow in (0.01, 0.1, 1.0, 10.0):
        assert Simulation(2, [1e-6, *[slow] * 100]).run().longest_batch <= max(1.1 * TARGET, GROWTH * slow * 1.01)


@pytest.mark.parametrize("workers", [2, 4, 16])
def test_rising_durations_make_no_long_batch(workers: int) -> None:
    """What was seen is always faster than what comes; a batch is some times its target, and not a share of the run."""
    assert Simulation(workers, durations("rising", workers)).run().longest_batch < 9 * TARGET


@pytest.mark.parametrize("knows_total", [True, False])
@pytest.mark.parametrize("workers", [2, 16])
@pytest.mark.parametrize("place", [0, 300, 999, 1000, 1500, 1999])
def test_a_slow_item_does_not_hold_its_batch_mates(place: int, workers: int, knows_total: bool) -> None:
    """All others are finished about as soon as they would be without it, long before it is."""
    items = [0.001] * 2000
    items[place] = 30.0
    simulation = Simulation(workers, items, knows_total=knows_total).run()
    assert simulation.finished_without(place) < 2000 * 0.001 / (workers - 1) + 0.05
    assert simulation.withdrawals < 8 * workers


@pytest.mark.parametrize("chunksize", [None, 100])
def test_several_slow_items_do_not_hold_their_batch_mates(chunksize: int | None) -> None:
    """Three of four workers are held up, and the fourth does all the rest, batch mates of theirs included."""
    items = [0.001] * 2000
    for place in (500, 1000, 1500):
        items[place] = 30.0
    simulation = Simulation(4, items, chunksize=chunksize).run()
    assert simulation.finished_without(500, 1000, 1500) < 2.5


@pytest.mark.parametrize("size", [1, 7, 10, 100])
def test_a_chosen_batch_size_is_obeyed_and_keeps_workers_busy(size: int) -> None:
    """A worker has the next batches before it ends the last, however small they are; only what is taken back is cut."""
    simulation = Simulation(2, [0.001] * 2100, chunksize=size).run()
    assert simulation.quality > 0.98
    odd = [span for _, _, _, (start, stop) in simulation.batches if (span := stop - start) != size]
    assert len(odd) <= 4 * simulation.withdrawals


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("slots", "seconds", "number"), [(1000, 0.1, 20_000), (100, 1.0, 1000), (10, 0.5, 200)])
def test_many_slots_are_kept_full(slots: int, seconds: float, number: int, workers: int) -> None:
    """Whether their items end together or one after the other: then the end of the run is as long as an item."""
    assert Simulation(workers, [seconds] * number, slots=slots).run().quality > 0.99
    random = Random(1)
    mixed = [seconds * random.uniform(0.5, 1.5) for _ in range(number)]
    simulation = Simulation(workers, mixed, slots=slots).run()
    assert simulation.quality > (0.9 if workers * number > 30_000 else 0.96)


@pytest.mark.parametrize("shortest", [1, 10])
def test_answers_that_are_shorter_than_the_order_do_not_starve_anybody(shortest: int) -> None:
    """Payloads are bounded in bytes as well."""
    assert Simulation(4, [0.001] * 2000, shortest=shortest).run().quality > 0.95


def test_equal_runs_share_the_workers() -> None:
    """The second run of two equal ones need not wait for the end of the first."""
    first, second = Simulation(4, [0.1] * 100, [0.1] * 100).run().ends.values()
    assert abs(first - second) < 0.3
