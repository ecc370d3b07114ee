"""tensorshard for PyTorch: datasets for `torch.utils.data.DataLoader`, and dequantizing on the device.

Without a DataLoader, `tensorshard.Loader(path, output="torch")` is the faster door: its threads decode straight into
the batches, and nothing goes from process to process. Under a DataLoader with workers:

>>> dataset = tensorshard.torch.IterableDataset("latents", batch_size=64, shuffle=True)    # doctest: +SKIP
>>> loader = torch.utils.data.DataLoader(dataset, batch_size=None, num_workers=2)    # doctest: +SKIP
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.utils.data

from ._dataset import Dataset as _Dataset
from ._errors import InvalidArgumentError
from ._loader import Loader

__all__ = ["Dataset", "IterableDataset", "dequantize"]


class Dataset(_Dataset, torch.utils.data.Dataset[dict[str, Any]]):
    """Samples by index as dicts of tensors: a map-style dataset. See `tensorshard.Dataset`."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        fields: Sequence[str] | None = None,
        *,
        output: str = "torch",
        sample_ids: bool = False,
        io: str = "auto",
        verify_checksums: bool = True,
    ) -> None:
        super().__init__(path, fields, output=output, sample_ids=sample_ids, io=io, verify_checksums=verify_checksums)


# Places in the shared tensor.
_EPOCH, _VERSION, _FRESH = 0, 1, 2


class IterableDataset(torch.utils.data.IterableDataset[dict[str, Any]]):
    """Batches as dicts of tensors, for a DataLoader with `batch_size=None`.

    The workers of a DataLoader, and the ranks of `torch.distributed`, share an epoch: every sample comes exactly once.
    Call `set_epoch` before each epoch, as with a DistributedSampler; it reaches workers that persist.

    It has `state_dict` and `load_state_dict` as torchdata's StatefulDataLoader calls them.

    Args:
        path: The dataset's folder, or one shard.
        batch_size: Samples of a batch.
        rank, world_size: This process among those that share an epoch; of `torch.distributed` where it is initialized.
        options: Those of `tensorshard.Loader`. In the workers of a DataLoader `num_workers` is 1 unless given. Each
            worker counts as a rank there: with `global_batch_size`, a batch is that many samples divided by ranks times
            workers, so a step of the training loop takes one worker's share.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        batch_size: int = 64,
        *,
        rank: int | None = None,
        world_size: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        if (rank is None) != (world_size is None):
            raise InvalidArgumentError("rank and world_size belong together")
        if rank is not None and world_size is not None and not 0 <= rank < world_size:
            raise InvalidArgumentError(f"rank {rank} of a world of {world_size}")
        self._rank = rank
        self._world_size = world_size
        self._path = os.fspath(path)
        self._batch_size = batch_size
        self._options = {"output": "torch", **options}
        self._loader: Loader | None = None
        self._loader_key: tuple[int, int, int] | None = None
        # What is wrong with the options is said now.
        first = self._of(*self._ranks())
        # Seen by all processes that have this dataset: the epoch, how often it was set, and worker processes that
        # started an epoch since.
        self._shared = torch.tensor([first.epoch, 0, 0], dtype=torch.int64)
        self._shared.share_memory_()
        self._seen_version = -1
        self._epoch = 0
        self._resume: dict[str, Any] | None = None

    @property
    def fields(self) -> list[dict[str, Any]]:
        """What each field is."""
        return self._of(*self._ranks()).fields

    @property
    def quantization(self) -> dict[str, dict[str, Any]]:
        """What `dequantize` must know of the fields that come quantized."""
        return self._of(*self._ranks()).quantization

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch of the next iteration, in all workers."""
        self._shared[_EPOCH] = epoch
        self._shared[_FRESH] = 0
        self._shared[_VERSION] += 1

    def _ranks(self) -> tuple[int, int]:
        if self._rank is not None and self._world_size is not None:
            return self._rank, self._world_size
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            return torch.distributed.get_rank(), torch.distributed.get_world_size()
        return 0, 1

    def _begin_epoch(self, in_worker: bool) -> int:
        version = int(self._shared[_VERSION])
        if version != self._seen_version:
            first_here = self._seen_version < 0
            self._seen_version = version
            self._epoch = int(self._shared[_EPOCH])
            if in_worker and first_here:
                if int(self._shared[_FRESH]) > 0:
                    warnings.warn(
                        f"epoch {self._epoch} is iterated again by new workers: call set_epoch(epoch) before each "
                        "epoch, or use persistent_workers=True",
                        stacklevel=3,
                    )
                self._shared[_FRESH] = 1
        else:
            self._epoch += 1
        return self._epoch

    def __len__(self) -> int:
        """Batches of an epoch on this rank. Workers of a DataLoader share it, and may have a short batch each."""
        return len(self._of(*self._ranks()))

    def _of(self, rank: int, world_size: int, **options: Any) -> Loader:
        """The loader of a rank, kept for the next epoch."""
        key = (rank, world_size, os.getpid())
        if self._loader is None or self._loader_key != key:
            options = {"rank": rank, "world_size": world_size, **options, **self._options}
            self._loader = Loader(self._path, self._batch_size, **options)
            self._loader_key = key
        return self._loader

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = torch.utils.data.get_worker_info()
        rank, world_size = self._ranks()
        if worker is None:
            loader = self._of(rank, world_size)
        else:
            # Workers are ranks among themselves.
            slot, slots = rank * worker.num_workers + worker.id, world_size * worker.num_workers
            loader = self._of(slot, slots, num_workers=1)
        resume, self._resume = self._resume, None
        if resume is None:
            loader.set_epoch(self._begin_epoch(worker is not None and worker.id == 0))
        else:
            self._epoch, self._seen_version = int(resume["epoch"]), int(self._shared[_VERSION])
            if resume["consumed"] >= resume["num_samples"]:
                # This worker is done with the epoch; others may not be.
                return iter(())
            loader.load_state_dict(resume)
        # A rank may have no sample in the last, short batch of all ranks.
        fields = [field["name"] for field in loader.fields]
        return (batch for batch in loader if not _is_empty(batch, fields))

    def state_dict(self) -> dict[str, Any]:
        """Where this iteration is, as `Loader.state_dict`."""
        if self._resume is not None:
            return self._resume
        return {} if self._loader is None else self._loader.state_dict()

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """The next iteration goes on where this state was taken."""
        self._resume = dict(state_dict) or None

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        # A new process has seen nothing yet.
        state["_seen_version"] = -1
        state["_loader"] = state["_loader_key"] = None
        return state


def _is_empty(batch: Any, fields: list[str]) -> bool:
    # What `map` returns is anything.
    if not isinstance(batch, dict):
        return False
    for name in fields:
        if f"{name}.offsets" in batch:
            return len(batch[f"{name}.offsets"]) == 1
        if name in batch:
            return len(batch[name]) == 0
    return False


def dequantize(
    batch: Mapping[str, torch.Tensor],
    quantization: Mapping[str, Mapping[str, Any]],
    dtype: torch.dtype = torch.float32,
) -> dict[str, torch.Tensor]:
    """The same batch with floats instead of codes, scales and zero points, wherever these are.

    Pure torch operations, which `torch.compile` can fuse with what follows.

    Args:
        batch: A batch of a loader with `dequantize="device"`, moved to the device.
        quantization: The loader's `quantization`.
        dtype: The dtype of the floats.
    """
    out = {}
    for name, value in batch.items():
        field, _, what = name.rpartition(".")
        if field in quantization and what in ("scale", "zero_point"):
            continue
        if name in quantization:
            scale, zero_point = batch.get(f"{name}.scale"), batch.get(f"{name}.zero_point")
            value = _dequantize(value, scale, zero_point, quantization[name]).to(dtype)
        out[name] = value
    return out


def _dequantize(
    codes: torch.Tensor,
    scale: torch.Tensor | None,
    zero_point: torch.Tensor | None,
    how: Mapping[str, Any],
) -> torch.Tensor:
    kind, group_size = how["kind"], how["group_size"]
    if kind == "cast":
        return codes
    if kind == "codebook":
        table = torch.tensor(how["table"], dtype=torch.float32, device=codes.device)
        x = table[codes.to(torch.int32)]
    elif kind == "affine":
        if zero_point is None:
            x = codes.to(torch.float32) - how["symmetric_zero_point"]
        else:
            # In integers, as the quantizer has it: 16-bit codes less their zero point are exact floats.
            x = (codes.to(torch.int32) - _spread(zero_point, codes, group_size)).to(torch.float32)
    else:
        x = codes.to(torch.float32)
        if kind == "mxint8":
            x = x / 64
    return x if scale is None else x * _spread(scale, codes, group_size)


def _spread(scale: torch.Tensor, codes: torch.Tensor, group_size: int | None) -> torch.Tensor:
    """Scales of groups along the last axis, one for each element."""
    if group_size is None:
        return scale
    return scale.repeat_interleave(group_size, dim=-1)[..., : codes.shape[-1]]
