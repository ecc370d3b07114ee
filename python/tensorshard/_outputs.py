"""Batches in the words of other libraries: views of the same memory, by DLPack."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from . import _tensorshard
from ._errors import InvalidArgumentError, UnsupportedError

Convert = Callable[[Any], Any]

OUTPUTS = ("numpy", "torch", "jax", "tensorflow", "dlpack")


def _import(name: str) -> Any:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UnsupportedError(f"output {name!r} needs {name}, which is not installed: {error}") from error


def _torch(pin_memory: bool) -> Convert:
    torch = _import("torch")
    pin = pin_memory and torch.cuda.is_available()

    def convert(tensor: _tensorshard.Tensor) -> Any:
        if tensor.dtype in ("f8e4m3fn", "f8e5m2"):
            # Not every torch takes 8-bit floats by DLPack.
            dtype = torch.float8_e4m3fn if tensor.dtype == "f8e4m3fn" else torch.float8_e5m2
            out = torch.from_dlpack(tensor.bits()).view(dtype)
        else:
            out = torch.from_dlpack(tensor)
        return out.pin_memory() if pin else out

    return convert


def _jax() -> Convert:
    jax = _import("jax")

    def convert(tensor: _tensorshard.Tensor) -> Any:
        return jax.dlpack.from_dlpack(tensor)

    return convert


def _tensorflow() -> Convert:
    tf = _import("tensorflow")

    def convert(tensor: _tensorshard.Tensor) -> Any:
        if 0 in tensor.shape or tensor.dtype in ("f8e4m3fn", "f8e5m2"):
            return tf.convert_to_tensor(tensor.numpy())
        return tf.experimental.dlpack.from_dlpack(tensor.__dlpack__())

    return convert


def converter(output: str, pin_memory: bool = False) -> Convert | None:
    """What turns each `Tensor` into what was asked for; `None` if batches come as they are."""
    if output not in OUTPUTS:
        raise InvalidArgumentError(f"there is no output {output!r}; outputs are {', '.join(OUTPUTS)}")
    if pin_memory and output != "torch":
        raise InvalidArgumentError('pin_memory is for output="torch"')
    if output == "torch":
        return _torch(pin_memory)
    if output == "jax":
        return _jax()
    if output == "tensorflow":
        return _tensorflow()
    return None


def convert_batch(batch: dict[str, Any], convert: Convert) -> dict[str, Any]:
    """The same dict with other arrays in it; text and bytes stay as they are."""
    tensor = _tensorshard.Tensor
    for name, value in batch.items():
        if isinstance(value, tensor):
            batch[name] = convert(value)
        elif isinstance(value, list) and value and isinstance(value[0], tensor):
            batch[name] = [convert(item) for item in value]
    return batch
