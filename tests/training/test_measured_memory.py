"""The predicted peak beside the measured one, of the real model in a process that does nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
@pytest.mark.parametrize(("length", "batch"), [(128, 2), (512, 4)])
@pytest.mark.parametrize("method", ["full", "lora", "qlora"])
def test_the_peak_is_predicted_within_a_tenth(method, length, batch):
    script = Path(__file__).with_name("measured_memory.py")
    command = [sys.executable, str(script), method, str(length), str(batch)]
    search_path = os.pathsep.join(filter(None, (str(script.parents[2]), os.environ.get("PYTHONPATH"))))
    child = subprocess.run(command, env=os.environ | {"PYTHONPATH": search_path}, capture_output=True, text=True)
    assert child.returncode == 0, child.stderr[-2_000:]
    both = json.loads(child.stdout.splitlines()[-1])
    error = both["predicted"] / both["measured"] - 1
    print(f"{method}, {batch} x {length}: {both['measured'] / 2**20:.0f} MiB measured, predicted {error:+.1%}")
    assert abs(error) < 0.1
