"""Results copied to an address that outlives the machine: a mounted folder, or anything else that fsspec knows."""

from pathlib import Path

import fsspec

from nbhelpers.core.errors import NotebookError

LEFT_OUT = "checkpoint-"  # folders that begin so stay: they are large, and of no use once a run has ended


def copy(folder: Path, address: str, files: list[str] | None = None) -> int:
    """Copy a folder, or some of its files, to an address, and return how many files that were.

    Args:
        address: such as `s3://bucket/runs/sweep`, or a path.

    Raises:
        NotebookError: the address cannot be used, or written to.
    """
    wanted = [folder / name for name in files] if files else sorted(folder.rglob("*"))
    names = {path: path.relative_to(folder) for path in wanted if path.is_file()}
    wanted = [path for path, name in names.items() if not any(part.startswith(LEFT_OUT) for part in name.parts)]
    try:
        system, root = fsspec.core.url_to_fs(address)
        for path in wanted:
            target = f"{root.rstrip('/')}/{path.relative_to(folder).as_posix()}"
            system.makedirs(target.rpartition("/")[0], exist_ok=True)
            system.put_file(str(path), target)
    except (ImportError, ValueError, OSError) as error:
        raise NotebookError(f"{address} cannot be copied to: {error}. Check the address and its credentials.") from None
    return len(wanted)
