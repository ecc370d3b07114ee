"""What is handed to a writer, as bytes with a dtype and a shape."""

from __future__ import annotations

import sys
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ._dtypes import dtype_name
from ._errors import InvalidArgumentError

#: The dtype's name, the shape, and the bytes as a flat array.
Values: TypeAlias = "tuple[str, list[int], npt.NDArray[np.uint8]]"

#: Dtypes of torch that NumPy has not, and integers of their size.
_TORCH_BITS = {"bf16": "uint16", "f8e4m3fn": "uint8", "f8e5m2": "uint8"}


def _of_torch(torch: Any, tensor: Any) -> Values:
    tensor = tensor.detach()
    if tensor.device.type != "cpu":
        tensor = tensor.cpu()
    name = dtype_name(tensor.dtype)
    tensor = tensor.contiguous()
    if name in _TORCH_BITS:
        tensor = tensor.view(getattr(torch, _TORCH_BITS[name]))
    return _flat(name, tensor.numpy())


def _flat(name: str, array: npt.NDArray[Any]) -> Values:
    shape = list(array.shape)
    if array.dtype.byteorder == ">" or (array.dtype.byteorder == "=" and sys.byteorder == "big"):
        array = array.astype(array.dtype.newbyteorder("<"))
    array = np.ascontiguousarray(array)
    return name, shape, array.reshape(-1).view(np.uint8)


def values(value: Any, field: str) -> Values:
    """The values of an array: NumPy, torch, anything with DLPack, a buffer, or numbers.

    Nothing is copied that is contiguous and on the CPU.
    """
    if isinstance(value, (str, bytes)):
        data = value.encode() if isinstance(value, str) else value
        return "u8", [len(data)], np.frombuffer(data, np.uint8)
    torch = sys.modules.get("torch")
    if torch is not None and isinstance(value, torch.Tensor):
        return _of_torch(torch, value)
    if not isinstance(value, (np.ndarray, np.generic)):
        if hasattr(value, "__dlpack__") and not hasattr(value, "__array__"):
            value = np.from_dlpack(value)
        else:
            # JAX's and TensorFlow's arrays, memoryviews, numbers, lists of numbers.
            value = np.asarray(value)
    array = np.asarray(value)
    if array.dtype.kind in "OUSVMm" and array.dtype.name not in ("bfloat16", "float8_e4m3fn", "float8_e5m2"):
        raise InvalidArgumentError(
            f"field {field!r}: {type(value).__name__} values of dtype {array.dtype} are no tensor; give numbers, "
            "text (str) or bytes",
            field=field,
        )
    return _flat(dtype_name(array.dtype), array)
