"""Every error carries what it knows, also through a pickle; advice is given once."""

from __future__ import annotations

import copy
import pickle

import pytest

from poolmagic import errors
from poolmagic.errors import (
    InternalError,
    PayloadError,
    PoolMagicError,
    RemoteError,
    RunCancelled,
    TaskCancelled,
    TaskError,
    UnconsumedWarning,
    UsageError,
    WireError,
    WorkerLostError,
    note_once,
)

RAISED: list[tuple[type[PoolMagicError], dict[str, object]]] = [
    (UsageError, {}),
    (PayloadError, {"culprit": "f -> global 'lock'"}),
    (RemoteError, {"type_name": "Odd", "text": "Traceback"}),
    (WorkerLostError, {"pid": 12, "exitcode": -9}),
    (RunCancelled, {}),
    (WireError, {}),
    (InternalError, {}),
]


@pytest.mark.parametrize(("cls", "facts"), RAISED)
def test_an_error_survives_pickling_with_all_it_knows(cls: type[PoolMagicError], facts: dict[str, object]) -> None:
    """Its text, its attributes, its notes; also a copy of it."""
    error = cls("what happened", **facts)
    error.add_note("a note")
    for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert cls is type(again)
        assert "what happened" == str(again)
        assert facts == {name: getattr(again, name) for name in facts}
        assert ["a note"] == again.__notes__


@pytest.mark.parametrize(("cls", "facts"), RAISED)
def test_an_error_of_which_little_is_known_has_its_attributes_all_the_same(
    cls: type[PoolMagicError], facts: dict[str, object]
) -> None:
    """They are empty."""
    error = cls("what happened")
    assert [] == [name for name in facts if getattr(error, name)]


def test_the_family_is_as_the_module_says() -> None:
    """Whose fault it is can be told by the class; a wrong call is a `ValueError`, too."""
    assert all(issubclass(cls, PoolMagicError) for cls, _ in RAISED)
    assert {PayloadError, RemoteError} == set(TaskError.__subclasses__())
    assert issubclass(UsageError, ValueError)
    assert issubclass(UnconsumedWarning, Warning)


def test_a_cancel_is_not_swallowed_by_a_task_that_catches_everything() -> None:
    """It is no `Exception`."""
    assert not issubclass(TaskCancelled, Exception)


def test_advice_is_given_once(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """On stderr, in one line, and not again."""
    monkeypatch.setattr(errors, "_said", set())
    note_once("use more")
    note_once("use more")
    note_once("use less")
    assert ("", "poolmagic: use more\npoolmagic: use less\n") == tuple(capsys.readouterr())
