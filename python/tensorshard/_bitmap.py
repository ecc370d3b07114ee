"""`Bitmap`: which samples of a dataset are in a set."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from . import _tensorshard
from ._errors import InvalidArgumentError

#: Options of a loader that say what batches look like and how they are read, and not which there are.
_LOOKS = ("output", "dtype", "outputs", "ragged", "num_workers", "prefetch", "memory_budget", "io", "verify_checksums")


class Bitmap:
    """A set of samples of a dataset, one bit for each: what a `Loader` takes as `filter`.

    It is made once, before training, so that the order of an epoch, its steps and its state are known from the start:

    >>> good = tensorshard.Bitmap.from_predicate("latents", lambda batch: batch["score"] > 0.5, ["score"])
    ... # doctest: +SKIP
    >>> loader = tensorshard.Loader("latents", filter=good, shuffle=True)    # doctest: +SKIP

    Args:
        mask: For each sample of the dataset, True if it is in the set.
    """

    def __init__(self, mask: npt.ArrayLike) -> None:
        array = np.asarray(mask)
        if array.dtype != np.bool_ or array.ndim != 1:
            raise InvalidArgumentError(
                f"a mask is an array of one bool for each sample, not {array.dtype} of shape {list(array.shape)}"
            )
        #: The native set.
        self._native = _tensorshard.Bitmap(array.astype(np.uint8).tobytes())

    @classmethod
    def _of(cls, native: _tensorshard.Bitmap) -> Bitmap:
        out = cls.__new__(cls)
        out._native = native
        return out

    @classmethod
    def from_predicate(
        cls,
        path: str | os.PathLike[str],
        predicate: Callable[[dict[str, Any]], npt.ArrayLike],
        fields: Sequence[str],
        *,
        batch_size: int = 1024,
        **options: Any,
    ) -> Bitmap:
        """The samples for which a function holds.

        Args:
            path: The dataset's folder, or one shard.
            predicate: Takes a batch (a dict of the fields, and the samples' indices under `sample_ids`) and returns an
                array of one bool for each sample. It is asked once for each sample, in the order of the dataset.
            fields: What it looks at; the others are never read.
            batch_size: Samples of a batch.
            options: Others of `Loader` that say what batches look like and how they are read, as `output`, `dtype`,
                `outputs`, `ragged`, `num_workers`; none that orders or selects samples.

        Raises:
            InvalidArgumentError: The function returned something else. Its own errors pass through.
        """
        from ._loader import Loader

        for option in options:
            if option not in _LOOKS:
                raise InvalidArgumentError(
                    f"{option} is no option here: every sample is asked once, in the order of the dataset; "
                    f"options are {', '.join(_LOOKS)}"
                )
        loader = Loader(path, batch_size, fields=fields, sample_ids=True, rank=0, world_size=1, **options)
        mask = np.zeros(loader.num_samples, dtype=np.bool_)
        start = 0
        for batch in loader:
            count = len(batch["sample_ids"])
            found = np.asarray(predicate(batch))
            if found.dtype != np.bool_ or found.shape != (count,):
                raise InvalidArgumentError(
                    f"the predicate returned {found.dtype} of shape {list(found.shape)} for samples {start} to "
                    f"{start + count - 1}; it returns an array of one bool for each of its {count} samples"
                )
            mask[start : start + count] = found
            start += count
        return cls(mask)

    @property
    def num_samples(self) -> int:
        """Samples of the dataset that it was made for."""
        return self._native.num_samples

    @property
    def digest(self) -> int:
        """A number that depends on every bit: part of a loader's state."""
        return self._native.digest

    def mask(self) -> npt.NDArray[np.bool_]:
        """For each sample, True if it is in the set."""
        return np.frombuffer(self._native.mask(), dtype=np.bool_)

    def indices(self) -> npt.NDArray[np.int64]:
        """The samples in the set, ascending."""
        return np.flatnonzero(self.mask()).astype(np.int64)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a file: one bit for each sample, and a checksum."""
        with open(path, "wb") as file:
            file.write(self._native.to_bytes())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Bitmap:
        """Reads what `save` has written.

        Raises:
            CorruptError: It is damaged, or something else.
        """
        with open(path, "rb") as file:
            return cls._of(_tensorshard.Bitmap.from_bytes(file.read()))

    def __len__(self) -> int:
        """The number of samples in the set."""
        return self._native.count

    def __contains__(self, sample: int) -> bool:
        return sample >= 0 and self._native.contains(sample)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Bitmap):
            return NotImplemented
        return self._native.to_bytes() == other._native.to_bytes()

    def __hash__(self) -> int:
        return hash(self.digest)

    def __reduce__(self) -> Any:
        return _load, (self._native.to_bytes(),)

    def __repr__(self) -> str:
        return f"Bitmap({len(self)} of {self.num_samples} samples)"


def _load(data: bytes) -> Bitmap:
    return Bitmap._of(_tensorshard.Bitmap.from_bytes(data))
