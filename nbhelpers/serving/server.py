"""An OpenAI-compatible server of a model folder, as a child process: waited for until it answers, and always stopped.

    with server.serve(server.transformers_command(folder, "float32"), log) as running:
        client = openai.OpenAI(base_url=f"{running.url}/v1", api_key="none")

It listens on this machine alone.
"""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from nbhelpers.core.errors import ModelError, ResourceError
from nbhelpers.core.storage import read_json, repository_root
from nbhelpers.serving import child

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Server:
    """A server that answers. `process` is the one that watches over it."""

    url: str
    process: subprocess.Popen
    log: Path

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None


def transformers_command(folder: Path, dtype: str, device: str = "cpu") -> Callable[[int], list[str]]:
    """`port -> command` of `transformers serve` for a model folder.

    Raises ModelError where the folder has no chat template: every request would fail.
    """
    folder = Path(folder)
    inside = (read_json(folder / "tokenizer_config.json") or {}).get("chat_template")
    if not inside and not (folder / "chat_template.jinja").exists():
        raise ModelError(f"{folder.name} has no chat template: save the tokenizer that the model was trained with.")
    program = Path(sys.executable).with_name("transformers")
    options = ["--device", device, "--dtype", dtype, "--host", HOST]
    return lambda port: [str(program), "serve", str(folder), *options, "--port", str(port)]


def free_port() -> int:
    """A port of this machine on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]


@contextlib.contextmanager
def serve(
    command: Callable[[int], list[str]], log: Path, port: int = 0, seconds: float = 300.0, health: str = "/health"
) -> Iterator[Server]:
    """Start a server, wait until it is healthy, and stop it at the end of the block, whatever happens there.

    Args:
        command: `port -> command`.
        log: file for what the server prints.
        port: 0 takes a free one.
        seconds: to wait for the first healthy answer.
        health: path that answers 200 once the model is loaded.

    Raises:
        ResourceError: the port is in use, or the server ended or was not healthy in time; says what it printed last.
    """
    port = _checked(port) if port else free_port()
    log = Path(log)
    log.parent.mkdir(parents=True, exist_ok=True)
    search_path = os.pathsep.join(filter(None, (str(repository_root()), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": search_path, "PYTHONUNBUFFERED": "1"}
    watched = [sys.executable, "-m", child.__name__, str(os.getpid()), *command(port)]
    with open(log, "wb") as stream:
        process = subprocess.Popen(watched, stdout=stream, stderr=stream, env=environment, start_new_session=True)
    try:
        url = f"http://{HOST}:{port}"
        _wait(url + health, process, log, seconds)
        yield Server(url, process, log)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.end(psutil.Process(process.pid))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what is left where the watcher itself was killed
        process.wait()


def _checked(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ResourceError(
                f"port={port} is in use ({error.strerror}). Take another one, or 0 for a free one."
            ) from None
    return port


def _wait(url: str, process: subprocess.Popen, log: Path, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if process.poll() is not None:
            raise ResourceError(f"The server ended with code {process.returncode} before it answered. {_last(log)}")
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            if answer.status == 200:
                return
        time.sleep(0.2)
    raise ResourceError(f"The server was not healthy within {seconds:g} s ({url}). {_last(log)}")


def _last(log: Path) -> str:
    lines = [line for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return (
        f"It printed last: {lines[-1].strip()[:300]} (all of it is in {log.name})" if lines else "It printed nothing."
    )
