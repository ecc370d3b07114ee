"""Windows of long samples and packed ones, compared with slices of what was written."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tensorshard
from tensorshard import InvalidArgumentError, Loader, Pack, Windows

SHUFFLES: list[bool | str] = [False, True, "exact"]


def episode(i: int, steps: int) -> dict[str, Any]:
    x = np.arange(steps * 3, dtype=np.float32).reshape(steps, 3) + 1000 * i
    return {"x": x, "q": (np.arange(steps) % 100 - 50).astype(np.int8), "name": f"episode {i}"}


@pytest.fixture(scope="module", params=["fixed", "ragged"])
def episodes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """60 samples of x f32 [T, 3], q i8 [T] and a name."""
    rng = np.random.default_rng(0)
    lengths = [13] * 60 if request.param == "fixed" else [int(n) for n in rng.integers(0, 20, 60)]
    shape = 13 if request.param == "fixed" else None
    fields: dict[str, Any] = {"x": ("f32", [shape, 3]), "q": ("i8", [shape]), "name": "string"}
    path = tmp_path_factory.mktemp("windows") / request.param
    with tensorshard.ShardWriter(path, fields, samples_per_chunk=4, max_shard_len=2_000) as writer:
        for i, steps in enumerate(lengths):
            writer.append(episode(i, steps))
    assert tensorshard.Dataset(path).num_shards > 2
    return path, lengths


def expected(lengths: list[int], length: int, stride: int) -> list[tuple[int, int]]:
    return [(i, s) for i, steps in enumerate(lengths) for s in range(0, steps - length + 1, stride)]


def places(batches: Any) -> list[tuple[int, int]]:
    out: list[tuple[int, int]] = []
    for batch in batches:
        out += zip(batch["sample_ids"].tolist(), batch["window_starts"].tolist(), strict=True)
    return out


@pytest.mark.parametrize("shuffle", SHUFFLES)
@pytest.mark.parametrize(("length", "stride"), [(4, 1), (5, 3), (13, 13), (18, 1), (40, 1)])
def test_windows_are_slices(episodes: tuple[Path, list[int]], shuffle: bool | str, length: int, stride: int) -> None:
    path, lengths = episodes
    loader = Loader(path, 16, shuffle, windows=Windows(length, stride), sample_ids=True)
    batches = list(loader)
    for batch in batches:
        for i, (sample, start) in enumerate(zip(batch["sample_ids"], batch["window_starts"], strict=True)):
            whole = episode(int(sample), lengths[sample])
            np.testing.assert_array_equal(batch["x"][i], whole["x"][start : start + length])
            np.testing.assert_array_equal(batch["q"][i], whole["q"][start : start + length])
            assert batch["name"][i] == whole["name"]
    windows = expected(lengths, length, stride)
    assert loader.num_samples == len(windows)
    found = places(batches)
    assert found == windows if shuffle is False else sorted(found) == windows


@pytest.mark.parametrize("shuffle", SHUFFLES)
def test_states_and_ranks(episodes: tuple[Path, list[int]], shuffle: bool | str) -> None:
    path, lengths = episodes

    def loader(**options: Any) -> Loader:
        return Loader(path, 10, shuffle, seed=1, windows=Windows(4, 2), sample_ids=True, **options)

    whole = places(loader())
    for taken in range(len(loader()) + 1):
        first = loader()
        iterator = iter(first)
        before = places(next(iterator) for _ in range(taken))
        second = loader(num_workers=2)
        state = json.loads(json.dumps(first.state_dict()))
        second.load_state_dict(state)
        if taken < len(first):
            assert before + places(second) == whole
    with pytest.raises(tensorshard.StateMismatchError, match="windows"):
        Loader(path, shuffle=shuffle, seed=1, windows=4).load_state_dict(loader().state_dict())
    for world_size in (1, 2, 3):
        parts = [places(loader(rank=rank, world_size=world_size)) for rank in range(world_size)]
        assert sorted(place for part in parts for place in part) == expected(lengths, 4, 2)


def test_forms(episodes: tuple[Path, list[int]]) -> None:
    path, lengths = episodes
    for ragged in ("list", "concatenated", "padded"):
        loader = Loader(path, 5, fields=["x", "q"], windows=6, ragged=ragged)
        batch = next(iter(loader))
        assert set(batch) == {"x", "q"}
        assert batch["x"].shape == (5, 6, 3)
    loader = Loader(path, 5, windows=Windows(6, fields=["x"]), sample_ids=True, dtype="f64")
    batch = next(iter(loader))
    assert batch["x"].dtype == np.float64
    for sample, q in zip(batch["sample_ids"], batch["q"], strict=True):
        np.testing.assert_array_equal(q, episode(int(sample), lengths[sample])["q"])
    again = pickle.loads(pickle.dumps(loader))
    assert places(again) == places(loader)
    assert loader.ids_for(0) == batch["sample_ids"].tolist()


def test_what_cannot_be_cut_is_refused(episodes: tuple[Path, list[int]]) -> None:
    path, _ = episodes
    for windows, match in [
        (0, "at least 1"),
        (Windows(4, 0), "at least 1"),
        (Windows(4, fields=["name"]), "text and bytes"),
        (Windows(4, fields="x"), "list of names"),
        ("4", "Windows"),
    ]:
        with pytest.raises(InvalidArgumentError, match=match):
            Loader(path, windows=windows)  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError, match="weights"):
        Loader(path, shuffle="exact", windows=4, weights=[1.0] * 60)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """80 samples of tokens u16 [T] and loss f32 [T]."""
    rng = np.random.default_rng(1)
    all_tokens = [rng.integers(10, 60_000, n, dtype=np.uint16) for n in rng.integers(0, 40, 80)]
    path = tmp_path_factory.mktemp("packing") / "texts"
    fields: dict[str, Any] = {"tokens": ("u16", [None]), "loss": ("f32", [None])}
    with tensorshard.ShardWriter(path, fields, samples_per_chunk=6, max_shard_len=2_000) as writer:
        for tokens in all_tokens:
            writer.append({"tokens": tokens, "loss": tokens.astype(np.float32)})
    assert tensorshard.Dataset(path).num_shards > 2
    return path, all_tokens


@pytest.mark.parametrize("shuffle", SHUFFLES)
@pytest.mark.parametrize(("length", "separator", "pad"), [(16, None, None), (33, 1, 2), (700, 1, None)])
def test_packed_windows_are_those_of_the_stream(
    texts: tuple[Path, list[Any]], shuffle: bool | str, length: int, separator: int | None, pad: int | None
) -> None:
    path, all_tokens = texts
    end = [] if separator is None else [separator]
    documents = [np.append(tokens, np.array(end, dtype=np.uint16)) for tokens in all_tokens]
    stream = np.concatenate(documents)
    places = np.concatenate([np.arange(len(document)) for document in documents])
    owners = np.concatenate([np.full(len(document), i) for i, document in enumerate(documents)])
    rest = len(stream) % length
    count = len(stream) // length + (pad is not None and rest > 0)
    pack = Pack(["tokens", "loss"], length, separator=separator, pad=pad)
    loader = Loader(path, 6, shuffle, pack=pack, sample_ids=True)
    assert loader.num_samples == count
    seen = []
    for batch in loader:
        assert batch["segment_ids"].dtype == batch["positions"].dtype == np.int32
        for i, tokens in enumerate(batch["tokens"]):
            real = batch["segment_ids"][i] >= 0
            n = int(real.sum())
            assert real[:n].all()
            # Samples are told apart by their tokens: windows by the first sample and place.
            starts = (owners == batch["sample_ids"][i]) & (places == batch["positions"][i][0])
            at = int(np.flatnonzero(starts)[0])
            assert at % length == 0
            seen.append(at // length)
            np.testing.assert_array_equal(tokens[:n], stream[at : at + n])
            np.testing.assert_array_equal(tokens[n:], pad or 0)
            np.testing.assert_array_equal(batch["positions"][i][:n], places[at : at + n])
            segments = np.unique(owners[at : at + n], return_inverse=True)[1]
            np.testing.assert_array_equal(batch["segment_ids"][i][:n], segments)
            is_separator = np.zeros(n, dtype=bool)
            if separator is not None:
                lens = np.array([len(document) for document in documents])
                is_separator = places[at : at + n] + 1 == lens[owners[at : at + n]]
            np.testing.assert_array_equal(
                batch["loss"][i][:n], np.where(is_separator, 0, stream[at : at + n].astype(np.float32))
            )
    assert seen == list(range(count)) if shuffle is False else sorted(seen) == list(range(count))


def test_packing_resumes_and_refuses(texts: tuple[Path, list[Any]]) -> None:
    path, _ = texts

    def loader(**options: Any) -> Loader:
        return Loader(path, 4, True, fields=["tokens"], pack=Pack("tokens", 20), **options)

    whole = [batch["tokens"].tolist() for batch in loader()]
    first = loader()
    iterator = iter(first)
    for _ in range(5):
        next(iterator)
    second = loader(num_workers=1)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert [batch["tokens"].tolist() for batch in second] == whole[5:]
    assert [batch["tokens"].tolist() for batch in pickle.loads(pickle.dumps(loader()))] == whole
    torch = pytest.importorskip("torch")
    batch = next(iter(loader(output="torch")))
    assert batch["segment_ids"].dtype == torch.int32
    assert batch["segment_ids"].shape == batch["tokens"].shape == (4, 20)
    for pack, match in [
        (Pack("tokens", 20), "select the fields tokens"),
        (Pack("tokens", 0), "at least 1"),
        (Pack([], 4), "no field"),
        (Pack("nothing", 4), "nothing"),
        (Pack("tokens", 8.5), "whole number"),  # type: ignore[arg-type]
        (Pack("tokens", 8, separator=2**53 + 1), "beyond"),
        (Pack("tokens", 8, pad="</s>"), "a number"),  # type: ignore[arg-type]
        (4, "Pack"),
    ]:
        with pytest.raises(InvalidArgumentError, match=match):
            Loader(path, pack=pack)  # type: ignore[arg-type]
