"""`Windows` and `Pack`: what a loader delivers in place of whole samples."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ._errors import InvalidArgumentError
from ._values import whole


@dataclass(frozen=True)
class Windows:
    """Sliding windows over the first axis of samples, as time: a sample of shape `[T, ...]` has
    `(T - length) // stride + 1` windows of shape `[length, ...]`, none if it is shorter.

    >>> for batch in tensorshard.Loader("episodes", windows=Windows(128, stride=64), sample_ids=True):  # doctest: +SKIP
    ...     batch["state"], batch["sample_ids"], batch["window_starts"]

    The windows are what the loader orders, shuffles, deals out to ranks and counts. Selections are of samples, and all
    windows of them. Where T varies, opening reads the shapes of all chunks.

    Args:
        length: Steps of a window.
        stride: Steps from the start of a window to that of the next one; the length unless given.
        fields: The fields that are cut; others are delivered whole, with every window of their sample. Unless given,
            all tensors whose first axis varies; if there is none, the first tensor that has an axis, and all whose
            first axis is as long.
    """

    length: int
    stride: int | None = None
    fields: Sequence[str] | None = None

    def native(self) -> tuple[int, int, list[str] | None]:
        """As the native module takes it."""
        if isinstance(self.fields, str):
            raise InvalidArgumentError(f"fields is a list of names: write fields=[{self.fields!r}]")
        length = whole("length", self.length)
        stride = length if self.stride is None else whole("stride", self.stride)
        if length < 1 or stride < 1:
            raise InvalidArgumentError(f"windows of {length} steps every {stride}: both are at least 1")
        return length, stride, None if self.fields is None else list(self.fields)


@dataclass(frozen=True)
class Pack:
    """Packs the samples of a ragged field, as documents of tokens, into windows of a fixed length: the selected samples
    in the order of the dataset (or of `indices`) are one stream, which is cut every `length` tokens.

    >>> pack = Pack("tokens", 2048, separator=0)
    >>> for batch in tensorshard.Loader("texts", fields=["tokens"], pack=pack):  # doctest: +SKIP
    ...     batch["tokens"], batch["segment_ids"], batch["positions"]

    Beside `[batch, length]` tokens a batch has, both int32 of the same shape, `segment_ids` (which sample of its window
    a token is of, from 0, and -1 for padding) and `positions` (the token's place in its sample). With `sample_ids`,
    those of the windows' first tokens. The windows are what the loader orders, shuffles, deals out to ranks and counts.

    Args:
        field: The field; or several that have as many tokens in every sample, as tokens and a mask of the loss.
        length: Tokens of a window.
        separator: A token that is put after each sample, as its last one. Other fields than the first have 0 there.
        pad: A token that fills the last window; unless given, what does not fill it is left out. Other fields than the
            first, and `positions`, have 0 there.
    """

    field: str | Sequence[str]
    length: int
    separator: float | None = None
    pad: float | None = None

    def native(self) -> tuple[list[str], int, float | None, float | None]:
        """As the native module takes it."""
        fields = [self.field] if isinstance(self.field, str) else list(self.field)
        if not fields:
            raise InvalidArgumentError("no field is packed")
        length = whole("length", self.length)
        if length < 1:
            raise InvalidArgumentError(f"packed windows have at least 1 token, not {length}")
        return fields, length, _value("separator", self.separator), _value("pad", self.pad)


def _value(name: str, value: float | None) -> float | None:
    if value is None:
        return None
    if not isinstance(value, numbers.Real):
        raise InvalidArgumentError(f"{name} is a number, not {value!r}")
    number = float(value)
    if number != value and value == value:
        raise InvalidArgumentError(f"{name}={value} is beyond 2**53, where not every number can be told from the next")
    return number


def cut(windows: Windows | int | None, pack: Pack | None) -> dict[str, Any]:
    """Windows and packing as the native module takes them."""
    if isinstance(windows, numbers.Integral) and not isinstance(windows, bool):
        windows = Windows(int(windows))
    for name, value, kind in (("windows", windows, Windows), ("pack", pack, Pack)):
        if value is not None and not isinstance(value, kind):
            raise InvalidArgumentError(f"{name} is a tensorshard.{kind.__name__}, not {type(value).__name__}")
    return {
        "windows": windows.native() if isinstance(windows, Windows) else None,
        "pack": None if pack is None else pack.native(),
    }
