"""Sizes, rates and seconds as people write them."""

from __future__ import annotations

import pytest

from poolmagic.errors import UsageError
from poolmagic.quantities import read_rate, read_seconds, read_size, show_size


@pytest.mark.parametrize(
    ("given", "size"),
    [(7, 7), (2.5e9, 2_500_000_000), ("2GB", 2 << 30), ("1.5 GiB", 3 << 29), ("512m", 512 << 20), ("10 kb", 10_240)],
)
def test_sizes_are_bytes_or_texts(given: object, size: int) -> None:
    """K, M, G and T are powers of 1024, as memory is counted."""
    assert size == read_size("limit", given)


@pytest.mark.parametrize("given", [0, -5, "", "2 apples", "GB", True, None, float("inf"), [1]])
def test_what_is_no_size_is_refused(given: object) -> None:
    """In one line that names the option."""
    with pytest.raises(UsageError, match=r"^limit=.*: use a number of bytes or a text such as '2GB'$"):
        read_size("limit", given)


@pytest.mark.parametrize(("size", "text"), [(0, "0 bytes"), (900, "900 bytes"), (3 << 29, "1.5 GB"), (5 << 20, "5 MB")])
def test_sizes_are_shown_in_few_digits(size: int, text: str) -> None:
    """In the largest unit that they have one of."""
    assert text == show_size(size)


@pytest.mark.parametrize(("given", "rate"), [(5, 5.0), ("5", 5.0), ("120/m", 2.0), ("7200 / h", 2.0), ("0.5/s", 0.5)])
def test_rates_are_per_second_or_texts(given: object, rate: float) -> None:
    """As in Celery."""
    assert rate == read_rate("rate", given)


@pytest.mark.parametrize("given", [-1, 0, "fast", "1/d", True, None, float("nan")])
def test_what_is_no_rate_is_refused(given: object) -> None:
    """In one line that names the option."""
    with pytest.raises(UsageError, match=r"^rate=.*: use items per second"):
        read_rate("rate", given)


@pytest.mark.parametrize("given", [0, -1, "1", True, float("inf"), float("nan"), None])
def test_seconds_are_numbers_above_zero(given: object) -> None:
    """Nothing else, and not without end."""
    assert 0.25 == read_seconds("patience", 0.25)
    with pytest.raises(UsageError, match=r"^patience=.*: use a number of seconds above zero$"):
        read_seconds("patience", given)
