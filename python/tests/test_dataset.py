"""`Dataset`: samples by index."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import latent, run_python

import tensorshard
from tensorshard import Dataset, ShardWriter


def test_single_samples_slices_lists_and_masks(latents: Path) -> None:
    dataset = Dataset(latents)
    assert len(dataset) == 300
    sample = dataset[17]
    assert sample["x"].shape == (4, 8, 8)
    np.testing.assert_array_equal(sample["x"], latent(np.array([17]))[0])
    assert dataset[-1]["id"] == 299
    np.testing.assert_array_equal(dataset[10:40:7]["id"], np.arange(10, 40, 7))
    np.testing.assert_array_equal(dataset[::-1]["id"], np.arange(300)[::-1])
    picks = [299, 3, 3, -300]
    np.testing.assert_array_equal(dataset[picks]["id"], [299, 3, 3, 0])
    np.testing.assert_array_equal(dataset[np.array(picks)]["x"], latent(np.array([299, 3, 3, 0])))
    mask = np.zeros(300, bool)
    mask[[4, 200]] = True
    np.testing.assert_array_equal(dataset[mask]["id"], [4, 200])
    for bad in (300, -301):
        with pytest.raises(IndexError):
            dataset[bad]
    assert sum(1 for _ in dataset) == 300
    assert dataset[0:0]["x"].shape[0] == 0


def test_many_samples_at_once_do_not_share_memory_by_accident(latents: Path) -> None:
    first, second, other = Dataset(latents).__getitems__([5, 5, 6])
    assert not np.shares_memory(first["x"], second["x"])
    first["x"][:] = -1
    np.testing.assert_array_equal(second["x"], latent(np.array([5]))[0])
    np.testing.assert_array_equal(other["x"], latent(np.array([6]))[0])


def test_fields_metadata_and_description(latents: Path, tmp_path: Path) -> None:
    dataset = Dataset(latents, fields=["id"])
    assert list(dataset[0]) == ["id"]
    assert [field["name"] for field in dataset.fields] == ["id"]
    assert "300 samples of id" in repr(dataset)
    with ShardWriter(tmp_path / "d", metadata={"model": "vae", "steps": [1, 2.5, None]}) as writer:
        writer.append({"x": 1.0})
    assert Dataset(tmp_path / "d").metadata == {"model": "vae", "steps": [1, 2.5, None]}


def test_a_single_shard_opens_on_its_own(latents: Path) -> None:
    shards = sorted(latents.glob("*.tshard"))
    assert sum(len(Dataset(shard)) for shard in shards) == 300


def test_text_bytes_and_ragged_samples(tmp_path: Path) -> None:
    schema: dict[str, Any] = {"name": "key", "blob": "bytes", "tokens": ("f4", (None, 2))}
    with ShardWriter(tmp_path / "d", schema) as writer:
        for i in range(5):
            writer.append({"name": f"s{i}", "blob": bytes(i), "tokens": np.full((i, 2), i, "f4")})
    dataset = Dataset(tmp_path / "d", sample_ids=True)
    sample = dataset[3]
    assert (sample["name"], sample["blob"], sample["tokens"].shape) == ("s3", bytes(3), (3, 2))
    part = dataset[1:3]
    assert part["name"] == ["s1", "s2"]
    assert [len(tokens) for tokens in part["tokens"]] == [1, 2]
    assert part["sample_ids"] == [1, 2]
    assert dataset.fields[0]["key"]


def test_other_libraries_are_not_imported() -> None:

    code = "import sys, tensorshard; print({'torch', 'jax', 'tensorflow', 'ml_dtypes'} & set(sys.modules))"
    assert run_python(code).stdout.strip() == "set()"


def test_version() -> None:
    assert tensorshard.__version__.count(".") == 2
