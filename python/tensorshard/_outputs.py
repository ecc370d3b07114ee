"""Batches in the words of other libraries: views of the same memory, by DLPack."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

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


def torch_allocator(
    allocator: Callable[[int], Any] | None, pin_memory: bool
) -> Callable[[int], tuple[Any, npt.NDArray[np.uint8]]] | None:
    """What makes the memory of batches: torch's own, from which a GPU copies by itself.

    Torch keeps it as long as such a copy is under way, which no other memory can promise.
    """
    torch = _import("torch")
    if allocator is None and not (pin_memory and torch.cuda.is_available()):
        return None

    def allocate(num_bytes: int) -> tuple[Any, npt.NDArray[np.uint8]]:
        if allocator is None:
            memory = torch.empty(num_bytes, dtype=torch.uint8, pin_memory=True)
        else:
            memory = allocator(num_bytes)
        if not isinstance(memory, torch.Tensor) or memory.dtype != torch.uint8 or memory.dim() != 1:
            raise InvalidArgumentError(
                f"an allocator gives a flat torch.uint8 tensor on the CPU, of {num_bytes} elements here"
            )
        # The array has the tensor's memory, and keeps it.
        return memory, memory.numpy()

    return allocate


def _torch(pin_memory: bool, allocates: bool) -> Convert:
    torch = _import("torch")
    pin = pin_memory and torch.cuda.is_available()
    # Not every torch has the names, or takes 8-bit floats by DLPack.
    f8 = {"f8e4m3fn": "float8_e4m3fn", "f8e5m2": "float8_e5m2"}
    names = {"bf16": "bfloat16", "f16": "float16", "f32": "float32", "f64": "float64", "bool": "bool", **f8}
    names |= {f"{kind}{bits}": f"{word}int{bits}" for kind, word in (("i", ""), ("u", "u")) for bits in (8, 16, 32, 64)}

    def convert(tensor: _tensorshard.Tensor) -> Any:
        owned = tensor.owner() if allocates else None
        if owned is not None:
            memory, offset = owned
            dtype, shape = getattr(torch, names[tensor.dtype]), tensor.shape
            num_bytes = math.prod(shape) * dtype.itemsize
            return memory[offset : offset + num_bytes].view(dtype).view(shape)
        if tensor.dtype in f8:
            out = torch.from_dlpack(tensor.bits()).view(getattr(torch, f8[tensor.dtype]))
        else:
            out = torch.from_dlpack(tensor)
        # What is not decoded into batches: masks, offsets, the scales of a whole field.
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


def converter(output: str, pin_memory: bool = False, allocates: bool = False) -> Convert | None:
    """What turns each `Tensor` into what was asked for; `None` if batches come as they are."""
    if output not in OUTPUTS:
        raise InvalidArgumentError(f"there is no output {output!r}; outputs are {', '.join(OUTPUTS)}")
    if output != "torch" and (pin_memory or allocates):
        raise InvalidArgumentError(f'{"pin_memory" if pin_memory else "allocator"} is for output="torch"')
    if output == "torch":
        return _torch(pin_memory, allocates)
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
