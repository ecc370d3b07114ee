"""`Part`: some samples of a dataset, as a part of a mixture."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ._bitmap import Bitmap
from ._errors import InvalidArgumentError
from ._values import values, whole


@dataclass(frozen=True, eq=False)
class Part:
    """A dataset of a mixture, or a part of it: a `Loader` takes a list of these in place of a path.

    >>> loader = tensorshard.Loader([
    ...     tensorshard.Part("books", 0.7, split=(0, 0.9)),
    ...     tensorshard.Part("web", 0.3, range=(0, 10_000)),
    ... ])    # doctest: +SKIP

    The selections are those of `Loader`.
    """

    path: str | os.PathLike[str]
    weight: float = 1.0
    range: tuple[int, int] | None = None
    every_nth: tuple[int, int] | None = None
    indices: Sequence[int] | None = None
    split: tuple[Any, ...] | None = None
    filter: Bitmap | None = None

    def native(self) -> tuple[str, float, dict[str, Any]]:
        """As the native module takes it."""
        chosen = selection(self.range, self.every_nth, self.indices, self.split, self.filter)
        return os.fspath(self.path), float(self.weight), chosen


def selection(
    range: tuple[int, int] | None,
    every_nth: tuple[int, int] | None,
    indices: Sequence[int] | None,
    split: tuple[Any, ...] | None,
    filter: Bitmap | None,
) -> dict[str, Any]:
    """A selection as the native module takes it."""
    if filter is not None and not isinstance(filter, Bitmap):
        raise InvalidArgumentError(
            f"filter is a tensorshard.Bitmap, not {type(filter).__name__}: Bitmap.from_predicate makes one"
        )
    split = values("split", split, (2, 3, 4), "(from, to), as (0, 0.9), and if you like by and seed")
    out = {
        "range": values("range", range, (2,), "(from, to)"),
        "every_nth": values("every_nth", every_nth, (2,), "(n, offset)"),
        "indices": None if indices is None else [whole("an index", i) for i in indices],
        # From, to, by, seed.
        "split": None if split is None else (*split, *("id", 0)[len(split) - 2 :]),
        "filter": None if filter is None else filter._native,
    }
    return {name: value for name, value in out.items() if value is not None}
