"""Checkpoints kept on another machine too, for one that can be taken away: any address that fsspec knows.

`NBHELPERS_CHECKPOINTS` names the address, such as `s3://bucket/checkpoints` or a mounted folder. Each training has a
folder of its own there, named by its identity; the newest checkpoint in it is the only one. Its seal is copied last, so
that a half-copied checkpoint is known as such.
"""

import hashlib
import json
import os
from pathlib import Path

import fsspec

from nbhelpers.core.errors import ParameterError

ADDRESS = "NBHELPERS_CHECKPOINTS"
SEAL = "complete.json"


def _place(identity: dict[str, str]):
    """`(file system, folder)` of a training at the address; None where no address is set."""
    address = os.environ.get(ADDRESS)
    if not address:
        return None
    try:
        system, root = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        raise ParameterError(f"{ADDRESS}={address!r} cannot be used: {error}.") from None
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return system, f"{root.rstrip('/')}/{digest}"


def upload(checkpoint: Path, identity: dict[str, str]) -> None:
    """Copy a sealed checkpoint to the address, where one is set, then remove the one before it there."""
    place = _place(identity)
    if place is None:
        return
    system, folder = place
    before = system.ls(folder, detail=False) if system.exists(folder) else []
    target = f"{folder}/{checkpoint.name}"
    files = sorted((path for path in checkpoint.rglob("*") if path.is_file()), key=lambda path: path.name == SEAL)
    for path in files:
        name = f"{target}/{path.relative_to(checkpoint).as_posix()}"
        system.makedirs(name.rpartition("/")[0], exist_ok=True)
        system.put_file(str(path), name)
    for old in before:
        if old.rstrip("/").rpartition("/")[2] != checkpoint.name:
            system.rm(old, recursive=True)


def fetch(output_dir: Path, identity: dict[str, str]) -> list[str]:
    """Copy what is at the address into a training's folder, where it is not there yet; the names that were copied."""
    place = _place(identity)
    if place is None or not place[0].exists(place[1]):
        return []
    system, folder = place
    fetched = []
    for path in system.ls(folder, detail=False):
        name = path.rstrip("/").rpartition("/")[2]
        if not (output_dir / name).exists():
            system.get(path.rstrip("/") + "/", str(output_dir / name) + "/", recursive=True)
            fetched.append(name)
    return fetched
