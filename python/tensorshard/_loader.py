"""`Loader`: the samples of a dataset as batches."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from . import _tensorshard
from ._bitmap import Bitmap
from ._dtypes import dtype_name
from ._errors import InvalidArgumentError
from ._outputs import Convert, convert_batch, converter, torch_allocator
from ._parts import Pack, Windows, cut
from ._selection import Part, selection
from ._values import count, values, whole

Batch = dict[str, Any]
#: Takes a batch, the epoch and the batch's place in it.
Function = Callable[[Batch, int, int], Any]


class Batches(Iterator[Any]):
    """The batches of one epoch. Threads decode ahead until it ends, is closed, or is dropped."""

    def __init__(
        self, native: _tensorshard.Batches, convert: Convert | None, function: Function | None, epoch: int
    ) -> None:
        self._native = native
        self._convert = convert
        self._function = function
        #: The epoch.
        self.epoch = epoch

    def __iter__(self) -> Batches:
        return self

    def __next__(self) -> Any:
        batch, step = self._native.next_placed()
        if self._convert is not None:
            batch = convert_batch(batch, self._convert)
        return batch if self._function is None else self._function(batch, self.epoch, step)

    def close(self) -> None:
        """Ends the threads; the iteration is over."""
        self._native.close()

    def stats(self) -> dict[str, Any]:
        """What happened so far: counts, bytes, seconds, and under `why` what the loop waits for."""
        return self._native.stats()

    def skipped(self) -> list[dict[str, Any]]:
        """With `damaged="skip"`, the chunks that were left out so far; after the last batch, all of the epoch."""
        return self._native.skipped()


class Loader:
    """Delivers the samples of a dataset in batches, decoded ahead by native threads.

    A batch is a dict from field names to arrays whose first axis counts samples. The arrays are views of the memory
    that was decoded into: nothing is copied, and the memory is used again when the last view is gone.

    Every `iter(loader)` begins an epoch: the first is `epoch`, each that follows is the next one, and the order of
    samples is another in each. `set_epoch` chooses the next one. The order depends on the data, the seed, the epoch and
    the options of the shuffle, and on nothing else.

    Args:
        path: The dataset's folder, or one shard; or a dict of such paths and weights: datasets that take turns in this
            proportion; or a list of `Part`, for parts of datasets.
        batch_size: Samples of a batch.
        shuffle: False or `"none"`; True or `"windowed"`: chunks in random order, their samples mixed within
            `shuffle_window` chunks; `"exact"`: uniform over all samples.
        seed: The seed of the order.
        epoch: The first epoch.
        epochs: How many epochs there will be: while each but the last drains, the first batches of the next are
            decoded, so that there is no pause. Unless given, epochs are expected to go on once two have followed each
            other. `close` frees what nobody will ask for. Never changes the order.
        fields: Only these fields, in this order; the others are never read.
        dtype: The dtype of all float fields without an output of their own: f32, f16, bf16 or f64.
        drop_last: Leave out the last batch if it is short: `tail="drop"`.
        output: What arrays are: `"numpy"`, `"torch"`, `"jax"`, `"tensorflow"` or `"dlpack"`.
        outputs: For single fields a dict with any of `dtype`, `ragged`, `pad_to_multiple=n` (of `ragged="padded"`: dims
            that vary are padded to multiples of n, so that batches have few shapes), and
            `normalize=(scale, mean, std, axis)`, which delivers u8 values x as (x * scale - mean) / std.
        ragged: What fields whose shapes vary are: `"list"` (an array for each sample), `"concatenated"` (one array,
            and under `NAME.offsets` where samples start) or `"padded"` (one array, and under `NAME.mask` what of it
            is values).
        dequantize: `"cpu"`, or `"device"`: quantized fields come as codes with `NAME.scale` and `NAME.zero_point`, for
            `tensorshard.torch.dequantize`.
        sample_ids: Batches have their samples' indices under `sample_ids`; with `windows`, the steps that windows begin
            with under `window_starts`.
        pin_memory: With output `"torch"` where CUDA is there: batches are decoded into pinned memory of torch, from
            which `.to("cuda", non_blocking=True)` copies by itself.
        allocator: With output `"torch"`: what makes the memory that batches are decoded into. It gets a number of bytes
            and gives a new flat `torch.uint8` tensor; `pin_memory` is such a one.
        rank, world_size: This process among those that share an epoch: each sample goes to one of them. What torchrun,
            Slurm or MPI say counts if they are not given. `batch_size` is that of one process.
        tail: What becomes of the samples at the end that do not fill a batch of all ranks: `"short"`, `"drop"`, or
            `"pad"`, which repeats samples; batches then have a `mask`, false where a sample is a repetition.
        replicas: Groups of so many consecutive ranks receive the same samples.
        global_batch_size: Samples of a batch of all ranks together, the same for every world size; `batch_size` follows
            from it.
        repeat: Passes over the samples in one epoch, each in another order.
        range: Only samples with ids from, to: `(from, to)`.
        every_nth: Only every n-th sample, beginning with sample `offset`: `(n, offset)`.
        indices: Only these samples, in this order where nothing is shuffled; they may repeat.
        split: Only a part that is drawn by hash, as for training and validation: `(0, 0.9)`, or `(0, 0.9, "key")` by
            the samples' keys, or with a seed, `(0, 0.9, "id", 1)`.
        filter: Only the samples of a `Bitmap`.
        windows: Cuts samples in windows of so many steps, or as `Windows` says, which take the place of samples.
        pack: Packs samples into windows as `Pack` says, which take the place of samples.
        weights: With `shuffle="exact"`, draws samples in proportion to these weights, with replacement.
        bucket_by_length: Batches of samples of like lengths: `(field, pool_batches)`. Of every `pool_batches` batches
            of the order (of all ranks; give `global_batch_size`), the samples are sorted by the length of this field,
            whose shape varies, and make new batches, in random order (shortest first where nothing is shuffled). Takes
            4 bytes a sample.
        until: When an epoch of a mixture ends: `"first_exhausted"`, `"all_exhausted"` or a number of samples.
        lanes: Streams of chunks that take turns in the windowed shuffle, 64 unless given; part of the order.
        shuffle_window: Chunks that are mixed with each other, 64 unless given.
        num_workers: Threads that decode; 0 for one per core. Never changes the order.
        prefetch: Batches that are decoded ahead, 8 unless given. Never changes the order.
        memory_budget: Bytes that batches may take, those you hold and memory kept to be used again included, 1 GiB
            unless given. Each worker takes about a stored and a decoded chunk beside it. A window of ragged samples is
            admitted whatever it takes. Never changes the order.
        io: How files are read: `"auto"`, `"mmap"` or `"read"`.
        verify_checksums: Compare checksums before decoding.
        damaged: What happens to damaged chunks: `"error"`, or `"skip"`, which leaves their samples out; `skipped` lists
            them.
        map: A function that is called with each batch, its epoch and its step, as `map(batch, epoch, step)`, in the
            thread that iterates: what it returns is delivered in place of the batch, and what it raises passes through
            (the batch counts as delivered then, and the iteration can go on). Seed what is random in it with the epoch
            and the step, or with `sample_ids`, and an epoch is the same every time and wherever it is resumed.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Mapping[str, float] | Sequence[Part],
        batch_size: int = 64,
        shuffle: bool | str = False,
        seed: int = 0,
        epoch: int = 0,
        fields: Sequence[str] | None = None,
        dtype: Any = None,
        drop_last: bool = False,
        *,
        output: str = "numpy",
        outputs: Mapping[str, Mapping[str, Any]] | None = None,
        ragged: str = "list",
        dequantize: str = "cpu",
        sample_ids: bool = False,
        pin_memory: bool = False,
        allocator: Callable[[int], Any] | None = None,
        rank: int | None = None,
        world_size: int | None = None,
        tail: str | None = None,
        lanes: int | None = None,
        replicas: int = 1,
        global_batch_size: int | None = None,
        repeat: int = 1,
        range: tuple[int, int] | None = None,
        every_nth: tuple[int, int] | None = None,
        indices: Sequence[int] | None = None,
        split: tuple[Any, ...] | None = None,
        filter: Bitmap | None = None,
        windows: Windows | int | None = None,
        pack: Pack | None = None,
        weights: Sequence[float] | None = None,
        bucket_by_length: tuple[str, int] | None = None,
        until: str | int = "first_exhausted",
        shuffle_window: int | None = None,
        num_workers: int = 0,
        prefetch: int | None = None,
        memory_budget: int | None = None,
        io: str = "auto",
        verify_checksums: bool = True,
        damaged: str = "error",
        epochs: int | None = None,
        map: Function | None = None,
    ) -> None:
        # Kept to be pickled: a process that is spawned opens the dataset anew.
        self._arguments: dict[str, Any] = {
            name: value for name, value in locals().items() if name not in ("self", "__class__")
        }
        order: dict[str, Any] = {
            "replicas": replicas,
            "global_batch_size": global_batch_size,
            "repeat": repeat,
            "damaged": damaged,
            "epochs": epochs,
            **selection(range, every_nth, indices, split, filter),
            **cut(windows, pack),
            "weights": None if weights is None else [float(w) for w in weights],
            "bucket_by_length": values("bucket_by_length", bucket_by_length, (2,), "(field, pool_batches)"),
            "num_samples" if isinstance(until, int) else "until": until,
        }
        if isinstance(path, (str, os.PathLike)) and until != "first_exhausted":
            raise InvalidArgumentError("until is about mixtures: of one dataset, an epoch is all selected samples")
        if isinstance(path, Mapping):
            path = [Part(part, weight) for part, weight in path.items()]
        if not isinstance(path, (str, os.PathLike)):
            for part in path:
                if not isinstance(part, Part):
                    raise InvalidArgumentError(
                        f"a mixture is a list of tensorshard.Part, or a dict of paths and weights; {part!r} is neither"
                    )
            order["mixture"] = [part.native() for part in path]
            if not order["mixture"]:
                raise InvalidArgumentError("a mixture has at least one dataset")
            first: str = order["mixture"][0][0]
        else:
            first = os.fspath(path)
            self._arguments["path"] = first
        if rank is None and world_size is None:
            rank, world_size = _distributed()
        if isinstance(fields, str):
            raise InvalidArgumentError(f"fields is a list of names: write fields=[{fields!r}]")
        if dequantize not in ("cpu", "device"):
            raise InvalidArgumentError(f'dequantize is "cpu" or "device", not {dequantize!r}')
        batch_size = whole("batch_size", batch_size)
        if batch_size < 1:
            raise InvalidArgumentError("batch_size is at least 1")
        if (rank is None) != (world_size is None):
            raise InvalidArgumentError("rank and world_size belong together")
        if drop_last and tail not in (None, "drop"):
            raise InvalidArgumentError(f"drop_last=True and tail={tail!r} contradict each other")
        if isinstance(shuffle, bool):
            shuffle = "windowed" if shuffle else "none"
        own = []
        for name, options in (outputs or {}).items():
            unknown = set(options) - {"dtype", "ragged", "pad_to_multiple", "normalize"}
            if unknown:
                raise InvalidArgumentError(
                    f"outputs[{name!r}] has no option {sorted(unknown)[0]!r}; they are dtype, ragged, pad_to_multiple "
                    "and normalize"
                )
            own.append((name, _output(options)))
        self._convert = converter(output, pin_memory, allocator is not None or pin_memory)
        allocate = None
        if output == "torch" and (pin_memory or allocator is not None):
            allocate = torch_allocator(allocator, pin_memory)
        self._function = map
        try:
            self._native = _tensorshard.Loader(
                first,
                fields=None if fields is None else list(fields),
                outputs=own,
                dtype=None if dtype is None else dtype_name(dtype),
                shuffle=shuffle,
                shuffle_window=shuffle_window,
                seed=seed,
                rank=None if rank is None or world_size is None else (rank, world_size),
                tail="drop" if drop_last else tail or "short",
                lanes=lanes,
                num_workers=num_workers,
                prefetch=prefetch,
                memory_budget=memory_budget,
                io=io,
                verify_checksums=verify_checksums,
                ragged=ragged,
                quantized=dequantize == "device",
                dlpack=output != "numpy",
                sample_ids=sample_ids,
                order={name: value for name, value in order.items() if value is not None},
                allocate=allocate,
            )
        except OverflowError as error:
            raise InvalidArgumentError(f"a number among the options is negative or too large: {error}") from None
        if global_batch_size is not None:
            shares = self.world_size // replicas
            if global_batch_size < shares or global_batch_size % shares:
                raise InvalidArgumentError(
                    f"global_batch_size is {global_batch_size}: no multiple of world_size / replicas, which is {shares}"
                )
            batch_size = global_batch_size // shares
        self._batch_size = batch_size
        self.set_epoch(epoch)

    @property
    def batch_size(self) -> int:
        """Samples of a batch."""
        return self._batch_size

    @property
    def num_samples(self) -> int:
        """Samples of an epoch, of all ranks together."""
        return self._native.num_samples

    @property
    def rank(self) -> int:
        """This process among those that share an epoch."""
        return self._native.distribution[0]

    @property
    def world_size(self) -> int:
        """The number of processes that share an epoch."""
        return self._native.distribution[1]

    @property
    def fields(self) -> list[dict[str, Any]]:
        """What each field is: name, kind, dtype, shape (None for a dim that varies) and encoding."""
        return self._native.fields()

    @property
    def quantization(self) -> dict[str, dict[str, Any]]:
        """What `tensorshard.torch.dequantize` must know of the fields that come quantized."""
        return self._native.quantization()

    @property
    def epoch(self) -> int:
        """The epoch of the next iteration."""
        return self._next_epoch

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch of the next iteration; those that follow count on from it."""
        self._next_epoch = count("epoch", epoch)
        self._native.set_epoch(self._next_epoch)

    def state_dict(self) -> dict[str, Any]:
        """Where the epoch stands: what the last iteration has delivered. A few numbers, which JSON can hold, and the
        same on every rank."""
        state: dict[str, Any] = json.loads(self._native.state())
        return state

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """The next iteration goes on where this state was taken: with any number of ranks and threads, any batch size,
        and after samples were appended. After the end of an epoch it is the next one.

        Raises:
            StateMismatchError: The state is of another dataset, or of other options of the order.
        """
        epoch, has_samples = self._native.load_state(json.dumps(dict(state_dict)))
        self._next_epoch = epoch
        if not has_samples:
            self.set_epoch(epoch + 1)

    def seek(self, step: int) -> None:
        """The next iteration starts with batch `step` of its epoch. Costs the same for every step."""
        self._native.seek(count("step", step), self._batch_size)

    def skip(self, batches: int) -> None:
        """The next iteration goes on with the epoch of the last one, `batches` batches after what it has delivered."""
        self._native.skip(count("batches", batches), self._batch_size)
        self._next_epoch = int(self.state_dict()["epoch"])

    def ids_for(self, step: int, epoch: int | None = None) -> list[int]:
        """The ids of the samples of batch `step` on this rank, of the next epoch unless given, without decoding."""
        epoch = self._next_epoch if epoch is None else count("epoch", epoch)
        return self._native.ids_for(count("step", step), self._batch_size, epoch)

    def __len__(self) -> int:
        """Batches of an epoch, the same on every rank."""
        return self._native.num_batches(self._batch_size)

    def __iter__(self) -> Iterator[Any]:
        epoch = self._next_epoch
        native = self._native.batches(self._batch_size, epoch)
        self._next_epoch = epoch + 1
        if self._convert is None and self._function is None:
            return native
        return Batches(native, self._convert, self._function, epoch)

    def skipped(self) -> list[dict[str, Any]]:
        """With `damaged="skip"`, the chunks that the last iteration has left out, once it has ended: `path`, `chunk`,
        `first_sample`, `num_samples`, and under `message` what is wrong."""
        return self._native.skipped()

    def stats(self) -> dict[str, Any]:
        """What happened in the iterations that have ended: counts, bytes, seconds, and under `why` one sentence on
        what the training loop waited for."""
        return self._native.stats()

    def __enter__(self) -> Loader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the threads and frees the batches of a next epoch that was begun and that nobody will ask for. Others
        belong to iterators, and end with them."""
        self._native.rest()

    def __reduce__(self) -> Any:
        arguments = dict(self._arguments, epoch=self._next_epoch)
        return _open, (type(self), arguments)

    def __repr__(self) -> str:
        names = ", ".join(field["name"] for field in self.fields)
        return (
            f"Loader({self._arguments['path']!r}, batch_size={self._batch_size}): "
            f"{self.num_samples} samples of {names}, {len(self)} batches"
        )


def _distributed() -> tuple[int | None, int | None]:
    """Rank and world size of `torch.distributed`, if somebody uses it."""
    torch = sys.modules.get("torch")
    distributed = getattr(torch, "distributed", None)
    if distributed is not None and distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return None, None


def _open(cls: type[Loader], arguments: dict[str, Any]) -> Loader:
    return cls(**arguments)


def _output(options: Mapping[str, Any]) -> dict[str, Any]:
    out = dict(options)
    if out.get("dtype") is not None:
        out["dtype"] = dtype_name(out["dtype"])
    if out.get("normalize") is not None:
        scale, mean, std, axis = out["normalize"]

        def floats(values: Any) -> list[float]:
            return [float(x) for x in values] if hasattr(values, "__iter__") else [float(values)]

        out["normalize"] = (float(scale), floats(mean), floats(std), int(axis))
    return out
