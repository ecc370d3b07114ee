"""Values of options, checked so far that a mistake is told by the name of the option."""

from __future__ import annotations

import operator
from typing import Any

from ._errors import InvalidArgumentError


def whole(name: str, value: int) -> int:
    """A whole number, which may be one of NumPy."""
    try:
        return operator.index(value)
    except TypeError:
        raise InvalidArgumentError(f"{name} is a whole number, not {value!r}") from None


def count(name: str, value: int) -> int:
    """A whole number from 0 on."""
    number = whole(name, value)
    if not 0 <= number < 2**64:
        raise InvalidArgumentError(f"{name} is a whole number from 0 on, not {value!r}")
    return number


def values(name: str, value: Any, lengths: tuple[int, ...], form: str) -> tuple[Any, ...] | None:
    """A tuple of one of these lengths; `form` says what is meant."""
    if value is None:
        return None
    if not isinstance(value, (tuple, list)) or len(value) not in lengths:
        raise InvalidArgumentError(f"{name} is {form}, not {value!r}")
    return tuple(value)
