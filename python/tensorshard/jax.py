"""tensorshard for JAX: batches on devices, with a sharding."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import jax

from ._loader import Loader as _Loader

__all__ = ["Loader"]


class Loader:
    """Batches as dicts of JAX arrays on their devices. See `tensorshard.Loader` for the options.

    Args:
        path: The dataset's folder, or one shard.
        batch_size: Samples of a batch.
        sharding: Where arrays go: a `jax.sharding.Sharding` or a device, as for `jax.device_put`. The first axis counts
            samples, so that a `NamedSharding(mesh, PartitionSpec("data"))` spreads a batch over devices. `None` leaves
            arrays on the CPU, as views of the memory that was decoded into.
        ahead: Batches that are on their way to devices while one is used.
        options: Those of `tensorshard.Loader`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        batch_size: int = 64,
        *,
        sharding: Any = None,
        ahead: int = 1,
        **options: Any,
    ) -> None:
        self._sharding = sharding
        self._ahead = max(0, ahead)
        # Text and bytes stay on the host.
        self._loader = _Loader(path, batch_size, output="jax", **options)

    def __len__(self) -> int:
        """Batches of an epoch."""
        return len(self._loader)

    @property
    def fields(self) -> list[dict[str, Any]]:
        """What each field is."""
        return self._loader.fields

    @property
    def quantization(self) -> dict[str, dict[str, Any]]:
        """What the fields are that come quantized."""
        return self._loader.quantization

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch of the next iteration."""
        self._loader.set_epoch(epoch)

    def _put(self, batch: dict[str, Any]) -> dict[str, Any]:
        if self._sharding is None:
            return batch
        return {
            name: jax.device_put(value, self._sharding) if isinstance(value, jax.Array) else value
            for name, value in batch.items()
        }

    def __iter__(self) -> Iterator[dict[str, Any]]:
        waiting: list[dict[str, Any]] = []
        for batch in self._loader:
            # Copies to devices are asynchronous.
            waiting.append(self._put(batch))
            if len(waiting) > self._ahead:
                yield waiting.pop(0)
        yield from waiting
