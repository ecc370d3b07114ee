#!/usr/bin/env python3
"""A second, independent reader of the tensorshard format, written from format-spec.md alone.

It needs the Python standard library and NumPy, favours clarity over speed, and checks every MUST of the
specification: a damaged file raises `FormatError`, a file that needs a newer reader raises `Unsupported`.

NumPy has no bfloat16 and no 8-bit floats: bf16 elements are returned as uint16 arrays and f8e4m3fn and f8e5m2
elements as uint8 arrays that hold the raw bits. Every other dtype is its natural NumPy dtype.

    ds = Dataset("folder")          # or one .tshard file
    ds.read("image")                # fixed field: array [num_samples, *dims]; ragged field: list of arrays

    python spec_reader.py PATH                              # schema, checksum and SHA-256 of every field
    python spec_reader.py PATH --field NAME --npy OUT.npy   # one field as .npy (ragged: object array)
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import mmap
import struct
import sys
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

# spec 12
MAX_SCHEMA = 16 << 20
MAX_METADATA = 16 << 20
MAX_JSON_DEPTH = 64
MAX_SHARDS = 1 << 24
MAX_FIELDS = 4096
MAX_RANK = 16
MAX_SAMPLES_PER_CHUNK = 1 << 24
MAX_SAMPLES = 1 << 48
MAX_CHUNK_HEADER = 256 << 20
MAX_ELEMENTS = 1 << 36
MAX_STREAM = 1 << 38
MAX_SCALES = 1 << 20
MAX_ZSTD_WINDOW = 8 << 20

VARIABLE = (1 << 64) - 1
MANIFEST_MAGIC = b"\x89TSM\r\n\x1a\n"
SHARD_MAGIC = b"\x89TSH\r\n\x1a\n"
END_MAGIC = b"\x89TSE\r\n\x1a\n"
CHUNK_MAGIC = b"TSCK"
PLANE, SCALES, ZERO_POINTS, SHAPES, PATCHES = range(5)
ROLES = ("plane", "scales", "zero_points", "shapes", "patches")
KINDS = ("tensor", "bytes", "string")
CODECS = {0: "none", 1: "snappy", 2: "deflate", 3: "gzip", 4: "lz4", 5: "zstd", 6: "lzo", 7: "huffman", 8: "prefix"}
FILTERS = {1: "byte_shuffle", 2: "bit_shuffle", 3: "delta", 4: "predict", 5: "float_order"}
PREDICT_MODES = {0: (), 1: (0,), 2: (1,), 3: (0, 1), 4: (0, 1, 2)}  # spatial axes from the last one back
PREDICT_CHUNK = 5  # every chunk says which of them
SPLITS = {1: "float_split", 2: "byte_split"}
QUANTIZERS = {0: "identity", 1: "cast", 2: "affine", 3: "abs_error", 4: "fp8", 5: "codebook", 6: "mx"}
SCALED = ("affine", "fp8", "codebook", "mx")  # quantizers with scales
MX_FORMATS = ("f8e4m3fn", "f8e5m2", "i8", "e2m1")
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
GRANULARITIES = ("per_tensor", "per_channel", "per_sample", "per_group")
NON_FINITE = ("error", "saturate", "patch")

# spec 6: name -> (id, NumPy dtype of the arrays that are returned)
DTYPES: dict[str, tuple[int, np.dtype[Any]]] = {
    name: (number, np.dtype(code))
    for number, (name, code) in enumerate(
        [
            ("bool", "?"),
            ("u8", "u1"),
            ("u16", "<u2"),
            ("u32", "<u4"),
            ("u64", "<u8"),
            ("i8", "i1"),
            ("i16", "<i2"),
            ("i32", "<i4"),
            ("i64", "<i8"),
            ("f16", "<f2"),
            ("bf16", "<u2"),
            ("f32", "<f4"),
            ("f64", "<f8"),
            ("f8e4m3fn", "u1"),
            ("f8e5m2", "u1"),
        ],
        start=1,
    )
}
DTYPE_NAMES = {number: name for name, (number, _) in DTYPES.items()}
Array = np.ndarray[Any, Any]
Shape = tuple[int, ...]


class FormatError(ValueError):
    """The file violates the specification: it is damaged."""


class Unsupported(ValueError):
    """The file needs a reader of a later version."""


def need(ok: bool, where: str, expectation: str) -> None:
    if not ok:
        raise FormatError(f"{where}: {expectation}")


def align(x: int, a: int) -> int:
    return (x + a - 1) // a * a


def dtype_name(number: int, where: str) -> str:
    """The name of a dtype id other than 0 (spec 6)."""
    need(number != 0, where, "a dtype id must not be 0 here")
    if number not in DTYPE_NAMES:
        raise Unsupported(f"{where}: dtype id {number} is unknown")
    return DTYPE_NAMES[number]


def check_version(major: int, incompat: int, where: str) -> None:
    """Spec 11: any minor version and any compat bit is accepted."""
    if major != 1:
        raise Unsupported(f"{where}: version_major is {major}, this reader knows 1")
    if incompat != 0:
        raise Unsupported(f"{where}: unknown incompat bits {incompat:#x}")


class Cursor:
    """A bounds-checked reader of little-endian structures."""

    def __init__(self, data: bytes, where: str) -> None:
        self.data, self.where, self.pos = data, where, 0

    def at(self, what: str) -> str:
        return f"{self.where}, byte {self.pos} ({what})"

    def take(self, n: int, what: str) -> bytes:
        left = len(self.data) - self.pos
        need(n <= left, self.at(what), f"{n} bytes expected, {left} are there")
        self.pos += n
        return self.data[self.pos - n : self.pos]

    def unpack(self, layout: str, what: str) -> tuple[Any, ...]:
        layout = "<" + layout
        return struct.unpack(layout, self.take(struct.calcsize(layout), what))

    def zero(self, n: int, what: str) -> None:
        where = self.at(what)
        need(not any(self.take(n, what)), where, "must be zero")

    def end(self, what: str) -> None:
        need(self.pos == len(self.data), self.at(what), f"{len(self.data) - self.pos} bytes too many")


# ---------------------------------------------------------------------------------------------------------------
# Checksums (spec 1.1)
# ---------------------------------------------------------------------------------------------------------------

LANE = 256  # bytes: long inputs are cut into lanes that are processed side by side


def _crc_table() -> list[int]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


CRC_TABLE = _crc_table()
CRC_TABLE_NP = np.array(CRC_TABLE, dtype=np.uint32)


def _crc_update(state: int, data: bytes) -> int:
    table = CRC_TABLE
    for byte in data:
        state = table[(state ^ byte) & 0xFF] ^ (state >> 8)
    return state


@cache
def _lane_shift() -> list[list[int]]:
    """Tables for the (linear) effect of LANE zero bytes on each byte of a CRC state."""
    states = np.concatenate([np.arange(256, dtype=np.uint32) << np.uint32(8 * k) for k in range(4)])
    for _ in range(LANE):
        states = CRC_TABLE_NP[states & np.uint32(0xFF)] ^ (states >> np.uint32(8))
    return [list(map(int, part)) for part in states.reshape(4, 256)]


def crc32c(data: bytes, state: int = 0) -> int:
    """CRC32C of data; `state` is the CRC32C of what came before it."""
    crc = state ^ 0xFFFFFFFF
    lanes = len(data) // LANE
    if lanes < 16:
        return _crc_update(crc, data) ^ 0xFFFFFFFF
    columns = np.ascontiguousarray(np.frombuffer(data, np.uint8, lanes * LANE).reshape(lanes, LANE).T).astype(np.uint32)
    partial = np.zeros(lanes, np.uint32)
    for column in columns:
        partial = CRC_TABLE_NP[(partial ^ column) & np.uint32(0xFF)] ^ (partial >> np.uint32(8))
    t0, t1, t2, t3 = _lane_shift()
    for lane in partial.tolist():
        crc = t0[crc & 0xFF] ^ t1[crc >> 8 & 0xFF] ^ t2[crc >> 16 & 0xFF] ^ t3[crc >> 24] ^ lane
    return _crc_update(crc, data[lanes * LANE :]) ^ 0xFFFFFFFF


def checksum(shard_id: bytes, chunk: int, stream: int, piece: int, data: bytes) -> int:
    """The masked checksum of a piece, or of a structure (stream 0xFFFFFFFF)."""
    context = shard_id + struct.pack("<QII", chunk, stream, piece)
    c = crc32c(data, crc32c(context))
    return ((c >> 15 | c << 17) + 0xA282EAD8) & 0xFFFFFFFF


STRUCTURE = 0xFFFFFFFF
HEADER_CRC, CHUNK_CRC, INDEX_CRC, FOOTER_CRC, MANIFEST_CRC = range(1, 6)


def check_crc(stored: int, where: str, shard_id: bytes, chunk: int, stream: int, piece: int, data: bytes) -> None:
    real = checksum(shard_id, chunk, stream, piece, data)
    need(stored == real, where, f"checksum {stored:08X} is stored, the bytes give {real:08X}")


# ---------------------------------------------------------------------------------------------------------------
# Codecs (spec 7): each takes the stored bytes and raw_len and returns exactly raw_len bytes or raises ValueError
# ---------------------------------------------------------------------------------------------------------------


class CodecError(ValueError):
    """The stored bytes are not what the codec writes."""


def _copy_match(out: bytearray, offset: int, length: int, raw_len: int) -> None:
    """Append `length` bytes that start `offset` bytes before the end; they may overlap what is written."""
    if not 0 < offset <= len(out):
        raise CodecError(f"match offset {offset} at output byte {len(out)}")
    if len(out) + length > raw_len:
        raise CodecError(f"more than {raw_len} bytes of output")
    start = len(out) - offset
    if offset >= length:
        out += out[start : start + length]
    else:
        out += (bytes(out[start:]) * (length // offset + 1))[:length]


def _slice(data: bytes, start: int, n: int) -> bytes:
    if n < 0 or start + n > len(data):
        raise CodecError(f"{n} bytes expected at byte {start} of {len(data)}")
    return data[start : start + n]


def snappy_decode(data: bytes, raw_len: int) -> bytes:
    """One raw Snappy block."""
    pos = size = shift = 0
    while True:
        byte = _slice(data, pos, 1)[0]
        pos += 1
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
        if shift > 28:
            raise CodecError("length longer than 5 bytes")
    if size != raw_len:
        raise CodecError(f"states {size} bytes, raw_len is {raw_len}")
    out = bytearray()
    while pos < len(data):
        tag = data[pos]
        pos += 1
        if tag & 3 == 0:
            length = tag >> 2
            if length >= 60:
                extra = length - 59
                length = int.from_bytes(_slice(data, pos, extra), "little")
                pos += extra
            length += 1
            if len(out) + length > raw_len:
                raise CodecError(f"more than {raw_len} bytes of output")
            out += _slice(data, pos, length)
            pos += length
            continue
        if tag & 3 == 1:
            length, offset, extra = (tag >> 2 & 7) + 4, (tag >> 5) << 8 | _slice(data, pos, 1)[0], 1
        else:
            extra = 2 if tag & 3 == 2 else 4
            length, offset = (tag >> 2) + 1, int.from_bytes(_slice(data, pos, extra), "little")
        pos += extra
        _copy_match(out, offset, length, raw_len)
    return bytes(out)


def lz4_decode(data: bytes, raw_len: int) -> bytes:
    """One LZ4 block: sequences of literals and a match; the last sequence has literals only."""
    out = bytearray()
    pos = 0

    def length(nibble: int) -> int:
        nonlocal pos
        more = nibble == 15
        while more:
            byte = _slice(data, pos, 1)[0]
            pos += 1
            nibble += byte
            more = byte == 255
        return nibble

    while True:
        token = _slice(data, pos, 1)[0]
        pos += 1
        literals = length(token >> 4)
        if len(out) + literals > raw_len:
            raise CodecError(f"more than {raw_len} bytes of output")
        out += _slice(data, pos, literals)
        pos += literals
        if pos == len(data):
            if token & 15:
                raise CodecError("the last sequence has a match length")
            return bytes(out)
        offset = int.from_bytes(_slice(data, pos, 2), "little")
        pos += 2
        _copy_match(out, offset, length(token & 15) + 4, raw_len)


def _zlib_decode(data: bytes, raw_len: int, wbits: int) -> bytes:
    decoder = zlib.decompressobj(wbits)
    out = decoder.decompress(data, raw_len + 1)
    if not decoder.eof and len(out) <= raw_len:
        raise CodecError("the stream ends too early")
    if len(out) > raw_len:
        raise CodecError(f"more than {raw_len} bytes of output")
    if decoder.unused_data or decoder.unconsumed_tail:
        raise CodecError("bytes after the end of the stream")
    return out


def deflate_decode(data: bytes, raw_len: int) -> bytes:
    return _zlib_decode(data, raw_len, -15)


def gzip_decode(data: bytes, raw_len: int) -> bytes:
    if data[:4] != b"\x1f\x8b\x08\x00" or data[4:8] != bytes(4):
        raise CodecError("gzip magic 1F 8B, method 8, zero FLG and zero MTIME expected")
    return _zlib_decode(data, raw_len, 31)


# Zstandard (RFC 8878). A table is a list of (symbol or value, number of bits, base of the next state).
FseTable = list[tuple[int, int, int]]
ZSTD_BLOCK_MAX = 128 << 10
LL_DEFAULT = [4, 3, *[2] * 11, 1, 1, 1, *[2] * 9, 3, 2, *[1] * 5, *[-1] * 4]
OF_DEFAULT = [*[1] * 6, 2, 2, 2, *[1] * 15, *[-1] * 5]
ML_DEFAULT = [1, 4, 3, *[2] * 6, *[1] * 37, *[-1] * 7]
LL_BITS = [*[0] * 16, 1, 1, 1, 1, 2, 2, 3, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]
ML_BITS = [*[0] * 32, 1, 1, 1, 1, 2, 2, 3, 3, 4, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16]


def _bases(first: int, bits: list[int]) -> list[int]:
    bases = [first]
    for n in bits[:-1]:
        bases.append(bases[-1] + (1 << n))
    return bases


LL_BASE = _bases(0, LL_BITS)
ML_BASE = _bases(3, ML_BITS)


class BackwardBits:
    """Reads a bitstream from its last bit to its first; before the first there are zeros."""

    PAD = 8  # zero bytes in front

    def __init__(self, data: bytes) -> None:
        if not data or data[-1] == 0:
            raise CodecError("a bitstream must end with a 1 bit")
        self.data = bytes(self.PAD) + data
        self.pos = 8 * len(data) - 9 + data[-1].bit_length()  # bits left

    def read(self, n: int) -> int:
        self.pos -= n
        start = self.pos + 8 * self.PAD
        if start < 0:
            raise CodecError("bitstream too short")
        byte = start >> 3
        return (int.from_bytes(self.data[byte : byte + 8], "little") >> (start & 7)) & ((1 << n) - 1)

    def finish(self) -> None:
        if self.pos != 0:
            raise CodecError(f"{self.pos} bits left in a bitstream")


def fse_distribution(data: bytes, max_log: int, max_symbol: int) -> tuple[list[int], int, int]:
    """RFC 8878 4.1.1: the probabilities, the accuracy log and the bytes that were read."""
    bits = int.from_bytes(data[: 4 * max_symbol + 64], "little")
    log = (bits & 15) + 5
    if log > max_log:
        raise CodecError(f"FSE accuracy log {log}, at most {max_log}")
    pos, left = 4, 1 << log
    probabilities: list[int] = []
    while left > 0:
        width = (left + 1).bit_length()
        value = bits >> pos & ((1 << width) - 1)
        low = (1 << (width - 1)) - 1
        threshold = (1 << width) - 1 - (left + 1)
        if value & low < threshold:
            value &= low
            pos += width - 1
        else:
            value -= threshold if value > low else 0
            pos += width
        probabilities.append(value - 1)
        left -= abs(value - 1)
        if value == 1:
            while True:
                repeat = bits >> pos & 3
                pos += 2
                probabilities += [0] * repeat
                if repeat < 3:
                    break
        if len(probabilities) > max_symbol + 1:
            raise CodecError("FSE table with too many symbols")
    used = (pos + 7) // 8
    if left != 0 or used > len(data):
        raise CodecError("damaged FSE table")
    return probabilities, log, used


def fse_table(probabilities: list[int], log: int) -> FseTable:
    """RFC 8878 4.1.1: from the probabilities to the decoding table."""
    size = 1 << log
    symbols = [0] * size
    high = size
    for symbol, p in enumerate(probabilities):
        if p == -1:
            high -= 1
            symbols[high] = symbol
    pos = 0
    for symbol, p in enumerate(probabilities):
        for _ in range(p):
            symbols[pos] = symbol
            pos = (pos + (size >> 1) + (size >> 3) + 3) & (size - 1)
            while pos >= high:
                pos = (pos + (size >> 1) + (size >> 3) + 3) & (size - 1)
    states = [abs(p) for p in probabilities]
    table = []
    for symbol in symbols:
        state = states[symbol]
        states[symbol] += 1
        n = log - state.bit_length() + 1
        table.append((symbol, n, (state << n) - size))
    return table


class Huffman:
    """A Huffman decoding table of RFC 8878 4.2."""

    def __init__(self, weights: list[int]) -> None:
        total = sum(1 << (w - 1) for w in weights if w)
        if total == 0:
            raise CodecError("Huffman tree without symbols")
        self.log = total.bit_length()
        rest = (1 << self.log) - total
        if self.log > 11 or rest & (rest - 1):
            raise CodecError("damaged Huffman tree")
        weights = [*weights, rest.bit_length()]
        self.table: list[tuple[int, int]] = []  # symbol, number of bits
        for w in range(1, self.log + 1):
            for symbol, weight in enumerate(weights):
                if weight == w:
                    self.table += [(symbol, self.log + 1 - w)] * (1 << (w - 1))

    @classmethod
    def parse(cls, data: bytes) -> tuple[Huffman, int]:
        """The tree description at the start of data, and its length in bytes."""
        head = _slice(data, 0, 1)[0]
        if head >= 128:
            n = head - 127
            packed = _slice(data, 1, (n + 1) // 2)
            weights = [byte >> shift & 15 for byte in packed for shift in (4, 0)][:n]
            return cls(weights), 1 + len(packed)
        part = _slice(data, 1, head)
        probabilities, log, used = fse_distribution(part, 6, 255)
        table = fse_table(probabilities, log)
        bits = BackwardBits(part[used:])
        states = [bits.read(log), bits.read(log)]
        if bits.pos < 0:
            raise CodecError("bitstream too short")
        weights = []
        turn = 0
        while True:  # two states take turns; the stream ends when an update would need bits that are not there
            symbol, n, base = table[states[turn]]
            weights.append(symbol)
            states[turn] = base + bits.read(n)
            turn ^= 1
            if bits.pos < 0:
                weights.append(table[states[turn]][0])
                break
            if len(weights) > 255:
                raise CodecError("too many Huffman weights")
        if len(weights) > 255 or max(weights) > 11:
            raise CodecError("damaged Huffman weights")
        return cls(weights), 1 + head

    def decode(self, data: bytes, n: int) -> bytes:
        bits = BackwardBits(data)
        out = bytearray(n)
        table, log, pos, padded = self.table, self.log, bits.pos + 8 * bits.PAD, bits.data
        mask = (1 << log) - 1
        for i in range(n):
            start = pos - log
            if start < 0:
                raise CodecError("bitstream too short")
            byte = start >> 3
            out[i], used = table[int.from_bytes(padded[byte : byte + 4], "little") >> (start & 7) & mask]
            pos -= used
        bits.pos = pos - 8 * bits.PAD
        bits.finish()
        return bytes(out)


class ZstdFrame:
    """Decodes one Zstandard frame."""

    def __init__(self, raw_len: int) -> None:
        self.raw_len = raw_len
        self.out = bytearray()
        self.huffman: Huffman | None = None
        self.tables: list[FseTable | None] = [None, None, None]  # literal lengths, offsets, match lengths
        self.repeat = [1, 4, 8]

    def decode(self, data: bytes) -> bytes:
        if data[:4] != b"\x28\xb5\x2f\xfd":
            raise CodecError("Zstandard magic expected")
        flags = _slice(data, 4, 1)[0]
        pos = 5
        single = flags >> 5 & 1
        if flags & 8:
            raise CodecError("reserved bit of the frame header")
        window = 0
        if not single:
            byte = _slice(data, pos, 1)[0]
            pos += 1
            base = 1 << (10 + (byte >> 3))
            window = base + (base >> 3) * (byte & 7)
        id_len = (0, 1, 2, 4)[flags & 3]
        if any(_slice(data, pos, id_len)):
            raise CodecError("the frame needs a dictionary")
        pos += id_len
        size_len = (single, 2, 4, 8)[flags >> 6]
        if size_len == 0:
            raise CodecError("the frame does not state its content size")
        size = int.from_bytes(_slice(data, pos, size_len), "little") + (256 if size_len == 2 else 0)
        pos += size_len
        if size != self.raw_len:
            raise CodecError(f"the frame states {size} bytes, raw_len is {self.raw_len}")
        window = size if single else window
        if window > MAX_ZSTD_WINDOW:
            raise CodecError(f"window of {window} bytes")
        block_max = min(window, ZSTD_BLOCK_MAX)
        last = 0
        while not last:
            head = int.from_bytes(_slice(data, pos, 3), "little")
            pos += 3
            last, kind, n = head & 1, head >> 1 & 3, head >> 3
            if kind == 3 or n > block_max:
                raise CodecError("damaged block header")
            before = len(self.out)
            if kind == 0:
                self.append(_slice(data, pos, n))
            elif kind == 1:
                if before + n > self.raw_len:
                    raise CodecError(f"more than {self.raw_len} bytes of output")
                self.append(_slice(data, pos, 1) * n)
            else:
                self.block(_slice(data, pos, n))
                if len(self.out) - before > block_max:
                    raise CodecError("block too large")
            pos += 1 if kind == 1 else n
        if flags & 4:
            if int.from_bytes(_slice(data, pos, 4), "little") != xxh64(bytes(self.out)) & 0xFFFFFFFF:
                raise CodecError("content checksum")
            pos += 4
        if pos != len(data):
            raise CodecError("bytes after the frame")
        return bytes(self.out)

    def append(self, data: bytes) -> None:
        if len(self.out) + len(data) > self.raw_len:
            raise CodecError(f"more than {self.raw_len} bytes of output")
        self.out += data

    def literals(self, data: bytes) -> tuple[bytes, int]:
        """RFC 8878 3.1.1.3.1: the literals of a block and the length of their section."""
        kind, form = _slice(data, 0, 1)[0] & 3, data[0] >> 2 & 3
        if kind < 2:
            head_len = (1, 2, 1, 3)[form]
            n = int.from_bytes(_slice(data, 0, head_len), "little") >> (4 if form & 1 else 3)
            if n > ZSTD_BLOCK_MAX:
                raise CodecError("too many literals")
            if kind == 0:
                return _slice(data, head_len, n), head_len + n
            return _slice(data, head_len, 1) * n, head_len + 1
        head_len = (3, 3, 4, 5)[form]
        width = (10, 10, 14, 18)[form]
        head = int.from_bytes(_slice(data, 0, head_len), "little") >> 4
        n, packed = head & ((1 << width) - 1), head >> width
        if n > ZSTD_BLOCK_MAX:
            raise CodecError("too many literals")
        body = _slice(data, head_len, packed)
        if kind == 2:
            self.huffman, used = Huffman.parse(body)
            body = body[used:]
        if self.huffman is None:
            raise CodecError("treeless literals without a tree before them")
        if form == 0:
            return self.huffman.decode(body, n), head_len + packed
        sizes = list(struct.unpack("<3H", _slice(body, 0, 6)))
        sizes.append(len(body) - 6 - sum(sizes))
        part = (n + 3) // 4
        counts = [part, part, part, n - 3 * part]
        if counts[3] < 0:
            raise CodecError("too few literals for four streams")
        out, pos = b"", 6
        for size, count in zip(sizes, counts, strict=True):
            out += self.huffman.decode(_slice(body, pos, size), count)
            pos += size
        return out, head_len + packed

    def block(self, data: bytes) -> None:
        """RFC 8878 3.1.1.3: a compressed block."""
        literals, pos = self.literals(data)
        count = _slice(data, pos, 1)[0]
        pos += 1
        if count == 0:
            if pos != len(data):
                raise CodecError("bytes after a block without sequences")
            self.append(literals)
            return
        if count == 255:
            count = 0x7F00 + int.from_bytes(_slice(data, pos, 2), "little")
            pos += 2
        elif count >= 128:
            count = (count - 128) << 8 | _slice(data, pos, 1)[0]
            pos += 1
        modes = _slice(data, pos, 1)[0]
        pos += 1
        if modes & 3:
            raise CodecError("reserved bits of the sequence modes")
        defaults = ((LL_DEFAULT, 6, 9, 35), (OF_DEFAULT, 5, 8, 31), (ML_DEFAULT, 6, 9, 52))
        tables: list[FseTable] = []
        for k, (default, default_log, max_log, max_symbol) in enumerate(defaults):
            mode = modes >> (6 - 2 * k) & 3
            table = self.tables[k]
            if mode == 0:
                table = fse_table(default, default_log)
            elif mode == 1:
                symbol = _slice(data, pos, 1)[0]
                pos += 1
                if symbol > max_symbol:
                    raise CodecError(f"sequence code {symbol}")
                table = [(symbol, 0, 0)]
            elif mode == 2:
                probabilities, log, used = fse_distribution(data[pos:], max_log, max_symbol)
                table = fse_table(probabilities, log)
                pos += used
            if table is None:
                raise CodecError("repeat mode without a table before it")
            self.tables[k] = table
            tables.append(table)
        self.sequences(tables, count, literals, BackwardBits(data[pos:]))

    def sequences(self, tables: list[FseTable], count: int, literals: bytes, bits: BackwardBits) -> None:
        """RFC 8878 3.1.1.4 and 3.1.1.5: decode and execute the sequences."""
        ll_table, of_table, ml_table = tables
        read, repeat = bits.read, self.repeat
        ll, of, ml = (read(len(table).bit_length() - 1) for table in tables)
        used = 0
        for i in range(count):
            ll_code, ll_n, ll_next = ll_table[ll]
            of_code, of_n, of_next = of_table[of]
            ml_code, ml_n, ml_next = ml_table[ml]
            value = (1 << of_code) + read(of_code)
            match = ML_BASE[ml_code] + read(ML_BITS[ml_code])
            literal = LL_BASE[ll_code] + read(LL_BITS[ll_code])
            if i + 1 < count:
                ll, ml, of = ll_next + read(ll_n), ml_next + read(ml_n), of_next + read(of_n)
            if bits.pos < 0:
                raise CodecError("bitstream too short")
            self.append(_slice(literals, used, literal))
            used += literal
            if value > 3:
                offset = value - 3
                repeat[:] = [offset, repeat[0], repeat[1]]
            else:
                index = value - 1 + (literal == 0)
                offset = repeat[index] if index < 3 else repeat[0] - 1
                if index > 0:
                    repeat[:] = [offset, repeat[0], repeat[2] if index == 1 else repeat[1]]
            _copy_match(self.out, offset, match, self.raw_len)
        bits.finish()
        self.append(literals[used:])


def xxh64(data: bytes) -> int:
    """XXH64 with seed 0: the content checksum of Zstandard."""
    mask = (1 << 64) - 1
    p1, p2, p3, p4, p5 = (
        0x9E3779B185EBCA87,
        0xC2B2AE3D27D4EB4F,
        0x165667B19E3779F9,
        0x85EBCA77C2B2AE63,
        0x27D4EB2F165667C5,
    )

    def rotate(x: int, n: int) -> int:
        return (x << n | x >> (64 - n)) & mask

    def mix(lane: int, value: int) -> int:
        return rotate((lane + value * p2) & mask, 31) * p1 & mask

    pos = len(data) // 32 * 32
    h = p5
    if pos:
        lanes = [(p1 + p2) & mask, p2, 0, -p1 & mask]
        for four in struct.iter_unpack("<4Q", data[:pos]):
            lanes = [mix(lane, value) for lane, value in zip(lanes, four, strict=True)]
        h = sum(rotate(lane, n) for lane, n in zip(lanes, (1, 7, 12, 18), strict=True)) & mask
        for lane in lanes:
            h = ((h ^ mix(0, lane)) * p1 + p4) & mask
    h = (h + len(data)) & mask
    while pos + 8 <= len(data):
        h = (rotate(h ^ mix(0, int.from_bytes(data[pos : pos + 8], "little")), 27) * p1 + p4) & mask
        pos += 8
    if pos + 4 <= len(data):
        h = (rotate(h ^ int.from_bytes(data[pos : pos + 4], "little") * p1 & mask, 23) * p2 + p3) & mask
        pos += 4
    for byte in data[pos:]:
        h = rotate(h ^ byte * p5 & mask, 11) * p1 & mask
    h = (h ^ h >> 33) * p2 & mask
    h = (h ^ h >> 29) * p3 & mask
    return h ^ h >> 32


def zstd_decode(data: bytes, raw_len: int) -> bytes:
    return ZstdFrame(raw_len).decode(data)


def lzo_decode(data: bytes, raw_len: int) -> bytes:
    """One LZO1X stream: instructions of a match and up to three literals; what opcodes below 16 mean depends on the
    literals before them."""
    out = bytearray()
    pos = 0

    def take(n: int) -> bytes:
        nonlocal pos
        pos += n
        return _slice(data, pos - n, n)

    def length(low: int, longest: int) -> int:
        """The low bits of an opcode; 0 is continued in bytes, of which zeros stand for 255 each."""
        if low:
            return low
        low = longest
        while (byte := take(1)[0]) == 0:
            low += 255
        return low + byte

    def literals(n: int) -> None:
        if len(out) + n > raw_len:
            raise CodecError(f"more than {raw_len} bytes of output")
        out.extend(take(n))

    literals_before = 0  # 4: four or more, as an instruction of their own
    first = _slice(data, 0, 1)[0]
    if first > 17:
        pos = 1
        literals(first - 17)
        literals_before = min(first - 17, 4)
    while True:
        op = take(1)[0]
        if op < 16 and literals_before == 0:
            literals(length(op, 15) + 3)
            literals_before = 4
            continue
        if op >= 64:
            n, offset, after = (op >> 5) + 1, (take(1)[0] << 3) + (op >> 2 & 7) + 1, op & 3
        elif op >= 16:
            n = length(op & 31, 31) + 2 if op >= 32 else length(op & 7, 7) + 2
            word = int.from_bytes(take(2), "little")
            offset, after = (word >> 2) + 1, word & 3
            if op < 32:
                offset += 0x3FFF + ((op & 8) << 11)
                if offset == 0x4000:
                    if n != 3 or pos != len(data) or len(out) != raw_len:
                        raise CodecError(f"end marker at byte {pos} of {len(data)} after {len(out)} of {raw_len} bytes")
                    return bytes(out)
        else:
            n, offset = (3, 2049) if literals_before == 4 else (2, 1)
            offset, after = offset + (op >> 2) + (take(1)[0] << 2), op & 3
        _copy_match(out, offset, n, raw_len)
        literals(after)
        literals_before = after


def _prefix_varint(data: bytes, pos: int) -> tuple[int, int]:
    value = 0
    for i in range(4):
        byte = _slice(data, pos + i, 1)[0]
        value |= (byte & 127) << 7 * i
        if byte < 128:
            if byte == 0 and i > 0:
                raise CodecError("a varint longer than needed")
            return value, pos + i + 1
    raise CodecError("a varint of more than 28 bits")


def _prefix_ranges(data: bytes, pos: int) -> tuple[list[tuple[int, int, int]], int]:
    """The ranges of a table that have cells, as (first symbol, k, cells), and the position after the table."""
    ranges = []
    first = nibbles = 0

    def nibble() -> int:
        nonlocal nibbles
        byte = _slice(data, pos + nibbles // 2, 1)[0]
        nibbles += 1
        return byte & 15 if nibbles % 2 else byte >> 4

    while first < 256:
        value = nibble()
        k = nibble() if value == 15 else max(value - 6, 0)
        if first % (1 << k) or first + (1 << k) > 256:
            raise CodecError("a range that is not aligned")
        if value < 15:
            ranges.append((first, k, 1 << max(6 - value, 0)))
        first += 1 << k
    if sum(cells for _, _, cells in ranges) != 64:
        raise CodecError("a table that does not have 64 cells")
    if nibbles % 2 and nibble():
        raise CodecError("an odd nibble that is not followed by 0")
    return ranges, pos + nibbles // 2


def prefix_decode(data: bytes, raw_len: int) -> bytes:
    """The 64-cell prefix code (spec 7.1)."""
    mode, log2_groups = _slice(data, 0, 1)[0] & 15, data[0] >> 4
    if mode > 2 or log2_groups > 2:
        raise CodecError("an unknown mode or number of groups")
    stated, pos = _prefix_varint(data, 1)
    if stated != raw_len or not 1 <= raw_len <= 1 << 22:
        raise CodecError(f"a stream of {stated} bytes")
    num_words, pos = _prefix_varint(data, pos)
    to_byte = list(range(256))
    if mode == 1:
        to_byte = [s // 2 ^ (255 if s % 2 else 0) for s in range(256)]
    elif mode == 2:
        count = _slice(data, pos, 1)[0] + 1
        listed = _slice(data, pos + 1, count)
        pos += 1 + count
        if len(set(listed)) != count:
            raise CodecError("a byte that is listed twice")
        to_byte = [*listed, *sorted(set(range(256)) - set(listed))]
    ranges, pos = _prefix_ranges(data, pos)
    if len(data) - pos != 2 * num_words or num_words and data[-2:] == bytes(2):
        raise CodecError("other words than stated, or a last one that is zero")
    words = [int.from_bytes(data[i : i + 2], "little") for i in range(pos, len(data), 2)]

    table = [(0, 0, 0)] * 64
    position = 0
    for first, k, cells in sorted(ranges, key=lambda r: -r[2]):
        for _ in range(cells):
            length = 6 + k if k else 7 - cells.bit_length()
            table[int(f"{position:06b}"[::-1], 2)] = (length, first, (1 << k) - 1)
            position += 1

    taken = 0

    def word() -> int:
        nonlocal taken
        taken += 1
        return words[taken - 1] if taken <= num_words else 0

    if table[0][0] == 0:
        out = bytes([to_byte[table[0][1]]]) * raw_len
    else:
        # The window of each lane as one integer, and how many bits of it belong to a.
        row = 64 << log2_groups
        windows = [word() for _ in range(row // 2)]
        counts = [0] * (row // 2)
        out = bytearray(-(-raw_len // row) * row)
        for start in range(0, len(out), row):
            for step in range(2):
                for lane in range(row // 2):
                    window = windows[lane]
                    length, first, mask = table[window & 63]
                    out[start + 2 * lane + step] = to_byte[first + (window >> 6 & mask)]
                    windows[lane] = window >> length
                    counts[lane] -= length
                    if counts[lane] < 0:
                        counts[lane] += 16
                        windows[lane] |= word() << counts[lane]
    if taken < num_words:
        raise CodecError("words that are not needed")
    return bytes(out[:raw_len])


HUFFMAN_MAX_BITS = 11
HUFFMAN_STREAMS = 8


def huffman_lengths(data: bytes) -> tuple[list[int], int]:
    """Spec 7.2: the code lengths, and how many bytes they take."""
    taken = 0

    def nibble() -> int:
        nonlocal taken
        byte = _slice(data, taken // 2, 1)[0]
        taken += 1
        return byte & 15 if taken % 2 else byte >> 4

    lengths: list[int] = []
    while len(lengths) < 256:
        first = nibble()
        if first == 12:
            lengths += [lengths[-1] if lengths else 0] * (nibble() + 3)
        elif first == 13:
            low = nibble()
            lengths += [0] * (low + 16 * nibble() + 3)
        elif first <= HUFFMAN_MAX_BITS:
            lengths.append(first)
        else:
            raise CodecError(f"nibble {first} in the code lengths")
    if len(lengths) > 256:
        raise CodecError("a run beyond the last code length")
    if taken % 2 and nibble() != 0:
        raise CodecError("the last nibble of the code lengths is not 0")
    if sum(1 << (HUFFMAN_MAX_BITS - n) for n in lengths if n) != 1 << HUFFMAN_MAX_BITS:
        raise CodecError("the code is not complete")
    return lengths, taken // 2


def huffman_decode(data: bytes, raw_len: int) -> bytes:
    """Spec 7.2."""
    if raw_len == 0:
        if data:
            raise CodecError(f"{len(data)} bytes for no bytes")
        return b""
    lengths, pos = huffman_lengths(data)
    codes: dict[tuple[int, int], int] = {}  # (length, code) -> byte
    code = before = 0
    for length, byte in sorted((n, byte) for byte, n in enumerate(lengths) if n):
        code = (code + 1) << (length - before) if codes else 0
        codes[length, code] = byte
        before = length
    sizes = [int.from_bytes(_slice(data, pos + 4 * k, 4), "little") for k in range(HUFFMAN_STREAMS - 1)]
    pos += 4 * (HUFFMAN_STREAMS - 1)
    sizes.append(len(data) - pos - sum(sizes))
    out = bytearray(raw_len)
    for k, size in enumerate(sizes):
        stream = _slice(data, pos, size)
        pos += size
        if not stream or stream[-1] == 0:
            raise CodecError(f"stream {k} does not end with a bit 1")
        value = int.from_bytes(stream, "little")
        num_bits = value.bit_length() - 1
        bits = iter(f"{value:0{num_bits + 1}b}"[:0:-1])
        for i in range(k, raw_len, HUFFMAN_STREAMS):
            length = code = 0
            while (length, code) not in codes:
                bit = next(bits, None)
                if bit is None:
                    raise CodecError(f"stream {k} ends early")
                length, code = length + 1, code << 1 | int(bit)
            out[i] = codes[length, code]
        if next(bits, None) is not None:
            raise CodecError(f"stream {k} has more codes")
    return bytes(out)


DECODERS = {
    1: snappy_decode,
    2: deflate_decode,
    3: gzip_decode,
    4: lz4_decode,
    5: zstd_decode,
    6: lzo_decode,
    7: huffman_decode,
    8: prefix_decode,
}


def decode_piece(codec: int, data: bytes, raw_len: int, where: str) -> bytes:
    """Undo a codec (spec 7)."""
    if len(data) == raw_len:
        return data
    need(codec != 0, where, "codec none, so stored_len must equal raw_len")
    try:
        out = DECODERS[codec](data, raw_len)
    except (CodecError, zlib.error, IndexError) as error:
        raise FormatError(f"{where}: {CODECS[codec]}: {error}") from error
    need(len(out) == raw_len, where, f"{CODECS[codec]} gives {len(out)} bytes, raw_len is {raw_len}")
    return out


# ---------------------------------------------------------------------------------------------------------------
# Filters (spec 8)
# ---------------------------------------------------------------------------------------------------------------


def undo_filter(name: str, elem_size: int, data: bytes) -> bytes:
    n = len(data) // elem_size
    body, rest = np.frombuffer(data, np.uint8, n * elem_size), data[n * elem_size :]
    if name == "byte_shuffle":
        return body.reshape(elem_size, n).T.tobytes() + rest
    if name == "bit_shuffle":
        m = n - n % 8
        planes, tail = body[: m * elem_size], body[m * elem_size :]
        bits = np.unpackbits(planes.reshape(8 * elem_size, m // 8), axis=1, bitorder="little")
        return np.packbits(bits.T, axis=1, bitorder="little").tobytes() + tail.tobytes() + rest
    unsigned = np.dtype(f"<u{elem_size}")
    if name == "float_order":
        y, top = body.view(unsigned), np.array(1 << 8 * elem_size - 1, unsigned)
        return np.where(y & top, y ^ top, ~y).tobytes() + rest
    return np.cumsum(body.view(unsigned), dtype=unsigned).tobytes() + rest


def undo_predict(params: dict[str, Any], shape: Shape, first: int, piece: Array) -> Array:
    """Undo predict (spec 8.1) for elements `first` and following of a sample: unsigned integers."""
    out = piece.copy()
    if params["zigzag"]:
        out = (out >> 1) ^ (0 - (out & 1))
    # The whole sample, with zeros in place of what is not in the piece: they change no sum.
    there = np.zeros(math.prod(shape), bool)
    there[first : first + len(piece)] = True
    x = np.zeros(len(there), piece.dtype)
    x[there] = out
    there, x = there.reshape(shape), x.reshape(shape)
    channel = params["channel_axis"]
    spatial = [axis for axis in reversed(range(len(shape))) if axis != channel]
    for number in PREDICT_MODES[params["mode"]]:
        if number < len(spatial):
            x = np.cumsum(x, axis=spatial[number], dtype=x.dtype)
    x = np.where(there, x, x.dtype.type(0))
    reference = params["reference"]
    if channel is not None and channel < len(shape) and reference is not None and reference < shape[channel]:
        others = np.arange(shape[channel]) != reference
        others = others.reshape([-1 if axis == channel else 1 for axis in range(len(shape))])
        x = x + others * np.take(x, [reference], axis=channel)
    return np.asarray(x[there], piece.dtype)


def undo_predict_piece(stage: Stage, samples: list[tuple[Shape, int]], start: int, data: bytes) -> bytes:
    """Undo predict in the piece that begins at byte `start` of the plane, sample by sample."""
    size = stage.params["elem_size"]
    piece, out, at = np.frombuffer(data, f"<u{size}"), [], 0
    for shape, sample_bytes in samples:
        first, end = max(at, start), min(at + sample_bytes, start + len(data))
        if first < end:
            part = piece[(first - start) // size : (end - start) // size]
            out.append(undo_predict(stage.params, shape, (first - at) // size, part))
        at += sample_bytes
    return np.concatenate(out).astype(f"<u{size}").tobytes()


def undo_split(name: str, planes: list[bytes]) -> bytes:
    """The elements of a piece from its planes (spec 8.2)."""
    size = len(planes)
    elements = np.stack([np.frombuffer(plane, np.uint8) for plane in reversed(planes)], axis=1)
    x = np.ascontiguousarray(elements).view(f"<u{size}").ravel()
    if name == "float_split":
        x = x >> np.array(1, x.dtype) | x << np.array(8 * size - 1, x.dtype)
    return x.tobytes()


# ---------------------------------------------------------------------------------------------------------------
# Float conversions (spec 9.2, 9.5), on arrays of raw bits
# ---------------------------------------------------------------------------------------------------------------


def _f8e4m3fn_table() -> Array:
    """The binary32 bits of every f8e4m3fn byte."""
    values = np.zeros(128, np.float32)
    for byte in range(128):
        e, m = byte >> 3, byte & 7
        values[byte] = 2.0 ** (e - 7) * (1 + m / 8) if e else 2.0**-6 * m / 8
    bits = values.view(np.uint32)
    bits[0x7F] = 0x7FC00000
    return np.concatenate([bits, bits | np.uint32(0x80000000)])


F8E4M3FN = _f8e4m3fn_table()


def widen(dtype: str, stored: Array) -> Array:
    """Stored floats as f32. `stored` is as Dataset.codes returns it."""
    if dtype == "f32":
        return stored
    if dtype == "bf16":
        return (stored.astype(np.uint32) << np.uint32(16)).view(np.float32)
    if dtype == "f8e4m3fn":
        return F8E4M3FN[stored].view(np.float32)
    half = stored.view(np.uint16) if dtype == "f16" else stored.astype(np.uint16) << np.uint16(8)
    bits = half.view(np.float16).astype(np.float32).view(np.uint32)
    wide = half.astype(np.uint32)
    nan = ((wide & 0x8000) << np.uint32(16)) | np.uint32(0x7FC00000) | ((wide & 0x3FF) << np.uint32(13))
    return np.where((wide & 0x7FFF) > 0x7C00, nan, bits).astype(np.uint32).view(np.float32)


def narrow(dtype: str, x: Array) -> Array:
    """f32 to the dtype of the field."""
    bits = x.view(np.uint32)
    nan = (bits & np.uint32(0x7FFFFFFF)) > 0x7F800000
    sign, mantissa = bits >> np.uint32(31), bits & np.uint32(0x7FFFFF)
    if dtype == "f32":
        return x
    if dtype == "f64":
        quiet = (sign.astype(np.uint64) << np.uint64(63)) | np.uint64(0x7FF8 << 48)
        quiet |= mantissa.astype(np.uint64) << np.uint64(29)
        with np.errstate(invalid="ignore"):
            return np.where(nan, quiet, x.astype(np.float64).view(np.uint64)).astype(np.uint64).view(np.float64)
    if dtype == "bf16":
        with np.errstate(over="ignore"):
            rounded = (bits + np.uint32(0x7FFF) + (bits >> np.uint32(16) & np.uint32(1))) >> np.uint32(16)
        return np.where(nan, bits >> np.uint32(16) | np.uint32(0x40), rounded).astype(np.uint16)
    quiet = sign << np.uint32(15) | np.uint32(0x7E00) | mantissa >> np.uint32(13)
    with np.errstate(over="ignore", invalid="ignore"):
        half = x.astype(np.float16).view(np.uint16)
    return np.where(nan, quiet, half).astype(np.uint16).view(np.float16)


# ---------------------------------------------------------------------------------------------------------------
# Schema (spec 5)
# ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    name: str
    params: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Field:
    name: str
    kind: str  # tensor, bytes or string
    dtype: str | None  # None: every sample has its own
    shape: tuple[int | None, ...] | None  # None: every sample has its own rank; a None dim is variable
    key: bool
    quantizer: Stage
    filters: list[Stage]
    split: Stage | None
    codecs: list[Stage]  # one for each plane
    codec_ids: list[int]
    static_scales: Array
    static_zero_points: Array

    @property
    def ragged(self) -> bool:
        return self.shape is None or None in self.shape or self.dtype is None

    @property
    def per_chunk(self) -> int:
        """How many filters have a mode that chunks choose."""
        return sum(stage.params.get("mode") == PREDICT_CHUNK for stage in self.filters if stage.name == "predict")

    @property
    def static(self) -> bool:
        """Whether the scales are in the schema (spec 9.3)."""
        granularity = self.quantizer.params.get("granularity")
        return granularity == "per_tensor" or (granularity == "per_channel" and not self.ragged)

    @property
    def dynamic_scales(self) -> bool:
        return self.quantizer.name in SCALED and not self.static

    @property
    def dynamic_zero_points(self) -> bool:
        return self.dynamic_scales and self.has_zero_points

    @property
    def has_zero_points(self) -> bool:
        return self.quantizer.name == "affine" and not self.quantizer.params["symmetric"]

    @property
    def stored_dtype(self) -> str | None:
        """The dtype of stored elements; for 4 bits the one that they are unpacked to."""
        if self.quantizer.name == "identity":
            return self.dtype
        if self.quantizer.name == "cast":
            return str(self.quantizer.params["dtype"])
        params = self.quantizer.params
        if self.quantizer.name == "abs_error":
            return f"i{params['bits']}"
        if self.quantizer.name == "codebook":
            return "u8"
        if self.quantizer.name == "fp8":
            return str(params["format"])
        if self.quantizer.name == "mx":
            return "u8" if params["format"] == "e2m1" else str(params["format"])
        return f"{'i' if params['signed'] else 'u'}{max(params['bits'], 8)}"

    def bits(self, dtype: str | None) -> int:
        """The bits of a stored element (w in the specification) of a sample with this dtype."""
        if self.quantizer.name in ("affine", "codebook"):
            return int(self.quantizer.params["bits"])
        if self.quantizer.name == "mx":
            return 4 if self.quantizer.params["format"] == "e2m1" else 8
        name = dtype if self.quantizer.name == "identity" else self.stored_dtype
        assert name is not None
        return 8 * DTYPES[name][1].itemsize

    @property
    def q_range(self) -> tuple[int, int, int | None]:
        """qmin, qmax and the zero point, or None if zero points are stored (spec 9.3)."""
        params = self.quantizer.params
        b = 1 << (params["bits"] - 1)
        if params["symmetric"]:
            return (1 - b, b - 1, 0) if params["signed"] else (1, 2 * b - 1, b)
        return (-b, b - 1, None) if params["signed"] else (0, 2 * b - 1, None)

    def scale_count(self, shape: Shape) -> int:
        """The number of dynamic scales of a sample."""
        params = self.quantizer.params
        if params["granularity"] == "per_channel":
            return shape[params["axis"]]
        if params["granularity"] == "per_sample":
            return 1
        *outer, last = shape or (1,)
        return math.prod(outer) * -(-last // params["group_size"])

    def scale_index(self, shape: Shape) -> Array:
        """For every element of a sample, in order, which of the scales of the sample (or field) is its."""
        n = math.prod(shape)
        params = self.quantizer.params
        if n == 0 or params["granularity"] in ("per_tensor", "per_sample"):
            return np.zeros(n, np.int64)
        if params["granularity"] == "per_channel":
            axis = params["axis"]
            column = np.arange(shape[axis]).reshape([-1 if k == axis else 1 for k in range(len(shape))])
            return np.broadcast_to(column, shape).ravel()
        last = shape[-1] if shape else 1
        rows = np.arange(n // last)[:, None] * -(-last // params["group_size"])
        return (rows + np.arange(last)[None, :] // params["group_size"]).ravel()


def check_scales(scales: Array, dtype: str, where: str) -> None:
    """Spec 9.3: positive, finite and normal in scale_dtype. `scales` are f32. Any E8M0 is a scale (spec 9.9)."""
    if dtype == "e8m0":
        return
    smallest, limit = {"f16": (2.0**-14, 2.0**16), "bf16": (2.0**-126, 2.0**128), "f32": (2.0**-126, 2.0**128)}[dtype]
    wide = scales.astype(np.float64)
    need(bool(np.all((wide >= smallest) & (wide < limit))), where, f"scales must be positive normal {dtype} numbers")


def read_scales(raw: bytes, dtype: str) -> Array:
    """Stored scales as f32."""
    if dtype == "e8m0":
        e = np.frombuffer(raw, np.uint8).astype(np.int32)
        with np.errstate(over="ignore"):
            return np.where(e == 255, np.float32(np.nan), np.ldexp(np.float32(1), e - 127)).astype(np.float32)
    return widen(dtype, np.frombuffer(raw, DTYPES[dtype][1]))


def check_zero_points(zero_points: Array, f: Field, where: str) -> None:
    qmin, qmax, _ = f.q_range
    ok = bool(np.all((zero_points >= qmin) & (zero_points <= qmax)))
    need(ok, where, f"zero points must be in {qmin}..{qmax}")


def read_stage(c: Cursor, what: str, names: dict[int, str]) -> tuple[int, str, Cursor]:
    where = c.at(what)
    number, version, params_len = c.unpack("HHH", what)
    if number not in names or version != 1:
        raise Unsupported(f"{where}: {what} {number} version {version} is unknown")
    return number, names[number], Cursor(c.take(params_len, what), where)


def read_scaling(p: Cursor, shape: tuple[int | None, ...] | None) -> dict[str, Any]:
    """The parameters about scales, from `granularity` on (spec 9.3)."""
    where = p.where
    granularity, axis, non_finite, scale_dtype, group = p.unpack("BBBHI", "scales")
    p.zero(4, "reserved")
    need(granularity <= 3, where, "granularity must be 0 to 3")
    need(non_finite <= 2, where, "non_finite must be 0, 1 or 2")
    need((group > 0) == (granularity == 3), where, "group_size must be positive for groups and 0 otherwise")
    need(axis == 0 or granularity == 1, where, "axis must be 0 unless per channel")
    if granularity == 1:
        need(shape is not None and axis < len(shape), where, "axis must be below the rank of the field")
    scale_name = dtype_name(scale_dtype, where)
    need(scale_name in ("f32", "f16", "bf16"), where, "scale_dtype must be f32, f16 or bf16")
    params = {"granularity": GRANULARITIES[granularity], "axis": axis, "non_finite": NON_FINITE[non_finite]}
    return params | {"scale_dtype": scale_name, "group_size": group}


def element_values(f: Field, codes: Array) -> Array:
    """What stored elements stand for, before they are multiplied by their scale (spec 9.7 to 9.9): f32."""
    params = f.quantizer.params
    if f.quantizer.name == "codebook":
        return np.asarray(params["table"][codes], np.float32)
    if params["format"] == "e2m1":
        return E2M1[codes]
    if params["format"] == "i8":
        return codes.astype(np.float32) / np.float32(64)
    return widen(params["format"], codes)


def read_quantizer(c: Cursor, dtype: str | None, shape: tuple[int | None, ...] | None) -> Stage:
    _, name, p = read_stage(c, "quantizer", QUANTIZERS)
    where = p.where
    params: dict[str, Any] = {}
    floats = ("f16", "bf16", "f32", "f64")
    if name == "cast":
        target, non_finite = p.unpack("HB", "cast parameters")
        p.zero(1, "reserved")
        params["dtype"] = dtype_name(target, where)
        need(non_finite <= 2, where, "non_finite must be 0, 1 or 2")
        params["non_finite"] = NON_FINITE[non_finite]
        need(dtype in floats, where, "cast needs a field of f16, bf16, f32 or f64")
        targets = ("f16", "bf16", "f8e4m3fn", "f8e5m2", *(("f32",) if dtype == "f64" else ()))
        need(params["dtype"] in targets and params["dtype"] != dtype, where, f"no cast of {dtype} to {params['dtype']}")
    elif name in ("affine", "fp8", "codebook"):
        need(dtype in floats, where, f"{name} needs a field of f16, bf16, f32 or f64")
        if name == "affine":
            bits, signed, symmetric = p.unpack("BBB", name)
            need(bits in (4, 8, 16), where, "bits must be 4, 8 or 16")
            need(signed <= 1 and symmetric <= 1, where, "signed and symmetric must be 0 or 1")
            params = {"bits": bits, "signed": bool(signed), "symmetric": bool(symmetric)}
        elif name == "fp8":
            (number,) = p.unpack("B", name)
            p.zero(2, "reserved")
            need(number <= 1, where, "format must be 0 or 1")
            params = {"format": MX_FORMATS[number]}
        else:
            (bits,) = p.unpack("B", name)
            p.zero(2, "reserved")
            need(bits in (4, 8), where, "bits must be 4 or 8")
            params = {"bits": bits}
        params |= read_scaling(p, shape)
        if name == "codebook":
            table = np.frombuffer(p.take(4 << params["bits"], "table"), "<f4")
            need(bool(np.all(np.isfinite(table))), where, "a table must be finite")
            need(bool(np.all(table[1:] > table[:-1])), where, "a table must be ascending")
            params["table"] = table
    elif name == "mx":
        need(dtype in floats, where, "mx needs a field of f16, bf16, f32 or f64")
        number, non_finite = p.unpack("BB", "mx parameters")
        p.zero(2, "reserved")
        need(number <= 3, where, "format must be 0 to 3")
        need(non_finite <= 2, where, "non_finite must be 0, 1 or 2")
        params = {"format": MX_FORMATS[number], "non_finite": NON_FINITE[non_finite]}
        params |= {"granularity": "per_group", "group_size": 32, "scale_dtype": "e8m0"}
    elif name == "abs_error":
        bits, non_finite = p.unpack("BB", "abs_error parameters")
        p.zero(6, "reserved")
        zero_point, step, max_error = p.unpack("qdd", "abs_error parameters")
        need(dtype in floats, where, "abs_error needs a field of f16, bf16, f32 or f64")
        need(bits in (8, 16, 32), where, "bits must be 8, 16 or 32")
        need(non_finite in (0, 2), where, "non_finite must be 0 or 2")
        need(abs(zero_point) <= 1 << 50, where, "zero_point must be at most 2^50 in size")
        need(2.0**-1022 <= step < math.inf, where, "step must be a positive normal number")
        ok = 0 <= max_error < math.inf and math.copysign(1, max_error) > 0
        need(ok, where, "max_error must be finite and not negative")
        params = {"bits": bits, "non_finite": NON_FINITE[non_finite], "zero_point": zero_point}
        params |= {"step": step, "max_error": max_error}
    p.end("quantizer parameters")
    return Stage(name, params)


def read_codec(c: Cursor) -> tuple[int, Stage]:
    number, name, p = read_stage(c, "codec", CODECS)
    codec = Stage(name)
    if name in ("deflate", "gzip", "zstd"):
        (level,) = p.unpack("B", "level")
        low, high = (1, 22) if name == "zstd" else (0, 9)
        need(low <= level <= high, p.where, f"level must be {low} to {high}")
        codec = Stage(name, {"level": level})
    p.end("codec parameters")
    return number, codec


def read_predict(p: Cursor, shape: tuple[int | None, ...] | None) -> dict[str, Any]:
    mode, channel_axis, reference, flags = p.unpack("BBBB", "predict parameters")
    p.zero(1, "reserved")
    need(mode in PREDICT_MODES or mode == PREDICT_CHUNK, p.where, "mode must be 0 to 5")
    need(flags <= 1, p.where, "reserved flags must be zero")
    need(channel_axis != 255 or reference == 255, p.where, "reference must be 255 without a channel_axis")
    if channel_axis != 255 and shape is not None:
        need(channel_axis < len(shape), p.where, "channel_axis must be below the rank")
        channels = shape[channel_axis]
        ok = reference == 255 or channels is None or reference < channels
        need(ok, p.where, "reference must be below the number of channels")
    axis = None if channel_axis == 255 else channel_axis
    return {
        "mode": mode,
        "channel_axis": axis,
        "reference": None if reference == 255 else reference,
        "zigzag": flags == 1,
    }


def read_field(c: Cursor) -> Field:
    start = c.pos
    layout = "IHBBHBBBBHII"
    head = c.unpack(layout, "field record")
    record_len, name_len, kind, flags, dtype_id, rank, num_filters, num_planes, zero1, zero2 = head[:10]
    num_scales, num_zero_points = head[10:]
    where = f"{c.where}, field record at byte {start}"
    need(zero1 == 0 and zero2 == 0, where, "reserved fields must be zero")
    need(kind <= 2, where, f"kind {kind} must be 0, 1 or 2")
    need(flags <= 1, where, "reserved flags must be zero")
    need(1 <= name_len <= 255, where, "name_len must be 1 to 255")
    need(rank <= MAX_RANK or rank == 255, where, "rank must be 0 to 16 or 255")
    need(num_filters <= 4, where, "num_filters must be 0 to 4")
    need(1 <= num_planes <= 8, where, "num_planes must be 1 to 8")
    need(num_scales <= MAX_SCALES and num_zero_points <= MAX_SCALES, where, f"at most {MAX_SCALES} static scales")
    dtype = dtype_name(dtype_id, where) if dtype_id else None
    shape: tuple[int | None, ...] | None = None
    if rank != 255:
        dims = c.unpack(f"{rank}Q", "dims")
        shape = tuple(None if d == VARIABLE else d for d in dims)
        need(all(d is None or d < MAX_ELEMENTS for d in shape), where, "a dim must be below 2^36")
        if None not in shape:
            need(math.prod(dims) <= MAX_ELEMENTS, where, "a sample has at most 2^36 elements")
    try:
        name = c.take(name_len, "name").decode("utf-8")
    except UnicodeDecodeError as error:
        raise FormatError(f"{where}: name must be UTF-8") from error
    need(not any(ch < " " or ch == "\x7f" for ch in name), where, "a name must not hold control characters")
    where += f" ({name!r})"
    if kind != 0:
        need(dtype == "u8" and shape == (None,), where, f"kind {KINDS[kind]} needs dtype u8 and one variable dim")
    need(flags == 0 or kind != 0, where, "the key must be of kind bytes or string")
    quantizer = read_quantizer(c, dtype, shape)
    need(dtype is not None or quantizer.name == "identity", where, "dtype 0 needs the identity quantizer")
    need(dtype is not None or num_filters == 0, where, "dtype 0 allows no filters")
    filters = []
    for _ in range(num_filters):
        _, filter_name, p = read_stage(c, "filter", FILTERS)
        (elem_size,) = p.unpack("B", "elem_size")
        need(elem_size in (1, 2, 4, 8), p.where, "elem_size must be 1, 2, 4 or 8")
        params: dict[str, Any] = {"elem_size": elem_size}
        if filter_name == "predict":
            params |= read_predict(p, shape)
        p.end("filter parameters")
        filters.append(Stage(filter_name, params))
    split = None
    if num_planes > 1:
        _, split_name, p = read_stage(c, "split", SPLITS)
        p.end("split parameters")
        split = Stage(split_name)
    codecs = [read_codec(c) for _ in range(num_planes)]
    scales = np.frombuffer(c.take(4 * num_scales, "scales"), "<f4")
    zero_points = np.frombuffer(c.take(4 * num_zero_points, "zero_points"), "<i4")
    need(c.pos - start == record_len, where, f"record_len is {record_len}, the record has {c.pos - start} bytes")
    ids, stages = [number for number, _ in codecs], [stage for _, stage in codecs]
    f = Field(name, KINDS[kind], dtype, shape, flags == 1, quantizer, filters, split, stages, ids, scales, zero_points)
    if split is not None:
        ok = dtype is not None and num_planes in (2, 4, 8) and 8 * num_planes == f.bits(dtype)
        need(ok, where, f"{num_planes} planes do not fit the stored elements")
    need(f.per_chunk <= 1, where, "at most one predict with mode 5")
    for stage in filters:
        fits = stage.name != "predict" or stage.params["elem_size"] * 8 == f.bits(dtype)
        need(fits, where, "elem_size of predict must be that of a stored element")
    expected = 0
    if f.static:
        expected = 1
        if quantizer.params["granularity"] == "per_channel":
            assert shape is not None
            expected = shape[quantizer.params["axis"]] or 0
    need(num_scales == expected, where, f"{num_scales} static scales, {expected} expected")
    stored_zero_points = expected if f.static and f.has_zero_points else 0
    need(num_zero_points == stored_zero_points, where, f"{stored_zero_points} static zero points expected")
    if f.static:
        scale_dtype = quantizer.params["scale_dtype"]
        check_scales(scales, scale_dtype, where)
        low_bits = {"f32": 0, "f16": (1 << 13) - 1, "bf16": (1 << 16) - 1}[scale_dtype]
        exact = not np.any(scales.view(np.uint32) & np.uint32(low_bits))
        need(exact, where, f"static scales must be exact in {scale_dtype}")
        if f.has_zero_points:
            check_zero_points(zero_points, f, where)
    return f


def read_schema(data: bytes, where: str) -> list[Field]:
    c = Cursor(data, where)
    (n,) = c.unpack("I", "num_fields")
    need(1 <= n <= MAX_FIELDS, where, f"num_fields {n} must be 1 to {MAX_FIELDS}")
    fields = [read_field(c) for _ in range(n)]
    c.end("schema")
    need(len({f.name for f in fields}) == n, where, "field names must be distinct")
    need(sum(f.key for f in fields) <= 1, where, "at most one field may be the key")
    return fields


# ---------------------------------------------------------------------------------------------------------------
# Manifest (spec 3)
# ---------------------------------------------------------------------------------------------------------------


def read_metadata(data: bytes, where: str) -> dict[str, Any]:
    if not data:
        return {}

    def refuse(constant: str) -> Any:
        raise ValueError(f"{constant} is not JSON")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("duplicate keys")
        return result

    try:
        text = data.decode("utf-8")
        depth, in_string, escaped = 0, False, False
        for ch in text:
            if in_string:
                in_string = escaped or ch != '"'
                escaped = ch == "\\" and not escaped
            elif ch == '"':
                in_string = True
            elif ch in "[{":
                depth += 1
                need(depth <= MAX_JSON_DEPTH, where, f"at most {MAX_JSON_DEPTH} levels")
            elif ch in "]}":
                depth -= 1
        value = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except FormatError:
        raise
    except ValueError as error:
        raise FormatError(f"{where}: one UTF-8 JSON object expected: {error}") from error
    need(isinstance(value, dict), where, "one JSON object expected")
    return dict(value)


@dataclass(frozen=True)
class ShardRecord:
    shard_id: bytes
    first_sample: int
    num_samples: int
    samples_per_chunk: int
    footer_crc: int
    file_len: int


@dataclass(frozen=True)
class Manifest:
    schema: bytes
    metadata: dict[str, Any]
    num_samples: int
    unfinished: bool
    records: list[ShardRecord]


def read_manifest(path: Path) -> Manifest:
    where = str(path)
    data = path.read_bytes()
    c = Cursor(data, where)
    need(c.take(8, "magic") == MANIFEST_MAGIC, where, "manifest magic expected")
    major, _, incompat, _, flags = c.unpack("HHIII", "header")
    check_version(major, incompat, where)
    file_len, num_samples, num_shards, schema_len, metadata_len = c.unpack("QQQII", "header")
    c.zero(8, "reserved")
    need(file_len == len(data), where, f"file_len is {file_len}, the file has {len(data)} bytes")
    need(flags <= 1, where, "reserved flags must be zero")
    need(schema_len <= MAX_SCHEMA, where, "schema too long")
    need(metadata_len <= MAX_METADATA, where, "metadata too long")
    need(num_shards <= MAX_SHARDS, where, "too many shards")
    need(num_samples <= MAX_SAMPLES, where, "too many samples")
    expected = 64 + align(schema_len, 8) + align(metadata_len, 8) + 48 * num_shards + 8
    need(expected == len(data), where, f"the lengths add up to {expected}, the file has {len(data)} bytes")
    (stored,) = struct.unpack("<I", data[-4:])
    check_crc(stored, f"{where}, manifest_crc", bytes(16), 0, STRUCTURE, MANIFEST_CRC, data[:-4])
    schema = c.take(schema_len, "schema")
    c.zero(-schema_len % 8, "padding after the schema")
    metadata = read_metadata(c.take(metadata_len, "metadata"), f"{where}, metadata")
    c.zero(-metadata_len % 8, "padding after the metadata")
    records, total = [], 0
    for i in range(num_shards):
        record = ShardRecord(*c.unpack("16sQQIIQ", "shard record"))
        at = f"{where}, shard record {i}"
        need(record.first_sample == total, at, f"first_sample is {record.first_sample}, {total} expected")
        need(record.num_samples >= 1, at, "num_samples must be at least 1")
        spc = record.samples_per_chunk
        need(1 <= spc <= MAX_SAMPLES_PER_CHUNK, at, f"samples_per_chunk {spc} out of range")
        total += record.num_samples
        records.append(record)
    need(total == num_samples, where, f"num_samples is {num_samples}, the shards have {total}")
    need(len({r.shard_id for r in records}) == num_shards, where, "shard_ids must be distinct")
    c.zero(4, "reserved")
    return Manifest(schema, metadata, num_samples, flags == 1, records)


# ---------------------------------------------------------------------------------------------------------------
# Shard (spec 4) and chunk (spec 10)
# ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Stream:
    ordinal: int
    codec: int
    offset: int  # in the file
    raw_lens: list[int]
    stored_lens: list[int]
    crcs: list[int]
    predict_mode: int


@dataclass(frozen=True)
class Chunk:
    ordinal: int
    num_samples: int
    streams: dict[tuple[int, int, int], Stream]  # (field, role, plane)
    stats: dict[int, dict[str, Any]]


class Shard:
    """One shard file. Opening it checks all structures and padding; pieces are checked when they are read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.where = str(path)
        self.file_len = path.stat().st_size
        need(self.file_len >= 64 + 4 + 88, self.where, f"{self.file_len} bytes are too few for a shard")
        with path.open("rb") as file:
            self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        version = self._read_header()
        self._read_footer(version)
        self._read_chunks()

    def __len__(self) -> int:
        return self.num_samples

    def _read_header(self) -> tuple[int, int, int, int]:
        where = f"{self.where}, header"
        c = Cursor(self.data[:64], where)
        need(c.take(8, "magic") == SHARD_MAGIC, where, "shard magic expected")
        major, minor, self.header_len, incompat, compat = c.unpack("HHIII", "version")
        check_version(major, incompat, where)
        self.shard_id, self.samples_per_chunk, self.piece_bytes, schema_len = c.unpack("16sIII", "header")
        c.zero(12, "reserved")
        need(schema_len <= MAX_SCHEMA, where, "schema too long")
        need(self.header_len == 68 + schema_len, where, f"header_len {self.header_len} for a schema of {schema_len}")
        need(self.header_len <= self.file_len, where, "header longer than the file")
        raw = self.data[: self.header_len]
        (self.header_crc,) = struct.unpack("<I", raw[-4:])
        check_crc(self.header_crc, f"{where}, header_crc", self.shard_id, 0, STRUCTURE, HEADER_CRC, raw[:-4])
        spc, size = self.samples_per_chunk, self.piece_bytes
        need(1 <= spc <= MAX_SAMPLES_PER_CHUNK, where, f"samples_per_chunk {spc} out of range")
        ok = 16384 <= size <= 4194304 and size & (size - 1) == 0
        need(ok, where, f"piece_bytes {size} must be a power of two from 16384 to 4194304")
        self.schema = raw[64:-4]
        self.fields = read_schema(self.schema, f"{self.where}, schema")
        return major, minor, incompat, compat

    def _read_footer(self, version: tuple[int, int, int, int]) -> None:
        where = f"{self.where}, footer"
        raw = self.data[self.file_len - 88 :]
        need(raw[80:] == END_MAGIC, where, "end magic expected: the shard is not complete")
        c = Cursor(raw, where)
        shard_id, self.num_samples, self.num_chunks, self.index_offset = c.unpack("16sQQQ", "footer")
        file_len, self.index_crc, header_crc, major, minor, incompat, compat = c.unpack("QIIHHII", "footer")
        c.zero(8, "reserved")
        (self.footer_crc,) = c.unpack("I", "footer_crc")
        check_crc(self.footer_crc, f"{where}, footer_crc", self.shard_id, 0, STRUCTURE, FOOTER_CRC, raw[:76])
        need(shard_id == self.shard_id, where, "shard_id differs from the header")
        need((major, minor, incompat, compat) == version, where, "version or feature bits differ from the header")
        need(header_crc == self.header_crc, where, "header_crc differs from the header")
        need(file_len == self.file_len, where, f"file_len is {file_len}, the file has {self.file_len} bytes")
        need(1 <= self.num_samples <= MAX_SAMPLES, where, f"num_samples {self.num_samples} out of range")
        chunks = -(-self.num_samples // self.samples_per_chunk)
        need(self.num_chunks == chunks, where, f"num_chunks is {self.num_chunks}, {chunks} expected")
        end = self.index_offset + 24 * self.num_chunks + 88
        need(end == self.file_len, where, f"index and footer end at {end}, the file at {self.file_len}")

    def _read_chunks(self) -> None:
        where = f"{self.where}, index"
        index = self.data[self.index_offset : self.file_len - 88]
        check_crc(self.index_crc, where, self.shard_id, 0, STRUCTURE, INDEX_CRC, index)
        end = align(self.header_len, 64)
        need(end <= self.index_offset, where, "index before the end of the header")
        self._check_padding(self.header_len, end, "header")
        self.chunks: list[Chunk] = []
        for i, record in enumerate(struct.iter_unpack("<QQII", index)):
            offset, chunk_len, header_len, header_crc = record
            need(offset == end, f"{where}, record {i}", f"offset is {offset}, {end} expected")
            need(offset + chunk_len <= self.index_offset, f"{where}, record {i}", "chunk reaches into the index")
            self.chunks.append(self._read_chunk(i, offset, chunk_len, header_len, header_crc))
            end = offset + chunk_len
        need(end == self.index_offset, where, f"the chunks end at {end}, the index is at {self.index_offset}")

    def _check_padding(self, start: int, end: int, what: str) -> None:
        need(not any(self.data[start:end]), f"{self.where}, byte {start} (padding after {what})", "must be zero")

    def _read_chunk(self, ordinal: int, offset: int, chunk_len: int, header_len: int, header_crc: int) -> Chunk:
        where = f"{self.where}, chunk {ordinal} at byte {offset}"
        need(chunk_len % 64 == 0, where, "chunk_len must be a multiple of 64")
        need(52 <= header_len <= min(MAX_CHUNK_HEADER, chunk_len), where, f"header_len {header_len} out of range")
        raw = self.data[offset : offset + header_len]
        c = Cursor(raw, where)
        need(c.take(4, "magic") == CHUNK_MAGIC, where, "chunk magic expected")
        own_len, own_ordinal, num_samples, first, own_chunk_len = c.unpack("IIIQQ", "chunk header")
        num_streams, num_stats, num_pieces = c.unpack("III", "chunk header")
        c.zero(4, "reserved")
        need(own_len == header_len, where, f"header_len is {own_len}, the index says {header_len}")
        need(own_chunk_len == chunk_len, where, f"chunk_len is {own_chunk_len}, the index says {chunk_len}")
        need(own_ordinal == ordinal, where, f"chunk is {own_ordinal}, {ordinal} expected")
        need(struct.unpack("<I", raw[-4:])[0] == header_crc, where, "header_crc differs from the index")
        check_crc(header_crc, where, self.shard_id, ordinal, STRUCTURE, CHUNK_CRC, raw[:-4])
        expected = ordinal * self.samples_per_chunk
        need(first == expected, where, f"first_sample is {first}, {expected} expected")
        expected = min(self.samples_per_chunk, self.num_samples - expected)
        need(num_samples == expected, where, f"num_samples is {num_samples}, {expected} expected")
        expected = 48 + 16 * num_streams + 48 * num_stats + 12 * num_pieces + 4
        need(header_len == expected, where, f"header_len is {header_len}, its counts give {expected}")
        table = list(struct.iter_unpack("<HBBHHII", c.take(16 * num_streams, "stream table")))
        stats = self._read_stats(c, num_stats, where)
        pieces = c.take(12 * num_pieces, "piece table")
        self._check_presence(table, where)
        need(sum(entry[5] for entry in table) == num_pieces, where, "num_pieces must be the sum over the streams")
        streams: dict[tuple[int, int, int], Stream] = {}
        end, piece = header_len, 0
        for number, (f, role, plane, codec, mode, count, _) in enumerate(table):
            at = f"{where}, stream {number}"
            rows = list(struct.iter_unpack("<III", pieces[12 * piece : 12 * (piece + count)]))
            piece += count
            raw_lens, stored_lens, crcs = [r[0] for r in rows], [r[1] for r in rows], [r[2] for r in rows]
            for k, (raw_len, stored_len) in enumerate(zip(raw_lens, stored_lens, strict=True)):
                ok = 1 <= stored_len <= raw_len <= self.piece_bytes and (codec != 0 or stored_len == raw_len)
                need(ok, f"{at}, piece {k}", f"raw_len {raw_len} and stored_len {stored_len} are not possible")
            need(sum(raw_lens) <= MAX_STREAM, at, "stream too long")
            size = sum(stored_lens)
            start = align(end, 8 if size < 4096 else 64)
            need(start + size <= chunk_len, at, "reaches behind the end of the chunk")
            self._check_padding(offset + end, offset + start, "the chunk header or a stream")
            streams[f, role, plane] = Stream(number, codec, offset + start, raw_lens, stored_lens, crcs, mode)
            end = start + size
        need(align(end, 64) == chunk_len, where, f"chunk_len is {chunk_len}, the streams end at {end}")
        self._check_padding(offset + end, offset + chunk_len, "the last stream")
        return Chunk(ordinal, num_samples, streams, stats)

    def _check_presence(self, table: list[tuple[int, ...]], where: str) -> None:
        """Spec 10: which streams there are, in which order, with which codec."""
        entries = iter(enumerate(table))
        number, entry = next(entries, (len(table), None))
        for i, f in enumerate(self.fields):
            present = (True, f.dynamic_scales, f.dynamic_zero_points, f.ragged)
            optional = f.quantizer.params.get("non_finite") == "patch"
            chosen: int | None = None
            wanted = [(PLANE, plane) for plane in range(len(f.codecs))] + [(role, 0) for role in range(SCALES, 5)]
            for role, plane in wanted:
                here = entry is not None and entry[:3] == (i, role, plane)
                must = role < PATCHES and present[role]
                what = f"{ROLES[role]} {plane} of field {f.name!r} expected"
                need(here or not must, f"{where}, stream {number}", what)
                if not here or not (must or (role == PATCHES and optional)):
                    continue
                assert entry is not None
                codec, mode, count, zero = entry[3:]
                need(zero == 0, f"{where}, stream {number}", "reserved fields must be zero")
                if role == PLANE and f.per_chunk:
                    ok = mode in PREDICT_MODES and chosen in (None, mode)
                    need(ok, f"{where}, stream {number}", "predict_mode must be 0 to 4, the same in all planes")
                    chosen = mode
                else:
                    need(mode == 0, f"{where}, stream {number}", "predict_mode must be 0 where chunks choose none")
                if codec not in CODECS:
                    raise Unsupported(f"{where}, stream {number}: codec {codec} is unknown")
                ok = role != PLANE or codec == f.codec_ids[plane]
                need(ok, f"{where}, stream {number}", "codec differs from the schema")
                need(role != PATCHES or count > 0, f"{where}, stream {number}", "a patches stream must not be empty")
                number, entry = next(entries, (len(table), None))
        need(entry is None, f"{where}, stream {number}", f"(field, role, plane) {(entry or ())[:3]} must not be there")

    def _read_stats(self, c: Cursor, num_stats: int, where: str) -> dict[int, dict[str, Any]]:
        """Spec 10.4."""
        expected = [i for i, f in enumerate(self.fields) if f.quantizer.name != "identity"]
        need(num_stats == len(expected), where, f"num_stats is {num_stats}, {len(expected)} expected")
        result = {}
        for i in expected:
            at = c.at("stats")
            f, zero1, zero2, count, non_finite, *errors = c.unpack("HHIQQddd", "stats")
            need(f == i, at, f"field is {f}, {i} expected")
            need(zero1 == 0 and zero2 == 0, at, "reserved fields must be zero")
            need(all(math.isfinite(e) and e >= 0 for e in errors), at, "errors must be finite and not negative")
            need(count > 0 or not any(errors), at, "errors must be 0 if count is 0")
            result[i] = dict(
                zip(("count", "non_finite", "max_abs_error", "rmse", "rms"), (count, non_finite, *errors), strict=True)
            )
        return result

    # -- reading ------------------------------------------------------------------------------------------------

    def read_stream(
        self, chunk: Chunk, key: tuple[int, int, int], raw_lens: Iterable[int], total: int
    ) -> Iterator[bytes]:
        """The decoded pieces of the stream (field, role, plane), which must have these lengths and this sum."""
        stream = chunk.streams[key]
        f, role, plane = key
        where = f"{self.where}, chunk {chunk.ordinal}, {ROLES[role]} {plane} of field {self.fields[f].name!r}"
        have = sum(stream.raw_lens)
        need(have == total, where, f"the stream has {have} bytes, {total} expected")
        number = 0
        for number, raw_len in enumerate(raw_lens, start=1):
            ok = number <= len(stream.raw_lens) and stream.raw_lens[number - 1] == raw_len
            need(ok, f"{where}, piece {number - 1}", f"raw_len must be {raw_len}")
        need(number == len(stream.raw_lens), where, f"{len(stream.raw_lens)} pieces, {number} expected")
        pos = stream.offset
        for k, (raw_len, stored_len) in enumerate(zip(stream.raw_lens, stream.stored_lens, strict=True)):
            at = f"{where}, piece {k} at byte {pos}"
            stored = self.data[pos : pos + stored_len]
            check_crc(stream.crcs[k], at, self.shard_id, chunk.ordinal, stream.ordinal, k, stored)
            yield decode_piece(stream.codec, stored, raw_len, at)
            pos += stored_len

    def read_values(
        self, chunk: Chunk, i: int, raw_lens: list[int], total: int, samples: list[tuple[Shape, int]]
    ) -> bytes:
        """The stored elements of a field: the pieces of its planes, merged and unfiltered (spec 8).

        Samples are given by their shapes and stored bytes.
        """
        f = self.fields[i]
        count = len(f.codecs)
        lens = [raw_len // count for raw_len in raw_lens]
        planes = [self.read_stream(chunk, (i, PLANE, plane), lens, total // count) for plane in range(count)]
        out = []
        for pieces in zip(*planes, strict=True):
            data = pieces[0] if f.split is None else undo_split(f.split.name, list(pieces))
            for stage in reversed(f.filters):
                if stage.name == "predict":
                    if stage.params["mode"] == PREDICT_CHUNK:
                        mode = chunk.streams[i, PLANE, 0].predict_mode
                        stage = Stage(stage.name, stage.params | {"mode": mode})
                    data = undo_predict_piece(stage, samples, sum(map(len, out)), data)
                else:
                    data = undo_filter(stage.name, stage.params["elem_size"], data)
            out.append(data)
        return b"".join(out)

    def read_side_stream(self, chunk: Chunk, f: int, role: int, total: int | None = None) -> bytes:
        """A stream that is cut every piece_bytes (spec 10.2)."""
        if total is None:
            total = sum(chunk.streams[f, role, 0].raw_lens)
        pieces = (min(self.piece_bytes, total - start) for start in range(0, total, self.piece_bytes))
        return b"".join(self.read_stream(chunk, (f, role, 0), pieces, total))

    def read_shapes(self, chunk: Chunk, i: int) -> list[tuple[str, Shape]]:
        """The dtype and the shape of every sample of a chunk (spec 10.3)."""
        f, n = self.fields[i], chunk.num_samples
        if not f.ragged:
            assert f.dtype is not None
            assert f.shape is not None
            return [(f.dtype, tuple(d or 0 for d in f.shape))] * n
        where = f"{self.where}, chunk {chunk.ordinal}, shapes of field {f.name!r}"
        c = Cursor(self.read_side_stream(chunk, i, SHAPES), where)
        dtypes = [f.dtype or ""] * n
        if f.dtype is None:
            dtypes = [dtype_name(number, where) for number in c.unpack(f"{n}H", "dtypes")]
        result: list[tuple[str, Shape]] = []
        ranks = [0] * n
        if f.shape is None:
            ranks = list(c.take(n, "ranks"))
            need(max(ranks) <= MAX_RANK, where, f"a rank must be at most {MAX_RANK}")
        for dtype, rank in zip(dtypes, ranks, strict=True):
            dims = [None] * rank if f.shape is None else f.shape
            shape = tuple(c.unpack("I", "dims")[0] if d is None else d for d in dims)
            need(math.prod(shape) <= MAX_ELEMENTS, where, f"sample {len(result)} has more than 2^36 elements")
            result.append((dtype, shape))
        c.end("shapes")
        return result

    def read_field(self, chunk: Chunk, i: int) -> FieldChunk:
        """Read, check and dequantize the samples of a field in a chunk."""
        f = self.fields[i]
        where = f"{self.where}, chunk {chunk.ordinal}, field {f.name!r}"
        samples = self.read_shapes(chunk, i)
        sizes = [(math.prod(shape) * f.bits(dtype) + 7) // 8 for dtype, shape in samples]
        total = sum(sizes)
        need(total <= MAX_STREAM, where, "more than 2^38 bytes")
        limit = self.piece_bytes if f.split is None else min(self.piece_bytes * len(f.codecs), 4194304)
        with_sizes = [(shape, size) for (_, shape), size in zip(samples, sizes, strict=True)]
        plane = self.read_values(chunk, i, list(cut_plane(f, samples, sizes, limit)), total, with_sizes)
        if f.dtype is None:
            return mixed_samples(samples, sizes, plane, where)
        codes = stored_elements(f, samples, sizes, plane, where)
        scales, zero_points, index = self._read_scales(chunk, i, samples, where)
        values = codes
        if f.quantizer.name == "cast":
            values = narrow(f.dtype, widen(str(f.stored_dtype), codes))
        elif f.quantizer.name == "affine":
            zero = f.q_range[2]
            zeros = zero_points[index] if zero is None else np.int32(zero)
            with np.errstate(over="ignore", under="ignore"):
                product = (codes.astype(np.int32) - zeros).astype(np.float32) * scales[index]
            values = narrow(f.dtype, product)
        elif f.quantizer.name in SCALED:
            v, scale = element_values(f, codes), scales[index]
            with np.errstate(over="ignore", under="ignore", invalid="ignore"):
                product = np.where(np.isnan(v), v, np.where(np.isnan(scale), np.float32(np.nan), v * scale))
            values = narrow(f.dtype, product.astype(np.float32))
        elif f.quantizer.name == "abs_error":
            params = f.quantizer.params
            with np.errstate(over="ignore", under="ignore"):
                wide = (codes.astype(np.float64) - np.float64(params["zero_point"])) * np.float64(params["step"])
                values = wide if f.dtype == "f64" else narrow(f.dtype, wide.astype(np.float32))
        if f.quantizer.name != "identity":
            stats = chunk.stats[i]
            counted = stats["count"] + stats["non_finite"]
            need(counted == len(codes), where, f"stats count {counted} elements, the chunk has {len(codes)}")
        if (i, PATCHES, 0) in chunk.streams:
            values = self._patch(chunk, i, values, where)
        shapes = [shape for _, shape in samples]
        counts = [f.scale_count(shape) for shape in shapes] if f.dynamic_scales else []
        return FieldChunk(shapes, split(values, shapes), split(codes, shapes), scales, zero_points, counts)

    def _read_scales(self, chunk: Chunk, i: int, samples: list[tuple[str, Shape]], where: str) -> tuple[Array, ...]:
        """Scales (as f32), zero points, and for every element which of them is its (spec 9.3)."""
        f = self.fields[i]
        if f.quantizer.name not in SCALED:
            nothing = np.zeros(0, np.int64)
            return np.zeros(0, np.float32), nothing, nothing
        scales, zero_points = f.static_scales, f.static_zero_points
        counts = [0] * len(samples)
        if f.dynamic_scales:
            dtype = f.quantizer.params["scale_dtype"]
            counts = [f.scale_count(shape) for _, shape in samples]
            total = sum(counts)
            size = 1 if dtype == "e8m0" else DTYPES[dtype][1].itemsize
            need(total * 4 <= MAX_STREAM, where, "too many scales")
            scales = read_scales(self.read_side_stream(chunk, i, SCALES, total * size), dtype)
            check_scales(scales, dtype, where)
            if f.dynamic_zero_points:
                zero_points = np.frombuffer(self.read_side_stream(chunk, i, ZERO_POINTS, total * 4), "<i4")
                check_zero_points(zero_points, f, where)
        first = np.cumsum([0, *counts[:-1]])
        if f.ragged:
            parts = [f.scale_index(shape) + start for (_, shape), start in zip(samples, first, strict=True)]
            return scales, zero_points, np.concatenate(parts)
        return scales, zero_points, (first[:, None] + f.scale_index(samples[0][1])[None, :]).ravel()

    def _patch(self, chunk: Chunk, i: int, values: Array, where: str) -> Array:
        """Put back the elements that are restored exactly (spec 10.5)."""
        raw = self.read_side_stream(chunk, i, PATCHES)
        size = values.dtype.itemsize
        n, rest = divmod(len(raw), 8 + size)
        need(rest == 0, where, f"a patches stream of {len(raw)} bytes with {8 + size} bytes a patch")
        at = np.frombuffer(raw, "<u8", n)
        need(bool(np.all(at[1:] > at[:-1])), where, "patch indices must be strictly ascending")
        need(int(at[-1]) < len(values), where, f"patch index {at[-1]} of {len(values)} elements")
        bits = values.view(f"<u{size}").copy()
        bits[at] = np.frombuffer(raw, bits.dtype, n, 8 * n)
        return bits.view(values.dtype)


@dataclass(frozen=True)
class FieldChunk:
    shapes: list[Shape]
    values: list[Array]
    codes: list[Array]
    scales: Array
    zero_points: Array
    counts: list[int]  # of the dynamic scales of each sample


def cut_plane(f: Field, samples: list[tuple[str, Shape]], sizes: list[int], limit: int) -> Iterator[int]:
    """The lengths of the pieces of a plane (spec 10.1)."""
    piece = 0
    for (dtype, shape), size in zip(samples, sizes, strict=True):
        if size <= limit:
            if piece + size > limit:
                yield piece
                piece = 0
            piece += size
            continue
        if piece:
            yield piece
            piece = 0
        row, bits = (shape[-1] if shape else 1), f.bits(dtype)
        unit = row if bits == 4 and row % 2 else row * bits // 8
        step = limit // unit * unit if unit <= limit else limit
        for start in range(0, size, step):
            yield min(step, size - start)
    if piece:
        yield piece


def stored_elements(f: Field, samples: list[tuple[str, Shape]], sizes: list[int], plane: bytes, where: str) -> Array:
    """All stored elements of a field in a chunk; 4-bit elements are unpacked."""
    assert f.stored_dtype is not None
    if f.bits(f.dtype) != 4:
        return np.frombuffer(plane, DTYPES[f.stored_dtype][1])
    packed = np.frombuffer(plane, np.uint8)
    nibbles = np.stack([packed & 15, packed >> 4], axis=1).ravel()
    counts = np.array([math.prod(shape) for _, shape in samples], np.int64)
    odd = (2 * np.cumsum(np.array(sizes, np.int64)) - 1)[counts % 2 == 1]  # the last nibble of each odd sample
    nibbles = np.delete(nibbles, odd)
    return (nibbles ^ 8).astype(np.int8) - np.int8(8) if f.quantizer.params.get("signed") else nibbles


def split(flat: Array, shapes: list[Shape]) -> list[Array]:
    out, start = [], 0
    for shape in shapes:
        n = math.prod(shape)
        out.append(flat[start : start + n].reshape(shape))
        start += n
    return out


def mixed_samples(samples: list[tuple[str, Shape]], sizes: list[int], plane: bytes, where: str) -> FieldChunk:
    """The samples of a field with dtype 0."""
    out, start = [], 0
    for (dtype, shape), size in zip(samples, sizes, strict=True):
        raw = plane[start : start + size]
        out.append(np.frombuffer(raw, DTYPES[dtype][1]).reshape(shape))
        start += size
    return FieldChunk([shape for _, shape in samples], out, out, np.zeros(0), np.zeros(0), [])


# ---------------------------------------------------------------------------------------------------------------
# Dataset (spec 2)
# ---------------------------------------------------------------------------------------------------------------


class Dataset:
    """A dataset folder, or a single shard."""

    def __init__(self, path: str | Path) -> None:
        path = Path(path)
        self.metadata: dict[str, Any] = {}
        self.unfinished = False
        self.shards: list[Shard]
        if not path.is_dir():
            self.shards = [Shard(path)]
            self.fields = self.shards[0].fields
            self.num_samples = len(self.shards[0])
            return
        manifest_path = path / "manifest.tsm"
        need(manifest_path.is_file(), str(path), "a folder with a manifest.tsm expected")
        manifest = read_manifest(manifest_path)
        self.fields = read_schema(manifest.schema, f"{manifest_path}, schema")
        self.metadata, self.unfinished, self.num_samples = manifest.metadata, manifest.unfinished, manifest.num_samples
        self.shards = []
        for record in manifest.records:
            shard_path = path / f"{record.shard_id.hex()}.tshard"
            need(shard_path.is_file(), str(shard_path), "the manifest lists this shard, it is missing")
            size = shard_path.stat().st_size
            need(size == record.file_len, str(shard_path), f"{size} bytes, the manifest says {record.file_len}")
            shard = Shard(shard_path)
            for name in ("shard_id", "num_samples", "samples_per_chunk", "footer_crc", "file_len"):
                same = getattr(shard, name) == getattr(record, name)
                need(same, str(shard_path), f"{name} differs from the manifest")
            need(shard.schema == manifest.schema, str(shard_path), "schema differs from the manifest")
            self.shards.append(shard)

    def __len__(self) -> int:
        return self.num_samples

    def _index(self, name: str) -> int:
        for i, f in enumerate(self.fields):
            if f.name == name:
                return i
        raise KeyError(name)

    def _chunks(self, i: int) -> Iterator[FieldChunk]:
        for shard in self.shards:
            for chunk in shard.chunks:
                yield shard.read_field(chunk, i)

    def _arrange(self, i: int, samples: list[Array], dtype: str | None) -> Any:
        f = self.fields[i]
        if f.ragged:
            return samples
        assert dtype is not None
        assert f.shape is not None
        shape = (len(samples), *(d or 0 for d in f.shape))
        return np.stack(samples) if samples else np.zeros(shape, DTYPES[dtype][1])

    def read(self, name: str) -> Any:
        """Fixed field: one array [num_samples, *dims]. Ragged field: a list of arrays, bytes or str."""
        i = self._index(name)
        f = self.fields[i]
        samples = [value for part in self._chunks(i) for value in part.values]
        if f.kind == "tensor":
            return self._arrange(i, samples, f.dtype)
        blobs = [value.tobytes() for value in samples]
        if f.kind == "bytes":
            return blobs
        try:
            return [blob.decode("utf-8") for blob in blobs]
        except UnicodeDecodeError as error:
            raise FormatError(f"field {name!r}: a string must be UTF-8: {error}") from error

    def codes(self, name: str) -> Any:
        """The stored elements before dequantizing, 4-bit ones unpacked, arranged as `read` arranges its result."""
        i = self._index(name)
        codes = [value for part in self._chunks(i) for value in part.codes]
        return self._arrange(i, codes, self.fields[i].stored_dtype)

    def _affine(self, name: str) -> tuple[int, Field]:
        i = self._index(name)
        if self.fields[i].quantizer.name not in SCALED:
            raise TypeError(f"field {name!r} has no scales")
        return i, self.fields[i]

    def scales(self, name: str) -> Any:
        """Static: one f32 array. Dynamic: for every sample an f32 array of its scales, in the order of the file."""
        i, f = self._affine(name)
        if f.static:
            return f.static_scales
        return [part for c in self._chunks(i) for part in split(c.scales, [(n,) for n in c.counts])]

    def zero_points(self, name: str) -> Any:
        """As `scales`, in i32. A symmetric quantizer has the one zero point that its type fixes."""
        i, f = self._affine(name)
        if not f.has_zero_points:
            return np.array([f.q_range[2] if f.quantizer.name == "affine" else 0], np.int32)
        if f.static:
            return f.static_zero_points
        return [part for c in self._chunks(i) for part in split(c.zero_points, [(n,) for n in c.counts])]

    def stats(self, name: str) -> list[dict[str, Any]]:
        """One record for every chunk; none if the quantizer is identity (spec 10.4)."""
        i = self._index(name)
        return [chunk.stats[i] for shard in self.shards for chunk in shard.chunks if i in chunk.stats]


def field_bytes(values: Any) -> Iterator[bytes]:
    """The bytes of all samples of a field, as `Dataset.read` returns them."""
    if isinstance(values, np.ndarray):
        yield values.tobytes()
        return
    for value in values:
        yield (
            value.encode() if isinstance(value, str) else bytes(value) if isinstance(value, bytes) else value.tobytes()
        )


def describe(stage: Stage) -> str:
    return stage.name + (f"({', '.join(f'{k}={v}' for k, v in stage.params.items())})" if stage.params else "")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Read a tensorshard dataset or shard.")
    parser.add_argument("path", type=Path)
    parser.add_argument("--field", help="only this field")
    parser.add_argument("--npy", type=Path, help="write the field to this .npy file")
    options = parser.parse_args(arguments)
    if options.npy and not options.field:
        parser.error("--npy needs --field")
    try:
        ds = Dataset(options.path)
        if options.npy:
            values = ds.read(options.field)
            if isinstance(values, list):
                ragged = np.empty(len(values), object)
                for k, value in enumerate(values):
                    ragged[k] = value
                values = ragged
            np.save(options.npy, values, allow_pickle=True)
            return 0
        print(f"{len(ds)} samples, {len(ds.shards)} shards")
        for f in ds.fields:
            if options.field not in (None, f.name):
                continue
            crc, sha = 0, hashlib.sha256()
            for data in field_bytes(ds.read(f.name)):
                crc = crc32c(data, crc)
                sha.update(data)
            dims = "[...]" if f.shape is None else f"[{', '.join('?' if d is None else str(d) for d in f.shape)}]"
            split = [] if f.split is None else [f.split]
            stages = " | ".join(describe(stage) for stage in (f.quantizer, *f.filters, *split, *f.codecs))
            print(f"{f.name}: {f.kind} {f.dtype or 'any'} {dims}{' key' if f.key else ''}, {stages}")
            print(f"  crc32c {crc:08x}  sha256 {sha.hexdigest()}")
    except (FormatError, Unsupported, OSError, KeyError) as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
