"""What the processes of a notebook use while it runs: memory, cores and, where there is one, the GPU."""

import contextlib
import shutil
import subprocess
import time

import psutil

GPU_SECONDS = 5.0  # between two looks at the GPU, each of which starts a process


class Meter:
    """Looks at a process and all that it started; `memory_bytes` is the most that they held together at any look.

    A peak between two looks is missed; so is the processor time of a process that began and ended between them.
    """

    def __init__(self):
        self.memory_bytes = 0
        self._processor: dict[int, float] = {}  # process id -> seconds
        self._gpu: list[float] = []
        self._next_gpu = 0.0 if shutil.which("nvidia-smi") else float("inf")

    def look(self, pid: int) -> None:
        """Measure once. A process that has just ended is no error."""
        held = 0
        with contextlib.suppress(psutil.Error):
            parent = psutil.Process(pid)
            for process in [parent, *parent.children(recursive=True)]:
                with contextlib.suppress(psutil.Error):
                    held += process.memory_info().rss
                    times = process.cpu_times()
                    self._processor[process.pid] = times.user + times.system
        self.memory_bytes = max(self.memory_bytes, held)
        if time.monotonic() >= self._next_gpu:
            self._next_gpu = time.monotonic() + GPU_SECONDS
            self._gpu += gpu_use()

    def means(self, seconds: float) -> dict:
        """The fields of a `runner.Result`: peak memory, mean cores in use, mean share of the GPU in use."""
        cores = round(sum(self._processor.values()) / seconds, 2) if seconds else None
        gpu = round(sum(self._gpu) / len(self._gpu), 3) if self._gpu else None
        return {"peak_memory_bytes": self.memory_bytes or None, "cores_used": cores, "gpu_used": gpu}


def gpu_use() -> list[float]:
    """How busy the GPUs are on average, from 0 to 1, as nvidia-smi says; empty where it says nothing."""
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    try:
        lines = subprocess.run(command, capture_output=True, text=True, timeout=5, check=True).stdout.split()
        values = [float(line) / 100 for line in lines]
    except (OSError, subprocess.SubprocessError, ValueError):
        return []
    return [sum(values) / len(values)] if values else []
