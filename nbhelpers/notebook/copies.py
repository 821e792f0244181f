"""Results copied to an address that outlives the machine: a mounted folder, or anything else that fsspec knows."""

import tempfile
from pathlib import Path

import fsspec

from nbhelpers.core.errors import NotebookError

LEFT_OUT = "checkpoint-"  # folders that begin so stay: they are large, and of no use once a run has ended


def copy(folder: Path, address: str, without: str = LEFT_OUT) -> int:
    """Copy a folder to an address, and return how many files that were.

    Args:
        address: such as `s3://bucket/runs/sweep`, or a path.
        without: how the names of folders begin that stay.

    Raises:
        NotebookError: the address cannot be used, or written to.
    """
    names = [path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()]
    names = [name for name in names if not any(part.startswith((without, ".")) for part in name.parts)]
    try:
        system, root = fsspec.core.url_to_fs(address)
        for name in names:
            target = f"{root.rstrip('/')}/{name.as_posix()}"
            system.makedirs(target.rpartition("/")[0], exist_ok=True)
            system.put_file(str(folder / name), target)
    except Exception as error:  # each file system has its own kinds
        said = f"{type(error).__name__}: {error}"
        raise NotebookError(f"{address} cannot be copied to ({said}). Check the address and its credentials.") from None
    return len(names)


def fetch(address: str, folder: Path) -> int:
    """Bring back what was copied to an address, and return how many files that were; 0 where nothing lies there.

    Raises:
        NotebookError: the address cannot be used, or read.
    """
    try:
        system, root = fsspec.core.url_to_fs(address)
        names = system.find(root) if system.exists(root) else []
        for name in names:
            target = folder / name[len(root.rstrip("/")) + 1 :]
            target.parent.mkdir(parents=True, exist_ok=True)
            system.get_file(name, str(target))
    except Exception as error:  # each file system has its own kinds
        said = f"{type(error).__name__}: {error}"
        raise NotebookError(f"{address} cannot be read ({said}). Check the address and its credentials.") from None
    return len(names)


def check(address: str) -> None:
    """Raises NotebookError where nothing can be written to an address; it is tried with a small file."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "nbhelpers.txt").write_text("Results of nbhelpers come here.\n", encoding="utf-8")
        copy(Path(folder), address)
