"""What surrounds a run: disk, network, driver, versions; each is a fact to print, and none an error."""

import platform
import shutil
import socket
import subprocess
from importlib import metadata
from pathlib import Path

HOSTS = {"package index": "pypi.org", "Hugging Face Hub": "huggingface.co"}
PACKAGES = ("torch", "transformers", "peft", "trl", "bitsandbytes", "datasets", "accelerate", "papermill", "jupyterlab")


def reachable(host: str, port: int = 443, seconds: float = 2.0) -> bool:
    """Whether a connection to a host opens within some seconds; False without a network, never an error."""
    try:
        with socket.create_connection((host, port), timeout=seconds):
            return True
    except OSError:
        return False


def driver_version() -> str | None:
    """Of the NVIDIA driver, as nvidia-smi says; None where there is none."""
    command = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=True).stdout.split("\n")[0]
    except (OSError, subprocess.SubprocessError):
        return None


def versions(packages: tuple[str, ...] | None = None) -> dict[str, str]:
    """Python's and the packages', by name (None: those of PACKAGES); a package that is not installed says so."""
    found = {"python": platform.python_version()}
    for name in PACKAGES if packages is None else packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def disk_free(folder: Path | str) -> int:
    """Bytes free where `folder` is or will be."""
    place = Path(folder).absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def describe(machine, dtype: str, folder: Path | str) -> dict[str, str]:
    """One line for each fact about this machine: name -> what it is.

    Args:
        machine: of `hardware.detect`.
        dtype: to compute in, of `hardware.precision`.
        folder: where results are written.
    """
    import torch

    facts = {
        "processor": f"{machine.cpu}, {machine.cores} cores",
        "memory": f"{machine.memory / 2**30:.1f} GiB",
        "GPU": machine.gpu or "none: everything runs on the processor",
    }
    if machine.gpu:
        major, minor = torch.cuda.get_device_capability()
        facts["GPU memory"] = f"{machine.gpu_memory / 2**30:.1f} GiB"
        facts["GPU capability"] = f"{major}.{minor}, driver {driver_version() or 'unknown'}, CUDA {torch.version.cuda}"
    facts["computes in"] = dtype
    facts["disk"] = f"{disk_free(folder) / 2**30:.0f} GiB free"
    for name, host in HOSTS.items():
        facts[name] = "can be reached" if reachable(host) else "cannot be reached: the embedded model and text are used"
    return facts
