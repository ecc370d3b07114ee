"""The door to PyTorch."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorshard

torch = pytest.importorskip("torch")
from torch.utils.data import DataLoader  # noqa: E402

import tensorshard.torch  # noqa: E402

TORCH_DTYPES = [
    torch.bool,
    torch.uint8,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
]


@pytest.mark.parametrize("dtype", TORCH_DTYPES, ids=str)
def test_every_dtype_comes_back_as_it_went_in(dtype: Any, tmp_path: Path) -> None:
    x = torch.arange(24).reshape(4, 2, 3).to(dtype)
    with tensorshard.ShardWriter(tmp_path / "d") as writer:
        writer.extend({"x": x})
        writer.append({"x": x[0].t().contiguous().t()})
    batch = next(iter(tensorshard.Loader(tmp_path / "d", output="torch")))["x"]
    assert batch.dtype == dtype
    bits = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    assert torch.equal(batch[:4].view(bits), x.view(bits))
    assert torch.equal(batch[4].view(bits), x[0].contiguous().view(bits))
    sample = tensorshard.torch.Dataset(tmp_path / "d")[1]["x"]
    assert sample.dtype == dtype


def test_tensors_are_the_decoded_memory(latents: Path) -> None:
    loader = tensorshard.Loader(latents, batch_size=16, output="dlpack")
    for batch in loader:
        x = batch["x"]
        array, tensor = x.numpy(), torch.from_dlpack(x)
        assert array.ctypes.data == tensor.data_ptr()
        tensor[0] = 5
        assert (array[0] == 5).all()
    addresses = {batch["x"].data_ptr() for batch in tensorshard.Loader(latents, batch_size=16, output="torch")}
    assert len(addresses) < 19


def shared_memory(num_bytes: int) -> Any:
    return torch.empty(num_bytes, dtype=torch.uint8).share_memory_()


def test_batches_are_decoded_into_the_memory_of_an_allocator(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    schema: dict[str, Any] = {
        "x": ("f32", [24]),
        "tokens": ("i32", [None]),
        "i": ("i64", []),
        "name": "string",
    }
    with tensorshard.ShardWriter(tmp_path / "d", schema, quantize={"x": "int8"}) as writer:
        for i in range(60):
            x, tokens = rng.standard_normal(24, "f4"), np.arange(i % 7, dtype="i4")
            writer.append({"x": x, "tokens": tokens, "i": i, "name": f"{i}"})
    variants: list[dict[str, Any]] = [{}, {"ragged": "padded"}, {"ragged": "concatenated"}, {"dequantize": "device"}]
    for options in variants:
        made: list[int] = []

        def allocator(num_bytes: int) -> Any:
            memory = shared_memory(num_bytes)
            made.append(memory.data_ptr())  # noqa: B023
            return memory

        loader = tensorshard.Loader(tmp_path / "d", 8, True, output="torch", **options)
        owned = tensorshard.Loader(tmp_path / "d", 8, True, output="torch", allocator=allocator, **options)
        # All batches are kept while others are decoded.
        pairs = list(zip(loader, owned, strict=True))
        assert made
        del owned
        for expected, found in pairs:
            assert expected.keys() == found.keys()
            assert found["x"].is_shared() and found["i"].is_shared()
            assert found["x"].data_ptr() in made
            for name, value in expected.items():
                if isinstance(value, torch.Tensor):
                    assert value.dtype == found[name].dtype and torch.equal(value, found[name])
                elif name == "tokens":
                    assert all(map(torch.equal, value, found[name]))
                    assert all(tokens.is_shared() for tokens in found[name] if len(tokens))
                else:
                    assert value == found[name]


def test_an_allocator_that_does_not_do_is_an_error(latents: Path) -> None:
    kept = torch.empty(1 << 20, dtype=torch.uint8)

    def fails(num_bytes: int) -> Any:
        raise RuntimeError("no memory is left to be pinned")

    cases = [
        (fails, "no memory is left to be pinned"),
        (lambda n: torch.empty(n // 2, dtype=torch.uint8), "a multiple of 64"),
        (lambda n: torch.empty(n, dtype=torch.float32), "a flat torch.uint8 tensor"),
        (lambda n: bytearray(n), "a flat torch.uint8 tensor"),
        (lambda n: kept, "in use"),
    ]
    for allocator, said in cases:
        with pytest.raises(tensorshard.StorageError, match=said):
            list(tensorshard.Loader(latents, 16, output="torch", allocator=allocator))
    with pytest.raises(ValueError, match="output"):
        tensorshard.Loader(latents, allocator=shared_memory)


def test_memory_is_pinned_where_a_gpu_is(latents: Path) -> None:
    batch = next(iter(tensorshard.Loader(latents, 16, output="torch", pin_memory=True)))
    assert batch["x"].is_pinned() == torch.cuda.is_available()


def test_capsules_that_nobody_takes_are_freed(latents: Path) -> None:
    batch = next(iter(tensorshard.Loader(latents, output="dlpack")))
    for version in (None, (1, 0)):
        for _ in range(1000):
            batch["x"].__dlpack__(max_version=version)
    with pytest.raises(BufferError):
        batch["x"].__dlpack__(copy=True)


def test_bfloat16_arrives_in_numpy_as_ml_dtypes(tmp_path: Path) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = torch.arange(8).to(torch.bfloat16)
    with tensorshard.ShardWriter(tmp_path / "d") as writer:
        writer.extend({"x": x})
        writer.extend({"x": np.arange(8).astype(ml_dtypes.bfloat16)})
    found = tensorshard.Dataset(tmp_path / "d")[:]["x"]
    assert found.dtype == ml_dtypes.bfloat16
    np.testing.assert_array_equal(found.astype("f4"), [*range(8), *range(8)])


QUANTIZERS = [
    "int8",
    "uint8:asym",
    "int4:per-group=8",
    "uint4:asym:per-group=5",
    "int16",
    "uint16:asym",
    "int8:per-tensor",
    "int8:per-channel=0",
    "uint8:asym:per-channel=1",
    "fp8",
    "fp8-e5m2:per-group=8",
    "nf4",
    "mxfp8",
    "mxfp8-e5m2",
    "mxint8",
    "mxfp4",
    "f16",
    "bf16",
    "f8e4m3fn",
    "identity",
]


@pytest.mark.parametrize("quantizer", QUANTIZERS)
def test_dequantized_on_the_device_as_on_the_cpu(quantizer: str, tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((50, 3, 4, 40)).astype("f4")
    writer = tensorshard.ShardWriter(tmp_path / "d", {"x": ("f4", x.shape[1:])}, quantize=quantizer)
    writer.calibrate({"x": x})
    with writer:
        writer.extend({"x": x})
    cpu = tensorshard.Loader(tmp_path / "d", batch_size=20, output="torch")
    device = tensorshard.Loader(tmp_path / "d", batch_size=20, output="torch", dequantize="device")
    for expected, batch in zip(cpu, device, strict=True):
        if quantizer != "identity":
            assert batch["x"].dtype != torch.float32
        found = tensorshard.torch.dequantize(batch, device.quantization)
        assert list(found) == ["x"]
        # The one rounding may be another one: of a product in f32, or of a table in f64.
        torch.testing.assert_close(found["x"], expected["x"], rtol=3e-7, atol=0)


def test_dequantize_compiles(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((20, 64)).astype("f4")
    with tensorshard.ShardWriter(tmp_path / "d", quantize="int8:per-group=16") as writer:
        writer.extend({"x": x})
    loader = tensorshard.Loader(tmp_path / "d", batch_size=20, output="torch", dequantize="device")
    batch = next(iter(loader))
    quantization = loader.quantization

    def model(batch: dict[str, Any]) -> Any:
        return torch.relu(tensorshard.torch.dequantize(batch, quantization)["x"]).sum()

    # `eager` traces as others do, in one graph; which code is made of it is torch's affair.
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(batch), model(batch))


def test_map_style_dataset_with_samplers(latents: Path) -> None:
    dataset = tensorshard.torch.Dataset(latents, fields=["id", "x"])
    assert isinstance(dataset, torch.utils.data.Dataset)
    loader = DataLoader(dataset, batch_size=32, shuffle=True, drop_last=True)
    ids = [i for batch in loader for i in batch["id"].tolist()]
    assert len(ids) == len(set(ids)) == 288
    subset = torch.utils.data.Subset(dataset, [5, 1, 9])
    assert [int(sample["id"]) for sample in subset] == [5, 1, 9]
    assert dataset[2:4]["x"].shape == (2, 4, 8, 8)


def test_epochs_under_a_dataloader(latents: Path) -> None:
    def ids(loader: Any) -> list[int]:
        return [i for batch in loader for i in batch["id"].tolist()]

    dataset = tensorshard.torch.IterableDataset(latents, batch_size=16, shuffle=True)
    assert len(dataset) == 19
    assert len(DataLoader(dataset, batch_size=None)) == 19
    persistent = DataLoader(dataset, batch_size=None, num_workers=2, persistent_workers=True)
    dataset.set_epoch(3)
    third = ids(persistent)
    fourth = ids(persistent)
    assert third != fourth
    dataset.set_epoch(3)
    assert ids(persistent) == third
    assert sorted(third) == sorted(fourth) == list(range(300))
    # Without workers each iteration is the next epoch, as for `Loader`.
    alone = DataLoader(dataset, batch_size=None)
    dataset.set_epoch(3)
    assert sorted(ids(alone)) == list(range(300))
    assert ids(alone) != ids(alone)


def test_ranks_share_an_epoch(latents: Path) -> None:
    found = []
    for rank in range(3):
        dataset = tensorshard.torch.IterableDataset(latents, batch_size=16, shuffle=True, rank=rank, world_size=3)
        found += [i for batch in dataset for i in batch["id"].tolist()]
    assert sorted(found) == list(range(300))
    with pytest.raises(tensorshard.InvalidArgumentError, match="rank 3"):
        tensorshard.torch.IterableDataset(latents, rank=3, world_size=3)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_stateful_dataloader_resumes_where_it_was(num_workers: int, latents: Path) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader")

    def loader() -> Any:
        dataset = tensorshard.torch.IterableDataset(latents, batch_size=16, shuffle=True, epoch=2)
        return stateful.StatefulDataLoader(dataset, batch_size=None, num_workers=num_workers)

    whole = [batch["id"].tolist() for batch in loader()]
    for stop in (0, 1, 7, 18):
        first = loader()
        head = [batch["id"].tolist() for batch in itertools.islice(first, stop)]
        state = first.state_dict()
        second = loader()
        second.load_state_dict(state)
        rest = [batch["id"].tolist() for batch in second]
        assert head + rest == whole, stop
    # A state at the end of an epoch: the next iteration is a whole one.
    first = loader()
    assert len(list(first)) == len(whole)
    second = loader()
    second.load_state_dict(first.state_dict())
    left = [i for batch in second for i in batch["id"].tolist()]
    again = [i for batch in second for i in batch["id"].tolist()]
    assert sorted(left) in ([], list(range(300)))
    assert sorted(again) == list(range(300))


def test_ranks_without_samples_give_no_batch(tmp_path: Path) -> None:
    with tensorshard.ShardWriter(tmp_path / "d", {"tokens": ("i4", (None,))}) as writer:
        for i in range(13):
            writer.append({"tokens": np.full(i % 3, i, "i4")})
    dataset = tensorshard.torch.IterableDataset(tmp_path / "d", 4, ragged="concatenated", rank=2, world_size=3)
    assert [len(batch["tokens.offsets"]) - 1 for batch in dataset] == [4]
