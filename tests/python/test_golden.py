"""The second reader reads every golden file as the first does, bit for bit."""

import json
from pathlib import Path

import numpy as np
import pytest

import spec_reader

GOLDEN = Path(__file__).parent.parent / "data" / "golden" / "v1"
CASES = sorted(path.name for path in GOLDEN.iterdir() if path.is_dir())


def value_bytes(value: object) -> bytes:
    """The bytes of a sample's value."""
    if isinstance(value, str):
        return value.encode()
    return value if isinstance(value, bytes) else np.asarray(value).tobytes()


def check_field(dataset: spec_reader.Dataset, name: str, samples: list[dict]) -> None:
    """Compares all samples of a field with `expected.json`."""
    values = dataset.read(name)
    assert len(values) == len(samples)
    for i, (value, expected) in enumerate(zip(values, samples, strict=True)):
        raw = value_bytes(value)
        if not isinstance(value, str | bytes):
            assert list(value.shape) == expected["shape"], (name, i)
        if "hex" in expected:
            assert raw.hex() == expected["hex"], (name, i)
        else:
            assert f"{spec_reader.crc32c(raw):08x}" == expected["crc32c"], (name, i)


def test_there_are_golden_files() -> None:
    assert len(CASES) >= 13


@pytest.mark.parametrize("case", CASES)
def test_dataset_reads_as_expected(case: str) -> None:
    expected = json.loads((GOLDEN / case / "expected.json").read_text())
    dataset = spec_reader.Dataset(GOLDEN / case)
    assert len(dataset) == expected["num_samples"]
    assert dataset.metadata.get("user", {}) == expected["metadata"]
    assert sorted(field.name for field in dataset.fields) == sorted(expected["fields"])
    for name, field in expected["fields"].items():
        check_field(dataset, name, field["samples"])


@pytest.mark.parametrize("case", CASES)
def test_shard_reads_on_its_own(case: str) -> None:
    whole = spec_reader.Dataset(GOLDEN / case)
    shards = [spec_reader.Dataset(path) for path in sorted((GOLDEN / case).glob("*.tshard"))]
    assert sum(len(shard) for shard in shards) == len(whole)
    for field in whole.fields:
        of_shards = sorted(value_bytes(value) for shard in shards for value in shard.read(field.name))
        assert of_shards == sorted(value_bytes(value) for value in whole.read(field.name))
