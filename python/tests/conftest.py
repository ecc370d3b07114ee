"""What the tests share: small datasets, and programs that run in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorshard

#: How often tests of what happens at random moments are repeated; the full count is `TENSORSHARD_TEST_FULL=1`.
FULL = os.environ.get("TENSORSHARD_TEST_FULL") == "1"


@pytest.fixture(scope="session")
def latents(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 samples of x f32 [4, 8, 8] and id i64 in many chunks and two shards, lossless; x is `latent(id)`."""
    path = tmp_path_factory.mktemp("data") / "latents"
    with tensorshard.ShardWriter(path, samples_per_chunk=8, max_shard_len=20_000, shard_ids_from=0) as writer:
        writer.extend({"x": latent(np.arange(300)), "id": np.arange(300)})
    assert tensorshard.Dataset(path).num_shards > 1
    return path


def latent(ids: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The values of samples, from their ids."""
    ids = np.asarray(ids, dtype=np.float32)
    grid = np.linspace(0, 1, 256, dtype=np.float32).reshape(4, 8, 8)
    return ids.reshape(-1, 1, 1, 1) + grid


def run_python(code: str, *args: str, timeout: float = 120, **options: Any) -> subprocess.CompletedProcess[str]:
    """Runs a program; its output as text."""
    return subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, timeout=timeout, check=False, **options
    )
