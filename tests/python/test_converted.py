"""NumPy files converted by the command read the same by the command's export and by the second reader."""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import spec_reader

REPOSITORY = Path(__file__).parent.parent.parent
PRESETS = [
    "lossless", "f16", "bf16", "int8", "int8-per-channel", "int4-group32", "int4-group64", "int4-group128", "nf4",
    "mxfp8", "mxint8", "mxfp4", "fp8", "article",
]  # fmt: skip
QUANTIZERS = [
    "f8e5m2",
    "uint8:asym",
    "int16",
    "int8:per-tensor",
    "uint4:asym:per-group=5:scale=bf16",
    "uint8:asym:per-channel=1:scale=f16",
    "int4:per-channel=0",
    "abs_error:0.05:bits=8",
    "rel_error:1e-3",
    "psnr:90:range=-2..2",
    "fp8",
    "fp8-e5m2:per-tensor:scale=bf16",
    "nf4",
    "codebook:-3,-2,-1.5,-1,-0.5,-0.25,-0.1,0,0.1,0.25,0.5,1,1.5,2,2.5,3:per-channel=1",
    "mxfp8",
    "mxfp8-e5m2",
    "mxint8",
    "mxfp4",
]
CODECS = ["none", "snappy", "deflate:9", "gzip:1", "lz4", "zstd:1", "zstd:19", "huffman"]
FILTERS = ["none", "byte_shuffle", "bit_shuffle", "delta", "delta,bit_shuffle", "predict"]
FILTERS += ["predict:3d:zigzag,byte_shuffle", "delta,predict:chunk:zigzag,byte_shuffle"]


@pytest.fixture(scope="session")
def binary() -> str:
    """The command: `TENSORSHARD_BIN`, or built here."""
    if path := os.environ.get("TENSORSHARD_BIN"):
        return path
    subprocess.run(["cargo", "build", "--quiet"], cwd=REPOSITORY, check=True)
    target = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
    return str(target / "debug" / "tensorshard")


def run(*command: str | Path) -> str:
    """Runs a command that must succeed; its output."""
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def smooth(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """Correlated float32 values, as cached tensors have them."""
    noise = np.random.default_rng(seed).standard_normal(shape)
    return np.cumsum(noise, axis=-1).astype(np.float32) if shape else noise.astype(np.float32)


def check_same(binary: str, folder: Path, source: np.ndarray, *options: str) -> np.ndarray:
    """Converts `source`; both readers must agree. Returns what they read."""
    np.save(folder / "x.npy", source)
    run(binary, "convert", folder / "x.npy", folder / "d", "--overwrite", *options)
    run(binary, "export", folder / "d", folder / "back.npy")
    exported = np.load(folder / "back.npy")
    (folder / "back.npy").unlink()
    dataset = spec_reader.Dataset(folder / "d")
    read = dataset.read("x")
    assert exported.shape == source.shape
    assert exported.dtype == source.dtype.newbyteorder("=")
    assert read.shape == exported.shape
    assert read.tobytes() == exported.tobytes()
    run(binary, "verify", folder / "d")
    return exported


@pytest.mark.parametrize("dtype", ["?", "u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "f2", "f4", "f8", ">f4", ">i8"])
@pytest.mark.parametrize("shape", [(50,), (7, 3, 5), (5, 0), (0, 4)])
def test_lossless_is_bit_exact(binary: str, tmp_path: Path, dtype: str, shape: tuple[int, ...]) -> None:
    raw = np.random.default_rng(1).integers(0, 256, size=(*shape, np.dtype(dtype).itemsize), dtype=np.uint8)
    source = raw.view(dtype)[..., 0] if dtype != "?" else raw[..., 0] % 2 == 1
    for order in "CF":
        got = check_same(binary, tmp_path, np.array(source, order=order))
        assert got.tobytes() == np.ascontiguousarray(source, dtype=np.dtype(dtype).newbyteorder("=")).tobytes()


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("dtype", ["f2", "f4", "f8"])
def test_presets(binary: str, tmp_path: Path, preset: str, dtype: str) -> None:
    source = smooth((40, 3, 33), 2).astype(dtype)
    got = check_same(binary, tmp_path, source, "--preset", preset)
    span = np.abs(source.astype("f8")).max()
    worst = {"lossless": 0.0, "f16": 1e-3, "bf16": 8e-3, "fp8": 0.07, "nf4": 0.16, "mxfp8": 0.13, "mxint8": 0.02}
    worst |= {"mxfp4": 0.26, "int4-group32": 0.08, "int4-group64": 0.08, "int4-group128": 0.08}
    limit = worst.get(preset, 0.005)
    assert np.abs(got.astype("f8") - source.astype("f8")).max() <= limit * span


@pytest.mark.parametrize("spec", QUANTIZERS)
def test_quantizers(binary: str, tmp_path: Path, spec: str) -> None:
    check_same(binary, tmp_path, smooth((40, 3, 33), 3), "--quantize", spec)
    check_same(binary, tmp_path, smooth((11, 2, 7), 4).astype("f8"), "--quantize", spec, "--codec", "zstd")


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("filters", FILTERS)
def test_codecs_and_filters(binary: str, tmp_path: Path, codec: str, filters: str) -> None:
    source = np.cumsum(np.random.default_rng(5).integers(-3, 4, size=(30, 700)), axis=1).astype("i4")
    got = check_same(binary, tmp_path, source, "--codec", codec, "--filter", filters)
    assert np.array_equal(got, source)


def test_large_samples_are_cut_alike(binary: str, tmp_path: Path) -> None:
    check_same(binary, tmp_path, smooth((3, 501, 301), 6), "--quantize", "int4:per-group=32")
    check_same(binary, tmp_path, smooth((2, 40_000), 7), "--quantize", "uint8:asym:per-group=100")
    got = check_same(binary, tmp_path, smooth((2, 3, 40_000), 8))
    assert np.array_equal(got, smooth((2, 3, 40_000), 8))


def test_ragged_folder_with_keys(binary: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(9)
    arrays = {f"clip-{i:03}": rng.standard_normal((rng.integers(0, 9), 6)).astype("f4") for i in range(60)}
    (tmp_path / "in").mkdir()
    for name, array in arrays.items():
        np.save(tmp_path / "in" / f"{name}.npy", array)
    run(binary, "convert", tmp_path / "in", tmp_path / "d")
    dataset = spec_reader.Dataset(tmp_path / "d")
    keys = dataset.read("key")
    assert keys == sorted(arrays)
    for key, value in zip(keys, dataset.read("data"), strict=True):
        assert np.array_equal(value, arrays[key])
    run(binary, "export", tmp_path / "d", tmp_path / "out", "--fields", "data,key")
