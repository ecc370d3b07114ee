"""tensorshard for TensorFlow: a `tf.data.Dataset` of batches."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import tensorflow as tf

from ._errors import InvalidArgumentError
from ._loader import Loader

__all__ = ["dataset"]

_TF_NAMES = {
    "bool": "bool",
    "u8": "uint8",
    "u16": "uint16",
    "u32": "uint32",
    "u64": "uint64",
    "i8": "int8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "f16": "float16",
    "bf16": "bfloat16",
    "f32": "float32",
    "f64": "float64",
    "f8e4m3fn": "float8_e4m3fn",
    "f8e5m2": "float8_e5m2",
}


def dataset(path: str | os.PathLike[str], batch_size: int = 64, **options: Any) -> Any:
    """A `tf.data.Dataset` of batches: dicts of tensors, text and bytes as strings, ragged fields as `RaggedTensor`.

    Every iteration of it is the next epoch. It is fed by `tensorshard.Loader`, which decodes ahead; `.prefetch(1)`
    is enough.

    Args:
        path: The dataset's folder, or one shard.
        batch_size: Samples of a batch.
        options: Those of `tensorshard.Loader`, but for `output`, `ragged` and `dequantize`.
    """
    for option in ("output", "ragged", "dequantize"):
        if option in options:
            raise InvalidArgumentError(f"{option} is no option here")
    loader = Loader(path, batch_size, ragged="concatenated", **options)
    for field_options in (options.get("outputs") or {}).values():
        if "ragged" in field_options:
            raise InvalidArgumentError("outputs takes no ragged here: ragged fields are RaggedTensors")
    same = options.get("drop_last") or options.get("tail") in ("drop", "pad")
    samples = loader.batch_size if same else None
    # What delivery makes of dtypes is seen in a batch: `dtype` and `outputs` may ask for others.
    probe: dict[str, Any] = next(iter(Loader(path, 1, ragged="concatenated", **{**options, "drop_last": False})), {})
    signature: dict[str, Any] = {}
    ragged: list[str] = []
    for field in loader.fields:
        name, shape = field["name"], field["shape"]
        if field["kind"] != "tensor":
            signature[name] = tf.TensorSpec([samples], tf.string)
            continue
        first = probe.get(name)
        dtype = getattr(tf, _TF_NAMES[field["dtype"]]) if first is None else tf.as_dtype(first.dtype)
        if first is not None and f"{name}.offsets" not in probe:
            # Windows of samples have a shape of their own.
            shape = first.shape[1:]
        if shape is not None and None not in shape:
            signature[name] = tf.TensorSpec([samples, *shape], dtype)
        elif shape is not None and None not in shape[1:]:
            ragged.append(name)
            signature[name] = tf.RaggedTensorSpec([samples, None, *shape[1:]], dtype, ragged_rank=1)
        else:
            raise InvalidArgumentError(
                f"field {name!r}: a tf.data.Dataset takes fields whose first dim varies, not others; choose fields"
            )
    if options.get("sample_ids"):
        signature["sample_ids"] = tf.TensorSpec([samples], tf.int64)
    if options.get("tail") == "pad":
        signature["mask"] = tf.TensorSpec([samples], tf.bool)
    for name in ("window_starts", "segment_ids", "positions"):
        if name in probe and name not in signature:
            signature[name] = tf.TensorSpec([samples, *probe[name].shape[1:]], tf.as_dtype(probe[name].dtype))

    def batches() -> Any:
        for batch in loader:
            out: dict[str, Any] = {}
            for name in signature:
                value = batch[name]
                if name in ragged:
                    value = tf.RaggedTensor.from_row_splits(value, batch[f"{name}.offsets"], validate=False)
                elif isinstance(value, list):
                    value = np.array(value, dtype=object)
                out[name] = value
            yield out

    out = tf.data.Dataset.from_generator(batches, output_signature=signature)
    return out.apply(tf.data.experimental.assert_cardinality(len(loader)))
