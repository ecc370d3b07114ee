"""What is left of a damaged dataset."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import tensorshard


def test_intact_chunks_are_salvaged_and_the_rest_is_listed(tmp_path: Path) -> None:
    path = tmp_path / "d"
    values = np.arange(64 * 100, dtype=np.float32).reshape(64, 100)
    np.save(tmp_path / "x.npy", values)
    tensorshard.convert(tmp_path / "x.npy", path, codec="none", chunk_size=3200)
    report = tensorshard.salvage(path, tmp_path / "whole")
    assert (report["whole"], report["num_samples"]) == (True, 64)
    shard = next(path.glob("*.tshard"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    before = shard.read_bytes()
    report = tensorshard.salvage(path, tmp_path / "out")
    assert report["whole"] is False
    missing = [samples for shard in report["shards"] for samples in (m["samples"] for m in shard["missing"])]
    lost = {sample for start, end in missing for sample in range(start, end)}
    kept = [i for i in range(64) if i not in lost]
    assert 0 < len(lost) < 64
    assert tensorshard.verify(tmp_path / "out")["intact"]
    dataset = tensorshard.Dataset(tmp_path / "out")
    assert len(dataset) == len(kept) == report["num_samples"]
    for i, sample in enumerate(kept):
        np.testing.assert_array_equal(dataset[i]["x"], values[sample])
    assert shard.read_bytes() == before


def test_nothing_is_made_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(tensorshard.TensorshardError):
        tensorshard.salvage(tmp_path / "empty", tmp_path / "out")
    assert not (tmp_path / "out").exists()
