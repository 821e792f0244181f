"""Peak memory: measured, and predicted from a model's shape before anything is loaded."""

import contextlib
import threading
from dataclasses import dataclass
from pathlib import Path


@dataclass
class Peak:
    """Filled when the `peak` block ends. `bytes` is the highest rise over the memory in use when it began."""

    bytes: int = 0


def _status(field: str) -> int:
    """A field of this process's /proc status in bytes (VmRSS: resident now, VmHWM: its high-water mark)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise KeyError(field)


@contextlib.contextmanager
def peak(device: str = "cpu"):
    """Measure the peak memory of a block: `with peak("cpu") as p: ...`, then `p.bytes`.

    On a GPU it is what torch allocated there; on a CPU the resident memory of the process, from the kernel's
    high-water mark, which is reset first (`ru_maxrss` never falls), or where that is not possible from samples
    every 20 ms, which can miss a short peak.
    """
    result = Peak()
    if device == "cuda":
        import torch

        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield result
        torch.cuda.synchronize()
        result.bytes = max(0, torch.cuda.max_memory_allocated() - before)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        with _sampled(result):
            yield result
        return
    before = _status("VmRSS")
    yield result
    result.bytes = max(0, _status("VmHWM") - before)


@contextlib.contextmanager
def _sampled(result: Peak):
    import psutil

    process, stop = psutil.Process(), threading.Event()
    before = highest = process.memory_info().rss

    def watch() -> None:
        nonlocal highest
        while not stop.wait(0.02):
            highest = max(highest, process.memory_info().rss)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        result.bytes = max(0, max(highest, process.memory_info().rss) - before)
