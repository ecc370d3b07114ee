"""`Loader`: values, order, forms, memory."""

from __future__ import annotations

import gc
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import latent, run_python

import tensorshard
from tensorshard import Loader, ShardWriter


def ids_of(loader: Loader) -> list[int]:
    return [int(i) for batch in loader for i in batch["id"]]


def test_batches_are_dicts_of_arrays(latents: Path) -> None:
    loader = Loader(latents, batch_size=64)
    assert len(loader) == 5
    batches = list(loader)
    assert [len(batch["id"]) for batch in batches] == [64, 64, 64, 64, 44]
    for batch in batches:
        assert list(batch) == ["x", "id"]
        assert batch["x"].dtype == np.float32
        np.testing.assert_array_equal(batch["x"], latent(batch["id"]))
    assert len(Loader(latents, batch_size=64, drop_last=True)) == 4


def test_every_shuffle_gives_each_sample_once_and_only_seed_and_epoch_change_it(latents: Path) -> None:
    for shuffle in (True, "exact"):
        orders = {}
        for seed, epoch in ((0, 0), (0, 1), (1, 0)):
            order = ids_of(Loader(latents, shuffle=shuffle, seed=seed, epoch=epoch))
            assert sorted(order) == list(range(300))
            assert order == ids_of(Loader(latents, shuffle=shuffle, seed=seed, epoch=epoch, num_workers=3, prefetch=1))
            orders[seed, epoch] = order
        assert len({tuple(order) for order in orders.values()}) == 3
    assert ids_of(Loader(latents, shuffle=False)) == list(range(300))


def test_each_iteration_is_the_next_epoch(latents: Path) -> None:
    loader = Loader(latents, shuffle=True, epoch=5)
    fifth = ids_of(loader)
    sixth = ids_of(loader)
    assert loader.epoch == 7
    assert fifth != sixth
    loader.set_epoch(5)
    assert ids_of(loader) == fifth
    assert ids_of(loader) == sixth


def test_break_exception_and_two_iterators_at_once(latents: Path) -> None:
    loader = Loader(latents, batch_size=16, shuffle=True)
    for _ in loader:
        break
    with pytest.raises(RuntimeError, match="mine"), loader:
        for _ in loader:
            raise RuntimeError("mine")
    loader.set_epoch(0)
    first, other = iter(loader), iter(Loader(latents, batch_size=16, shuffle=True))
    for a, b in zip(first, other, strict=True):
        np.testing.assert_array_equal(a["id"], b["id"])
    first.close()  # type: ignore[attr-defined]
    assert list(first) == []


def test_arrays_are_views_of_pool_memory_that_comes_back(latents: Path) -> None:
    loader = Loader(latents, batch_size=16, num_workers=1, prefetch=1)
    batch = next(iter(loader))
    x = batch["x"]
    assert type(x.base).__name__ == "Buffer"
    assert not x.flags.owndata
    assert x.flags.writeable
    assert x.ctypes.data % 64 == 0
    # A view of a view keeps the memory, too.
    kept = x[3:5, 1]
    expected = kept.copy()
    assert np.shares_memory(kept, x)
    del batch, x
    addresses = set()
    for other in loader:
        assert not np.shares_memory(other["x"], kept)
        addresses.add(other["x"].ctypes.data)
    np.testing.assert_array_equal(kept, expected)
    # 19 batches came in fewer buffers: dropped ones are used again.
    stats = loader.stats()
    assert len(addresses) < 19
    assert stats["pool_hits"] > 0


def test_kept_arrays_outlive_loader_iterator_and_files(latents: Path, tmp_path: Path) -> None:
    path = tmp_path / "copy"
    shutil.copytree(latents, path)
    loader = Loader(path, batch_size=16, shuffle=True)
    iterator = iter(loader)
    kept = [next(iterator) for _ in range(3)]
    del iterator, loader
    shutil.rmtree(path)
    gc.collect()
    # Other loaders do not get this memory.
    list(Loader(latents, batch_size=16))
    for batch in kept:
        np.testing.assert_array_equal(batch["x"], latent(batch["id"]))


def test_ten_thousand_batches_leave_memory_flat(latents: Path) -> None:
    code = """
import sys, tensorshard
def rss():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
loader = tensorshard.Loader(sys.argv[1], batch_size=4, shuffle=True)
batches, before = 0, 0
while batches < 10_000:
    for batch in loader:
        batches += 1
        if batches == 1000:
            before = rss()
grown = rss() - before
assert grown < 4 << 20, grown
"""
    done = run_python(code, str(latents))
    assert done.returncode == 0, done.stderr


def test_chosen_fields_dtypes_and_normalized_images(latents: Path, tmp_path: Path) -> None:
    batch = next(iter(Loader(latents, fields=["x"], dtype="float16")))
    assert list(batch) == ["x"]
    assert batch["x"].dtype == np.float16
    images = np.arange(3 * 4 * 4 * 10, dtype=np.uint8).reshape(10, 3, 4, 4)
    with ShardWriter(tmp_path / "images") as writer:
        writer.extend({"image": images})
    mean, std = (0.1, 0.2, 0.3), (0.5, 0.6, 0.7)
    outputs = {"image": {"normalize": (1 / 255, mean, std, 0)}}
    batch = next(iter(Loader(tmp_path / "images", outputs=outputs)))
    shape = (3, 1, 1)
    expected = (images / 255 - np.reshape(mean, shape)) / np.reshape(std, shape)
    np.testing.assert_allclose(batch["image"], expected, rtol=1e-6)


def ragged(path: Path) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    samples = [
        {
            "tokens": rng.standard_normal((int(rng.integers(0, 5)), 3)).astype("f4"),
            "image": rng.integers(0, 255, (3, int(rng.integers(1, 4)), int(rng.integers(1, 4)))).astype("u1"),
            "text": "ä" * i,
            "raw": bytes(range(i)),
        }
        for i in range(20)
    ]
    schema: dict[str, Any] = {
        "tokens": ("f4", (None, 3)),
        "image": ("u1", (3, None, None)),
        "text": "string",
        "raw": "bytes",
    }
    with ShardWriter(path, schema) as writer:
        for sample in samples:
            writer.append(sample)
    return samples


def test_ragged_fields_as_lists(tmp_path: Path) -> None:
    samples = ragged(tmp_path / "d")
    at = 0
    for batch in Loader(tmp_path / "d", batch_size=7):
        for i in range(len(batch["text"])):
            for name in ("tokens", "image"):
                np.testing.assert_array_equal(batch[name][i], samples[at][name])
            assert batch["text"][i] == samples[at]["text"]
            assert batch["raw"][i] == samples[at]["raw"]
            at += 1
        # Views of one buffer.
        full = [array for array in batch["tokens"] if array.size]
        assert all(not array.flags.owndata for array in full)
    assert at == 20


def test_ragged_fields_concatenated_and_padded(tmp_path: Path) -> None:
    samples = ragged(tmp_path / "d")
    batch = next(iter(Loader(tmp_path / "d", batch_size=20, ragged="concatenated")))
    np.testing.assert_array_equal(batch["tokens"], np.concatenate([s["tokens"] for s in samples]))
    lengths = [len(s["tokens"]) for s in samples]
    np.testing.assert_array_equal(batch["tokens.offsets"], np.cumsum([0, *lengths]))
    np.testing.assert_array_equal(batch["image.shapes"], [s["image"].shape for s in samples])
    batch = next(iter(Loader(tmp_path / "d", batch_size=20, ragged="padded")))
    assert batch["tokens"].shape == (20, max(lengths), 3)
    assert batch["tokens.mask"].dtype == bool
    np.testing.assert_array_equal(batch["tokens.mask"].sum(1), lengths)
    np.testing.assert_array_equal(batch["tokens"][batch["tokens.mask"]], np.concatenate([s["tokens"] for s in samples]))


def test_samples_with_dtypes_of_their_own(tmp_path: Path) -> None:
    tensors = [np.arange(3, dtype="u1"), np.arange(6, dtype="f4").reshape(2, 3), np.array(1.5), np.arange(2) > 0]
    with ShardWriter(tmp_path / "d", {"name": "key", "value": (None, None)}) as writer:
        for i, tensor in enumerate(tensors):
            writer.append({"name": f"t{i}", "value": tensor})
    batch = next(iter(Loader(tmp_path / "d")))
    for found, tensor in zip(batch["value"], tensors, strict=True):
        assert (found.dtype, found.shape) == (tensor.dtype, tensor.shape)
        np.testing.assert_array_equal(found, tensor)
        assert found.flags.aligned


def test_sample_ids_and_statistics(latents: Path) -> None:
    loader = Loader(latents, shuffle=True, sample_ids=True)
    for batch in loader:
        np.testing.assert_array_equal(batch["sample_ids"], batch["id"])
    stats = loader.stats()
    assert stats["samples"] == 300
    assert stats["why"].endswith(".")


def test_bad_options_are_named(latents: Path) -> None:
    for options, message in (
        ({"batch_size": 0}, "batch_size"),
        ({"shuffle": "sorted"}, "windowed"),
        ({"fields": "x"}, r"fields=\['x'\]"),
        ({"fields": ["y"]}, "the fields are x, id"),
        ({"dtype": "complex64"}, "complex64"),
        ({"output": "cupy"}, "numpy, torch"),
        ({"ragged": "jagged"}, "padded"),
        ({"io": "uring"}, "mmap"),
        ({"outputs": {"x": {"ragd": 1}}}, "ragd"),
        ({"memory_budget": 10}, "memory_budget"),
    ):
        with pytest.raises(tensorshard.InvalidArgumentError, match=message):
            next(iter(Loader(latents, **options)))


def test_progress_bars_know_the_length(latents: Path) -> None:
    tqdm = pytest.importorskip("tqdm")
    with tqdm.tqdm(Loader(latents), disable=False, file=open("/dev/null", "w")) as bar:
        assert bar.total == 5
        assert sum(1 for _ in bar) == 5


def test_state_resumes_exactly_and_with_other_ranks_and_batch_sizes(latents: Path) -> None:
    options: dict[str, Any] = {"shuffle": True, "seed": 3, "epoch": 2}
    whole = ids_of(Loader(latents, batch_size=16, **options))
    loader = Loader(latents, batch_size=16, **options)
    iterator = iter(loader)
    head = [int(i) for _ in range(7) for i in next(iterator)["id"]]
    state = json.loads(json.dumps(loader.state_dict()))
    assert len(json.dumps(state)) < 1024
    for batch_size in (16, 50):
        resumed = Loader(latents, batch_size=batch_size, shuffle=True, seed=3)
        resumed.load_state_dict(state)
        assert resumed.epoch == 2
        assert head + ids_of(resumed) == whole
        assert resumed.epoch == 3
    rest = []
    for rank in range(2):
        ranked = Loader(latents, batch_size=8, shuffle=True, seed=3, rank=rank, world_size=2)
        ranked.load_state_dict(state)
        rest += ids_of(ranked)
    assert sorted(head + rest) == list(range(300))
    with pytest.raises(tensorshard.StateMismatchError, match="seed"):
        Loader(latents, shuffle=True, seed=4).load_state_dict(state)
    with pytest.raises(tensorshard.InvalidArgumentError, match="no loader state"):
        Loader(latents).load_state_dict({"epoch": 1})


def test_a_state_at_the_end_of_an_epoch_leads_to_the_next(latents: Path) -> None:
    loader = Loader(latents, shuffle=True)
    first = ids_of(loader)
    state = loader.state_dict()
    second = ids_of(loader)
    other = Loader(latents, shuffle=True)
    other.load_state_dict(state)
    assert other.epoch == 1
    assert ids_of(other) == second != first


def test_ranks_share_an_epoch_with_equal_numbers_of_batches(latents: Path) -> None:
    for shuffle in (False, True, "exact"):
        loaders = [Loader(latents, 16, shuffle, rank=rank, world_size=3) for rank in range(3)]
        assert {(loader.world_size, len(loader)) for loader in loaders} == {(3, 7)}
        batches = [list(loader) for loader in loaders]
        assert {len(found) for found in batches} == {7}
        assert sorted(int(i) for found in batches for batch in found for i in batch["id"]) == list(range(300))
        assert len(Loader(latents, 16, shuffle, rank=0, world_size=3, tail="drop")) == 6


def test_other_threads_run_while_a_loader_decodes_and_waits(tmp_path: Path) -> None:
    # Samples that take milliseconds to decode.
    x = np.random.default_rng(0).integers(0, 4, (20, 1 << 18), dtype="u1")
    with ShardWriter(tmp_path / "d", codec="deflate", samples_per_chunk=1) as writer:
        writer.extend({"x": x})
    code = """
import sys, threading, time, tensorshard
loader = tensorshard.Loader(sys.argv[1], batch_size=1, num_workers=1, prefetch=1)
# A thread that does not let go of the interpreter by itself keeps it.
sys.setswitchinterval(1000)
batches = []
def iterate():
    for batch in loader:
        batches.append(len(batches))
thread = threading.Thread(target=iterate)
thread.start()
turns = set()
while thread.is_alive():
    turns.add(len(batches))
    time.sleep(0)
# With the lock held: before and after.
assert len(turns) > 2, turns
"""
    done = run_python(code, str(tmp_path / "d"))
    assert done.returncode == 0, done.stderr
