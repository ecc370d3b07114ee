"""Unit tests of spec_reader.py. They need no other reader or writer: the small writer below follows the specification.

The compressed literals were made with other implementations of the codecs (libzstd, Snappy, liblz4).
"""

from __future__ import annotations

import contextlib
import gzip
import json
import math
import random
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import spec_reader as s

SHARD_ID = bytes(range(16))
IDENTITY = (0, b"")
NONE, SNAPPY, DEFLATE, GZIP, LZ4, ZSTD = range(6)
ANY = (1 << 64) - 1  # a variable dim


def affine(bits: int, signed: int, symmetric: int, kind: int, axis: int = 0, group: int = 0, scale: int = 12) -> Any:
    """An affine quantizer with non_finite = patch: (id, params)."""
    return 2, struct.pack("<6BHII", bits, signed, symmetric, kind, axis, 2, scale, group, 0)


# ---------------------------------------------------------------------------------------------------------------
# A small writer
# ---------------------------------------------------------------------------------------------------------------


def pad(data: bytes, a: int) -> bytes:
    return data + bytes(-len(data) % a)


def slow_crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def seal(data: bytes, piece: int, chunk: int = 0, stream: int = 0xFFFFFFFF, shard_id: bytes = SHARD_ID) -> int:
    c = slow_crc32c(shard_id + struct.pack("<QII", chunk, stream, piece) + data)
    return ((c >> 15 | c << 17) + 0xA282EAD8) & 0xFFFFFFFF


def stage(number: int, params: bytes) -> bytes:
    return struct.pack("<HHH", number, 1, len(params)) + params


def make_field(name: str, dtype: int, dims: list[int] | None, **o: Any) -> dict[str, Any]:
    """A field; options: kind, key, quantizer, filters [(id, elem_size)], split, codecs, scales, zero_points.

    Samples of a field with `filtered` are given as these filters [(id, params)] leave them.
    """
    defaults = {
        "kind": 0,
        "key": 0,
        "quantizer": IDENTITY,
        "filters": [],
        "filtered": [],
        "split": 0,
        "codecs": [NONE],
        "scales": (),
        "zero_points": (),
    }
    if "codec" in o:
        o["codecs"] = [o.pop("codec")]
    return {"name": name, "dtype": dtype, "dims": dims} | defaults | o


def make_schema(fields: list[dict[str, Any]]) -> bytes:
    out = struct.pack("<I", len(fields))
    for f in fields:
        name, dims, scales, zeros = f["name"].encode(), f["dims"], f["scales"], f["zero_points"]
        rank = 255 if dims is None else len(dims)
        num_filters = len(f["filters"] + f["filtered"])
        body = struct.pack("<HBBHBBBBHII", len(name), f["kind"], f["key"], f["dtype"], rank, num_filters,
                           len(f["codecs"]), 0, 0, len(scales), len(zeros))  # fmt: skip
        body += struct.pack(f"<{len(dims or [])}Q", *(dims or [])) + name + stage(*f["quantizer"])
        body += b"".join(stage(number, bytes([size])) for number, size in f["filters"])
        body += b"".join(stage(number, params) for number, params in f["filtered"])
        body += stage(f["split"], f.get("split_params", b"")) if f["split"] else b""
        body += b"".join(stage(codec, b"\x06" if codec in (DEFLATE, GZIP, ZSTD) else b"") for codec in f["codecs"])
        body += struct.pack(f"<{len(scales)}f{len(zeros)}i", *scales, *zeros)
        out += struct.pack("<I", len(body) + 4) + body
    return out


def encode(codec: int, data: bytes) -> bytes:
    if codec == DEFLATE:
        c = zlib.compressobj(6, wbits=-15)
        small = c.compress(data) + c.flush()
    elif codec == GZIP:
        small = gzip.compress(data, mtime=0)
    else:
        return data
    return small if len(small) < len(data) else data


def apply_filter(number: int, size: int, data: bytes) -> bytes:
    """Spec 8, byte by byte and bit by bit."""
    n = len(data) // size
    elements = [data[i * size : (i + 1) * size] for i in range(n)]
    rest = data[n * size :]
    if number == 1:
        return bytes(e[j] for j in range(size) for e in elements) + rest
    if number == 5:
        top = 1 << (8 * size - 1)
        values = [int.from_bytes(e, "little") for e in elements]
        ordered = [2 * top - 1 - v if v >= top else v + top for v in values]
        return b"".join(v.to_bytes(size, "little") for v in ordered) + rest
    if number == 3:
        values = [int.from_bytes(e, "little") for e in elements]
        deltas = [(v - p) % (1 << 8 * size) for v, p in zip(values, [0, *values], strict=False)]
        return b"".join(d.to_bytes(size, "little") for d in deltas) + rest
    m = n - n % 8
    out = bytearray(m * size)
    for b in range(8 * size):
        for i in range(m):
            out[b * (m // 8) + i // 8] |= (elements[i][b // 8] >> b % 8 & 1) << i % 8
    return bytes(out) + data[m * size :]


def apply_split(number: int, planes: int, data: bytes) -> list[bytes]:
    """Spec 8.2, byte by byte."""
    elements = [int.from_bytes(data[i : i + planes], "little") for i in range(0, len(data), planes)]
    if number == 1:
        bits = 8 * planes
        elements = [(x << 1 | x >> (bits - 1)) % (1 << bits) for x in elements]
    return [bytes(x >> 8 * (planes - 1 - j) & 255 for x in elements) for j in range(planes)]


def cut(samples: list[tuple[int, int]], limit: int) -> list[int]:
    """Spec 10.1 for samples of (S, U)."""
    groups: list[list[int]] = []  # of the sizes of whole samples
    closed = True
    for size, unit in samples:
        if size > limit:
            step = limit // unit * unit or limit
            groups += [[min(step, size - k)] for k in range(0, size, step)]
            closed = True
        elif size and not closed and sum(groups[-1]) + size <= limit:
            groups[-1].append(size)
        elif size:
            groups.append([size])
            closed = False
    return [sum(g) for g in groups]


def make_chunk(
    schema: list[dict[str, Any]], columns: dict[str, Any], first: int, n: int, number: int, limit: int
) -> bytes:
    table, stats, pieces, bodies = b"", b"", b"", []
    for i, f in enumerate(schema):
        column = columns[f["name"]]
        samples = column["samples"][first : first + n]  # of (stored bytes, unit, shape bytes)
        streams = {0: b"".join(x[0] for x in samples)}
        for role, key in ((1, "scales"), (2, "zero_points")):
            if key in column:
                streams[role] = b"".join(column[key][first : first + n])
        if any(len(x) > 2 for x in samples):
            parts = [x[2] for x in samples]  # of (dtype, rank, dims)
            streams[3] = b"".join(p[k] for k in range(2) for p in parts) + b"".join(p[2] for p in parts)
        if column.get("patches") and number == 0:
            streams[4] = column["patches"]
        if f["quantizer"] != IDENTITY:
            stats += struct.pack("<HHIQQddd", i, 0, 0, sum(column["elements"][first : first + n]), 0, 0.5, 0.25, 2.0)
        for role, data in sorted(streams.items()):
            codecs = f["codecs"] if role == 0 else [NONE]
            size = min(limit * len(codecs), 4194304)
            lens = [size] * (len(data) // size) + [len(data) % size] * (len(data) % size > 0)
            lens = cut([(len(x[0]), x[1]) for x in samples], size) if role == 0 else lens
            planes: list[list[bytes]] = [[] for _ in codecs]  # of pieces
            pos = 0
            for raw_len in lens:
                piece = data[pos : pos + raw_len]
                pos += raw_len
                for flt in f["filters"] if role == 0 else []:
                    piece = apply_filter(*flt, piece)
                parts = apply_split(f["split"], len(codecs), piece) if len(codecs) > 1 else [piece]
                for plane, part in zip(planes, parts, strict=True):
                    plane.append(part)
            for plane, (codec, parts) in enumerate(zip(codecs, planes, strict=True)):
                stored = [encode(codec, part) for part in parts]
                for k, (part, small) in enumerate(zip(parts, stored, strict=True)):
                    pieces += struct.pack("<III", len(part), len(small), seal(small, k, number, len(bodies)))
                modes = column.get("modes", {}).get((role, plane))
                mode = modes[number] if modes else 0
                table += struct.pack("<HBBHHII", i, role, plane, codec, mode, len(lens), 0)
                bodies.append(b"".join(stored))
    header_len = 48 + len(table) + len(stats) + len(pieces) + 4
    tail = b""
    for body in bodies:
        at = header_len + len(tail)
        tail += bytes(-at % (8 if len(body) < 4096 else 64)) + body
    tail += bytes(-(header_len + len(tail)) % 64)
    counts = (len(bodies), len(stats) // 48, len(pieces) // 12, 0)
    head = b"TSCK" + struct.pack("<IIIQQ4I", header_len, number, n, first, header_len + len(tail), *counts)
    head += table + stats + pieces
    return head + struct.pack("<I", seal(head, 2, number)) + tail


def make_shard(
    schema: list[dict[str, Any]], columns: dict[str, Any], n: int, per_chunk: int, limit: int = 65536
) -> bytes:
    fields = make_schema(schema)
    head = b"\x89TSH\r\n\x1a\n" + struct.pack("<HHIII", 1, 0, 68 + len(fields), 0, 0) + SHARD_ID
    head += struct.pack("<IIIIQ", per_chunk, limit, len(fields), 0, 0) + fields
    header_crc = seal(head, 1)
    out = pad(head + struct.pack("<I", header_crc), 64)
    index = b""
    for number, first in enumerate(range(0, n, per_chunk)):
        chunk = make_chunk(schema, columns, first, min(per_chunk, n - first), number, limit)
        (header_len,) = struct.unpack_from("<I", chunk, 4)
        index += struct.pack("<QQI", len(out), len(chunk), header_len) + chunk[header_len - 4 : header_len]
        out += chunk
    foot = SHARD_ID + struct.pack("<QQQ", n, len(index) // 24, len(out))
    foot += struct.pack("<QIIHHIIQ", len(out) + len(index) + 88, seal(index, 3), header_crc, 1, 0, 0, 0, 0)
    return out + index + foot + struct.pack("<I", seal(foot, 4)) + b"\x89TSE\r\n\x1a\n"


def make_manifest(shard: bytes, schema: bytes, n: int, per_chunk: int, metadata: bytes = b"") -> bytes:
    record = SHARD_ID + struct.pack("<QQI", 0, n, per_chunk) + shard[-12:-8] + struct.pack("<Q", len(shard))
    body = pad(schema, 8) + pad(metadata, 8) + record + bytes(4)
    head = b"\x89TSM\r\n\x1a\n" + struct.pack("<HHIII", 1, 0, 0, 0, 0)
    head += struct.pack("<QQQIIQ", 64 + len(body) + 4, n, 1, len(schema), len(metadata), 0) + body
    return head + struct.pack("<I", seal(head, 5, shard_id=bytes(16)))


def tensor(
    array: Any, unit: int = 0, *, dtype: int = 0, rank: bool = False, dims: tuple[int, ...] | None = None
) -> Any:
    """A sample of a column: stored bytes, unit, and for ragged fields the parts of its shapes entry."""
    array = np.asarray(array)
    unit = unit or (array.shape[-1] if array.ndim else 1) * array.itemsize
    if dims is None:
        return array.tobytes(), unit
    entry = (struct.pack("<H", dtype) if dtype else b"", bytes([len(dims)]) if rank else b"")
    return array.tobytes(), unit, (*entry, struct.pack(f"<{len(dims)}I", *dims))


def blob(data: bytes) -> Any:
    return tensor(np.frombuffer(data, np.uint8), max(len(data), 1), dims=(len(data),))


def nibbles(values: list[int]) -> bytes:
    values = [v & 15 for v in values] + [0] * (len(values) % 2)
    return bytes(a | b << 4 for a, b in zip(values[::2], values[1::2], strict=True))


def save(tmp_path: Path, data: bytes) -> s.Dataset:
    path = tmp_path / "one.tshard"
    path.write_bytes(data)
    return s.Dataset(path)


# ---------------------------------------------------------------------------------------------------------------
# Worked examples (spec 14)
# ---------------------------------------------------------------------------------------------------------------


def test_checksum() -> None:
    assert s.crc32c(b"123456789") == slow_crc32c(b"123456789") == 0xE3069283
    context = bytes(range(16)) + struct.pack("<QII", 7, 2, 1)
    assert s.crc32c(context + b"tensor") == 0xE4883E22
    assert s.checksum(bytes(range(16)), 7, 2, 1, b"tensor") == 0x1EC8B3E8


def test_long_checksum() -> None:
    data = random.Random(1).randbytes(9000)
    for n in (0, 1, 255, 256, 4095, 4096, 4097, 9000):
        assert s.crc32c(data[:n]) == slow_crc32c(data[:n])
        assert s.crc32c(data[n:], s.crc32c(data[:n])) == s.crc32c(data)


def bits_of(array: Any) -> list[str]:
    return [f"{v:08X}" for v in np.asarray(array).view(np.uint32).ravel().tolist()]


def f32(bits: int) -> float:
    return float(np.array([bits], np.uint32).view(np.float32)[0])


AFFINE_EXAMPLES = [
    # 14.2
    (affine(8, 1, 1, 0), {"scales": [f32(0x3CA3D70B)]}, [4], bytes.fromhex("0032810f"), {},
     "00000000 3F800001 C0228F5D 3E99999A"),
    # 14.3
    (affine(8, 0, 0, 0), {"scales": [f32(0x3C808081)], "zero_points": [64]}, [4], bytes([0, 64, 96, 255]), {},
     "BF808081 00000000 3F008081 403FBFC0"),
    # 14.4
    (affine(4, 1, 1, 3, group=2, scale=10), {}, [5], bytes.fromhex("d71707"),
     {"scales": [struct.pack("<3H", 0x2E67, 0x3C00, 0x2351)]}, "3F334400 BE99A800 40E00000 3F800000 3DCCDC00"),
]  # fmt: skip


@pytest.mark.parametrize(("quantizer", "static", "dims", "stored", "dynamic", "expected"), AFFINE_EXAMPLES)
def test_affine_examples(
    tmp_path: Path, quantizer: Any, static: Any, dims: list[int], stored: bytes, dynamic: Any, expected: str
) -> None:
    schema = [make_field("x", 12, dims, quantizer=quantizer, **static)]
    columns = {"x": {"samples": [(stored, 1)], "elements": dims, **dynamic}}
    ds = save(tmp_path, make_shard(schema, columns, 1, 1))
    assert bits_of(ds.read("x")) == expected.split()


def abs_error(bits: int, zero_point: int, step: float, max_error: float, non_finite: int = 2) -> Any:
    return 3, struct.pack("<BB6xqdd", bits, non_finite, zero_point, step, max_error)


def test_abs_error_example(tmp_path: Path) -> None:
    step = 0.02 * (1 - 2.0**-20)
    assert struct.pack("<dd", step, 0.01).hex() == "00000000e07a943f7b14ae47e17a843f"
    schema = [make_field("x", 12, [4], quantizer=abs_error(8, -44, step, 0.01))]
    patch = struct.pack("<Qf", 3, math.nan)
    columns = {"x": {"samples": [(bytes.fromhex("ed956a6a"), 1)], "elements": [4], "patches": patch}}
    ds = save(tmp_path, make_shard(schema, columns, 1, 1))
    assert bits_of(ds.read("x")) == ["3EFFFFF0", "BFA147A4", "403FFFF4", "7FC00000"]


SCALES = struct.pack("<BBBHI4x", 2, 0, 0, 12, 0)  # f32, per sample
NF4 = np.array([0xBF800000, 0xBF3239B1, 0xBF066B30, 0xBECA32A0, 0xBE91A24D, 0xBE3D353F, 0xBDBA7871, 0, 0x3DA2FAFF,
                0x3E24CAE3, 0x3E7C04DD, 0x3EAD033A, 0x3EE1A4B8, 0x3F1007AB, 0x3F3913B3, 0x3F800000], "<u4")  # fmt: skip


# 14.9
@pytest.mark.parametrize(
    ("quantizer", "stored", "scales", "expected"),
    [
        ((4, bytes(3) + SCALES), "7eb82a7f00", struct.pack("<f", 1), "43E00000 BF800000 3EA00000 7FC00000 00000000"),
        ((5, bytes([4, 0, 0]) + SCALES + NF4.tobytes()), "4f78", struct.pack("<f", 2),
         "40000000 BF11A24D 3E22FAFF 00000000"),
        ((6, bytes([3, 0, 0, 0])), "9702", bytes([127]), "40C00000 BF000000 3F800000 00000000"),
        ((6, bytes([2, 0, 0, 0])), "70f81402", bytes([129]), "40E00000 BF000000 3FA00000 3E000000"),
        ((6, bytes([2, 0, 0, 0])), "70f81402", bytes([255]), "7FC00000 7FC00000 7FC00000 7FC00000"),
        ((6, bytes([0, 0, 0, 0])), "7f0181ff", bytes([0]), "7FC00000 00002000 80002000 FFC00000"),
    ],
)  # fmt: skip
def test_scaled_examples(tmp_path: Path, quantizer: Any, stored: str, scales: bytes, expected: str) -> None:
    n = len(expected.split())
    schema = [make_field("x", 12, [n], quantizer=quantizer)]
    columns = {"x": {"samples": [(bytes.fromhex(stored), 1)], "elements": [n], "scales": [scales]}}
    ds = save(tmp_path, make_shard(schema, columns, 1, 1))
    assert bits_of(ds.read("x")) == expected.split()


def test_filter_examples() -> None:
    examples = [
        ("byte_shuffle", 4, "010203040506070809", "010502060307040809"),
        ("delta", 2, "100012001101", "10000200ff00"),
        ("bit_shuffle", 1, "0103000000000080ff", "0302000000000080ff"),
        ("float_order", 4, "0000803f000080bf0000000000000080", "000080bfffff7f4000000080ffffff7f"),
    ]
    for name, size, plain, filtered in examples:
        assert s.undo_filter(name, size, bytes.fromhex(filtered)).hex() == plain


def predict_params(mode: int, channel: int | None, reference: int | None, zigzag: bool) -> dict[str, Any]:
    return {"mode": mode, "channel_axis": channel, "reference": reference, "zigzag": zigzag}


def test_predict_example() -> None:
    plain = "010204030508111214131519"
    for zigzag, filtered in [(False, "f000000000ff110102020102"), (True, "1f0000000001220204040204")]:
        params = predict_params(3, 0, 1, zigzag)
        piece = np.frombuffer(bytes.fromhex(filtered), np.uint8)
        assert s.undo_predict(params, (2, 2, 3), 0, piece).tobytes().hex() == plain


def write_modes(tmp_path: Path, modes: dict[tuple[int, int], tuple[int, int]], **options: Any) -> s.Dataset:
    """The worked example of predict with mode chunk: two chunks, {(role, plane): predict_mode of each}."""
    bodies = [bytes.fromhex("f000000000ff110102020102"), bytes.fromhex("010000000000000000070000")]
    field = make_field("x", 2, [2, 2, 3], **({"filtered": [(4, b"\1\5\0\1\0\0")]} | options))
    columns = {"x": {"samples": [(body, 3) for body in bodies], "modes": modes}}
    return save(tmp_path, make_shard([field], columns, 2, 1))


def test_modes_of_chunks(tmp_path: Path) -> None:
    ds = write_modes(tmp_path, {(0, 0): (3, 1)})
    assert ds.read("x")[0].tobytes().hex() == "010204030508111214131519"
    assert ds.read("x")[1].tobytes().hex() == "010101070707000000070707"
    entry = (tmp_path / "one.tshard").read_bytes().index(b"TSCK") + 48
    stored = (tmp_path / "one.tshard").read_bytes()[entry : entry + 16]
    assert stored.hex(" ") == "00 00 00 00 00 00 03 00 01 00 00 00 00 00 00 00"
    for wrong in (5, 6, 255, 256, 65535):
        with pytest.raises(s.FormatError, match="predict_mode"):
            write_modes(tmp_path, {(0, 0): (3, wrong)})
    # Where no filter has mode 5: 0 and nothing else.
    fixed = [(4, b"\1\3\0\1\0\0")]
    assert write_modes(tmp_path, {}, filtered=fixed).read("x")[0].tobytes().hex() == "010204030508111214131519"
    with pytest.raises(s.FormatError, match="predict_mode"):
        write_modes(tmp_path, {(0, 0): (0, 3)}, filtered=fixed)
    with pytest.raises(s.FormatError, match="at most one"):
        write_modes(tmp_path, {}, filtered=[(4, b"\1\5\xff\xff\0\0")] * 2)


def test_modes_of_split_chunks(tmp_path: Path) -> None:
    values = np.arange(24, dtype="<u2").reshape(2, 12) * 300
    left = np.diff(values, axis=1, prepend=0).astype("<u2")
    field = make_field("x", 3, [12], filtered=[(4, b"\2\5\xff\xff\0\0")], split=2, codecs=[NONE] * 2)
    for modes, ok in [((1, 1), True), ((1, 3), False), ((1, 0), False)]:
        planes = {(0, 0): (1, modes[0]), (0, 1): (1, modes[1])}
        columns = {"x": {"samples": [tensor(x) for x in left], "modes": planes}}
        shard = make_shard([field], columns, 2, 1)
        if ok:
            assert np.array_equal(save(tmp_path, shard).read("x"), values)
            continue
        with pytest.raises(s.FormatError, match="predict_mode"):
            save(tmp_path, shard)


def apply_predict(params: dict[str, Any], shape: tuple[int, ...], first: int, piece: list[int], size: int) -> list[int]:
    """Spec 8.1, element by element."""
    modulus = 1 << 8 * size
    strides = [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    channel, reference = params["channel_axis"], params["reference"]
    out = list(piece)
    if channel is not None and channel < len(shape) and reference is not None and reference < shape[channel]:
        for i in range(len(piece)):
            k = (first + i) // strides[channel] % shape[channel]
            j = i + (reference - k) * strides[channel]
            if k != reference and 0 <= j < len(piece):
                out[i] = (piece[i] - piece[j]) % modulus
    spatial = [axis for axis in reversed(range(len(shape))) if axis != channel]
    for number in ((), (0,), (1,), (0, 1), (0, 1, 2))[params["mode"]]:
        if number < len(spatial):
            axis, before = spatial[number], list(out)
            for i in range(len(piece)):
                if (first + i) // strides[axis] % shape[axis] and i >= strides[axis]:
                    out[i] = (before[i] - before[i - strides[axis]]) % modulus
    if params["zigzag"]:
        out = [(2 * r if r < modulus // 2 else 2 * (modulus - r) - 1) for r in out]
    return out


@pytest.mark.parametrize("mode", range(5))
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_predict_whole_samples_and_parts(mode: int, size: int) -> None:
    rng = random.Random(mode)
    for shape in [(), (7,), (3, 4), (3, 2, 5), (4, 5, 3), (2, 3, 2, 3)]:
        n = math.prod(shape)
        for channel, reference in [(None, None), (0, None), (0, 1), (len(shape) - 1, 0), (1, 2)]:
            if channel is not None and channel < 0:
                continue
            for step in sorted({n, max(n // 2, 1), 3}):
                for first in range(0, n, step):
                    piece = [rng.randrange(1 << 8 * size) for _ in range(min(step, n - first))]
                    params = predict_params(mode, channel, reference, size > 1)
                    filtered = np.array(apply_predict(params, shape, first, piece, size), f"<u{size}")
                    assert s.undo_predict(params, shape, first, filtered).tolist() == piece


@pytest.mark.parametrize(
    ("number", "name"), [(1, "byte_shuffle"), (2, "bit_shuffle"), (3, "delta"), (5, "float_order")]
)
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_filters(number: int, name: str, size: int) -> None:
    for n in (*range(40), 150, 515):
        data = random.Random(n).randbytes(n)
        assert s.undo_filter(name, size, apply_filter(number, size, data)) == data


def test_split_examples() -> None:
    examples = [
        ("float_split", "803fc0bf00000080", "7f7f0000 00810001"),
        ("float_split", "0000803f000020c0", "7f80 0040 0000 0001"),
        ("byte_split", "0000803f000020c0", "3fc0 8020 0000 0000"),
    ]
    for name, plain, planes in examples:
        assert s.undo_split(name, [bytes.fromhex(plane) for plane in planes.split()]).hex() == plain


@pytest.mark.parametrize(("number", "name"), [(1, "float_split"), (2, "byte_split")])
@pytest.mark.parametrize("size", [2, 4, 8])
def test_splits(number: int, name: str, size: int) -> None:
    for n in (*range(20), 515):
        data = random.Random(n).randbytes(n * size)
        assert s.undo_split(name, apply_split(number, size, data)) == data


def test_split_fields(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    half = rng.normal(size=(5, 3, 20)).astype(np.float16)
    long = [rng.normal(size=(n, 2)).astype(np.float32) for n in (3, 9000, 0, 1, 20000)]
    schema = [
        make_field("half", 10, [3, 20], split=1, codecs=[DEFLATE, NONE], filters=[(5, 2)]),
        make_field("long", 12, [ANY, 2], split=2, codecs=[NONE, GZIP, NONE, DEFLATE]),
    ]
    columns = {
        "half": {"samples": [tensor(x) for x in half]},
        "long": {"samples": [tensor(x, dims=(len(x),)) for x in long]},
    }
    ds = save(tmp_path, make_shard(schema, columns, 5, 2, 16384))
    assert np.array_equal(ds.read("half"), half)
    assert [x.tolist() for x in ds.read("long")] == [x.tolist() for x in long]


@pytest.mark.parametrize(
    ("field", "error"),
    [
        (make_field("x", 12, [4], split=3, codecs=[NONE] * 4), s.Unsupported),
        (make_field("x", 12, [4], split=1, codecs=[NONE] * 2), s.FormatError),
        (make_field("x", 12, [4], split=1, codecs=[NONE] * 9), s.FormatError),
        (make_field("x", 2, [4], split=1, codecs=[NONE] * 2), s.FormatError),
        (make_field("x", 0, [4], split=1, codecs=[NONE] * 2), s.FormatError),
        (make_field("x", 10, [4], split=1, split_params=b"\x02", codecs=[NONE] * 2), s.FormatError),
    ],
)
def test_splits_that_do_not_fit(field: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        s.read_schema(make_schema([field]), "test")


def cut_sizes(dtype: int, dims: list[list[int]], ragged: bool = False) -> list[int]:
    schema = make_schema([make_field("x", dtype, [ANY] * len(dims[0]) if ragged else dims[0])])
    f = s.read_schema(schema, "test")[0]
    samples = [(str(f.dtype), tuple(d)) for d in dims]
    sizes = [int(np.prod(d)) * f.bits(f.dtype) // 8 for d in dims]
    return list(s.cut_plane(f, samples, sizes, 65536))


def test_piece_examples() -> None:
    assert cut_sizes(12, [[3, 100, 100]] * 2) == [65200, 54800] * 2
    assert cut_sizes(12, [[384]] * 50) == [42 * 1536, 8 * 1536]
    sizes = [[40000], [20000], [10000], [70000], [5]]
    assert cut_sizes(2, sizes, ragged=True) == [60000, 10000, 65536, 4464, 5]


# ---------------------------------------------------------------------------------------------------------------
# Codecs (spec 7)
# ---------------------------------------------------------------------------------------------------------------


def sample(kind: str, n: int, seed: int) -> bytes:
    """Reproducible text: skewed letters, words, or letters with repeats."""
    out, x = bytearray(), seed
    while len(out) < n:
        x = (x * 1103515245 + 12345) & 0x7FFFFFFF
        r = x >> 16
        if kind == "words":
            out += [b"tensor ", b"shard ", b"chunk ", b"piece ", b"zero "][r % 5]
            continue
        out.append(97 + min(r % 7, r // 7 % 7, r // 49 % 7))
        if kind == "mix" and r % 61 == 0 and len(out) > 40:
            out += out[-37:-5]
    return bytes(out[:n])


TWO_BLOCKS = sample("mix", 700, 1) + bytes(131072 - 700) + sample("mix", 700, 5)  # treeless literals, repeated tables

LITERALS = [
    (
        5,
        sample("skew", 300, 7),
        "28b52ffd642c00850300c6121b0bb025e9b6912d330cc3e8091700170016008d00a102dc3a09630bc389bd4b57151a509e84454286"
        "03a925a2448f552303e449262261f12cf2b4e86140144345ad48a855682ae646c244e236d41c3d0ce9b46958530821018ce2e33a6e"
        "c5881994b217e1ca76683e9446420c00b937b8ba",
    ),  # zstd skew 300 level 13
    (
        5,
        sample("skew", 300, 7),
        "28b52ffd642c0025040042880d0ad0a50364cbc400002e027140b104f7c485a76cfa9c8a8a8d8d354f3c0dee24632612c4141acb20"
        "74904651a72dc3045e7d648e8b0a25283002e24cda0310b8e5013c00cd5534606222d260e158c8d63e1b542c122f581e408039fd20"
        "eb5a7bdf80b39964207489f527ccd66a1e6dd3b3617058266dfae1de83272f06cebc3b06b937b8ba",
    ),  # zstd skew 300 level 9
    (
        5,
        sample("words", 300, 7),
        "28b52ffd642c00a50200e07a65726f2073686172642070696563652074656e736f726368756e6b1aa0e035da3b2042c8181ff948f2"
        "dec39e114f0d33063e07d8fe77301ac5ee1d0b4678a5311a864188096f2ee2cea1f295673964327a0a3be883fd",
    ),  # zstd words 300 level 9
    (
        5,
        sample("mix", 2000, 7),
        "28b52ffd60d006bd0d00aa5124060bb025e9b6912d330cc3e809610059005c00431af1b04586a258382480517c5cc7ad889841297b"
        "11ae6c87e6436924c45624d42a341573236122711b6a8e1e8674da34ac29a49688123d568d0c9027998884c5b3c8d3a28701510c15"
        "8d00a102dc3a09630bc389bd4b57151a509e8445428603dfa1d84cadc3a2b23ba749620cafd5242946a8942ee9242240f421549ca3"
        "27e732fc64198d12b8528a844464c4ed73b21b4fa81ea49f32fd59c8e40c51aa975d625271258e6266313631e6a18b0c732e992b11"
        "27776a8c0a010b742825d348da94c95a359da126f1a6ad62bf46688aca88d0a9348fb07833b51742aa22e9022ef64482461afa4cc7"
        "440194383ef951b214ba486a45e99e3202b8a4437114915f5e570336623f0a8404525588a887224e20a4eb1842a5d1110ac988215a"
        "1a219e63420831a91469651e92566e2a0ce4b6ca15c2c845539962a8a1542e1967e2c0cd4b0059c84544311a8729b5d211132b4f14"
        "664b1c802885f0357a456ba3a8492931424fb3b028132a84ee8b0958966924e2a36948051628f03503101ce1ff1f993bbaf4c9af90"
        "fd007dfa39320a1322e98cc7de927d68e2237c9fe51088c929",
    ),  # zstd mix 2000 level 16
    (
        5,
        TWO_BLOCKS,
        "28b52ffda0bc020200cc0500e6151f0bc0251d64cbc40000704e0b1a001a001b00575b29c3cc789913ad63e3534b2763b1a05076fa"
        "59d176773a05063bc5caa32dc3d75bc82b8a45b9b9c7f6af68dd752e8ba3ee016b8652152d29d0b02242ad90f511a9d4796bd1b464"
        "b1ace26952054039af9c566f85c22c655d0e3e0fa5428a375fa21cb5d2e37c281b150040fdb8dc91daa0095cdb369acd0c0d48b176"
        "b5300b7047a49810066dd036605064614da49c3b7308609c480d68144280950b29bc9977e201e5050007d1161500150015009e6ebf"
        "4b4a331265b9c328357559b64a88e4b68405999fa26ba6abe80a7ad5c6077664b0f6c2e0d6260665f514a54a214b914792b4f5529d"
        "7823b320be9f35a96411f19e21b28d497d8a8fd139b821de47638ac51f1f0027c4807c0071dc08621801be20353e08feb8063b0888"
        "c1a8e9109b01e2c0df0162245c34d4876e5014200e18380506300f206201e047aa5939c0701b8c007e05c8410adba27006f92b0181"
        "f0869133db34fe7a28ba7f3dc66effa08d",
    ),  # zstd two blocks level 1
    (
        5,
        TWO_BLOCKS,
        "28b52ffda0bc02020044060012860a08e0e95bcacd00b5eee056479a6291f37b5bac97545b36d5bafbd0a7905e63f1deb5a3a81fe1"
        "3ae390015ba820912a6933308a48ade2065232a7a0e2ff4fb4f6ff0d40fda8ac3e1f8056bd74b9e124de4584ad6d68c5b8c9ae7659"
        "20231d7d1600de975c1c6917263d921bcd9485ef1102e21ab000effaf51230c2f37809d5a894b2c1509f7c89a277ae025c9c49e853"
        "b10d127e7a5e2891638edb8ac586435440824c054db95eb3ecf5790261e9f646d111a4a2b174186a535a926255a5b0377e5954ab16"
        "c50500f3860952b9c5b27453f41b5a94db4972691b4d7911b3bae558a143c9a7f73e1425937a5518d28dd53653b801bec569fd3361"
        "6d359347f99f6e7b2685c8a4f5655668e8456e4ca33a8c58a5800e793f52abb334c9e46b6b97508b8e83d867ab8c467f40e73bdc83"
        "adc3f858f15c1a073024b28cb57853db193b8f45e7a5eebe0ecf089ae1d51c260f3889014087464502b3fdf31311e6115a0d1c802f"
        "446886eaa48036e945f1bb83554676dd20040a517ff1d9f75c8d5005",
    ),  # zstd two blocks level 16
    (
        5,
        bytes(1000),
        "28b52ffd60e8024d00001000000100e32b8005",
    ),  # zstd zeros
    (
        1,
        sample("words", 300, 7),
        "ac02407a65726f207368617264207069656365201d111474656e736f7209120d0c0d07092b2e06000d19053e0505106368756e6b32"
        "17000d230d07092009060531094e098b051105050916050b0d390912660d0009530d20090d053f4a3800321300097a2e0600053728"
        "74656e736f722070696563",
    ),  # snappy words
    (
        1,
        bytes(1000),
        "e8070000fe0100fe0100fe0100fe0100fe0100fe0100fe0100fe0100fe0100fe0100fe0100fe0100fe0100fe0100fe01009a0100",
    ),  # snappy zeros
    (
        4,
        sample("words", 300, 7),
        "f7027a65726f2073686172642070696563652011006274656e736f721200030c00030700022b00080600031900013e000105005963"
        "68756e6b1700030c00030700022000020600013100024e00028b00011100010500021600010b000339000212000f0d000702530003"
        "2000020d00013f000f380000091300027a00080600013700b074656e736f722070696563",
    ),  # lz4 words
    (
        4,
        bytes(1000),
        "1f000100ffffffd2500000000000",
    ),  # lz4 zeros
    (
        5,
        bytes([0, 1, 1, 0, 1, 0, 0, 0, 1, 1, 1, 1, 0, 1, 0, 1]),
        "28b52ffd20104d00000241018010f5680100",
    ),  # zstd, by hand: Huffman weights that are not compressed
    (1, b"abcdabcdabcdX", "0d0c6162636411040058"),
]


@pytest.mark.parametrize(("codec", "plain", "stored"), LITERALS)
def test_stored_literals(codec: int, plain: bytes, stored: str) -> None:
    data = bytes.fromhex(stored)
    assert s.decode_piece(codec, data, len(plain), "test") == plain
    for n in set(range(len(data))) - {len(plain)}:  # a prefix is never accepted
        with pytest.raises(s.FormatError):
            s.decode_piece(codec, data[:n], len(plain), "test")
    for wrong in (data + b"\0", b"\0" + data):
        with pytest.raises(s.FormatError):
            s.decode_piece(codec, wrong, len(plain), "test")
    for raw_len in (len(plain) - 1, len(plain) + 1):
        with pytest.raises(s.FormatError):
            s.decode_piece(codec, data, raw_len, "test")


def test_damaged_literals_raise_nothing_else() -> None:
    rng = random.Random(3)
    for codec, plain, stored in LITERALS:
        for _ in range(60 if len(plain) < 5000 else 10):
            data = bytearray.fromhex(stored)
            for _ in range(rng.randrange(1, 4)):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            with contextlib.suppress(s.FormatError):
                assert len(s.decode_piece(codec, bytes(data), len(plain), "test")) == len(plain)


def test_snappy_by_hand() -> None:
    assert s.snappy_decode(bytes.fromhex("00"), 0) == b""
    assert s.snappy_decode(bytes.fromhex("0508616263060300"), 5) == b"abcab"
    assert s.snappy_decode(bytes.fromhex("05086162630703000000"), 5) == b"abcab"  # copy with 4 bytes of offset
    assert s.snappy_decode(bytes.fromhex("03f0026162") + b"c", 3) == b"abc"  # literal with its length in a byte
    for bad in ("0508616263060000", "0508616263060400", "05086162630a0300", "0408616263060300", "8080808080"):
        with pytest.raises(s.CodecError):
            s.snappy_decode(bytes.fromhex(bad), 5)


def test_prefix_by_hand() -> None:
    stream = bytes.fromhex("004002 111f2f3f4f5f6f7f 01000300")
    assert s.prefix_decode(stream, 64) == bytes([1, 0, 1, 1]) + bytes(60)
    for wrong in (stream[:-1], stream[:-2], stream + b"\x01\x00", b"\x03" + stream[1:], b"\x40" + stream[1:]):
        with pytest.raises(s.CodecError):
            s.prefix_decode(wrong, 64)
    with pytest.raises(s.CodecError):
        s.prefix_decode(stream, 63)


def test_lz4_by_hand() -> None:
    assert s.lz4_decode(bytes.fromhex("00"), 0) == b""
    assert s.lz4_decode(bytes.fromhex("30616263"), 3) == b"abc"
    assert s.lz4_decode(bytes.fromhex("31616263030010") + b"X", 9) == b"abcabcabX"
    assert s.lz4_decode(bytes.fromhex("1f61010000") + bytes.fromhex("1058"), 21) == b"a" * 20 + b"X"
    assert s.lz4_decode(bytes.fromhex("f0ff02") + bytes(272), 272) == bytes(272)
    for bad in ("", "3061", "31616263", "316162630000", "316162630400105858", "316162630300"):
        with pytest.raises(s.CodecError):
            s.lz4_decode(bytes.fromhex(bad), 9)


def test_lzo_by_hand() -> None:
    assert s.lzo_decode(bytes.fromhex("110000"), 0) == b""
    assert s.lzo_decode(bytes.fromhex("1861627261636164790020292c00110000"), 23) == b"abracadabra abracadabra"
    assert s.lzo_decode(bytes.fromhex("12612000DF0000110000"), 512) == b"a" * 512
    for bad in ("", "11", "1100", "11000000", "12610000110000", "126120001F0400110000", "120000110000"):
        with pytest.raises(s.CodecError):
            s.lzo_decode(bytes.fromhex(bad), 512)


def test_huffman_by_hand() -> None:
    piece = bytes.fromhex(
        "DD41DD1343D30AD38A02000000010000000100000001000000020000000100000001000000F20199D34E2F01B29D04"
    )
    text = b"abracadabra abracadabra"
    assert s.huffman_decode(piece, 23) == text
    assert s.huffman_decode(b"", 0) == b""
    for n in range(len(piece)):
        with pytest.raises(s.CodecError):
            s.huffman_decode(piece[:n], 23)
    for wrong in (piece + b"\0", piece + b"\1", b"\xee" + piece[1:], b"\xdc" + piece[1:], piece[:-1] + b"\0"):
        with pytest.raises(s.CodecError):
            s.huffman_decode(wrong, 23)
    for wrong_len in (0, 22, 24, 46):
        with pytest.raises(s.CodecError):
            s.huffman_decode(piece, wrong_len)


def test_deflate_and_gzip() -> None:
    for n in (1, 100, 5000, 70000):
        data = sample("mix", n, n)
        for level in range(10):
            c = zlib.compressobj(level, wbits=-15)
            raw, member = c.compress(data) + c.flush(), gzip.compress(data, level, mtime=0)
            assert s.deflate_decode(raw, n) == data
            assert s.gzip_decode(member, n) == data
            for decode, stored in ((s.deflate_decode, raw), (s.gzip_decode, member)):
                for bad in (stored[:-1], stored + b"\0"):
                    with pytest.raises((s.CodecError, zlib.error)):
                        decode(bad, n)
                with pytest.raises((s.CodecError, zlib.error)):
                    decode(stored, n - 1)
    for at in (3, 4):  # FLG and MTIME must be zero
        bad = bytearray(member)
        bad[at] = 1
        with pytest.raises(s.CodecError):
            s.gzip_decode(bytes(bad), n)


def test_xxh64() -> None:
    assert s.xxh64(b"") == 0xEF46DB3751D8E999
    assert s.xxh64(b"abc") == 0x44BC2CF5AD770999


# ---------------------------------------------------------------------------------------------------------------
# Float conversions (spec 9)
# ---------------------------------------------------------------------------------------------------------------


def test_widen() -> None:
    halves = np.arange(65536, dtype=np.uint32).astype(np.uint16)
    assert np.array_equal(s.widen("bf16", halves).view(np.uint32), np.arange(65536, dtype=np.uint32) << 16)
    wide = s.widen("f16", halves.view(np.float16)).view(np.uint32)
    finite = (halves & 0x7FFF) < 0x7C00
    exact = [struct.unpack("<e", struct.pack("<H", h))[0] for h in halves[finite].tolist()]
    assert np.array_equal(wide[finite].view(np.float32), np.array(exact, np.float32))
    assert [f"{wide[h]:08X}" for h in (0x8000, 0x7C00, 0xFC00, 0x7C01, 0xFE03)] == [
        "80000000", "7F800000", "FF800000", "7FC02000", "FFC06000"]  # fmt: skip
    bytes8 = np.arange(256, dtype=np.uint32).astype(np.uint8)
    assert np.array_equal(s.widen("f8e5m2", bytes8).view(np.uint32), wide[::256])
    f8 = s.widen("f8e4m3fn", bytes8)
    assert [float(f8[b]) for b in (0, 1, 7, 8, 0x38, 0x7E, 0xFE)] == [0, 2**-9, 7 * 2**-9, 2**-6, 1, 448, -448]
    assert [f"{v:08X}" for v in f8.view(np.uint32)[[0x7F, 0x80, 0xFF]].tolist()] == ["7FC00000", "80000000", "FFC00000"]


def test_narrow() -> None:
    bits = [0x3F800000, 0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x00000001, 0x80000000, 0x7F800000, 0xFF800001, 0x7FC12345]
    x = np.array(bits, np.uint32).view(np.float32)
    assert s.narrow("bf16", x).tolist() == [0x3F80, 0x3F80, 0x3F82, 0x7F80, 0, 0x8000, 0x7F80, 0xFFC0, 0x7FC1]
    half = s.narrow("f16", x).view(np.uint16).tolist()
    assert half == [0x3C00, 0x3C04, 0x3C0C, 0x7C00, 0, 0x8000, 0x7C00, 0xFE00, 0x7E09]
    double = s.narrow("f64", x).view(np.uint64).tolist()
    assert double[7:] == [0xFFF8000020000000, 0x7FF82468A0000000]
    ties = np.array([2.0**-25, 2.0**-25 * 1.5, 2.0**-24 * 1.5, 65519, 65520], np.float32)
    assert s.narrow("f16", ties).view(np.uint16).tolist() == [0, 1, 2, 0x7BFF, 0x7C00]


# ---------------------------------------------------------------------------------------------------------------
# Whole files
# ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("codec", [NONE, DEFLATE, GZIP])
def test_fixed(tmp_path: Path, codec: int) -> None:
    rng = np.random.default_rng(4)
    x = rng.integers(-50, 50, (7, 3, 100, 60)).cumsum(axis=3).astype(np.int32)  # larger than a piece
    y = rng.standard_normal((7, 5)).astype(np.float16)
    schema = [
        make_field("x", 8, [3, 100, 60], codec=codec, filters=[(3, 4), (1, 4)]),
        make_field("y", 10, [5], codec=codec, filters=[(2, 2)]),
        make_field("label", 9, []),
        make_field("none", 9, [0, 4]),
    ]
    label = np.arange(7, dtype=np.int64)
    none = np.zeros((7, 0, 4), np.int64)
    arrays = {"x": x, "y": y, "label": label, "none": none}
    columns = {name: {"samples": [tensor(v) for v in values]} for name, values in arrays.items()}
    data = make_shard(schema, columns, 7, 3, 16384)
    folder = tmp_path / "ds"
    folder.mkdir()
    (folder / f"{SHARD_ID.hex()}.tshard").write_bytes(data)
    metadata = json.dumps({"user": {"a": [1, "}]"]}}).encode()
    (folder / "manifest.tsm").write_bytes(make_manifest(data, make_schema(schema), 7, 3, metadata))
    ds = s.Dataset(folder)
    assert len(ds) == 7
    assert len(ds.shards[0].chunks) == 3
    assert ds.metadata == {"user": {"a": [1, "}]"]}}
    assert [f.shape for f in ds.fields] == [(3, 100, 60), (5,), (), (0, 4)]
    for name, values in arrays.items():
        got = ds.read(name)
        assert got.dtype == values.dtype
        assert np.array_equal(got, values)
    with pytest.raises(KeyError):
        ds.read("z")
    assert s.main([str(folder)]) == 0
    assert s.main([str(folder), "--field", "y", "--npy", str(tmp_path / "y.npy")]) == 0
    assert np.array_equal(np.load(tmp_path / "y.npy"), y)


def test_ragged(tmp_path: Path) -> None:
    texts = ["", "ascii", "\u00fc\u20ac", "x" * 20000, "end"]
    blobs = [b"\xff\0", b"", b"q" * 16384, b"r", bytes(40000)]
    rows = [np.arange(2 * n, dtype=np.uint16).reshape(n, 2) for n in (3, 0, 9000, 1, 2)]
    mixed = [np.float32(1.5), np.arange(6, dtype=np.int8).reshape(2, 3), np.zeros((0, 2), np.uint64),
             np.array([True, False]), np.arange(5000, dtype=np.float64)]  # fmt: skip
    ids = [12, 6, 5, 1, 13]
    schema = [
        make_field("text", 2, [ANY], kind=2, key=1, codec=DEFLATE),
        make_field("blob", 2, [ANY], kind=1),
        make_field("rows", 3, [ANY, 2], codec=GZIP, filters=[(1, 2)]),
        make_field("mixed", 0, None, codec=DEFLATE),
    ]
    columns = {
        "text": {"samples": [blob(t.encode()) for t in texts]},
        "blob": {"samples": [blob(b) for b in blobs]},
        "rows": {"samples": [tensor(r, dims=(len(r),)) for r in rows]},
        "mixed": {
            "samples": [
                tensor(m, dtype=d, rank=True, dims=np.asarray(m).shape) for m, d in zip(mixed, ids, strict=True)
            ]
        },
    }
    ds = save(tmp_path, make_shard(schema, columns, 5, 4, 16384))
    assert ds.read("text") == texts
    assert ds.read("blob") == blobs
    assert [f.key for f in ds.fields] == [True, False, False, False]
    for got, want in zip(ds.read("rows") + ds.read("mixed"), [*rows, *mixed], strict=True):
        assert got.dtype == want.dtype
        assert got.shape == want.shape
        assert np.array_equal(got, want)


def test_int4_groups(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    q = rng.integers(0, 16, (5, 3, 5))
    scales = rng.uniform(0.1, 2, (5, 3, 3)).astype(np.float16)
    zeros = rng.integers(0, 16, (5, 3, 3)).astype(np.int32)
    schema = [make_field("x", 11, [3, 5], quantizer=affine(4, 0, 0, 3, group=2, scale=10), codec=DEFLATE)]
    patch = struct.pack("<QQHH", 1, 29, 0x7FC1, 0xFF80)
    column = {
        "samples": [(nibbles(x.ravel().tolist()), 5) for x in q],
        "scales": [x.tobytes() for x in scales],
        "zero_points": [x.tobytes() for x in zeros],
        "patches": patch,
        "elements": [15] * 5,
    }
    ds = save(tmp_path, make_shard(schema, {"x": column}, 5, 2))
    assert np.array_equal(ds.codes("x"), q)
    group = np.arange(5) // 2
    want = (q - zeros[:, :, group]).astype(np.float32) * scales[:, :, group].astype(np.float32)
    expected = s.narrow("bf16", want.astype(np.float32))
    expected.ravel()[[1, 29]] = [0x7FC1, 0xFF80]
    assert np.array_equal(ds.read("x"), expected)
    assert np.array_equal(np.array(ds.scales("x")).reshape(5, 3, 3), scales.astype(np.float32))
    assert np.array_equal(np.array(ds.zero_points("x")).reshape(5, 3, 3), zeros)
    assert [r["count"] for r in ds.stats("x")] == [30, 30, 15]


def test_per_channel(tmp_path: Path) -> None:
    rng = np.random.default_rng(6)
    q = rng.integers(-127, 128, (4, 2, 3)).astype(np.int8)
    scales = [0.5, 0.25, 3.0]
    ragged = [rng.integers(-32768, 32768, (n, 2)).astype(np.int16) for n in (1, 0, 4, 2)]
    dynamic = rng.uniform(0.1, 2, (4, 2)).astype(np.float32)
    cast = rng.integers(0, 127, (4, 6)).astype(np.uint8)
    schema = [
        make_field("fixed", 13, [2, 3], quantizer=affine(8, 1, 1, 1, axis=1), scales=scales),
        make_field("ragged", 12, [ANY, 2], quantizer=affine(16, 1, 1, 1, axis=1)),
        make_field("sample", 12, [2, 3], quantizer=affine(8, 1, 1, 2)),
        make_field("cast", 10, [6], quantizer=(1, struct.pack("<HBB", 14, 1, 0))),
    ]
    columns = {
        "fixed": {"samples": [tensor(x) for x in q], "elements": [6] * 4},
        "ragged": {
            "samples": [tensor(x, dims=(len(x),)) for x in ragged],
            "scales": [x.tobytes() for x in dynamic],
            "elements": [x.size for x in ragged],
        },
        "sample": {
            "samples": [tensor(x) for x in q],
            "scales": [x[:1].tobytes() for x in dynamic],
            "elements": [6] * 4,
        },
        "cast": {"samples": [tensor(x) for x in cast], "elements": [6] * 4},
    }
    ds = save(tmp_path, make_shard(schema, columns, 4, 4))
    assert bits_of(ds.read("fixed").astype(np.float32)) == bits_of(q.astype(np.float32) * np.array(scales, np.float32))
    assert ds.read("fixed").dtype == np.float64
    assert ds.scales("fixed").tolist() == scales
    for got, codes, scale in zip(ds.read("ragged"), ragged, dynamic, strict=True):
        assert np.array_equal(got, codes.astype(np.float32) * scale)
    assert np.array_equal(ds.codes("sample"), q)
    assert np.array_equal(ds.read("sample"), q.astype(np.float32) * dynamic[:, :1, None])
    assert np.array_equal(ds.codes("cast"), cast)
    assert np.array_equal(ds.read("cast"), s.F8E4M3FN[cast].view(np.float32).astype(np.float16))
    assert ds.stats("ragged") == [{"count": 14, "non_finite": 0, "max_abs_error": 0.5, "rmse": 0.25, "rms": 2.0}]


def small_dataset() -> tuple[bytes, bytes, dict[str, Any]]:
    """A shard with two chunks and every kind of stream, its manifest, and what it reads back as."""
    schema = [
        make_field("t", 2, [ANY], kind=2, key=1, codec=DEFLATE),
        make_field("x", 12, [ANY], quantizer=affine(4, 1, 0, 3, group=3, scale=10), filters=[(2, 1)]),
        make_field("y", 7, [2], codec=DEFLATE, filters=[(3, 2), (1, 2)]),
    ]
    texts, q = ["a" * 40, "", "zz"], [[1, -8, 7, 2, 3], [], [5]]
    y = np.arange(6, dtype=np.int16).reshape(3, 2)
    scales = [[1.0, 0.5], [], [2.0]]
    columns = {
        "t": {"samples": [blob(t.encode()) for t in texts]},
        "x": {
            "samples": [(nibbles(v), 1, (b"", b"", struct.pack("<I", len(v)))) for v in q],
            "scales": [struct.pack(f"<{len(v)}e", *v) for v in scales],
            "zero_points": [struct.pack(f"<{len(v)}i", *([1] * len(v))) for v in scales],
            "patches": struct.pack("<Qf", 4, 9.25),
            "elements": [5, 0, 1],
        },
        "y": {"samples": [tensor(v) for v in y]},
    }
    shard = make_shard(schema, columns, 3, 2)
    manifest = make_manifest(shard, make_schema(schema), 3, 2, b'{"user": {}}')
    return shard, manifest, {"t": texts, "x": [[0.0, -9.0, 6.0, 0.5, 9.25], [], [8.0]], "y": y.tolist()}


def read_all(path: Path) -> dict[str, Any]:
    ds = s.Dataset(path)
    result = {f.name: ds.read(f.name) for f in ds.fields}
    return {k: [v if isinstance(v, str | bytes) else v.tolist() for v in values] for k, values in result.items()}


def write_dataset(folder: Path, shard: bytes, manifest: bytes) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{SHARD_ID.hex()}.tshard").write_bytes(shard)
    (folder / "manifest.tsm").write_bytes(manifest)


def test_small_dataset(tmp_path: Path) -> None:
    shard, manifest, expected = small_dataset()
    write_dataset(tmp_path / "ds", shard, manifest)
    assert read_all(tmp_path / "ds") == expected
    assert read_all(tmp_path / "ds" / f"{SHARD_ID.hex()}.tshard") == expected


def test_every_truncation(tmp_path: Path) -> None:
    shard, manifest, _ = small_dataset()
    path = tmp_path / "one.tshard"
    for n in range(len(shard)):
        path.write_bytes(shard[:n])
        with pytest.raises((s.FormatError, s.Unsupported)):
            read_all(path)
    path.write_bytes(shard + b"\0")
    with pytest.raises(s.FormatError):
        read_all(path)
    for n in range(len(manifest)):
        write_dataset(tmp_path / "ds", shard, manifest[:n])
        with pytest.raises((s.FormatError, s.Unsupported)):
            read_all(tmp_path / "ds")


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_every_byte_flip(tmp_path: Path, flip: int) -> None:
    shard, manifest, _ = small_dataset()
    path = tmp_path / "one.tshard"
    for at in range(len(shard)):
        path.write_bytes(shard[:at] + bytes([shard[at] ^ flip]) + shard[at + 1 :])
        with pytest.raises((s.FormatError, s.Unsupported)):
            read_all(path)
    for at in range(len(manifest)):
        write_dataset(tmp_path / "ds", shard, manifest[:at] + bytes([manifest[at] ^ flip]) + manifest[at + 1 :])
        with pytest.raises((s.FormatError, s.Unsupported)):
            read_all(tmp_path / "ds")


def reseal(shard: bytearray, clean: bytes) -> None:
    """Compute all checksums of a damaged shard anew; its layout is taken from the clean one."""

    def u32(data: bytes | bytearray, at: int) -> int:
        return int(struct.unpack_from("<I", data, at)[0])

    def put(at: int, start: int, end: int, *where: int) -> None:
        struct.pack_into("<I", shard, at, seal(bytes(shard[start:end]), *where, shard_id=bytes(shard[24:40])))

    end = u32(clean, 12)
    put(end - 4, 0, end - 4, 1)
    (index,) = struct.unpack_from("<Q", clean, len(clean) - 88 + 32)
    for number, record in enumerate(range(index, len(clean) - 88, 24)):
        chunk = u32(clean, record)
        header_len, streams, stats = u32(clean, chunk + 4), u32(clean, chunk + 32), u32(clean, chunk + 36)
        piece, pos = chunk + 48 + 16 * streams + 48 * stats, chunk + header_len
        for stream in range(streams):
            pos = -(-pos // 8) * 8
            for k in range(u32(clean, chunk + 48 + 16 * stream + 8)):
                put(piece + 8, pos, pos + u32(clean, piece + 4), k, number, stream)
                pos += u32(clean, piece + 4)
                piece += 12
        put(chunk + header_len - 4, chunk, chunk + header_len - 4, 2, number)
        shard[record + 20 : record + 24] = shard[chunk + header_len - 4 : chunk + header_len]
    foot = len(clean) - 88
    put(foot + 48, index, foot, 3)
    shard[foot + 52 : foot + 56] = shard[end - 4 : end]
    put(foot + 76, foot, foot + 76, 4)


def test_resealed_flips_raise_nothing_else(tmp_path: Path) -> None:
    """With valid checksums a flip may read as other data, but raises nothing but the reader's two exceptions."""
    clean, _, expected = small_dataset()
    path = tmp_path / "one.tshard"
    same = bytearray(clean)
    reseal(same, clean)
    assert bytes(same) == clean
    rng = random.Random(7)
    for at in range(len(clean)):
        shard = bytearray(clean)
        shard[at] ^= 1 << rng.randrange(8)
        reseal(shard, clean)
        path.write_bytes(shard)
        with contextlib.suppress(s.FormatError, s.Unsupported):
            read_all(path)


VIOLATIONS = [
    ("header: reserved", 52, b"\1"),
    ("header: piece_bytes", 44, struct.pack("<I", 32767)),
    ("header: samples_per_chunk", 40, struct.pack("<I", 3)),
    ("footer: num_samples", -88 + 16, struct.pack("<Q", 4)),
    ("footer: version_minor", -88 + 58, b"\1"),
    ("footer: version_major", -88 + 56, b"\2"),
    ("footer: incompat", -88 + 60, b"\1"),
    ("footer: compat", -88 + 64, b"\1"),
    ("header: version_minor", 10, b"\1"),
    ("header: compat", 20, b"\1"),
    ("footer: reserved", -88 + 68, b"\1"),
]


@pytest.mark.parametrize(("what", "at", "new"), VIOLATIONS)
def test_violations_with_valid_checksums(tmp_path: Path, what: str, at: int, new: bytes) -> None:
    clean, _, _ = small_dataset()
    shard = bytearray(clean)
    at %= len(shard)
    shard[at : at + len(new)] = new
    reseal(shard, clean)
    path = tmp_path / "one.tshard"
    path.write_bytes(shard)
    with pytest.raises(s.FormatError):
        read_all(path)
    assert what


def test_versions(tmp_path: Path) -> None:
    clean, _, expected = small_dataset()
    path = tmp_path / "one.tshard"
    for header, footer, new, accepted in ((8, 56, 2, False), (10, 58, 7, True), (16, 60, 1, False), (20, 64, 1, True)):
        shard = bytearray(clean)
        shard[header] = shard[len(clean) - 88 + footer] = new
        reseal(shard, clean)
        path.write_bytes(shard)
        if accepted:
            assert read_all(path) == expected
        else:
            with pytest.raises(s.Unsupported):
                read_all(path)


@pytest.mark.parametrize(
    "options",
    [
        {"dtype": 16},
        {"codec": 9},
        {"codec": 0x8000},
        {"filters": [(6, 1)]},
        {"quantizer": (9, b"")},
    ],
)
def test_unknown_ids_are_unsupported(options: dict[str, Any]) -> None:
    with pytest.raises(s.Unsupported):
        s.read_schema(make_schema([make_field("x", **({"dtype": 12, "dims": [2]} | options))]), "test")


@pytest.mark.parametrize(
    "options",
    [
        {"name": ""},
        {"name": "a\n"},
        {"key": 1},
        {"kind": 1},
        {"kind": 3},
        {"dims": [1 << 18, 1 << 19]},
        {"filters": [(1, 3)]},
        {"quantizer": affine(8, 1, 1, 0)},  # no static scale
        {"quantizer": affine(5, 1, 1, 2)},
        {"quantizer": affine(8, 1, 1, 2), "dtype": 8},
        {"quantizer": affine(8, 1, 1, 3, group=0)},
        {"quantizer": affine(8, 1, 1, 0), "scales": [0.0]},
        {"quantizer": affine(8, 1, 1, 0), "scales": [float("inf")]},
        {"quantizer": affine(8, 1, 1, 0, scale=10), "scales": [1.0001]},
        {"quantizer": affine(8, 0, 0, 0), "scales": [1.0], "zero_points": [256]},
        {"quantizer": affine(8, 0, 1, 0), "scales": [1.0], "zero_points": [128]},
        {"quantizer": (1, struct.pack("<HBB", 12, 0, 0))},
        {"scales": [1.0]},
        {"quantizer": abs_error(12, 0, 1.0, 1.0)},
        {"quantizer": abs_error(8, 0, 1.0, 1.0, non_finite=1)},
        {"quantizer": abs_error(8, 1 << 51, 1.0, 1.0)},
        {"quantizer": abs_error(8, 0, 0.0, 1.0)},
        {"quantizer": abs_error(8, 0, 1e-310, 1.0)},
        {"quantizer": abs_error(8, 0, 1.0, -0.0)},
        {"quantizer": abs_error(8, 0, 1.0, 1.0), "dtype": 8},
        {"quantizer": (4, bytes([2, 0, 0]) + SCALES)},
        {"quantizer": (4, bytes([0, 1, 0]) + SCALES)},
        {"quantizer": (5, bytes([5, 0, 0]) + SCALES + NF4.tobytes())},
        {"quantizer": (5, bytes([4, 0, 0]) + SCALES + NF4[::-1].tobytes())},
        {"quantizer": (5, bytes([4, 0, 0]) + SCALES + NF4[1:].tobytes())},
        {"quantizer": (6, bytes([4, 0, 0, 0]))},
        {"quantizer": (6, bytes([0, 3, 0, 0]))},
        {"quantizer": (6, bytes([0, 0, 0, 1]))},
    ],
)
def test_bad_schemas(options: dict[str, Any]) -> None:
    field = make_field("x", 12, [2]) | options
    with pytest.raises(s.FormatError):
        s.read_schema(make_schema([field]), "test")


def test_bad_metadata() -> None:
    deep = '{"user":' + "[" * 63 + "]" * 63 + "}"
    assert s.read_metadata(deep.encode(), "test")
    for bad in ("[]", "{", '{"a":1,"a":2}', '{"a":NaN}', "{}x", '{"user":' + "[" * 64 + "]" * 64 + "}"):
        with pytest.raises(s.FormatError):
            s.read_metadata(bad.encode(), "test")
    with pytest.raises(s.FormatError):
        s.read_metadata(b'{"a":"\xff"}', "test")


def test_empty_dataset(tmp_path: Path) -> None:
    schema = make_schema([make_field("x", 10, [2, 3]), make_field("t", 2, [ANY], kind=2)])
    body = pad(schema, 8) + bytes(4)
    head = b"\x89TSM\r\n\x1a\n" + struct.pack("<HHIII", 1, 0, 0, 0, 1)
    head += struct.pack("<QQQIIQ", 64 + len(body) + 4, 0, 0, len(schema), 0, 0) + body
    (tmp_path / "manifest.tsm").write_bytes(head + struct.pack("<I", seal(head, 5, shard_id=bytes(16))))
    ds = s.Dataset(tmp_path)
    assert (len(ds), ds.unfinished, ds.read("x").shape, ds.read("t")) == (0, True, (0, 2, 3), [])


def test_cut_against_the_writer() -> None:
    rng = random.Random(8)
    f = s.read_schema(make_schema([make_field("x", 3, [ANY, ANY])]), "test")[0]
    for _ in range(300):
        dims = [
            (rng.choice([0, 1, 3, 50, 200]), rng.choice([1, 7, 500, 9000, 20000])) for _ in range(rng.randrange(1, 12))
        ]
        sizes = [2 * a * b for a, b in dims]
        units = [(size, 2 * b) for size, (_, b) in zip(sizes, dims, strict=True)]
        assert list(s.cut_plane(f, [("u16", d) for d in dims], sizes, 16384)) == cut(units, 16384)
