"""`NamedTuple` for the modules that starts load: the same to read and to check, a tenth of the time to define.

typing's compiles each annotation and writes each class's ``__new__`` as source: 45 of them were a fifth of a start.
Here an instance takes a microsecond longer; those of `QuickTuple`, for records made by the million, do not.

`TYPE_CHECKING` is typing's as well. Loading typing, with what it imports, takes 5 ms, and nothing of it is needed to
run: annotations are never evaluated here.
"""

from __future__ import annotations

__all__ = ["TYPE_CHECKING", "NamedTuple", "QuickTuple"]

TYPE_CHECKING = False  # for type checkers, which go by the name, it is true

if TYPE_CHECKING:
    from typing import NamedTuple
    from typing import NamedTuple as QuickTuple
else:
    from _collections import _tuplegetter  # what collections.namedtuple uses

    class _Fields(type):
        """Makes annotations of a class body into fields of a tuple."""

        def __new__(mcs, name, bases, body):
            fields = tuple(body.get("__annotations__", ()))
            body["_fields"] = body["__match_args__"] = fields
            body["_field_defaults"] = {field: body[field] for field in fields if field in body}
            body["__slots__"] = ()
            for number, field in enumerate(fields):
                body[field] = _tuplegetter(number, "")
            return super().__new__(mcs, name, bases, body)

    class NamedTuple(tuple, metaclass=_Fields):
        """Base of records; what a subclass annotates are its fields, with defaults where it assigns."""

        def __new__(cls, *given, **named):
            fields = cls._fields
            if len(given) != len(fields) or named:
                given = (*given, *(cls._pick(field, named) for field in fields[len(given) :]))
                if named or len(given) != len(fields):
                    raise TypeError(f"{cls.__name__}: {', '.join(named) or len(given)} is no field, or given twice")
            return tuple.__new__(cls, given)

        @classmethod
        def _pick(cls, field, named):
            if field in named:
                return named.pop(field)
            if field in cls._field_defaults:
                return cls._field_defaults[field]
            raise TypeError(f"{cls.__name__}: {field} is missing")

        @classmethod
        def _make(cls, values):
            return cls(*values)

        def _replace(self, **named):
            changed = tuple.__new__(type(self), (named.pop(f, old) for f, old in zip(self._fields, self, strict=True)))
            if named:
                raise ValueError(f"{type(self).__name__} has no field {', '.join(named)}")
            return changed

        def _asdict(self):
            return dict(zip(self._fields, self, strict=True))

        def __repr__(self):
            return f"{type(self).__name__}({', '.join(f'{f}={v!r}' for f, v in self._asdict().items())})"

        def __getnewargs__(self):
            return tuple(self)

    class _Written(_Fields):
        """Writes ``__new__`` as source, like collections.namedtuple: a tenth of a millisecond for each class."""

        def __new__(mcs, name, bases, body):
            made = super().__new__(mcs, name, bases, body)
            if made._fields:
                line = f"lambda _cls, {', '.join(made._fields)}: _new(_cls, ({', '.join(made._fields)},))"
                new = eval(line, {"_new": tuple.__new__, "__builtins__": {}})
                new.__defaults__ = tuple(made._field_defaults.values())
                made.__new__ = new
            return made

    class QuickTuple(NamedTuple, metaclass=_Written):
        """`NamedTuple` for records that are made by the million."""
