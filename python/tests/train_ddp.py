"""One rank of a training by torch.distributed.run: goes on from the last checkpoint, and logs what it trains on."""

import json
import os
import sys
import time
from pathlib import Path

import torch
import torch.distributed

import tensorshard


def main() -> None:
    dataset, folder = Path(sys.argv[1]), Path(sys.argv[2])
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    (folder / f"{os.getpid()}.pid").touch()
    torch.manual_seed(0)
    model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(256, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)
    loader = tensorshard.Loader(
        dataset, shuffle=True, seed=1, global_batch_size=12, output="torch", sample_ids=True, num_workers=1
    )
    checkpoints = sorted(folder.glob("step-*.json"), key=lambda path: int(path.stem.split("-")[1]))
    step = 0
    if checkpoints:
        step = int(checkpoints[-1].stem.split("-")[1])
        loader.load_state_dict(json.loads(checkpoints[-1].read_text()))
    torch.distributed.barrier()
    with (folder / f"{loader.world_size}-{rank}.log").open("w") as log:
        for batch in loader:
            optimizer.zero_grad()
            loss = model(batch["x"].flatten(1)).square().mean()
            loss.backward()
            optimizer.step()
            log.write(f"{step} {rank} {json.dumps(batch['sample_ids'].tolist())}\n")
            log.flush()
            step += 1
            # Every rank has logged this step before it counts.
            torch.distributed.barrier()
            if rank == 0:
                temporary = folder / "new.json"
                temporary.write_text(json.dumps(loader.state_dict()))
                temporary.rename(folder / f"step-{step}.json")
            time.sleep(0.05)
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
