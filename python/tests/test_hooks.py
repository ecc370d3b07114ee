"""Functions of batches, filters by predicate, parts in mixtures, epochs without a pause, damaged chunks."""

from __future__ import annotations

import json
import pickle
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import latent

import tensorshard
from tensorshard import Bitmap, Loader, Part

SHUFFLES: list[bool | str] = [False, True, "exact"]


def ids_of(batches: Any) -> list[int]:
    return [int(i) for batch in batches for i in batch["sample_ids"]]


@pytest.mark.parametrize("shuffle", SHUFFLES)
@pytest.mark.parametrize("output", ["numpy", "torch"])
def test_a_function_is_called_in_order_in_the_thread_that_iterates(
    latents: Path, shuffle: bool | str, output: str
) -> None:
    if output == "torch":
        pytest.importorskip("torch")
    calls: list[tuple[int, int]] = []
    here = threading.get_ident()

    def function(batch: dict[str, Any], epoch: int, step: int) -> tuple[int, int, list[int], Any]:
        assert threading.get_ident() == here
        calls.append((epoch, step))
        return epoch, step, batch["sample_ids"].tolist(), batch["x"] * 2

    loader = Loader(latents, 16, shuffle, seed=3, output=output, sample_ids=True, map=function)
    plain = Loader(latents, 16, shuffle, seed=3, sample_ids=True)
    for epoch in range(2):
        calls.clear()
        found = list(loader)
        assert calls == [(epoch, step) for step in range(19)]
        for (e, step, ids, x), batch in zip(found, plain, strict=True):
            assert (e, ids) == (epoch, batch["sample_ids"].tolist())
            assert np.array_equal(np.asarray(x), 2 * batch["x"]), step
    # A resumed epoch goes on with its steps.
    loader.set_epoch(4)
    loader.seek(17)
    assert [(e, step) for e, step, _, _ in loader] == [(4, 17), (4, 18)]


def test_what_a_function_raises_passes_through_and_the_iteration_can_go_on(latents: Path) -> None:
    class Odd(Exception):
        pass

    def function(batch: dict[str, Any], epoch: int, step: int) -> int:
        if step % 2:
            raise Odd(step)
        return step

    loader = Loader(latents, 16, map=function)
    batches = iter(loader)
    for step in range(19):
        if step % 2:
            with pytest.raises(Odd) as caught:
                next(batches)
            assert caught.value.args == (step,)
        else:
            assert next(batches) == step
        assert loader.state_dict()["consumed"] == min(16 * (step + 1), 300)
    with pytest.raises(StopIteration):
        next(batches)


def test_a_bitmap_is_made_by_a_predicate_and_filters(latents: Path, tmp_path: Path) -> None:
    asked: list[int] = []

    def predicate(batch: dict[str, Any]) -> Any:
        assert set(batch) == {"id", "sample_ids"}
        asked.extend(batch["sample_ids"].tolist())
        return batch["id"] % 3 == 1

    good = Bitmap.from_predicate(latents, predicate, ["id"], batch_size=70)
    assert asked == list(range(300))
    expected = [i for i in range(300) if i % 3 == 1]
    assert (len(good), good.num_samples, good.indices().tolist()) == (100, 300, expected)
    assert 1 in good and 0 not in good and -1 not in good and 10**9 not in good
    assert "100 of 300" in repr(good)
    for shuffle in SHUFFLES:
        loader = Loader(latents, 16, shuffle, seed=5, sample_ids=True, filter=good)
        assert (loader.num_samples, len(loader)) == (100, 7)
        ids = ids_of(loader)
        assert sorted(ids) == expected
        assert [i for step in range(7) for i in loader.ids_for(step, epoch=0)] == ids
        # Its digest is in the state.
        state = loader.state_dict()
        other = Loader(latents, 16, shuffle, seed=5, filter=Bitmap(~good.mask()))
        with pytest.raises(tensorshard.StateMismatchError, match="selection"):
            other.load_state_dict(state)
        again = Loader(latents, 16, shuffle, seed=5, filter=Bitmap(good.mask()))
        again.load_state_dict(json.loads(json.dumps(state)))
    good.save(tmp_path / "good")
    assert (tmp_path / "good").stat().st_size == 24 + 5 * 8
    for copy in (Bitmap.load(tmp_path / "good"), pickle.loads(pickle.dumps(good)), Bitmap(good.mask())):
        assert copy == good and copy.digest == good.digest and hash(copy) == hash(good)
    assert good != Bitmap(~good.mask())
    # A loader with a filter can go to another process.
    assert len(pickle.loads(pickle.dumps(Loader(latents, filter=good)))) == 2
    damaged = bytearray((tmp_path / "good").read_bytes())
    damaged[-3] ^= 1
    (tmp_path / "good").write_bytes(damaged)
    with pytest.raises(tensorshard.CorruptError):
        Bitmap.load(tmp_path / "good")


def test_bad_predicates_and_filters_are_named(latents: Path) -> None:
    for bad in (lambda b: b["id"], lambda b: True, lambda b: (b["id"] > 3)[:-1]):
        with pytest.raises(tensorshard.InvalidArgumentError, match="one bool for each"):
            Bitmap.from_predicate(latents, bad, ["id"])
    with pytest.raises(ZeroDivisionError):
        Bitmap.from_predicate(latents, lambda b: 1 // 0, ["id"])
    with pytest.raises(tensorshard.InvalidArgumentError, match="mask"):
        Bitmap([1, 2])
    with pytest.raises(tensorshard.InvalidArgumentError, match=r"Bitmap.from_predicate"):
        Loader(latents, filter=lambda b: True)  # type: ignore[arg-type]
    with pytest.raises(tensorshard.InvalidArgumentError, match="made for 5 samples"):
        Loader(latents, filter=Bitmap(np.ones(5, dtype=bool)))


def test_parts_of_datasets_take_turns(latents: Path) -> None:
    even = Bitmap(np.arange(300) % 2 == 0)
    parts = [
        Part(latents, 2, range=(100, 200)),
        Part(latents, 1, filter=even),
        Part(latents, 1, indices=[7, 8, 9]),
        Part(latents, 1, every_nth=(10, 3)),
        Part(latents, 1, split=(0, 0.5)),
    ]
    loader = Loader(parts, 12, "exact", sample_ids=True, until=120)
    ids = ids_of(loader)
    sources = [i // 300 for i in ids]
    assert [sources.count(k) for k in range(5)] == [40, 20, 20, 20, 20]
    of = [{i % 300 for i in ids if i // 300 == k} for k in range(5)]
    assert of[0] <= set(range(100, 200)) and len(of[0]) == 40
    assert all(i % 2 == 0 for i in of[1]) and of[2] == {7, 8, 9} and all(i % 10 == 3 for i in of[3])
    # The same datasets and weights without selections: a dict says the same.
    whole = Loader([Part(latents, 3)], 12, True, sample_ids=True, until=60)
    assert ids_of(whole) == ids_of(Loader({latents: 3.0}, 12, True, sample_ids=True, until=60))  # type: ignore[dict-item]
    with pytest.raises(tensorshard.InvalidArgumentError, match="at least one"):
        Loader([])
    with pytest.raises(tensorshard.InvalidArgumentError, match="each dataset"):
        Loader(parts, filter=even)


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_epochs_that_follow_each_other_are_the_same_with_and_without_a_pause(
    latents: Path, shuffle: bool | str
) -> None:
    expected = [ids_of(Loader(latents, 16, shuffle, epoch=e, sample_ids=True)) for e in range(4)]
    for options in ({}, {"epochs": 4}, {"epochs": 4, "output": "dlpack"}):
        loader = Loader(latents, 16, shuffle, sample_ids=True, **options)
        for epoch, ids in enumerate(expected):
            batches = iter(loader)
            if options:
                # What was begun has been planned before anybody asked.
                assert (batches.stats()["planned_samples"] > 0) == (epoch > 0)  # type: ignore[attr-defined]
            if "output" not in options:
                assert ids_of(batches) == ids
            else:
                assert sum(1 for _ in batches) == 19
            assert loader.state_dict()["epoch"] == epoch
        loader.set_epoch(1)
        assert sum(1 for _ in loader) == 19
        loader.close()
        assert iter(loader).stats()["planned_samples"] == 0  # type: ignore[attr-defined]


def test_damaged_chunks_are_errors_or_skipped_and_listed(latents: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged"
    shutil.copytree(latents, path)
    shard = sorted(path.glob("*.tshard"))[1]
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 0x10
    shard.write_bytes(data)
    with pytest.raises(tensorshard.CorruptError):
        list(Loader(path, 16))
    for shuffle in SHUFFLES:
        loader = Loader(path, 16, shuffle, sample_ids=True, damaged="skip")
        assert loader.skipped() == []
        batches = list(loader)
        (lost,) = loader.skipped()
        ids = ids_of(batches)
        first, count = lost["first_sample"], lost["num_samples"]
        assert count == 8 and lost["path"] == str(shard) and "checksum" in lost["message"]
        assert sorted(ids) == [i for i in range(300) if not first <= i < first + count]
        for batch in batches:
            assert np.array_equal(batch["x"], latent(batch["sample_ids"]))
        assert loader.state_dict()["consumed"] == 300
        iterator = iter(Loader(path, 16, shuffle, output="dlpack", damaged="skip"))
        for _ in iterator:
            pass
        assert iterator.skipped() == [lost]  # type: ignore[attr-defined]
    # Ranks take as many steps as each other, and lose the same.
    ranks = [Loader(path, 5, rank=rank, world_size=3, sample_ids=True, damaged="skip") for rank in range(3)]
    taken = [list(loader) for loader in ranks]
    assert {len(batches) for batches in taken} == {20}
    assert sorted(i for batches in taken for i in ids_of(batches)) == sorted(ids)
    with pytest.raises(tensorshard.InvalidArgumentError, match="damaged"):
        Loader(path, damaged="ignore")


def test_stats_say_how_often_chunks_are_decoded(latents: Path) -> None:
    loader = Loader(latents, 16, True)
    for _ in loader:
        pass
    stats = loader.stats()
    assert stats["planned_samples"] == 300
    assert 1.0 <= stats["amplification"] <= 2.0
    assert stats["worker_mapping"] == 0.0


def test_a_predicate_is_asked_in_the_order_of_the_dataset(latents: Path) -> None:
    for options in ({"shuffle": True}, {"range": (40, 60)}, {"windows": 2}):
        with pytest.raises(tensorshard.InvalidArgumentError, match="every sample is asked once"):
            Bitmap.from_predicate(latents, lambda batch: batch["id"] < 5, ["id"], **options)


def test_options_that_mean_nothing_are_refused(latents: Path) -> None:
    for options, match in (
        ({"until": 10}, "mixtures"),
        ({"indices": [-1]}, "negative"),
        ({"seed": -1}, "negative"),
    ):
        with pytest.raises(tensorshard.InvalidArgumentError, match=match):
            Loader(latents, **options)
    with pytest.raises(tensorshard.InvalidArgumentError, match="Part"):
        Loader([str(latents)])  # type: ignore[list-item]
