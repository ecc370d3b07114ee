"""`ShardWriter`: samples in, a dataset out."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from . import _tensorshard
from ._arrays import values
from ._dtypes import dtype_name
from ._errors import InvalidArgumentError


@dataclass(frozen=True)
class Field:
    """A field to write: what samples have, and how it is stored.

    Encodings are written as on the command line: `quantize="int8:per-sample"`, `codec="zstd:3"`,
    `filter="byte_shuffle"`. What is not given is the writer's own choice for all fields.

    Args:
        dtype: Any dtype, or its name: ours (`"u8"` and `"i8"` have 8 bits), or NumPy's long ones (`"int64"`). `None` if
            every sample has its own (then `shape` is None, too).
        shape: The shape of a sample, `None` for a dim that varies; `None` if the rank varies. `()` for a number.
        kind: `"tensor"`, `"string"`, `"bytes"`, or `"key"` for the text that names a sample.
        preset: A preset, as `"int8"` or `"f16"`.
        quantize: A quantizer, as `"int8"`, `"int4:per-group=32"` or `"abs_error:1e-3"`.
        filter: Filters with commas between them, or `"none"`.
        split: `"float_split"`, `"byte_split"` or `"none"`.
        codec: A codec, as `"snappy"` or `"zstd:3"`.
        non_finite: What a quantizer does with NaN and infinities: `"error"`, `"saturate"` or `"patch"`.
    """

    dtype: Any = None
    shape: Sequence[int | None] | None = None
    kind: str = "tensor"
    preset: str | None = None
    quantize: str | None = None
    filter: str | None = None
    split: str | None = None
    codec: str | None = None
    non_finite: str | None = None


_ENCODINGS = ("preset", "quantize", "filter", "split", "codec", "non_finite")
_FLOATS = ("f16", "bf16", "f32", "f64")


class ShardWriter:
    """Writes a dataset.

    Nothing exists under its final name before the `with` statement ends without an exception (or `finish` or `flush`
    is called); a writer that is dropped before leaves nothing behind. Samples are encoded on all cores in the
    background; `append` and `extend` wait only when the encoders cannot keep up.

    Args:
        path: The dataset's folder.
        schema: For each field a `Field`, a pair of dtype and shape, or `"string"`, `"bytes"` or `"key"`. Left out: what
            the first `append` or `extend` has; shapes are then fixed.
        preset, quantize, filter, split, codec, non_finite: Encodings of all fields that have none of their own, or
            dicts from field names to encodings; written as on the command line. Quantizers for all fields are for
            float fields with at least one dim. The default is lossless.
        overwrite: Replace the dataset that is there; it stays readable until the new one is complete.
        append: Append to the dataset that is there, in its encodings.
        part: Write one of several parts, in a folder of its own in `path`; `merge` joins them.
        metadata: The user's own entries; what JSON can hold.
        chunk_bytes: Bytes of a chunk before encoding, 1 MiB unless given: the unit of shuffling and of parallel work.
        samples_per_chunk: Samples of a chunk, instead.
        max_shard_len: Bytes after which a new shard is started, 256 MiB unless given.
        num_workers: Threads that encode; 0 for one per core. Never changes what is written.
        shard_ids_from: Derive shard ids from a seed, so that the same input gives the same files.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        schema: Mapping[str, Field | tuple[Any, Sequence[int | None] | None] | str] | None = None,
        *,
        preset: str | Mapping[str, str] | None = None,
        quantize: str | Mapping[str, str] | None = None,
        filter: str | Mapping[str, str] | None = None,
        split: str | Mapping[str, str] | None = None,
        codec: str | Mapping[str, str] | None = None,
        non_finite: str | Mapping[str, str] | None = None,
        overwrite: bool = False,
        append: bool = False,
        part: bool = False,
        metadata: Mapping[str, Any] | None = None,
        chunk_bytes: int | None = None,
        samples_per_chunk: int | None = None,
        max_shard_len: int | None = None,
        num_workers: int = 0,
        shard_ids_from: int | None = None,
    ) -> None:
        if append + part + overwrite > 1:
            raise InvalidArgumentError("append, part and overwrite exclude each other")
        self._path = os.fspath(path)
        self._encodings: dict[str, str | Mapping[str, str] | None] = {
            "preset": preset,
            "quantize": quantize,
            "filter": filter,
            "split": split,
            "codec": codec,
            "non_finite": non_finite,
        }
        self._options: dict[str, Any] = {
            "mode": "append" if append else "part" if part else "create",
            "overwrite": overwrite,
            "metadata": None if metadata is None else json.dumps(dict(metadata)),
            "chunk_bytes": chunk_bytes,
            "samples_per_chunk": samples_per_chunk,
            "max_shard_len": max_shard_len,
            "num_workers": num_workers,
            "shard_ids_from": shard_ids_from,
        }
        self._num_samples = 0
        self._summary: dict[str, Any] | None = None
        self._closed = False
        self._native: _tensorshard.ShardWriter | None = None
        if append and schema is None and not any(self._encodings.values()):
            self._native = self._open([])
        elif schema is not None:
            self._native = self._open([self._spec(name, _field(name, field)) for name, field in schema.items()])
        # Nothing must be seen first: what is wrong with the request is said now.
        self._started = self._native is not None and not self._native.needs_calibration()
        if self._native is not None and self._started:
            self._native.start()

    def _open(self, specs: list[dict[str, Any]]) -> _tensorshard.ShardWriter:
        names = {spec["name"] for spec in specs}
        for option, value in self._encodings.items():
            if isinstance(value, Mapping) and not set(value) <= names:
                unknown = sorted(set(value) - names)[0]
                raise InvalidArgumentError(f"{option} names a field {unknown!r}, which is not there")
        return _tensorshard.ShardWriter(self._path, specs, **self._options)

    def _spec(self, name: str, field: Field) -> dict[str, Any]:
        spec: dict[str, Any] = {"name": name, "kind": field.kind}
        spec["dtype"] = None if field.dtype is None else dtype_name(field.dtype)
        spec["shape"] = None if field.shape is None else list(field.shape)
        is_float = field.kind == "tensor" and spec["dtype"] in _FLOATS and spec["shape"] != []
        for option in _ENCODINGS:
            own = getattr(field, option)
            everywhere = self._encodings[option]
            if own is None and isinstance(everywhere, Mapping):
                own = everywhere.get(name)
            elif own is None and (option not in ("quantize", "split") or is_float):
                own = everywhere
            if option == "non_finite" and own is not None and not spec.get("quantize") and not spec.get("preset"):
                own = None
            spec[option] = own
        return spec

    def _infer(self, sample: Mapping[str, Any], arrays: Mapping[str, Any], skip: int) -> _tensorshard.ShardWriter:
        specs = []
        for name, value in sample.items():
            if isinstance(value, (str, bytes)):
                field = Field(kind="string" if isinstance(value, str) else "bytes")
            else:
                dtype, shape, _ = arrays[name]
                field = Field(dtype, shape[skip:])
            specs.append(self._spec(name, field))
        return self._open(specs)

    def _values(self, sample: Mapping[str, Any]) -> list[tuple[str, str, list[int], Any]]:
        return [(name, *values(value, name)) for name, value in sample.items()]

    def _ready(self, sample: Mapping[str, Any], arrays: list[Any], skip: int) -> _tensorshard.ShardWriter:
        if self._closed:
            raise InvalidArgumentError("this writer is closed")
        if self._native is None:
            self._native = self._infer(sample, {name: rest for name, *rest in arrays}, skip)
        return self._native

    def calibrate(self, arrays: Mapping[str, Any]) -> None:
        """Shows data to quantizers with static scales (per tensor, per channel) or a range, before the first sample
        is appended: a first pass over all data, in as many calls as it takes. Arrays have a leading sample axis."""
        if self._started and self._num_samples == 0:
            return
        flat = self._values(arrays)
        self._ready(arrays, flat, 1).calibrate(flat)

    def append(self, sample: Mapping[str, Any]) -> None:
        """Appends one sample: a value for every field.

        Values are NumPy arrays, torch tensors (bf16 and 8-bit floats, too), anything with DLPack or the buffer
        protocol, numbers, `str` or `bytes`.
        """
        flat = self._values(sample)
        self._ready(sample, flat, 0).append(flat)
        self._num_samples += 1

    def extend(self, arrays: Mapping[str, Any]) -> None:
        """Appends many samples: for every field an array whose first axis counts samples, or a list with a value for
        each sample (for text, bytes and shapes that vary)."""
        if any(isinstance(value, (list, tuple)) for value in arrays.values()):
            lengths = {name: len(value) for name, value in arrays.items()}
            if len(set(lengths.values())) > 1:
                raise InvalidArgumentError(f"fields have different numbers of samples: {lengths}")
            for i in range(next(iter(lengths.values()), 0)):
                self.append({name: value[i] for name, value in arrays.items()})
            return
        flat = self._values(arrays)
        for name, _, shape, _ in flat:
            if not shape:
                raise InvalidArgumentError(f"field {name!r}: an array of samples needs a first axis", field=name)
        self._ready(arrays, flat, 1).extend(flat)
        self._num_samples += flat[0][2][0] if flat else 0

    @property
    def num_samples(self) -> int:
        """Samples appended so far."""
        return self._num_samples

    def progress(self) -> dict[str, Any]:
        """`num_samples` appended; `raw_bytes` and `stored_bytes` of the chunks written so far; `append_seconds` spent
        in `append` and `extend`: far more than a copy of the data takes means that they wait for the encoders."""
        raw, stored, seconds = (0, 0, 0.0) if self._native is None else self._native.progress()
        return {
            "num_samples": self._num_samples,
            "raw_bytes": raw,
            "stored_bytes": stored,
            "append_seconds": seconds,
        }

    def flush(self) -> None:
        """Commits what was appended so far: it is durable, and readable, marked as unfinished."""
        if self._native is None:
            raise InvalidArgumentError("nothing was appended")
        self._native.flush()

    def finish(self) -> dict[str, Any]:
        """Commits the dataset: when this returns it is complete and durable. Returns what was written."""
        if self._summary is not None:
            return self._summary
        if self._closed:
            raise InvalidArgumentError("this writer is closed")
        if self._native is None:
            raise InvalidArgumentError("nothing was appended, and no schema says what an empty dataset would hold")
        self._closed = True
        self._summary = self._native.finish()
        return self._summary

    def abort(self) -> None:
        """Ends without a dataset."""
        self._closed = True
        if self._native is not None:
            self._native.abort()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:
            self.abort()
        elif not self._closed:
            self.finish()


def _field(name: str, field: Any) -> Field:
    if isinstance(field, Field):
        return field
    if isinstance(field, str) and field in ("string", "bytes", "key"):
        return Field(kind=field)
    if isinstance(field, tuple) and len(field) == 2:
        return Field(field[0], field[1])
    raise InvalidArgumentError(
        f'field {name!r} of the schema is a tensorshard.Field, a pair (dtype, shape), or "string", "bytes" or "key"'
    )
