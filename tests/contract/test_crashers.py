"""One bad item among forty, in every way of the catalogue, on every kind: it fails alone, and the pool is usable."""

from __future__ import annotations

import pytest

import poolmagic as pm
from tests.conftest import MakePool
from tests.crashers import CRASHERS, Crasher, judge

pytestmark = pytest.mark.faults

# To start a green worker takes half a second, and an item that ends its process costs three of them. So of these there
# are a few here; ``python -m tests.crashers`` tries them all.
FEW = {
    "gevent": ("segfault", "closes all descriptors and returns", "result that segfaults when pickled"),
    "asyncio": ("segfault", "argument that segfaults when loaded", "result that segfaults when pickled"),
    "eventlet": ("segfault",),
}
CASES = [
    pytest.param(kind, crasher, id=f"{kind}-{crasher.name}")
    for crasher in CRASHERS
    for kind in crasher.kinds
    if kind not in FEW or crasher.error is not pm.WorkerLostError or crasher.name in FEW[kind]
]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what a destructor raises
@pytest.mark.parametrize(("where", "crasher"), CASES)
def test_a_bad_item_fails_alone(where: str, crasher: Crasher, make_pool: MakePool) -> None:
    """Its neighbours are right, its error says why, and so is the next map on the same pool."""
    assert not judge(make_pool(where, None if where == "solo" else 2), crasher)
