"""The order of samples: ranks, states, selections, and real processes that are killed and resume."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorshard
from tensorshard import Loader

HERE = Path(__file__).parent
SHUFFLES: list[bool | str] = [False, True, "exact"]


def ids_of(batches: Any) -> list[int]:
    return [int(i) for batch in batches for i in batch["sample_ids"]]


def take(loader: Loader, n: int) -> list[int]:
    iterator = iter(loader)
    return ids_of(next(iterator) for _ in range(n))


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_a_state_goes_on_exactly_where_it_was_taken(latents: Path, shuffle: bool | str) -> None:
    def loader(**options: Any) -> Loader:
        return Loader(latents, batch_size=16, shuffle=shuffle, seed=3, sample_ids=True, **options)

    whole = ids_of(loader())
    following = ids_of(loader(epoch=1))
    for taken in range(20):
        first = loader()
        before = take(first, taken)
        state = json.dumps(first.state_dict())
        assert len(state) < 1024
        second = loader(num_workers=3, prefetch=2)
        second.load_state_dict(json.loads(state))
        if taken == 19:
            assert ids_of(second) == following
            continue
        assert json.dumps(second.state_dict()) == state
        assert before + ids_of(second) == whole
        assert ids_of(second) == following


def test_ranks_share_global_batches(latents: Path) -> None:
    for shuffle in SHUFFLES:
        whole = list(Loader(latents, batch_size=24, shuffle=shuffle, sample_ids=True))
        for world_size in (1, 2, 3, 4, 8):
            ranks = [
                Loader(
                    latents,
                    shuffle=shuffle,
                    rank=rank,
                    world_size=world_size,
                    global_batch_size=24,
                    sample_ids=True,
                )
                for rank in range(world_size)
            ]
            assert {loader.batch_size for loader in ranks} == {24 // world_size}
            assert {len(loader) for loader in ranks} == {len(whole)}
            for expected, *parts in zip(whole, *ranks, strict=True):
                assert sorted(ids_of(parts)) == sorted(ids_of([expected]))


def test_launchers_are_asked_for_rank_and_world_size(latents: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    loader = Loader(latents, global_batch_size=50)
    assert (loader.rank, loader.world_size, loader.batch_size) == (1, 2, 25)
    assert Loader(latents, rank=0, world_size=1).world_size == 1


def test_tails_seek_skip_and_ids_for(latents: Path) -> None:
    padded = Loader(latents, batch_size=64, shuffle=True, tail="pad", sample_ids=True)
    batches = list(padded)
    assert [len(batch["mask"]) for batch in batches] == [64] * 5
    assert sum(int(batch["mask"].sum()) for batch in batches) == 300
    real = [i for batch in batches for i, m in zip(batch["sample_ids"], batch["mask"], strict=True) if m]
    assert sorted(real) == list(range(300))
    assert len(Loader(latents, tail="drop")) == 4
    padded.set_epoch(0)
    assert padded.ids_for(3) == list(batches[3]["sample_ids"])
    padded.seek(3)
    assert ids_of(padded) == ids_of(batches[3:])
    padded.set_epoch(0)
    take(padded, 1)
    padded.skip(2)
    assert ids_of(padded) == ids_of(batches[3:])
    with pytest.raises(tensorshard.InvalidArgumentError, match="step 9"):
        padded.ids_for(9)


def test_selections(latents: Path) -> None:
    def ids(**options: Any) -> list[int]:
        return ids_of(Loader(latents, sample_ids=True, **options))

    assert ids(range=(30, 40)) == list(range(30, 40))
    assert ids(every_nth=(50, 7)) == [7, 57, 107, 157, 207, 257]
    assert ids(indices=[5, 1, 5]) == [5, 1, 5]
    train, rest = ids(split=(0, 0.8), shuffle=True), ids(split=(0.8, 1.0))
    assert sorted(train + rest) == list(range(300))
    assert len(ids(repeat=2, shuffle="exact")) == 600
    drawn = ids(shuffle="exact", weights=[i % 2 for i in range(300)])
    assert len(drawn) == 300 and all(i % 2 for i in drawn)


def test_mixtures_take_turns_and_resume(latents: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    with tensorshard.ShardWriter(other, samples_per_chunk=8) as writer:
        writer.extend({"x": np.zeros((100, 4, 8, 8), np.float32), "id": np.arange(300, 400)})

    def mixture(**options: Any) -> Loader:
        return Loader({str(latents): 3, str(other): 1}, 16, True, sample_ids=True, **options)

    batches = list(mixture())
    assert all(sum(batch["sample_ids"] >= 300) == 4 for batch in batches)
    for batch in batches:
        np.testing.assert_array_equal(batch["id"], batch["sample_ids"])
    assert sorted(ids_of(batches)) == list(range(400))
    assert mixture(until=1000).num_samples == 1000
    first = mixture()
    take(first, 5)
    second = mixture()
    second.load_state_dict(first.state_dict())
    assert ids_of(second) == ids_of(batches[5:])
    with pytest.raises(tensorshard.InvalidArgumentError, match="first_exhausted, all_exhausted"):
        mixture(until="never")


def test_another_loaders_state_is_refused(latents: Path) -> None:
    state = Loader(latents, shuffle=True).state_dict()
    with pytest.raises(tensorshard.StateMismatchError, match="shuffle is windowed in the state and exact here"):
        Loader(latents, shuffle="exact").load_state_dict(state)
    with pytest.raises(tensorshard.StateMismatchError, match="repeat"):
        Loader(latents, shuffle=True, repeat=2).load_state_dict(state)


def logged(folder: Path) -> dict[int, dict[int, list[int]]]:
    """The samples of each step that each process has trained on: by step, by rank."""
    steps: dict[int, dict[int, list[int]]] = {}
    for file in folder.glob("*.log"):
        for line in file.read_text().splitlines():
            if line.endswith("]"):
                step, rank, ids = json.loads(f"[{line.replace(' ', ',', 2)}]")
                steps.setdefault(step, {})[rank] = ids
    return steps


def launch(folder: Path, dataset: Path, processes: int, port: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc-per-node={processes}"]
    command += [f"--master-port={port}", str(HERE / "train_ddp.py"), str(dataset), str(folder)]
    environment = dict(os.environ, OMP_NUM_THREADS="1")
    return subprocess.Popen(command, env=environment, start_new_session=True)


def test_four_processes_are_killed_and_two_finish_their_epoch(latents: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    first = launch(tmp_path, latents, 4, 29713)
    deadline = time.monotonic() + 180
    while not (tmp_path / "step-5.json").exists():
        assert time.monotonic() < deadline and first.poll() is None
        time.sleep(0.01)
    # The workers have sessions of their own.
    workers = [int(path.stem) for path in tmp_path.glob("*.pid")]
    assert len(workers) == 4
    for pid in (first.pid, *workers):
        os.kill(pid, signal.SIGKILL)
    first.wait()
    while any(Path(f"/proc/{pid}/cmdline").exists() and Path(f"/proc/{pid}/cmdline").read_bytes() for pid in workers):
        time.sleep(0.01)
    checkpoints = sorted(int(path.stem.split("-")[1]) for path in tmp_path.glob("step-*.json"))
    resumed = checkpoints[-1]
    before = {step: ranks for step, ranks in logged(tmp_path).items() if step < resumed}
    assert all(len(ranks) == 4 for ranks in before.values())
    for path in tmp_path.glob("*.log"):
        path.unlink()
    assert launch(tmp_path, latents, 2, 29714).wait(timeout=180) == 0
    after = logged(tmp_path)
    assert sorted(after) == list(range(resumed, 25))
    assert all(len(ranks) == 2 for ranks in after.values())
    consumed = [i for ranks in (*before.values(), *after.values()) for ids in ranks.values() for i in ids]
    assert sorted(consumed) == list(range(300))
    # The same global batches as one process has.
    alone = Loader(latents, batch_size=12, shuffle=True, seed=1, sample_ids=True, rank=0, world_size=1)
    for step, batch in enumerate(alone):
        ranks = (before | after)[step]
        assert sorted(i for ids in ranks.values() for i in ids) == sorted(np.asarray(batch["sample_ids"]).tolist())


def test_batches_of_like_lengths(tmp_path: Path) -> None:
    path = tmp_path / "d"
    lengths = [(i * i) % 37 for i in range(200)]
    with tensorshard.ShardWriter(path, {"tokens": ("i4", (None, 2))}, samples_per_chunk=7) as writer:
        for i, length in enumerate(lengths):
            writer.append({"tokens": np.full((length, 2), i, np.int32)})

    def loader(**options: Any) -> Loader:
        padded = {"tokens": {"ragged": "padded", "pad_to_multiple": 8}}
        arguments: dict[str, Any] = {"global_batch_size": 16, "bucket_by_length": ("tokens", 4)}
        return Loader(path, shuffle=True, seed=1, sample_ids=True, outputs=padded, **(arguments | options))

    batches = list(loader())
    order = ids_of(batches)
    assert sorted(order) == list(range(200))
    for batch in batches:
        longest = max(lengths[i] for i in batch["sample_ids"])
        assert batch["tokens"].shape == (len(batch["sample_ids"]), -(-longest // 8) * 8, 2)
        for i, tokens, mask in zip(batch["sample_ids"], batch["tokens"], batch["tokens.mask"], strict=True):
            assert int(mask.sum()) == lengths[i]
            assert np.array_equal(tokens[: lengths[i]], np.full((lengths[i], 2), i))
            assert not tokens[lengths[i] :].any()
    plain = list(loader(bucket_by_length=None))
    padded, unpadded = (sum(batch["tokens"].size for batch in all_of) for all_of in (batches, plain))
    assert padded < 0.8 * unpadded
    for taken in range(13):
        first = loader()
        before = take(first, taken)
        state = json.dumps(first.state_dict())
        # Another world size.
        parts = [loader(rank=rank, world_size=2) for rank in range(2)]
        for part in parts:
            part.load_state_dict(json.loads(state))
        after = [[ids_of([batch]) for batch in part] for part in parts]
        rest = [i for step in zip(*after, strict=True) for part in step for i in part]
        assert before + rest == order
    with pytest.raises(tensorshard.StateMismatchError, match="pool_batches"):
        loader(bucket_by_length=("tokens", 5)).load_state_dict(json.loads(state))
    with pytest.raises(tensorshard.InvalidArgumentError, match="global_batch_size"):
        Loader(path, bucket_by_length=("tokens", 4))
    with pytest.raises(tensorshard.InvalidArgumentError, match="pad_to_multiple"):
        Loader(path, outputs={"tokens": {"pad_to_multiple": 8}})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"bucket_by_length": "tokens"}, r"bucket_by_length is \(field, pool_batches\), not 'tokens'"),
        ({"bucket_by_length": ("tokens", -1)}, r"bucket_by_length cannot be \('tokens', -1\)"),
        ({"every_nth": 3}, r"every_nth is \(n, offset\), not 3"),
        ({"range": (0, 1, 2)}, r"range is \(from, to\), not \(0, 1, 2\)"),
        ({"range": ("a", "b")}, r"range cannot be \('a', 'b'\)"),
        ({"split": 0.5}, r"split is \(from, to\)"),
        ({"indices": [0.5]}, "an index is a whole number, not 0.5"),
        ({"indices": [-1] * 1000}, r"indices cannot be \[-1, .*…"),
        ({"batch_size": 4.0}, "batch_size is a whole number, not 4.0"),
        ({"replicas": "two"}, "replicas cannot be 'two'"),
        ({"epoch": -1}, "epoch is a whole number from 0 on, not -1"),
    ],
)
def test_options_of_a_wrong_type_are_told_by_name(latents: Path, options: dict[str, Any], said: str) -> None:
    with pytest.raises(tensorshard.InvalidArgumentError, match=said):
        Loader(latents, **options)


def test_places_before_the_first_are_refused(latents: Path) -> None:
    loader = Loader(latents)
    places: list[Any] = [-1, 0.5, 2**64]
    for place in places:
        for use in (loader.seek, loader.skip, loader.ids_for, loader.set_epoch):
            with pytest.raises(tensorshard.InvalidArgumentError, match="whole number"):
                use(place)
    assert loader.ids_for(np.int64(0)) == list(range(64))
