"""`ShardWriter`, `convert`, `export`, `merge` and the command."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorshard
from tensorshard import Dataset, Field, ShardWriter

DTYPES = ("?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8")


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_round_trips(dtype: str, tmp_path: Path) -> None:
    x = np.arange(60).reshape(10, 2, 3).astype(dtype)
    with ShardWriter(tmp_path / "d") as writer:
        writer.extend({"x": x})
    found = Dataset(tmp_path / "d")[:]["x"]
    assert found.dtype == x.dtype
    np.testing.assert_array_equal(found, x)


def test_any_layout_and_byte_order(tmp_path: Path) -> None:
    x = np.arange(240, dtype="f4").reshape(10, 4, 6)
    strange = {"fortran": np.asfortranarray(x), "strided": x[:, ::2, ::-1], "big": x.astype(">f4"), "wide": x[:, :, :1]}
    with ShardWriter(tmp_path / "d") as writer:
        writer.extend(strange)
    found = Dataset(tmp_path / "d")[:]
    for name, array in strange.items():
        np.testing.assert_array_equal(found[name], array)


def test_numbers_buffers_and_what_else_python_has(tmp_path: Path) -> None:
    import array

    with ShardWriter(tmp_path / "d") as writer:
        writer.append({"i": 3, "f": 0.5, "b": True, "m": memoryview(b"abc"), "a": array.array("d", [1, 2])})
        writer.append({"i": 4, "f": 1.5, "b": False, "m": bytearray(b"xyz"), "a": [3.0, 4.0]})
    sample = Dataset(tmp_path / "d")[1]
    assert (sample["i"], sample["f"], sample["b"]) == (4, 1.5, False)
    assert sample["m"].tobytes() == b"xyz"
    np.testing.assert_array_equal(sample["a"], [3, 4])
    with pytest.raises(tensorshard.InvalidArgumentError, match="no tensor"), ShardWriter(tmp_path / "e") as writer:
        writer.append({"x": {"a": 1}})


def test_an_exception_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    path = tmp_path / "d"
    with pytest.raises(RuntimeError, match="mine"), ShardWriter(path) as writer:
        writer.extend({"x": np.zeros((10_000, 100), "f4")})
        raise RuntimeError("mine")
    assert not path.exists()
    writer = ShardWriter(path)
    writer.append({"x": 1.0})
    del writer
    assert not path.exists()
    with pytest.raises(tensorshard.InvalidArgumentError, match="nothing was appended"), ShardWriter(path):
        pass
    assert not path.exists()


def test_an_empty_dataset_needs_a_schema(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "d", {"x": ("f4", (3,))}):
        pass
    assert len(Dataset(tmp_path / "d")) == 0


def test_append_overwrite_parts_and_merge(tmp_path: Path) -> None:
    path = tmp_path / "d"
    with ShardWriter(path, quantize="f16") as writer:
        writer.extend({"x": np.zeros((5, 3), "f4")})
    with pytest.raises(tensorshard.InvalidArgumentError, match="already"):
        ShardWriter(path, {"x": ("f4", (3,))})
    with ShardWriter(path, append=True) as writer:
        writer.extend({"x": np.ones((5, 3), "f4")})
    np.testing.assert_array_equal(Dataset(path)[:]["x"][:, 0], [0] * 5 + [1] * 5)
    with ShardWriter(path, overwrite=True) as writer:
        writer.append({"y": 1})
    assert len(Dataset(path)) == 1
    for i in range(3):
        with ShardWriter(tmp_path / "parts", part=True) as writer:
            writer.append({"i": i})
    parts = sorted((tmp_path / "parts").iterdir())
    assert tensorshard.merge(parts, tmp_path / "all")["num_samples"] == 3
    assert sorted(Dataset(tmp_path / "all")[:]["i"].tolist()) == [0, 1, 2]


def test_encodings_for_all_fields_for_one_and_in_the_schema(tmp_path: Path) -> None:
    schema: dict[str, Any] = {
        "a": ("f4", (8,)),
        "b": Field("f4", (8,), quantize="bf16", codec="lz4"),
        "c": ("i32", ()),
    }
    with ShardWriter(tmp_path / "d", schema, quantize="int8", codec={"c": "zstd:5"}) as writer:
        writer.extend({"a": np.ones((4, 8), "f4"), "b": np.ones((4, 8), "f4"), "c": np.arange(4, dtype="i4")})
    a, b, c = Dataset(tmp_path / "d").fields
    assert (a["quantizer"], a["codec"]) == ("int8", "snappy")
    assert (b["quantizer"], b["codec"]) == ("bf16", "lz4")
    assert (c["quantizer"], c["codec"]) == ("identity", "zstd:5")
    with pytest.raises(tensorshard.InvalidArgumentError, match="'z'"):
        ShardWriter(tmp_path / "e", schema, codec={"z": "zstd"})
    with pytest.raises(tensorshard.InvalidArgumentError, match="not a quantizer"):
        ShardWriter(tmp_path / "e", schema, quantize="int7")


def test_static_scales_are_calibrated_on_a_first_pass(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((100, 3, 16)).astype("f4") * np.array([1, 10, 100], "f4")[:, None]
    writer = ShardWriter(tmp_path / "d", {"x": ("f4", (3, 16))}, quantize="int8:per-channel=0")
    for block in np.split(x, 4):
        writer.calibrate({"x": block})
    with writer:
        writer.extend({"x": x})
    found = Dataset(tmp_path / "d")[:]["x"]
    error = np.abs(found - x).max(axis=(0, 2))
    assert (error <= np.abs(x).max(axis=(0, 2)) / 127 * 0.51).all()
    with pytest.raises(tensorshard.InvalidArgumentError, match="calibrate"):
        with ShardWriter(tmp_path / "e", quantize="int8:per-channel=0") as writer:
            writer.extend({"x": x})


def test_flush_makes_readable_what_is_there(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "d")
    writer.extend({"x": np.arange(10)})
    writer.flush()
    dataset = Dataset(tmp_path / "d")
    assert dataset.unfinished
    assert len(dataset) == 10
    writer.append({"x": 10})
    summary = writer.finish()
    assert summary["num_samples"] == 11
    assert writer.finish() == summary
    assert writer.progress()["num_samples"] == 11
    with pytest.raises(tensorshard.InvalidArgumentError, match="closed"):
        writer.append({"x": 11})


def test_wrong_samples_are_refused_and_named(tmp_path: Path) -> None:
    writer = ShardWriter(tmp_path / "d", {"x": ("f4", (3,)), "y": ("i64", ())})
    good = {"x": np.zeros(3, "f4"), "y": 1}
    for bad, message in (
        ({"x": np.zeros(3, "f4")}, "no value for field"),
        ({**good, "z": 1}, "z"),
        ({**good, "x": np.zeros(4, "f4")}, "x"),
        ({**good, "x": np.zeros(3, "f8")}, "f64"),
    ):
        with pytest.raises(tensorshard.InvalidArgumentError, match=message):
            writer.append(bad)
    writer.append(good)
    assert writer.finish()["num_samples"] == 1


def test_convert_inspect_verify_and_export(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((200, 4, 8)).astype("f4")
    y = np.arange(200)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", y)
    out = tmp_path / "d"
    summary = tensorshard.convert(
        {"x": tmp_path / "x.npy", "y": tmp_path / "y.npy"}, out, quantize={"x": "abs_error:1e-3"}, metadata={"k": "v"}
    )
    assert summary["num_samples"] == 200
    assert summary["fields"][0]["max_abs_error"] <= 1e-3
    report = tensorshard.inspect(out)
    assert report["metadata"] == {"k": "v"}
    assert [field["name"] for field in report["fields"]] == ["x", "y"]
    assert tensorshard.verify(out)["intact"]
    tensorshard.export(out, tmp_path / "back.npz")
    with np.load(tmp_path / "back.npz") as back:
        assert np.abs(back["x"] - x).max() <= 1e-3
        np.testing.assert_array_equal(back["y"], y)
    tensorshard.export(out, tmp_path / "part.npy", fields=["y"], range=(10, 20))
    np.testing.assert_array_equal(np.load(tmp_path / "part.npy"), y[10:20])
    with pytest.raises(tensorshard.InvalidArgumentError, match="already"):
        tensorshard.convert(tmp_path / "x.npy", out)
    with pytest.raises(FileNotFoundError):
        tensorshard.convert(tmp_path / "z.npy", tmp_path / "e")


def test_the_command_comes_with_the_package(latents: Path) -> None:
    command = shutil.which("tensorshard", path=os.fspath(Path(sys.executable).parent))
    assert command is not None
    done = subprocess.run([command, "inspect", "--json", latents], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == tensorshard.inspect(latents)
    done = subprocess.run([command, "verify", "nothing"], capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.startswith("error: ")
