"""The door to TensorFlow."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from conftest import latent

import tensorshard

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
tf = pytest.importorskip("tensorflow")
import tensorshard.tensorflow  # noqa: E402


def test_a_dataset_with_specs(latents: Path) -> None:
    dataset = tensorshard.tensorflow.dataset(latents, batch_size=16, shuffle=True, sample_ids=True)
    assert dataset.element_spec["x"] == tf.TensorSpec([None, 4, 8, 8], tf.float32)
    assert dataset.element_spec["id"] == tf.TensorSpec([None], tf.int64)
    assert int(dataset.cardinality()) == 19
    orders = []
    for _ in range(2):
        ids: list[int] = []
        for batch in dataset.prefetch(1):
            np.testing.assert_array_equal(batch["x"].numpy(), latent(batch["id"].numpy()))
            np.testing.assert_array_equal(batch["sample_ids"].numpy(), batch["id"].numpy())
            ids += batch["id"].numpy().tolist()
        assert sorted(ids) == list(range(300))
        orders.append(ids)
    assert orders[0] != orders[1]


def test_static_shapes_where_short_batches_are_dropped(latents: Path) -> None:
    dataset = tensorshard.tensorflow.dataset(latents, batch_size=16, drop_last=True, dtype="f16")
    assert dataset.element_spec["x"] == tf.TensorSpec([16, 4, 8, 8], tf.float16)
    assert sum(1 for _ in dataset) == 18


def test_text_and_ragged_fields(tmp_path: Path) -> None:
    with tensorshard.ShardWriter(tmp_path / "d", {"tokens": ("f4", (None, 2)), "name": "key"}) as writer:
        for i in range(10):
            writer.append({"tokens": np.full((i, 2), i, "f4"), "name": f"s{i}"})
    [batch] = tensorshard.tensorflow.dataset(tmp_path / "d", batch_size=10)
    assert batch["name"].numpy().tolist() == [f"s{i}".encode() for i in range(10)]
    assert batch["tokens"].row_lengths().numpy().tolist() == list(range(10))


def test_tensors_are_the_decoded_memory_and_bfloat16_is_real(tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = np.arange(64).reshape(16, 4).astype(ml_dtypes.bfloat16)
    with tensorshard.ShardWriter(tmp_path / "d") as writer:
        writer.extend({"x": x, "flag": np.arange(16) > 7})
    batch = next(iter(tensorshard.Loader(tmp_path / "d", output="tensorflow")))
    assert batch["x"].dtype == tf.bfloat16
    np.testing.assert_array_equal(batch["x"].numpy(), x)
    np.testing.assert_array_equal(batch["flag"].numpy(), np.arange(16) > 7)


def test_windows_and_packed_samples_have_shapes_of_their_own(tmp_path: Path) -> None:
    with tensorshard.ShardWriter(tmp_path / "d", {"x": ("f4", (None, 3)), "t": ("u2", (None,))}) as writer:
        for i in range(20):
            writer.append({"x": np.full((i, 3), i, "f4"), "t": np.full(i, i, "u2")})
    windows = tensorshard.tensorflow.dataset(
        tmp_path / "d", batch_size=4, windows=tensorshard.Windows(5, 2), sample_ids=True
    )
    batch = next(iter(windows))
    assert batch["x"].shape == (4, 5, 3)
    assert batch["window_starts"].numpy().tolist() == [0, 0, 0, 2]
    pack = tensorshard.Pack("t", 8, pad=0)
    packed = tensorshard.tensorflow.dataset(tmp_path / "d", batch_size=4, fields=["t"], pack=pack)
    batch = next(iter(packed))
    assert batch["segment_ids"].shape == batch["positions"].shape == batch["t"].shape == (4, 8)


def test_global_batches_and_masks_of_padded_tails(latents: Path) -> None:
    dataset = tensorshard.tensorflow.dataset(latents, global_batch_size=40, drop_last=True)
    assert dataset.element_spec["x"] == tf.TensorSpec([40, 4, 8, 8], tf.float32)
    assert sum(1 for _ in dataset) == 7
    padded = list(tensorshard.tensorflow.dataset(latents, batch_size=40, tail="pad"))
    assert [int(tf.reduce_sum(tf.cast(batch["mask"], tf.int32))) for batch in padded] == [40] * 7 + [20]
    with pytest.raises(tensorshard.InvalidArgumentError, match="RaggedTensor"):
        tensorshard.tensorflow.dataset(latents, outputs={"x": {"ragged": "padded"}})
