"""A DataLoader in every way to start its workers: run as a program, for each combination in a process of its own.

usage: dataloader_matrix.py PATH NUM_WORKERS fork|spawn|forkserver before|after TIMES
"""

from __future__ import annotations

import multiprocessing
import sys

import numpy as np
import torch
from torch.utils.data import DataLoader

import tensorshard
import tensorshard.torch


def main() -> None:
    path, workers, method, when, times = sys.argv[1:]
    num_workers = int(workers)
    context = multiprocessing.get_context(method) if num_workers else None
    if method == "forkserver":
        # Its server imports torch once, and not each worker again.
        multiprocessing.set_forkserver_preload(["tensorshard.torch"])
    loader = iterator = first = None
    if when == "before":
        # Threads run, locks are taken, memory is out when the process forks.
        loader = tensorshard.Loader(path, batch_size=16, shuffle=True)
        iterator = iter(loader)
        first = next(iterator)
    dataset = tensorshard.torch.IterableDataset(path, batch_size=16, shuffle=True)
    mapped = tensorshard.torch.Dataset(path)
    mapped[0]
    expected = list(range(len(mapped)))
    for epoch in range(int(times)):
        dataset.set_epoch(epoch)
        found: list[int] = []
        for batch in DataLoader(dataset, batch_size=None, num_workers=num_workers, multiprocessing_context=context):
            assert batch["x"].shape[1:] == (4, 8, 8)
            assert torch.equal(batch["x"][:, 0, 0, 0], batch["id"].to(torch.float32))
            found += batch["id"].tolist()
        assert sorted(found) == expected, "IterableDataset"
        if epoch > 0:
            continue
        found = []
        for batch in DataLoader(
            mapped, batch_size=20, shuffle=True, num_workers=num_workers, multiprocessing_context=context
        ):
            found += batch["id"].tolist()
        assert sorted(found) == expected, "Dataset"
    if when == "before":
        assert iterator is not None and first is not None and loader is not None
        ids = [*first["id"], *(i for batch in iterator for i in batch["id"])]
    else:
        loader = tensorshard.Loader(path, batch_size=16, shuffle=True)
        ids = [i for batch in loader for i in batch["id"]]
    assert sorted(np.asarray(ids).tolist()) == expected, "Loader"
    print("ok")


if __name__ == "__main__":
    main()
