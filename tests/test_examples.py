# SPDX-License-Identifier: Apache-2.0
"""Every example runs as a user would run it, README's too."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from peers import peer

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NEEDS = {"train_digits": "sklearn"}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_runs(path):
    if needed := NEEDS.get(path.stem):
        peer(needed)
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert done.stdout
    assert not done.stderr


def test_readme():
    text = (ROOT / "README.md").read_text()
    assert "FILL-ME" not in text, "figures that are still to be measured"
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert examples
    for example in examples:
        exec(example, {})
