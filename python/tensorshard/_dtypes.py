"""Names of dtypes: ours, NumPy's, torch's, JAX's and TensorFlow's."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._errors import InvalidArgumentError

_BY_NUMPY_NAME = {
    "bool": "bool",
    "uint8": "u8",
    "uint16": "u16",
    "uint32": "u32",
    "uint64": "u64",
    "int8": "i8",
    "int16": "i16",
    "int32": "i32",
    "int64": "i64",
    "float16": "f16",
    "bfloat16": "bf16",
    "float32": "f32",
    "float64": "f64",
    "float8_e4m3fn": "f8e4m3fn",
    "float8_e5m2": "f8e5m2",
}
_OURS = frozenset(_BY_NUMPY_NAME.values())


def dtype_name(dtype: Any) -> str:
    """Our name of a dtype: of `"f32"`, `"float32"`, `np.float32`, `torch.float32`, `jnp.bfloat16`, `tf.float32`."""
    if isinstance(dtype, str) and dtype in _OURS:
        return dtype
    # torch.float32 is written so; TensorFlow's have a name.
    text = str(dtype)
    if text.startswith("torch."):
        name = text.removeprefix("torch.")
    elif isinstance(dtype, str) and dtype in _BY_NUMPY_NAME:
        name = dtype
    else:
        try:
            name = np.dtype(dtype).name
        except TypeError:
            name = str(getattr(dtype, "name", text))
    try:
        return _BY_NUMPY_NAME[name]
    except KeyError:
        known = ", ".join(sorted(_OURS))
        raise InvalidArgumentError(f"{dtype!r} is no dtype that can be stored; they are {known}") from None
