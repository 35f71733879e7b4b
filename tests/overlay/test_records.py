"""The cheap NamedTuple, and that for many records, behave as typing's does."""

from __future__ import annotations

import pickle
import typing
from typing import Any

import pytest

from overlay import records


class Theirs(typing.NamedTuple):
    """A record."""

    first: str
    second: int = 2
    third: tuple[str, ...] = ()

    @property
    def doubled(self) -> int:
        return self.second * 2

    def describe(self) -> str:
        return f"{self.first}/{self.second}"


class Ours(records.NamedTuple):
    """A record."""

    first: str
    second: int = 2
    third: tuple[str, ...] = ()

    @property
    def doubled(self) -> int:
        return self.second * 2

    def describe(self) -> str:
        return f"{self.first}/{self.second}"


class Quick(records.QuickTuple):
    """A record."""

    first: str
    second: int = 2
    third: tuple[str, ...] = ()

    @property
    def doubled(self) -> int:
        return self.second * 2

    def describe(self) -> str:
        return f"{self.first}/{self.second}"


each = pytest.mark.parametrize("record", [Theirs, Ours, Quick])


@each
def test_what_a_record_is(record: Any) -> None:
    made = record("a", third=("x",))
    assert made == ("a", 2, ("x",)) and hash(made) == hash(("a", 2, ("x",)))
    assert (made.first, made.doubled, made.describe(), made[1]) == ("a", 4, "a/2", 2)
    first, *rest = made
    assert (first, rest) == ("a", [2, ("x",)])
    assert repr(made) == f"{record.__name__}(first='a', second=2, third=('x',))"
    assert made._asdict() == {"first": "a", "second": 2, "third": ("x",)}
    assert made._replace(second=5) == record("a", 5, ("x",)) and type(made._replace(first="b")) is record
    assert record._make(["a", 1, ()]) == record("a", 1) and record._fields == ("first", "second", "third")
    assert pickle.loads(pickle.dumps(made)) == made
    match made:
        case record(first, second):
            assert (first, second) == ("a", 2)
    assert record.__doc__ == "A record."


@each
@pytest.mark.parametrize("words", [((), {}), (("a", 1, (), 4), {}), (("a",), {"no": 1}), (("a",), {"first": "b"})])
def test_what_is_refused(record: Any, words: tuple[tuple[Any, ...], dict[str, Any]]) -> None:
    with pytest.raises(TypeError):
        record(*words[0], **words[1])


@each
def test_it_cannot_be_changed(record: Any) -> None:
    made = record("a")
    for name in ("first", "other"):
        with pytest.raises(AttributeError):
            setattr(made, name, "b")
    with pytest.raises(ValueError, match="no"):
        made._replace(no=1)
