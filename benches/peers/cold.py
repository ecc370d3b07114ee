"""Photographs with a cold page cache: an epoch of a compressed dataset beside slicing the raw .npy from the same disk.

    cargo build --release
    python benches/peers/cold.py --photos crops.npy [--folder FOLDER] [--tensorshard target/release/tensorshard]

crops.npy holds uint8 [n, 3, 64, 64]. They are repeated until there is 1 GiB of them (repetitions are further apart than
any piece, so they do not help a codec), written as raw .npy and with each of the filters and codecs below, all in FOLDER
(the default is one in the current folder: a temporary folder may be in memory). Needs NumPy and Linux.

Before each measurement the pages of the file are dropped (fsync, then posix_fadvise DONTNEED); how many stayed is
printed, by mincore. What cannot be dropped from here is a cache below the system, of a hypervisor or a disk: the column
of the raw file says what the disk gives. Every way has its turn in every round; medians of the rounds.
"""

import argparse
import ctypes
import json
import mmap
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROUNDS = 5
BATCH = 64
TOTAL = 1 << 30
WAYS = {
    "stored": ["--codec", "none"],
    "lz4": ["--codec", "lz4"],
    "predict + prefix": ["--filter", "predict:2d:channel=0", "--codec", "prefix"],
}


def drop(folder: Path) -> float:
    """Drops the pages of all files of a folder; the share that stayed."""
    libc = ctypes.CDLL(None, use_errno=True)
    kept = pages = 0
    for path in sorted(folder.iterdir()):
        fd = os.open(path, os.O_RDONLY)
        try:
            os.fsync(fd)
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            size = os.fstat(fd).st_size
            if size == 0:
                continue
            count = -(-size // mmap.PAGESIZE)
            state = (ctypes.c_ubyte * count)()
            with mmap.mmap(fd, size, mmap.MAP_SHARED, mmap.PROT_READ) as m:
                array = np.frombuffer(m, np.uint8)
                if libc.mincore(ctypes.c_void_p(array.ctypes.data), ctypes.c_size_t(size), state) != 0:
                    raise OSError(ctypes.get_errno(), "mincore")
                del array
            kept += int(np.ctypeslib.as_array(state).astype(bool).sum())
            pages += count
        finally:
            os.close(fd)
    return kept / max(pages, 1)


def slice_raw(path: Path) -> float:
    """Samples a second of batches sliced from a memory-mapped .npy, each copied into the same buffer."""
    start = time.perf_counter()
    array = np.load(path, mmap_mode="r")
    batch = np.empty((BATCH, *array.shape[1:]), array.dtype)
    for first in range(0, len(array) - BATCH + 1, BATCH):
        np.copyto(batch, array[first : first + BATCH])
    return len(array) / (time.perf_counter() - start)


def epoch(command: str, path: Path) -> float:
    """Samples a second of an epoch, opening included; the command's own memcpy comes after it and is not."""
    run = [command, "bench", "--json", "--quiet", "--epochs", "1", "--batch-size", str(BATCH), str(path)]
    result = json.loads(subprocess.run(run, check=True, capture_output=True, text=True).stdout)
    return float(result["samples_per_s"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help=".npy of uint8 [n, 3, 64, 64]")
    parser.add_argument("--folder", type=Path, default=Path("cold-data"))
    parser.add_argument("--tensorshard", default="target/release/tensorshard")
    args = parser.parse_args()
    if not sys.platform.startswith("linux"):
        sys.exit("cold.py needs Linux: it drops pages with posix_fadvise")

    photos = np.load(args.photos)
    if photos.dtype != np.uint8 or photos.shape[1:] != (3, 64, 64):
        sys.exit(f"{args.photos} holds {photos.dtype} {photos.shape}; cold.py wants uint8 [n, 3, 64, 64]")
    photos = np.concatenate([photos] * -(-TOTAL // photos.nbytes))
    photos = photos[: TOTAL // photos[0].nbytes]
    shutil.rmtree(args.folder, ignore_errors=True)
    raw = args.folder / "raw"
    raw.mkdir(parents=True)
    np.save(raw / "x.npy", photos)
    paths = {"raw .npy": raw}
    for name, options in WAYS.items():
        paths[name] = args.folder / name.replace(" ", "")
        convert = [args.tensorshard, "convert", "--quiet", *options, str(raw / "x.npy"), str(paths[name])]
        subprocess.run(convert, check=True, stdout=subprocess.DEVNULL)

    cold: dict[str, list[float]] = {name: [] for name in paths}
    warm: dict[str, list[float]] = {name: [] for name in paths}
    stayed = 0.0
    for _ in range(ROUNDS):
        for name, path in paths.items():
            stayed = max(stayed, drop(path))
            for speeds in (cold, warm):
                speeds[name].append(
                    slice_raw(path / "x.npy") if path == raw else epoch(args.tensorshard, path)
                )
    size = {name: sum(f.stat().st_size for f in path.iterdir()) for name, path in paths.items()}
    base = statistics.median(cold["raw .npy"])
    print(f"{photos.nbytes / 1e9:.2f} GB of photographs, pages that stayed in memory: {stayed:.1%}\n")
    print("| way | smaller | cold, samples/s | x raw | GB/s from the disk | warm, samples/s |")
    print("|---|---|---|---|---|---|")
    for name in paths:
        median = statistics.median(cold[name])
        disk = median * size[name] / len(photos) / 1e9
        print(
            f"| {name} | {photos.nbytes / size[name]:.2f} | {median:,.0f} | {median / base:.2f} | {disk:.2f} "
            f"| {statistics.median(warm[name]):,.0f} |"
        )
    shutil.rmtree(args.folder)


if __name__ == "__main__":
    main()
