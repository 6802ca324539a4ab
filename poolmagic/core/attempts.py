"""Items that are tried again: those that rest before their next try, and those that may have killed their worker.

When a worker dies, the items that ran on it are suspects. They run again, but with nothing else on their worker, so
that the next death tells more: a *group* of several is halved each time, until there is one that was alone.
"""

from __future__ import annotations

from collections import deque
from random import Random
from typing import TypeAlias

from poolmagic.core.alarms import Alarm, Alarms
from poolmagic.core.books import RunBook
from poolmagic.core.events import Policy
from poolmagic.messages import Span

__all__ = ["Attempts", "Group", "size_of"]

Group: TypeAlias = tuple[tuple[int, Span], ...]
"""Spans of runs that a worker gets together, and nothing with them."""


class Attempts:
    """The items that are to be tried again and are not ready; a run counts those that rest itself.

    Attributes:
        groups: Groups that wait for a worker, the oldest first: of two halves one is good, and shows that workers are.
        parked: Groups that wait for their run to go on, by run; every paused run is in it.
    """

    def __init__(self, alarms: Alarms) -> None:
        self.groups: deque[Group] = deque()
        self.parked: dict[int, list[Group]] = {}
        self._alarms = alarms

    def park(self, run: int) -> None:
        """Let no group with items of a run go to a worker before `unpark`."""
        self.parked.setdefault(run, [])
        groups = [part for group in self.groups for part in self._split_off(group)]
        self.groups.clear()
        self.groups.extend(groups)

    def unpark(self, run: int) -> None:
        """Let a run's groups wait for workers again."""
        self.groups.extend(self.parked.pop(run, ()))

    def _split_off(self, group: Group) -> list[Group]:
        """Park the pieces of paused runs; return what is left of the group, if anything."""
        if not self.parked:
            return [group]
        for number, groups in self.parked.items():
            if own := tuple(piece for piece in group if piece[0] == number):
                groups.append(own)
        rest = tuple(piece for piece in group if piece[0] not in self.parked)
        return [rest] if rest else []

    def rest(self, run: RunBook, position: int, now: float) -> None:
        """Book a failed attempt, and let the item rest before the next."""
        attempt = run.attempts[position] = run.attempts.get(position, 0) + 1
        run.resting.add(position)
        wait = _draw_wait(run.policy, f"{run.id} {position} {attempt}", attempt)
        self._alarms.set(Alarm("retry", run.id, position), now + wait)

    def give_up(self, run: RunBook) -> int:
        """Forget a run's items; return how many those are."""
        count = len(run.resting)
        for position in run.resting:
            self._alarms.drop(Alarm("retry", run.id, position))
        run.resting.clear()
        for _ in range(len(self.groups)):
            group = self.groups.popleft()
            rest = tuple(piece for piece in group if piece[0] != run.id)
            count += size_of(group) - size_of(rest)
            if rest:
                self.groups.append(rest)
        return count + sum(map(size_of, self.parked.pop(run.id, ())))

    def add(self, group: Group) -> None:
        """Let a group wait, if there is anything in it, before all others."""
        if group:
            self.groups.extendleft(self._split_off(group))

    def add_halves(self, group: Group) -> None:
        """Let the halves of a group wait, each by itself; there may be only one."""
        for half in cut(group, size_of(group) // 2):
            if half:
                self.groups.extend(self._split_off(half))

    def next_group(self, most: float) -> Group:
        """Take the first group, or as much of it as a worker may have."""
        group = self.groups.popleft()
        if size_of(group) > most:
            group, rest = cut(group, int(most))
            self.groups.appendleft(rest)
        return group


def size_of(group: Group) -> int:
    """Return how many items a group has."""
    return sum(stop - start for _, (start, stop) in group)


def cut(group: Group, size: int) -> tuple[Group, Group]:
    """Return the first so many items of a group, and the rest."""
    first: list[tuple[int, Span]] = []
    rest: list[tuple[int, Span]] = []
    for run, (start, stop) in group:
        middle = min(stop, start + size)
        size -= middle - start
        if start < middle:
            first.append((run, (start, middle)))
        if middle < stop:
            rest.append((run, (middle, stop)))
    return tuple(first), tuple(rest)


def _draw_wait(policy: Policy, seed: str, attempt: int) -> float:
    """Return the wait before the next attempt: any below a bound that doubles, so that not all come back at once."""
    return Random(seed).uniform(0.0, policy.longest_wait(attempt))  # noqa: S311 - the same log of events is to give the same waits
