"""What the Python door costs: the same epochs through Rust and through Python, in one process, in turns.

usage: python bench/overhead.py [--rounds N] [--output numpy|torch|jax] [--megabytes N]

Each row is a batch size. `rust` iterates in Rust (the verb `bench`), `python` is a `for` loop over a `Loader` with the
same options that drops each batch before it asks for the next one, as Rust does; `overhead` is how much longer Python
took than Rust. `kept` is the same for the usual `for` loop, whose variable keeps a batch until it has the next one: one
buffer more is in use. Each time is the least of all rounds, since other programs only ever add to it.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

import tensorshard
from tensorshard import _tensorshard


def rust_seconds(path: Path, batch_size: int, epochs: int) -> float:
    arguments = ["tensorshard", "bench", "--json", f"--batch-size={batch_size}", f"--epochs={epochs}", str(path)]
    said, _ = _tensorshard.call(arguments)
    return float(json.loads(said)["seconds"])


def python_seconds(path: Path, batch_size: int, epochs: int, output: str, keep: bool) -> float:
    loader = tensorshard.Loader(path, batch_size, output=output)
    start = time.perf_counter()
    for _ in range(epochs):
        if keep:
            for _ in loader:
                pass
        else:
            for batch in loader:
                del batch
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--output", default="numpy")
    parser.add_argument("--megabytes", type=int, default=128)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    samples = args.megabytes * 256
    latents = rng.standard_normal((samples, 1024)).astype("f4")  # 4 KiB a sample
    with tempfile.TemporaryDirectory() as folder:
        print(f"{'stored as':<10} {'batch':>10} {'rust GB/s':>10} {'python GB/s':>12} {'overhead':>9} {'kept':>7}")
        for quantizer in ("identity", "int8"):
            path = Path(folder, quantizer)
            codec = "none" if quantizer == "identity" else "snappy"
            with tensorshard.ShardWriter(path, quantize=quantizer, codec=codec, filter="none") as writer:
                writer.extend({"x": latents, "id": np.arange(samples)})
            for batch_size in (16, 64, 256, 1024, 4096):
                epochs = 4
                rounds = []
                for i in range(args.rounds + 1):
                    rust = rust_seconds(path, batch_size, epochs)
                    python = python_seconds(path, batch_size, epochs, args.output, keep=False)
                    kept = python_seconds(path, batch_size, epochs, args.output, keep=True)
                    if i > 0:
                        rounds.append((rust, python, kept))
                bytes_ = epochs * latents.nbytes
                rust, python, kept = (min(times[i] for times in rounds) for i in range(3))
                print(
                    f"{quantizer:<10} {batch_size * 4:>6} KiB {bytes_ / rust / 1e9:>10.2f} "
                    f"{bytes_ / python / 1e9:>12.2f} {python / rust - 1:>8.1%} {kept / rust - 1:>7.1%}"
                )


if __name__ == "__main__":
    main()
