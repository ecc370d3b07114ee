"""Errors: kinds, places, and what Python expects."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest

import tensorshard


def test_damage_names_file_shard_chunk_field_and_offset(latents: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad"
    shutil.copytree(latents, path)
    shard = sorted(path.glob("*.tshard"))[0]
    data = bytearray(shard.read_bytes())
    middle = len(data) // 2
    data[middle] ^= 0xFF
    shard.write_bytes(data)
    with pytest.raises(tensorshard.CorruptError) as caught:
        list(tensorshard.Loader(path))
    error = caught.value
    assert error.path == str(shard)
    assert error.chunk is not None
    assert error.field in ("x", "id")
    assert error.offset is not None
    assert "restore it" in str(error)
    assert isinstance(error, (tensorshard.TensorshardError, ValueError))
    report = tensorshard.verify(path)
    assert not report["intact"]
    assert report["damage"][0]["chunk"] == error.chunk
    # Other processes may want to know.
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.chunk) == (type(error), str(error), error.chunk)


def test_what_is_not_there_is_file_not_found(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        tensorshard.Loader(tmp_path / "nothing")
    assert isinstance(caught.value, tensorshard.NotFoundError)
    assert caught.value.errno == 2
    with pytest.raises(OSError, match="no tensorshard dataset"):
        tensorshard.Dataset(tmp_path)


def test_values_that_cannot_be_stored_are_named(tmp_path: Path) -> None:
    x = np.zeros((10, 4), "f4")
    x[7, 2] = np.nan
    with (
        pytest.raises(tensorshard.UnrepresentableError) as caught,
        tensorshard.ShardWriter(tmp_path / "d", quantize="int8") as writer,
    ):
        writer.extend({"x": x})
    assert caught.value.sample == 7
    assert caught.value.field == "x"
    assert np.isnan(caught.value.value)  # type: ignore[arg-type]
    assert not (tmp_path / "d").exists()


def test_a_file_that_is_none_of_ours_is_corrupt(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"hello" * 100)
    with pytest.raises(tensorshard.CorruptError, match="no tensorshard file"):
        tensorshard.Dataset(tmp_path / "x")


def test_the_tree() -> None:
    for name in tensorshard.__all__:
        if name.endswith("Error"):
            assert issubclass(getattr(tensorshard, name), tensorshard.TensorshardError)
    assert issubclass(tensorshard.LimitExceededError, tensorshard.CorruptError)
    assert issubclass(tensorshard.StorageError, OSError)
    assert issubclass(tensorshard.InvalidArgumentError, ValueError)
