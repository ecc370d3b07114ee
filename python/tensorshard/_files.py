"""The verbs of the command as functions: `convert`, `inspect`, `verify`, `export`, `merge`, `salvage`."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from . import _tensorshard
from ._errors import InvalidArgumentError

Path: TypeAlias = "str | os.PathLike[str]"

#: An encoding for all fields, or a dict from field names to encodings.
Choice: TypeAlias = "str | float | Mapping[str, str | float] | None"


def _paths(paths: Path | Sequence[Path]) -> list[str]:
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    return [os.fspath(path) for path in paths]


def _options(**options: Any) -> list[str]:
    """Arguments of the command: `a_b=1` is `--a-b=1`, True is a flag, a dict is one option for each entry."""
    out = []
    for name, value in options.items():
        option = "--" + name.replace("_", "-")
        if value is None or value is False:
            continue
        if value is True:
            out.append(option)
        elif isinstance(value, Mapping):
            out += [f"{option}={key}={entry}" for key, entry in value.items()]
        else:
            out.append(f"{option}={value}")
    return out


def _call(verb: str, options: list[str], paths: list[str]) -> dict[str, Any]:
    said, _ = _tensorshard.call(["tensorshard", verb, "--json", *options, "--", *paths])
    report: dict[str, Any] = json.loads(said)
    return report


def convert(
    inputs: Path | Sequence[Path] | Mapping[str, Path],
    out: Path,
    *,
    preset: Choice = None,
    quantize: Choice = None,
    filter: Choice = None,
    split: Choice = None,
    codec: Choice = None,
    non_finite: Choice = None,
    max_error: Choice = None,
    target_bits: Choice = None,
    goal: Choice = None,
    overwrite: bool = False,
    append: bool = False,
    metadata: Mapping[str, Any] | None = None,
    dtype_of_void: str | None = None,
    max_shard_size: int | None = None,
    chunk_size: int | None = None,
    shard_ids_from: int | None = None,
    workers: int | None = None,
) -> dict[str, Any]:
    """NumPy files to a dataset, as `tensorshard convert`; returns the summary of `--json`.

    Args:
        inputs: One `.npy` (its first axis counts samples), one `.npz` (each array a field), a folder or a list of
            `.npy` files of one sample each, or a dict from field names to `.npy` files.
        out: The dataset's folder.
        preset, quantize, filter, split, codec, non_finite, max_error, target_bits, goal: Encodings, for all fields or
            as a dict for single ones. Lossless unless asked otherwise.
        overwrite: Replace the dataset that is there.
        append: Append to the dataset that is there.
        metadata: The user's own entries; what JSON can hold.
        dtype_of_void: What arrays without a NumPy dtype hold: bf16, f8e4m3fn or f8e5m2.
        max_shard_size: Bytes after which a new shard is started.
        chunk_size: Bytes of a chunk before encoding.
        shard_ids_from: Derive shard ids from a seed.
        workers: Threads that encode; 0 for one per core.
    """
    fields: dict[str, str] = {}
    paths: list[str] = []
    if isinstance(inputs, Mapping):
        fields = {name: os.fspath(path) for name, path in inputs.items()}
    else:
        paths = _paths(inputs)
    options = _options(
        field=fields,
        preset=preset,
        quantize=quantize,
        filter=filter,
        split=split,
        codec=codec,
        non_finite=non_finite,
        max_error=max_error,
        target_bits=target_bits,
        goal=goal,
        overwrite=overwrite,
        append=append,
        metadata={key: json.dumps(value) for key, value in (metadata or {}).items()},
        dtype_of_void=dtype_of_void,
        max_shard_size=max_shard_size,
        chunk_size=chunk_size,
        shard_ids_from=shard_ids_from,
        workers=workers,
    )
    return _call("convert", options, [*paths, os.fspath(out)])


def inspect(path: Path) -> dict[str, Any]:
    """What a dataset holds: fields, encodings, shards, sizes, recorded errors; no value is decoded."""
    return _call("inspect", [], [os.fspath(path)])


def verify(path: Path) -> dict[str, Any]:
    """Checks every checksum and decodes everything. Damage is in the report (`intact`, `damage`), no exception."""
    return _call("verify", [], [os.fspath(path)])


def export(
    dataset: Path,
    out: Path,
    *,
    fields: Sequence[str] | None = None,
    range: tuple[int, int] | None = None,
    dtype: str | None = None,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Back to NumPy: `out` is an `.npy` of one field, an `.npz`, or a folder of per-sample files.

    Args:
        dataset: The dataset's folder, or one shard.
        out: The file or folder to write.
        fields: Only these fields.
        range: Only samples from the first index up to, not including, the second.
        dtype: The dtype of float fields: f32, f16 or f64.
        overwrite: Replace what is there.
    """
    options = _options(
        fields=None if fields is None else ",".join(fields),
        range=None if range is None else f"{range[0]}..{range[1]}",
        dtype=dtype,
        overwrite=overwrite,
    )
    return _call("export", options, [os.fspath(dataset), os.fspath(out)])


def merge(parts: Sequence[Path], out: Path) -> dict[str, Any]:
    """Datasets with the same fields and encodings, in this order, become one. Within one file system no data is
    copied, and the parts stay valid."""
    paths = _paths(parts)
    if len(paths) < 1:
        raise InvalidArgumentError("nothing to merge: name at least one part")
    return _call("merge", [], [*paths, os.fspath(out)])


def salvage(path: Path, out: Path, *, unlisted: str = "auto") -> dict[str, Any]:
    """Makes a readable dataset of every intact chunk of a damaged or interrupted one, which is only read.

    What is lost is in the report (`whole`, `shards`), no exception; an exception if there is nothing to salvage.

    Args:
        path: The damaged dataset's folder, or one shard.
        out: The new dataset: a folder that is not there, or empty.
        unlisted: Shards that the manifest does not list: `"auto"` takes them if there is no readable manifest, or an
            unfinished one; `"include"` always, `"exclude"` never.
    """
    return _call("salvage", _options(unlisted=unlisted), [os.fspath(path), os.fspath(out)])
