"""The door to JAX."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import latent

import tensorshard

jax = pytest.importorskip("jax")
import tensorshard.jax  # noqa: E402


def test_batches_are_jax_arrays_over_the_decoded_memory(latents: Path) -> None:
    for batch in tensorshard.Loader(latents, batch_size=16, output="dlpack", fields=["x"]):
        array = jax.dlpack.from_dlpack(batch["x"])
        assert array.unsafe_buffer_pointer() == batch["x"].numpy().ctypes.data
    found = []
    for batch in tensorshard.jax.Loader(latents, batch_size=16, shuffle=True):
        assert isinstance(batch["x"], jax.Array)
        np.testing.assert_array_equal(np.asarray(batch["x"]), latent(np.asarray(batch["id"])))
        found += np.asarray(batch["id"]).tolist()
    assert sorted(found) == list(range(300))


def test_a_sharding_spreads_batches(latents: Path) -> None:
    mesh = jax.sharding.Mesh(np.array(jax.devices()), ("data",))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("data"))
    loader = tensorshard.jax.Loader(latents, batch_size=16, sharding=sharding, drop_last=True, ahead=2)
    assert len(loader) == 18
    kept = list(loader)
    assert len(kept) == 18
    for batch in kept:
        assert batch["x"].sharding == sharding
        np.testing.assert_array_equal(np.asarray(batch["x"]), latent(np.asarray(batch["id"])))


def test_bfloat16(tmp_path: Path) -> None:
    x = jax.numpy.arange(8, dtype=jax.numpy.bfloat16).reshape(4, 2)
    with tensorshard.ShardWriter(tmp_path / "d") as writer:
        writer.extend({"x": x})
    batch = next(iter(tensorshard.Loader(tmp_path / "d", output="jax")))
    assert batch["x"].dtype == jax.numpy.bfloat16
    np.testing.assert_array_equal(np.asarray(batch["x"]).astype("f4"), np.arange(8).reshape(4, 2))
