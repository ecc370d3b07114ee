"""Trains an encoder/decoder network on cached images: once from f32 arrays in memory, once from int8 shards.

The images come with scikit-learn and scikit-image. Crops of them are cached as tensors: noisy colours, f32 [3, 32, 32],
and for each pixel one of four levels of brightness, which the network finds below the noise. Both runs see the same
samples in the same order from the same weights, so that the losses differ by what int8 does to the data, and by nothing
else.

    pip install './python[torch]' scikit-learn scikit-image
    python python/examples/train_torch.py
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import sklearn.datasets
import torch
from torch import nn

import tensorshard

LEVELS = 4


def crops(count: int, size: int = 32) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Noisy crops of photos, f32 [count, 3, size, size], and their levels, u8 [count, size, size]."""
    rng = np.random.default_rng(0)
    photos = [*sklearn.datasets.load_sample_images().images, skimage.data.astronaut(), skimage.data.coffee()]
    x = np.empty((count, 3, size, size), "f4")
    y = np.empty((count, size, size), "u1")
    for i in range(count):
        photo = photos[i % len(photos)]
        top, left = (int(rng.integers(0, n - size)) for n in photo.shape[:2])
        crop = photo[top : top + size, left : left + size].astype("f4") / 255
        y[i] = np.digitize(crop.mean(-1), np.arange(1, LEVELS) / LEVELS)
        noisy = (crop - 0.5) / 0.25 + rng.normal(0, 0.5, crop.shape)
        x[i] = noisy.transpose(2, 0, 1)
    return x, y


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


class Net(nn.Module):
    """An encoder, a decoder with a connection across, dropout between, and a class for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.encode = block(3, 16)
        self.deeper = nn.Sequential(nn.MaxPool2d(2), block(16, 32), nn.MaxPool2d(2), block(32, 32), nn.Dropout(0.2))
        self.decode = nn.Sequential(nn.Upsample(scale_factor=4), block(32, 16))
        self.head = nn.Conv2d(32, LEVELS, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        early = self.encode(x)
        late = self.decode(self.deeper(early))
        out: torch.Tensor = self.head(torch.cat([early, late], 1))
        return out


def train(epochs: Iterator[Iterator[dict[str, Any]]]) -> list[float]:
    """The mean loss of each epoch."""
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    losses = []
    for batches in epochs:
        total, steps = 0.0, 0
        for batch in batches:
            loss = nn.functional.cross_entropy(net(batch["x"]), batch["y"].long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total, steps = total + loss.item(), steps + 1
        losses.append(total / steps)
    return losses


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--samples", type=int, default=4096)
    parser.add_argument("--epochs", type=int, default=5)
    args = parser.parse_args()
    x, y = crops(args.samples)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "crops")
        with tensorshard.ShardWriter(path, quantize="int8", codec="zstd:3") as writer:
            writer.extend({"x": x, "y": y})
        stored = writer.finish()["stored_bytes"]
        print(
            f"{args.samples} samples: {(x.nbytes + y.nbytes) / 1e6:.1f} MB in memory, {stored / 1e6:.1f} MB in shards"
        )
        options: dict[str, Any] = {"batch_size": 64, "shuffle": True, "seed": 0, "output": "torch", "drop_last": True}

        def from_shards() -> Iterator[Iterator[dict[str, Any]]]:
            loader = tensorshard.Loader(path, **options)
            for _ in range(args.epochs):
                yield iter(loader)

        def from_memory() -> Iterator[Iterator[dict[str, Any]]]:
            # The same order: only the samples' indices come from the loader.
            loader = tensorshard.Loader(path, fields=["y"], sample_ids=True, **options)
            arrays = {"x": torch.from_numpy(x), "y": torch.from_numpy(y)}
            for _ in range(args.epochs):
                yield ({name: array[batch["sample_ids"]] for name, array in arrays.items()} for batch in loader)

        start = time.perf_counter()
        memory = train(from_memory())
        middle = time.perf_counter()
        shards = train(from_shards())
        end = time.perf_counter()
    print(f"{'epoch':>5} {'f32 in memory':>14} {'int8 shards':>12}")
    for epoch, (a, b) in enumerate(zip(memory, shards, strict=True)):
        print(f"{epoch:>5} {a:>14.4f} {b:>12.4f}")
    print(f"{'':>5} {middle - start:>12.1f} s {end - middle:>10.1f} s")


if __name__ == "__main__":
    main()
