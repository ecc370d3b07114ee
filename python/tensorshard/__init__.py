"""Quantized, compressed tensors in shards, and a loader that feeds them to a training loop at memory speed.

>>> import tensorshard
>>> with tensorshard.ShardWriter("latents", quantize="int8") as writer:    # doctest: +SKIP
...     writer.extend({"latent": latents, "label": labels})
>>> for batch in tensorshard.Loader("latents", batch_size=64, shuffle=True, seed=0):    # doctest: +SKIP
...     train(batch["latent"], batch["label"])

`tensorshard.torch`, `tensorshard.jax` and `tensorshard.tensorflow` are doors to these libraries; each imports its own
when it is imported itself.
"""

import os as _os

from . import _tensorshard
from ._bitmap import Bitmap
from ._dataset import Dataset
from ._errors import (
    CorruptError,
    ForkError,
    InvalidArgumentError,
    LimitExceededError,
    NotFoundError,
    StateMismatchError,
    StorageError,
    TensorshardError,
    UnrepresentableError,
    UnsupportedError,
    WorkerPanickedError,
)
from ._files import convert, export, inspect, merge, salvage, verify
from ._loader import Loader
from ._parts import Pack, Windows
from ._selection import Part
from ._writer import Field, ShardWriter

__version__ = _tensorshard.__version__

__all__ = [
    "Bitmap",
    "CorruptError",
    "Dataset",
    "Field",
    "ForkError",
    "InvalidArgumentError",
    "LimitExceededError",
    "Loader",
    "NotFoundError",
    "Pack",
    "Part",
    "ShardWriter",
    "StateMismatchError",
    "StorageError",
    "TensorshardError",
    "UnrepresentableError",
    "UnsupportedError",
    "Windows",
    "WorkerPanickedError",
    "__version__",
    "convert",
    "export",
    "inspect",
    "merge",
    "salvage",
    "verify",
]

if hasattr(_os, "register_at_fork"):
    # Threads do not follow into a forked process, and locks may stay locked there.
    _os.register_at_fork(after_in_child=_tensorshard.forked)
