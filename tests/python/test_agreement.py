"""Both readers accept the same shards, and read the same values, also of shards that somebody forged.

The folder TENSORSHARD_MUTANT_FOLDER holds shards whose bytes were changed and whose checksums hold, each with a file of
what the first reader made of it: the test `signed_mutants_are_typed_errors_or_consistent_data` of tests/hostile.rs
leaves every fourth of its mutants there, and the one beside it the seeds of fuzzing (.ci/python runs them first;
TENSORSHARD_MUTANTS says how many mutants there are).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

import spec_reader


def outcome(path: Path) -> dict[str, Any] | None:
    """What the second reader makes of a shard: shape and checksum of every value, or nothing."""
    try:
        dataset = spec_reader.Dataset(path)
        fields = {}
        for field in dataset.fields:
            values = []
            for value in dataset.read(field.name):
                if isinstance(value, str):
                    value = value.encode()
                shape = [len(value)] if isinstance(value, bytes) else list(np.shape(value))
                data = value if isinstance(value, bytes) else np.asarray(value).tobytes()
                values.append({"shape": shape, "crc32c": f"{spec_reader.crc32c(data):08x}"})
            fields[field.name] = values
        return fields
    except (spec_reader.FormatError, spec_reader.Unsupported):
        return None


def compare(shards: list[Path]) -> tuple[list[str], int, int]:
    """The shards that the readers do not read alike, and how many the first one accepted and refused."""
    different = []
    accepted = refused = 0
    for path in shards:
        expected = json.loads(path.with_suffix(".json").read_text())["fields"]
        if outcome(path) != expected:
            different.append(path.name)
        accepted += expected is not None
        refused += expected is None
    return different, accepted, refused


def test_the_corpus_of_fuzzing_is_read_alike() -> None:
    shards = sorted(Path(os.environ["TENSORSHARD_MUTANT_FOLDER"]).glob("corpus-*.tshard"))
    seeds = Path(__file__).parents[2] / "fuzz" / "seeds" / "fuzz_open_shard"
    assert len(shards) == len(list(seeds.iterdir()))
    different, accepted, _ = compare(shards)
    assert not different
    assert accepted


def test_forged_shards_are_read_alike() -> None:
    folder = Path(os.environ["TENSORSHARD_MUTANT_FOLDER"])
    shards = sorted(folder.glob("mutant-*.tshard"))
    different, accepted, refused = compare(shards)
    mutants = int(os.environ.get("TENSORSHARD_MUTANTS", "20000"))
    assert len(shards) == (mutants + 3) // 4
    assert not different
    assert accepted >= 20
    assert refused >= 200
