"""Compare tensorshard with other compressors: ratio and decode speed, one thread, the same data, one run.

    python -m venv peers && peers/bin/pip install -r benches/peers/requirements.txt
    cargo build --release
    peers/bin/python benches/peers/compare.py [--tensorshard target/release/tensorshard] [--data FOLDER] [CASE ...]

Prints a section in Markdown. FOLDER holds img.u8 (uint8 [n, 3, 64, 64], crops of photographs) and weights.npy (float32
weights of a real model, two axes); cases without their data are left out. All other data is made here, from fixed seeds.

Every peer gets chunks of about 1 MiB (PNG: one sample), decodes into a buffer that exists already, and is measured in
turn with a memcpy of the same bytes; medians. The figures of tensorshard are those of `tensorshard advise --json`: the
whole chunk path with its checksum, in pieces of 64 KiB, beside its own memcpy. Speeds are given as multiples of memcpy,
so that both are comparable.
"""

import argparse
import json
import re
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import blosc2
import imagecodecs as ic
import numpy as np

CHUNK = 1 << 20
ROUNDS = 7
SAMPLE_BYTES = 8 << 20
RING_BYTES = 64 << 20


# Data


def smooth(shape, seed, axes, power=3.0):
    """Gaussian fields with a power spectrum that falls with the frequency: what weather and simulations look like."""
    noise = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    spectrum = np.fft.fftn(noise, axes=axes)
    square = sum(
        np.fft.fftfreq(shape[a]).reshape([-1 if i == a % len(shape) else 1 for i in range(len(shape))]) ** 2
        for a in axes
    )
    square[(0,) * len(shape)] = 1
    out = np.fft.ifftn(spectrum * square ** (-power / 2), axes=axes).real
    return (out / out.std()).astype(np.float32)


def latents():
    """Smooth noise of unit variance, [n, 4, 32, 32]: a stand-in for VAE latents."""
    z = np.random.default_rng(0).standard_normal((512, 4, 32, 32)).astype(np.float32)
    kernel = np.exp(-0.5 * np.arange(-4, 5) ** 2)
    kernel /= kernel.sum()
    for axis in (2, 3):
        z = sum(np.roll(z, s, axis) * np.float32(k) for s, k in zip(range(-4, 5), kernel, strict=True))
    return (z / z.std()).astype(np.float32)


def tokens():
    """Ids of words in Python's own library, by frequency: [n, 512] int32."""
    words = []
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        words += re.findall(r"\w+|[^\w\s]|\s+", path.read_text(encoding="utf-8", errors="replace"))
        if len(words) > 3_000_000:
            break
    names, ids = np.unique(words, return_inverse=True)
    rank = np.empty(len(names), np.int32)
    rank[np.argsort(-np.bincount(ids), kind="stable")] = np.arange(len(names), dtype=np.int32)
    ids = rank[ids][: len(ids) // 512 * 512]
    return ids.reshape(-1, 512)


def sparse():
    """Activations after a ReLU with a threshold, 93% zeros: [n, 1024] float32."""
    x = np.random.default_rng(5).standard_normal((2048, 1024)).astype(np.float32)
    return np.maximum(x - np.float32(1.5), 0)


def weights(folder):
    path = folder / "weights.npy"
    return np.load(path) if path.exists() else None


def bf16_of(x):
    """The upper halves, rounded to nearest even, as NumPy has them: two bytes without a dtype."""
    if x is None:
        return None
    bits = x.view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def photos(folder):
    path = folder / "img.u8"
    return np.fromfile(path, np.uint8, 683 * 12288).reshape(-1, 3, 64, 64) if path.exists() else None


def int8_of(x):
    scale = np.abs(x).max() / 127
    return np.clip(np.rint(x / scale), -127, 127).astype(np.int8)


# Peers: (name, encode(chunk) -> bytes, decode(bytes, out)); a chunk is an array whose first axis are samples


def general(x):
    size = x.dtype.itemsize

    def into(decode):
        return lambda data, out: decode(data, out=bytes_of(out))

    yield "snappy", ic.snappy_encode, into(ic.snappy_decode)
    yield "lz4", ic.lz4_encode, into(ic.lz4_decode)
    for level in (1, 3, 9):
        yield f"zstd {level}", lambda c, level=level: ic.zstd_encode(c, level), into(ic.zstd_decode)
    yield "deflate 6 (libdeflate)", lambda c: ic.deflate_encode(c, 6), into(ic.deflate_decode)
    filters = {
        "shuffle": [blosc2.Filter.SHUFFLE],
        "bitshuffle": [blosc2.Filter.BITSHUFFLE],
        "shuffle+bytedelta": [blosc2.Filter.SHUFFLE, blosc2.Filter.BYTEDELTA],
    }
    for codec, level in ((blosc2.Codec.LZ4, 9), (blosc2.Codec.ZSTD, 1), (blosc2.Codec.ZSTD, 5)):
        for name, chain in filters.items():
            if size == 1 and name == "shuffle":
                continue
            padding = [blosc2.Filter.NOFILTER] * (6 - len(chain))
            params = blosc2.CParams(
                codec=codec,
                clevel=level,
                typesize=size,
                nthreads=1,
                filters=padding + chain,
                filters_meta=[0] * (6 - len(chain)) + [size if f == blosc2.Filter.BYTEDELTA else 0 for f in chain],
            )
            label = f"Blosc2 {codec.name.lower()} {level}, {name}"
            decode_params = blosc2.DParams(nthreads=1)
            yield (
                label,
                lambda c, p=params: blosc2.compress2(c, cparams=p),
                lambda b, out, d=decode_params: blosc2.decompress2(b, dst=bytes_of(out), dparams=d),
            )
    if size > 1:
        yield "pcodec 8", lambda c: ic.pcodec_encode(c, 8), lambda b, out: ic.pcodec_decode(b, out=out)


def bytes_of(out):
    return out.reshape(-1).view(np.uint8)


def png(x):
    """Every filter that libpng has, all of them chosen row by row, and each level that matters: the smallest."""

    def encode(chunk):
        image = np.ascontiguousarray(chunk[0].transpose(1, 2, 0))
        tries = [
            ic.png_encode(image, 9, strategy=strategy, filter=kind)
            for strategy in (0, 1)
            for kind in (8, 16, 32, 64, 128, 248)
        ]
        return min(tries, key=len)

    def decode(data, out):
        # As a loader would want it: planes, not pixels.
        out[0] = ic.png_decode(data).transpose(2, 0, 1)

    yield "PNG, best of 12 ways", encode, decode


def bounded(x, bound, rank):
    def zfp_encode(chunk):
        return ic.zfp_encode(stacked(chunk, rank), bound, mode="accuracy", header=False)

    def zfp_decode(data, out):
        view = stacked(out, rank)
        view[...] = ic.zfp_decode(data, shape=view.shape, dtype=x.dtype)

    def sz3_encode(chunk):
        return ic.sz3_encode(stacked(chunk, rank), "abs", abs=bound)

    def sz3_decode(data, out):
        view = stacked(out, rank)
        ic.sz3_decode(data, view.shape, x.dtype, out=view)

    yield f"ZFP, accuracy {bound:.3g}", zfp_encode, zfp_decode
    yield f"SZ3, abs {bound:.3g}", sz3_encode, sz3_decode


def stacked(chunk, rank):
    """Fields of this rank, one on top of the other: no peer should look for likeness between samples."""
    return chunk.reshape((-1,) + chunk.shape[chunk.ndim - rank + 1 :])


# Measuring


@dataclass
class Row:
    name: str
    ratio: float
    decode: float
    encode: float
    note: str = ""


class Ring:
    """Where decoded chunks go: more memory than a cache holds."""

    def __init__(self):
        self.bytes = np.ones(RING_BYTES, np.uint8)
        self.at = 0

    def next(self, chunk):
        if self.at + chunk.nbytes > len(self.bytes):
            self.at = 0
        part = self.bytes[self.at : self.at + chunk.nbytes]
        self.at += -(-chunk.nbytes // 64) * 64
        return part.view(chunk.dtype).reshape(chunk.shape)


def chunks_of(x, samples):
    return [np.ascontiguousarray(x[i : i + samples]) for i in range(0, len(x), samples)]


def measure(x, peers, bound=None):
    """Every peer in turn, round after round, beside memcpy."""
    ring = Ring()
    sample_bytes = x[0].nbytes
    entries = []
    for name, encode, decode in peers:
        one = name.startswith("PNG")
        chunks = chunks_of(x, 1 if one else max(1, CHUNK // sample_bytes))
        start = time.perf_counter()
        try:
            encoded = [encode(c) for c in chunks]
        except Exception as error:
            print(f"{name}: left out: {error}", file=sys.stderr)
            continue
        seconds = time.perf_counter() - start
        worst = 0.0
        for data, chunk in zip(encoded, chunks, strict=True):
            out = ring.next(chunk)
            out.reshape(-1).view(np.uint8)[:] = 0
            decode(data, out)
            if bound is None:
                assert np.array_equal(bytes_of(out), bytes_of(chunk)), f"{name} changed values"
            else:
                worst = max(worst, float(np.abs(out.astype(np.float64) - chunk).max()))
        note = "" if bound is None else f"max error {worst / bound:.3f} of the bound"
        stored = sum(len(data) for data in encoded)
        entries.append((Row(name, x.nbytes / stored, 0.0, x.nbytes / seconds, note), decode, encoded, chunks, []))
    raw = chunks_of(x, max(1, CHUNK // sample_bytes))
    copies = []
    for round in range(ROUNDS):
        start = time.perf_counter()
        for chunk in raw:
            np.copyto(ring.next(chunk), chunk)
        copies.append(time.perf_counter() - start)
        for row, decode, encoded, chunks, times in entries:
            if round > 2 and sum(times) > 3:
                continue
            start = time.perf_counter()
            for data, chunk in zip(encoded, chunks, strict=True):
                decode(data, ring.next(chunk))
            times.append(time.perf_counter() - start)
    memcpy = statistics.median(copies)
    for row, _, _, _, times in entries:
        row.decode = memcpy / statistics.median(times)
    return [entry[0] for entry in entries], x.nbytes / memcpy


BF16 = ["--dtype-of-void", "bf16"]


def ours(binary, x, options=()):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.npy"
        np.save(path, x.view("V2") if options == BF16 else x)
        command = [binary, "--quiet", "advise", path, "--json", *options]
        text = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return json.loads(text)["fields"][0]


def our_rows(advice, only=None):
    """The picks, and the Pareto choices."""
    for row in advice["encodings"]:
        if not (row["pareto"] or row["picked_for"]) or not row["meets_request"]:
            continue
        picked = f"; picked for {', '.join(row['picked_for'])}" if row["picked_for"] else ""
        name = f"**tensorshard** `{row['encoding']}`"
        note = picked.lstrip("; ")
        if row["lossy"]:
            note = f"max error {row['max_abs_error']:.3g}" + picked
        yield Row(name, row["ratio"], row["ratio_to_memcpy"], row["encode_gb_per_s"] * 1e9, note)


def kept(rows):
    """Of the many ways to use Blosc2: the smallest, and the fastest."""
    blosc = [row for row in rows if row.name.startswith("Blosc2")]
    if not blosc:
        return rows
    best = {id(max(blosc, key=lambda row: row.ratio)), id(max(blosc, key=lambda row: row.decode))}
    return [row for row in rows if not row.name.startswith("Blosc2") or id(row) in best]


def show(title, x, rows, memcpy):
    print(f"\n### {title}\n")
    print(f"{x.dtype} {list(x.shape)}, {x.nbytes / 1e6:.1f} MB; memcpy {memcpy / 1e9:.1f} GB/s.\n")
    print("| encoding | ratio | decode, x memcpy | encode, MB/s | |")
    print("|---|---|---|---|---|")
    for row in sorted(rows, key=lambda row: -row.ratio):
        print(f"| {row.name} | {row.ratio:.3f} | {row.decode:.3f} | {row.encode / 1e6:.0f} | {row.note} |")
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tensorshard", default="target/release/tensorshard")
    parser.add_argument("--data", type=Path, default=Path())
    parser.add_argument("cases", nargs="*")
    args = parser.parse_args()
    lossless = {
        "photos": ("Photographs", lambda: photos(args.data)),
        "latents-int8": ("Latents, int8", lambda: int8_of(latents())),
        "latents": ("Latents, f32", latents),
        "weights": ("Weights of a model, f32", lambda: weights(args.data)),
        "weights-bf16": ("Weights of a model, bf16", lambda: bf16_of(weights(args.data))),
        "fields": ("Smooth fields, f32 2-D", lambda: smooth((128, 128, 128), 2, (1, 2))),
        "tokens": ("Token ids", tokens),
        "sparse": ("Sparse activations", sparse),
    }
    for key, (title, make) in lossless.items():
        if args.cases and key not in args.cases:
            continue
        x = make()
        if x is None:
            print(f"{key}: its data is not in {args.data}", file=sys.stderr)
            continue
        x = x[: max(1, SAMPLE_BYTES // x[0].nbytes)]
        peers = list(general(x)) + (list(png(x)) if key == "photos" else [])
        rows, memcpy = measure(x, peers)
        rows = kept(rows) + list(our_rows(ours(args.tensorshard, x, BF16 if key == "weights-bf16" else [])))
        show(title + ", lossless", x, rows, memcpy)
    fields = {
        "bounded-2d": ("Smooth 2-D fields", 2, lambda: smooth((8, 512, 512), 3, (1, 2))),
        "bounded-3d": ("Smooth 3-D fields", 3, lambda: smooth((8, 64, 64, 64), 4, (1, 2, 3))),
        "bounded-latents": ("Latents", 2, latents),
    }
    for key, (title, rank, make) in fields.items():
        if args.cases and key not in args.cases:
            continue
        x = make()
        x = x[: max(1, SAMPLE_BYTES // x[0].nbytes)]
        bound = float(x.max() - x.min()) * 1e-3
        rows, memcpy = measure(x, list(bounded(x, bound, rank)), bound)
        rows += our_rows(ours(args.tensorshard, x, ["--max-error", repr(bound)]))
        show(f"{title}, error at most {bound:.3g} (0.001 of the range)", x, rows, memcpy)


if __name__ == "__main__":
    main()
