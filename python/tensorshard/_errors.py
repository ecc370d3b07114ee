"""The errors of this package: one tree, with what is known of the place as attributes."""

from __future__ import annotations

from typing import Any


class TensorshardError(Exception):
    """Anything that went wrong; the message says what, where, and what to do next.

    Attributes:
        path: The file or folder, as a string.
        shard: The shard's 32 hexadecimal digits.
        chunk: The chunk's number in its shard.
        field: The field's name.
        offset: The byte offset in the file.
    """

    path: str | None
    shard: str | None
    chunk: int | None
    field: str | None
    offset: int | None

    def __init__(self, message: str = "", **where: Any) -> None:
        super().__init__(message)
        path = where.get("path")
        self.path = None if path is None else str(path)
        self.shard = where.get("shard")
        self.chunk = where.get("chunk")
        self.field = where.get("field")
        self.offset = where.get("offset")
        self._where = where

    def __reduce__(self) -> Any:
        return _rebuild, (type(self), str(self), self._where)


def _rebuild(cls: type[TensorshardError], message: str, where: dict[str, Any]) -> TensorshardError:
    return cls(message, **where)


class StorageError(TensorshardError, OSError):
    """The operating system refused an operation; `errno` says why."""

    def __init__(self, message: str = "", **where: Any) -> None:
        super().__init__(message, **where)
        self.errno = where.get("errno")


class NotFoundError(StorageError, FileNotFoundError):
    """A file or a dataset is not there."""


class CorruptError(TensorshardError, ValueError):
    """The file is damaged, or not what it claims to be."""


class LimitExceededError(CorruptError):
    """A number above a limit of the format."""


class UnsupportedError(TensorshardError):
    """The file is well formed, but this version cannot read it; or something optional is not installed."""


class InvalidArgumentError(TensorshardError, ValueError):
    """The request makes no sense; the message says what would."""


class StateMismatchError(InvalidArgumentError):
    """A state of another dataset, or of other options of the order; the message names what differs."""


class UnrepresentableError(TensorshardError, ValueError):
    """A value that the chosen quantizer cannot represent.

    Attributes:
        value: The value.
        sample: The index of its sample in what was written.
    """

    value: float | None
    sample: int | None

    def __init__(self, message: str = "", **where: Any) -> None:
        super().__init__(message, **where)
        self.value = where.get("value")
        self.sample = where.get("sample")


class ForkError(TensorshardError, RuntimeError):
    """An iterator or a writer was used in a process forked from the one that made it."""


class WorkerPanickedError(TensorshardError, RuntimeError):
    """A bug in tensorshard."""
