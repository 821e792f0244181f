"""What this machine is and can do: processor, cores, memory, GPU, and the precision to compute in."""

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")
CORES = "NBHELPERS_CORES"  # in the environment of a job that has some of the cores to itself: how many


@dataclass(frozen=True)
class Hardware:
    """One machine as a run sees it. Memory in bytes; `gpu_memory` is 0 without a GPU."""

    cpu: str
    cores: int
    memory: int
    gpu: str | None
    gpu_memory: int
    platform: str

    @property
    def device(self) -> str:
        return "cuda" if self.gpu else "cpu"


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cgroup_memory() -> tuple[int | None, int]:
    """`(limit, used)` of this process's control group in bytes; the limit is None outside one.

    The kernel counts the files it keeps in memory (a model just read, say) as used, and gives them back when asked.
    """
    version_2 = ("memory.max", "memory.current", "memory.stat")
    version_1 = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat")
    for limit, used, stat in (version_2, version_1):
        if (CGROUP / limit).exists() and (text := (CGROUP / limit).read_text().strip()) != "max":
            fields = dict(line.split() for line in (CGROUP / stat).read_text().splitlines())
            files = sum(int(fields.get(name, 0)) for name in ("active_file", "inactive_file"))
            return int(text), int((CGROUP / used).read_text()) - files
    return None, 0


def memory_free(device: str = "cpu") -> int:
    """Bytes that a new allocation could take: of the GPU, or of RAM within the container's limit."""
    if device == "cuda":
        import torch

        return torch.cuda.mem_get_info()[0]
    import psutil

    limit, used = _cgroup_memory()
    available = psutil.virtual_memory().available
    return available if limit is None else max(0, min(available, limit - used))


def detect() -> Hardware:
    """Look at the machine. Cores and memory are those this process may use, not those of the host."""
    import psutil
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit, _ = _cgroup_memory()
    total = psutil.virtual_memory().total
    gpu = torch.cuda.get_device_properties(0) if torch.cuda.is_available() else None
    return Hardware(
        cpu=_cpu_name(),
        cores=cores,
        memory=min(total, limit or total),
        gpu=gpu.name if gpu else None,
        gpu_memory=gpu.total_memory if gpu else 0,
        platform=f"{platform.system()} {platform.machine()}",
    )


def _milliseconds_of_product(dtype, size: int = 384, repeats: int = 5) -> float:
    import torch

    a = torch.ones(size, size, dtype=dtype)
    a @ a  # the first product pays for setting up the kernel
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        a @ a
        times.append((time.perf_counter() - start) * 1e3)
    return min(times)


def precision(machine: Hardware) -> str:
    """The dtype name to compute in: by capability on a GPU (a T4 has no bfloat16), by a probe of milliseconds on a CPU.

    bfloat16 pays on a CPU only where it has matrix units for it (AVX512_BF16, AMX); elsewhere it is slower
    than float32, and the probe sees that.
    """
    import torch

    if machine.gpu:
        return "bfloat16" if torch.cuda.get_device_capability()[0] >= 8 else "float16"
    ratio = _milliseconds_of_product(torch.float32) / _milliseconds_of_product(torch.bfloat16)
    return "bfloat16" if ratio > 1.2 else "float32"
