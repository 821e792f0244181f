"""The benchmark of GPU memory, on this machine with a tiny model."""

import csv
import subprocess
import sys

from nbhelpers.core.storage import repository_root


def test_it_measures_beside_the_prediction_and_writes_a_table(tmp_path):
    script = repository_root() / "benchmarks" / "gpu_memory.py"
    command = [sys.executable, str(script), "--models", "tiny", "--rows", "2", "--minutes", "30", "--out", "m.csv"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=1_800)
    assert done.returncode == 0, done.stderr
    with open(tmp_path / "m.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["lora", "full"]
    assert all(int(row["measured"]) > 0 and int(row["predicted"]) > 0 for row in rows)
    assert all(float(row["tokens_per_second"]) > 0 for row in rows)
    assert {row["checkpointing"] for row in rows} == {"True"}
