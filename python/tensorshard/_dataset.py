"""`Dataset`: samples by index."""

from __future__ import annotations

import json
import operator
import os
from collections.abc import Iterator, Sequence
from typing import Any, overload

import numpy as np

from . import _tensorshard
from ._errors import InvalidArgumentError
from ._outputs import convert_batch, converter

Sample = dict[str, Any]


class Dataset:
    """Samples of a dataset by index: `dataset[17]` is a dict from field names to arrays.

    A slice or a list of indices gives one dict with the samples stacked along a new first axis; fields whose shapes
    vary, text and bytes are lists. It serves torch as a map-style dataset. For training loops `Loader` is faster: it
    decodes ahead and shuffles by chunks.

    Args:
        path: The dataset's folder, or one shard.
        fields: Only these fields, in this order; the others are never read.
        output: What arrays are: `"numpy"`, `"torch"`, `"jax"`, `"tensorflow"` or `"dlpack"`.
        sample_ids: Samples have their index under `sample_ids`.
        io: How files are read: `"auto"`, `"mmap"` or `"read"`.
        verify_checksums: Compare checksums before decoding.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        fields: Sequence[str] | None = None,
        *,
        output: str = "numpy",
        sample_ids: bool = False,
        io: str = "auto",
        verify_checksums: bool = True,
    ) -> None:
        if isinstance(fields, str):
            raise InvalidArgumentError(f"fields is a list of names: write fields=[{fields!r}]")
        self._arguments: dict[str, Any] = {
            "path": os.fspath(path),
            "fields": None if fields is None else list(fields),
            "output": output,
            "sample_ids": sample_ids,
            "io": io,
            "verify_checksums": verify_checksums,
        }
        self._output = output
        self._convert = converter(output)
        self._native = _tensorshard.Dataset(
            os.fspath(path),
            fields=self._arguments["fields"],
            io=io,
            verify_checksums=verify_checksums,
            dlpack=output != "numpy",
            sample_ids=sample_ids,
        )

    @property
    def path(self) -> str:
        """The folder, or the file."""
        path: str = self._arguments["path"]
        return path

    @property
    def fields(self) -> list[dict[str, Any]]:
        """What each field is: name, kind, dtype, shape (None for a dim that varies) and encoding."""
        return self._native.fields()

    @property
    def metadata(self) -> dict[str, Any]:
        """The user's metadata."""
        metadata: dict[str, Any] = json.loads(self._native.metadata())
        return metadata

    @property
    def num_shards(self) -> int:
        """The number of shards."""
        return self._native.num_shards

    @property
    def unfinished(self) -> bool:
        """True if the writer of the dataset flushed but has not finished."""
        return self._native.unfinished

    def __len__(self) -> int:
        """The number of samples."""
        return len(self._native)

    def _index(self, index: Any) -> int:
        i = operator.index(index)
        n = len(self)
        if not -n <= i < n:
            raise IndexError(f"sample {i} of a dataset of {n}")
        return i + n if i < 0 else i

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice | Sequence[int] | np.ndarray[Any, Any]) -> dict[str, Any]: ...
    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return self._stacked(list(range(*index.indices(len(self)))))
        if hasattr(index, "__len__") or (hasattr(index, "shape") and index.shape):
            array = np.asarray(index)
            if array.dtype == bool:
                if array.shape != (len(self),):
                    raise IndexError(f"a mask of {array.size} for {len(self)} samples")
                array = np.flatnonzero(array)
            return self._stacked([self._index(i) for i in array.reshape(-1).tolist()])
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Sample]:
        """Several samples, each a dict, decoded together: as torch's DataLoader asks for them."""
        samples = self._native.get([self._index(i) for i in indices])
        if self._convert is not None:
            samples = [convert_batch(sample, self._convert) for sample in samples]
        return samples

    def _stacked(self, indices: list[int]) -> dict[str, Any]:
        samples = self.__getitems__(indices)
        out: dict[str, Any] = {}
        for field in self.fields:
            name, shape = field["name"], field["shape"]
            values = [sample[name] for sample in samples]
            fixed = field["kind"] == "tensor" and field["dtype"] is not None and shape is not None and None not in shape
            out[name] = self._stack(field, values) if fixed else values
        if self._arguments["sample_ids"]:
            out["sample_ids"] = [sample["sample_ids"] for sample in samples]
        return out

    def _stack(self, field: dict[str, Any], values: list[Any]) -> Any:
        if not values or self._output == "dlpack":
            if self._output == "numpy":
                return np.empty([0, *field["shape"]])
            return values
        if self._output == "torch":
            import torch

            return torch.stack(values)
        if self._output == "jax":
            import jax.numpy as jnp

            return jnp.stack(values)
        if self._output == "tensorflow":
            import tensorflow as tf

            return tf.stack(values)
        return np.stack(values)

    def __iter__(self) -> Iterator[Sample]:
        for i in range(len(self)):
            yield self[i]

    def __reduce__(self) -> Any:
        return _open, (type(self), self._arguments)

    def __repr__(self) -> str:
        names = ", ".join(field["name"] for field in self.fields)
        return f"{type(self).__name__}({self.path!r}): {len(self)} samples of {names}"


def _open(cls: type[Dataset], arguments: dict[str, Any]) -> Dataset:
    return cls(**arguments)
