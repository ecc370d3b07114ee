"""Forks, interrupts and the end of the interpreter: correct data or a clear error, and never a hang."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import FULL, run_python

TIMES = 100 if FULL else 6

FORK = """
import os, sys, tensorshard
path = sys.argv[1]
loader = tensorshard.Loader(path, batch_size=16, shuffle=True)
dataset = tensorshard.Dataset(path)
dataset[3]
iterator = iter(loader)
first = next(iterator)
kept = first["x"][2:4]
expected = kept.copy()
writer = tensorshard.ShardWriter(path + "-forked")
writer.extend({"x": expected})
child = os.fork()
if child == 0:
    code = 1
    try:
        try:
            next(iterator)
        except tensorshard.ForkError as error:
            assert "made before the process forked" in str(error)
        else:
            raise SystemExit("no ForkError of the iterator")
        try:
            writer.append({"x": expected[0]})
        except tensorshard.ForkError:
            pass
        else:
            raise SystemExit("no ForkError of the writer")
        assert (kept == expected).all()
        del first, kept, iterator, writer
        loader.set_epoch(0)
        ids = sorted(int(i) for batch in loader for i in batch["id"])
        assert ids == list(range(300))
        assert dataset[7]["id"] == 7
        del loader, dataset
        code = 0
    finally:
        sys.stdout.flush()
        os._exit(code)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 0
ids = sorted([int(i) for i in first["id"]] + [int(i) for batch in iterator for i in batch["id"]])
assert ids == list(range(300))
# The child's copy of the writer took nothing away.
assert writer.finish()["num_samples"] == 2
"""


def test_a_forked_process_goes_on_with_loaders_and_not_with_iterators(latents: Path, tmp_path: Path) -> None:
    for i in range(TIMES):
        path = tmp_path / f"{i}"
        path.symlink_to(latents)
        done = run_python(FORK, str(path), timeout=60)
        assert (done.returncode, done.stderr) == (0, "")


EXIT = """
import sys, threading, tensorshard
path, how = sys.argv[1:]
loader = tensorshard.Loader(path, batch_size=4, shuffle=True, num_workers=2)
iterator = iter(loader)
batch = next(iterator)
held = [next(iterator) for _ in range(3)]
if how == "cycle":
    held.append(held)
if how == "thread":
    def read():
        while True:
            for _ in loader:
                pass
    threading.Thread(target=read, daemon=True).start()
    import time
    time.sleep(0.02)
if how == "writer":
    writer = tensorshard.ShardWriter(path + "-left")
    writer.extend({"x": batch["x"]})
if how == "raise":
    raise SystemExit(0)
"""


@pytest.mark.parametrize("how", ["plain", "cycle", "thread", "writer", "raise"])
def test_the_interpreter_ends_with_live_iterators(how: str, latents: Path, tmp_path: Path) -> None:
    path = tmp_path / "d"
    path.symlink_to(latents)
    for _ in range(max(1, TIMES // 4) if how != "plain" else TIMES):
        done = run_python(EXIT, str(path), how, timeout=60)
        assert (done.returncode, done.stderr) == (0, "")
    assert not Path(f"{path}-left").exists() or how != "writer" or not list(Path(f"{path}-left").glob("manifest.tsm"))


# What runs in the background of a shell is started with interrupts ignored.
HEED = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"

INTERRUPT = """
import sys, tensorshard
path = sys.argv[1]
loader = tensorshard.Loader(path, batch_size=int(sys.argv[2]), shuffle=True)
try:
    print("ready", flush=True)
    while True:
        for batch in loader:
            batch["x"].sum()
except KeyboardInterrupt:
    pass
print("interrupted", flush=True)
ids = sorted(int(i) for batch in loader for i in batch["id"])
assert ids == list(range(300))
print("again", flush=True)
"""


def interrupted(code: str, *args: str, delay: float) -> tuple[int, str, str]:
    """Runs a program that says `ready`, and interrupts it after that."""
    with subprocess.Popen(
        [sys.executable, "-c", HEED + code, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        return process.returncode, out, err


def test_an_interrupt_at_any_moment_leaves_a_process_that_iterates_again(latents: Path) -> None:
    rng = random.Random(0)
    for _ in range(TIMES):
        code, out, err = interrupted(INTERRUPT, str(latents), str(rng.choice([1, 16, 300])), delay=rng.uniform(0, 0.1))
        assert (code, out.split(), err) == (0, ["interrupted", "again"], "")


CONVERT = """
import os, sys, numpy as np, tensorshard
folder = sys.argv[1]
try:
    print("ready", flush=True)
    while True:
        tensorshard.convert(os.path.join(folder, "x.npy"), os.path.join(folder, "out"), codec="zstd:19", overwrite=True)
        os.rename(os.path.join(folder, "out", "manifest.tsm"), os.path.join(folder, "out", "old"))
except KeyboardInterrupt:
    pass
if os.path.exists(os.path.join(folder, "out", "manifest.tsm")):
    # It was done when the interrupt came.
    assert tensorshard.verify(os.path.join(folder, "out"))["intact"]
    assert len(tensorshard.Dataset(os.path.join(folder, "out"))) == 3000
    print("whole")
else:
    print("nothing")
"""


def test_an_interrupted_convert_commits_nothing_or_all(tmp_path: Path) -> None:
    import numpy as np

    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((3000, 1000)).astype("f4"))
    for i in range(max(1, TIMES // 10)):
        code, out, err = interrupted(CONVERT, str(tmp_path), delay=0.2 + 0.05 * i)
        assert (code, err) == (0, "")
        # The first comes long before the end.
        assert out.strip() in (["nothing"] if i == 0 else ["nothing", "whole"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(
    ("num_workers", "method"),
    # Without workers, no process is started.
    [(0, "fork"), *((n, method) for n in (1, 2) for method in ("fork", "spawn", "forkserver"))],
)
def test_dataloader_gives_each_sample_once(num_workers: int, method: str, when: str, latents: Path) -> None:
    pytest.importorskip("torch")
    times = 20 if FULL else 1
    program = Path(__file__).with_name("dataloader_matrix.py")
    done = subprocess.run(
        [sys.executable, str(program), str(latents), str(num_workers), method, when, str(times)],
        capture_output=True,
        text=True,
        timeout=120 + 60 * times,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "ok\n"), done.stderr
