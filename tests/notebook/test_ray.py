"""A batch on a Ray cluster of two nodes on this machine, one of which is lost while it works."""

import csv
import json
import threading
import time

import pytest
from small_notebooks import count_runs, run, runs, write

from nbhelpers.notebook import report
from nbhelpers.notebook.plan import grid

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster(monkeypatch):
    """Two nodes with a core each: `(cluster, the second node)`."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    second = cluster.add_node(num_cpus=1, env_vars={"SECOND_NODE": "1"})
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    yield cluster, second
    cluster.shutdown()


def test_a_lost_machine_s_run_is_begun_anew_elsewhere(cluster, tmp_path):
    nodes, second = cluster
    waits = f"""
import os, pathlib, time
while os.environ.get("SECOND_NODE"):
    pathlib.Path({str(tmp_path / "second")!r}).touch()
    time.sleep(0.1)
"""
    has_reference = """
from nbhelpers.core import storage
assert (storage.repository_root() / "outputs" / "reference" / "README.md").exists(), "studies are shown from there"
"""
    path = write(tmp_path, "01_a", count_runs(tmp_path / "ran"), waits, has_reference)

    def lose() -> None:
        while not (tmp_path / "second").exists():  # what the second node has begun it will never end
            time.sleep(0.2)
        nodes.remove_node(second, allow_graceful=False)

    killer = threading.Thread(target=lose)
    killer.start()
    results = run([path], tmp_path / "out", points=grid(["max_steps=1,2,3,4"]), jobs=4, executor="ray")
    killer.join()
    points = [f"max_steps-{i}" for i in range(1, 5)]
    assert [(result.point, result.status) for result in results] == [(point, "completed") for point in points]
    assert runs(tmp_path / "ran") == 5  # the lost one twice
    entries = json.loads((tmp_path / "out" / "default" / "suite.json").read_text())
    assert sorted(entry["point"] for entry in entries) == points
    report.write_index(tmp_path / "out" / "default")
    with open(tmp_path / "out" / "default" / "results.csv", newline="") as file:
        assert sorted(row["point"] for row in csv.DictReader(file)) == points
    for i, point in enumerate(points, 1):
        folder = tmp_path / "out" / "default" / point / "01_a"
        assert json.loads((folder / "metrics.json").read_text())["metrics"]["result"]["value"] == pytest.approx(
            1e-3 * i
        )
        assert (folder / "01_a.ipynb").exists()
