"""Caches tensors from a loop, looks at them, and reads them back in batches.

python python/examples/write_and_read.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np

import tensorshard


def main() -> None:
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "activations")
        # As in a script that runs a model: a batch of activations at a time. They are encoded in the background.
        with tensorshard.ShardWriter(path, quantize="int8", metadata={"layer": 12}) as writer:
            for step in range(50):
                activations = rng.standard_normal((128, 768)).astype("f4")
                writer.extend({"activation": activations, "step": np.full(128, step)})
        print(writer.progress())

        print(tensorshard.Dataset(path))
        print(tensorshard.Dataset(path)[17]["activation"][:4])
        for field in tensorshard.inspect(path)["fields"]:
            ratio, error = field["ratio"], field["max_abs_error"]
            print(f"{field['name']}: {field['encoding']}, ratio {ratio:.2f}, max error {error:.4f}")
        assert tensorshard.verify(path)["intact"]

        loader = tensorshard.Loader(path, batch_size=256, shuffle=True, seed=0)
        for epoch in range(2):
            total = sum(float(batch["activation"].mean()) for batch in loader)
            print(f"epoch {epoch}: mean {total / len(loader):.4f}")
        print(loader.stats()["why"])


if __name__ == "__main__":
    main()
