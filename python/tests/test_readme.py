"""The Python code of the README runs, block after block, in one folder."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parents[1] / "README.md"


def test_the_code_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "readme"}
    blocks = re.findall(r"^```python\n(.*?)^```$", README.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 9
    for block in blocks:
        needs = re.match(r"# needs: (\w+)", block)
        if needs and importlib.util.find_spec(needs[1]) is None:
            continue
        exec(compile(block, "README.md", "exec"), names)
