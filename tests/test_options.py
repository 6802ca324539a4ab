"""What a user may ask of a run: every option is checked at once, and each refusal says in one line what is allowed."""

from __future__ import annotations

from typing import Any

import pytest

from poolmagic.errors import UsageError
from poolmagic.options import RunOptions, divide


@pytest.mark.parametrize(
    ("given", "fail_fast"),
    [
        ({}, True),
        ({"on_error": "raise"}, True),
        ({"on_error": "return"}, False),
        ({"on_error": "skip", "chunksize": 3, "progress": False}, False),
        ({"return_exceptions": True}, False),
        ({"buffersize": 1, "chunksize": None, "progress": None}, True),
        ({"time_limit": 2.0, "soft_time_limit": 1.5, "retries": 0, "crash_retries": 0, "rate_limit": None}, True),
        ({"retries": 3, "retry_backoff": 0.1, "retry_backoff_max": 5.0}, True),
    ],
)
def test_options_are_taken(given: dict[str, Any], fail_fast: bool) -> None:
    """The first failure ends a run that raises it, and no other."""
    options = RunOptions.make(given)
    assert given == {name: getattr(options, name) for name in given}
    assert fail_fast is options.fail_fast


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"chunk_size": 3}, "unknown option 'chunk_size'; use one of on_error, return_exceptions, chunksize, "),
        ({"on_error": "ignore"}, "on_error='ignore': use 'raise', 'return', 'skip' or 'collect'"),
        ({"on_error": None}, "on_error=None: use"),
        ({"chunksize": 0}, "chunksize=0: use a whole number of at least 1"),
        ({"buffersize": 1.5}, "buffersize=1.5: use a whole number"),
        ({"progress": "yes"}, "progress='yes': use True or False"),
        ({"time_limit": 0}, "time_limit=0: use a number of seconds above zero"),
        ({"time_limit": "5"}, "time_limit='5': use a number of seconds"),
        ({"soft_time_limit": -1.0}, "soft_time_limit=-1.0: use a number of seconds"),
        ({"soft_time_limit": 3, "time_limit": 2}, "soft_time_limit=3: use less than the time_limit, 2"),
        ({"retries": -1}, "retries=-1: use a whole number"),
        ({"retries": True}, "retries=True: use a whole number"),
        ({"crash_retries": 0.5}, "crash_retries=0.5: use a whole number"),
        ({"retry_on": "OSError"}, "retry_on='OSError': use a type of exceptions, or several"),
        ({"retry_on": ()}, r"retry_on=\(\): use a type of exceptions"),
        ({"retry_on": KeyboardInterrupt}, "retry_on=<class 'KeyboardInterrupt'>: use a type of exceptions"),
        ({"rate_limit": "100/d"}, "rate_limit='100/d': use items per second or a text such as '100/m'"),
        ({"rate_limit": 0}, "rate_limit=0: use items per second"),
        ({"return_exceptions": 2}, "return_exceptions=2: use True or False"),
        ({"return_exceptions": True, "on_error": "skip"}, "return_exceptions=True says the same as on_error: use one"),
    ],
)
def test_wrong_options_are_refused_in_one_line(given: dict[str, Any], text: str) -> None:
    """Before anything is started."""
    with pytest.raises(UsageError, match="^" + text) as caught:
        RunOptions.make(given)
    assert "\n" not in str(caught.value)


def test_a_call_takes_only_its_own_options() -> None:
    """`imap` has no progress bar, and `map` no buffer."""
    assert 3 == RunOptions.make({"chunksize": 3}, ("chunksize", "on_error")).chunksize
    with pytest.raises(UsageError, match="unknown option 'progress'; use one of chunksize, on_error"):
        RunOptions.make({"progress": True}, ("chunksize", "on_error"))


def test_texts_and_single_values_are_read() -> None:
    """A rate as in Celery, one type of exceptions or several."""
    options = RunOptions.make({"rate_limit": "120/m", "retry_on": OSError})
    assert 2.0 == options.rate_limit
    assert (OSError,) == options.retry_on
    assert (OSError, KeyError) == RunOptions.make({"retry_on": [OSError, KeyError]}).retry_on


def test_what_a_pool_says_holds_where_a_run_says_nothing() -> None:
    """And nothing of it is a setting of the pool itself."""
    settings, options = divide({"workers": 2, "retries": 3, "time_limit": 5.0})
    assert {"workers": 2} == settings
    assert (3, 5.0) == (options.retries, options.time_limit)
    assert (1, 5.0) == (RunOptions.make({"retries": 1}, (), options).retries, options.time_limit)
    assert RunOptions.make({"time_limit": None}, (), options).time_limit is None
    with pytest.raises(UsageError, match="unknown option 'procs'; use one of workers, inner_threads, "):
        divide({"procs": 2})  # type: ignore[typeddict-unknown-key]
