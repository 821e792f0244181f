"""Memory of this process or GPU: what is in use, its peak over a block, and giving it back."""

import contextlib
import ctypes
import gc
import threading
from dataclasses import dataclass
from pathlib import Path


def is_exhausted(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the machine."""
    import torch

    says = ("can't allocate memory", "out of memory", "not enough memory", "CUBLAS_STATUS_ALLOC_FAILED")
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or any(words in str(error) for words in says)


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


def keep_pages() -> None:
    """Have glibc keep the pages of freed tensors for the next ones, until `free` gives them back.

    By default it maps every large tensor afresh, and the kernel clears each page of it, at every operation of every
    step. Where there is another C library nothing is changed.
    """
    M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        if not libc.mallopt(M_MMAP_THRESHOLD, 2**30):
            libc.mallopt(M_MMAP_THRESHOLD, 2**25)  # the most that glibc took before 2.35
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def free() -> None:
    """Give memory back between variants: drop your own names first (`del model`), then call this."""
    gc.collect()
    import torch

    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def held(device: str = "cpu") -> int:
    """Bytes in use now, after what is free has been given back: of torch on a GPU, of the process on a CPU."""
    free()
    if device == "cuda":
        import torch

        return torch.cuda.memory_allocated()
    try:
        return _status("VmRSS")
    except OSError:
        import psutil

        return psutil.Process().memory_info().rss


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
    free()  # pages that are held, but not in use, would hide a part of the rise
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
