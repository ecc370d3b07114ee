"""Loading imports no pickle and runs no code found in data."""

from __future__ import annotations

from pathlib import Path

from conftest import run_python

import tensorshard

CODE = """
import sys, numpy, tensorshard
from pathlib import Path
events = []
def watch(event, args):
    if event in ("pickle.find_class", "exec", "compile", "marshal.loads", "marshal.load", "subprocess.Popen",
                 "os.system", "os.exec", "socket.connect", "ctypes.dlopen"):
        events.append((event, str(args)[:200]))
    if event == "import" and args[0] in ("pickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle"):
        events.append((event, args[0]))
for name in ("pickle", "_pickle", "_compat_pickle"):
    sys.modules.pop(name, None)
sys.addaudithook(watch)
path = sys.argv[1]
loader = tensorshard.Loader(path, shuffle="exact")
for _ in range(2):
    for batch in loader:
        pass
dataset = tensorshard.Dataset(path)
dataset[3], dataset[::7], dataset.metadata, dataset.fields
tensorshard.verify(path), tensorshard.inspect(path)
assert not events, events
assert "pickle" not in sys.modules
"""


def test_nothing_is_unpickled_or_executed(latents: Path) -> None:
    done = run_python(CODE, str(latents))
    assert (done.returncode, done.stderr) == (0, "")


def test_metadata_is_data(tmp_path: Path) -> None:
    evil = {"__reduce__": ["os.system", ["true"]], "py/object": "os.system", "text": "__import__('os')"}
    with tensorshard.ShardWriter(tmp_path / "d", metadata=evil) as writer:
        writer.append({"x": 1})
    assert tensorshard.Dataset(tmp_path / "d").metadata == evil
