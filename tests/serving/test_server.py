import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from nbhelpers.core.errors import ModelError, ResourceError
from nbhelpers.core.storage import repository_root
from nbhelpers.serving import load_test, server

FAKE = Path(__file__).with_name("fake_server.py")


def command(manner: str):
    return lambda port: [sys.executable, str(FAKE), str(port), manner]


def left_behind() -> list[int]:
    return [p.pid for p in psutil.process_iter(["cmdline"]) if str(FAKE) in (p.info["cmdline"] or [])]


@pytest.fixture(autouse=True)
def no_orphans():
    yield
    deadline = time.monotonic() + 20
    while (found := left_behind()) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not found


def test_it_answers_within_the_block_and_is_gone_behind_it(tmp_path):
    with server.serve(command("healthy"), tmp_path / "server.log") as running:
        assert running.is_running
        assert urllib.request.urlopen(f"{running.url}/health", timeout=5).status == 200
    assert not running.is_running
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"{running.url}/health", timeout=5)


@pytest.mark.parametrize("raised", [RuntimeError, KeyboardInterrupt])
def test_it_is_stopped_when_the_block_fails(tmp_path, raised):
    with pytest.raises(raised), server.serve(command("healthy"), tmp_path / "server.log"):
        raise raised


def test_a_server_that_ends_at_once_says_what_it_printed(tmp_path):
    with (
        pytest.raises(ResourceError, match=r"ended with code 3 .*no chat template in this folder"),
        server.serve(command("dies"), tmp_path / "server.log"),
    ):
        pass


def test_a_server_that_is_never_healthy_is_given_up(tmp_path):
    with (
        pytest.raises(ResourceError, match="not healthy within 3 s"),
        server.serve(command("deaf"), tmp_path / "server.log", seconds=3),
    ):
        pass


def test_a_port_in_use_is_named(tmp_path):
    with socket.socket() as taken:
        taken.bind((server.HOST, 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(ResourceError, match=f"port={port} is in use"),
            server.serve(command("healthy"), tmp_path / "server.log", port=port),
        ):
            pass


def test_a_server_that_is_killed_is_seen(tmp_path):
    with server.serve(command("healthy"), tmp_path / "server.log") as running:
        os.kill(left_behind()[-1], signal.SIGKILL)
        running.process.wait(10)
        assert not running.is_running


def test_a_server_that_is_killed_under_load_leaves_counted_errors(tmp_path):
    prompts = [[{"role": "user", "content": "a"}]] * 4
    with server.serve(command("healthy"), tmp_path / "server.log") as running, ThreadPoolExecutor(1) as pool:
        load = pool.submit(load_test.run, running.url, "m", prompts, 2, 400)
        time.sleep(1)
        os.kill(left_behind()[-1], signal.SIGKILL)
        found = load.result(60)
    assert found.errors == len(found.requests) == 4
    assert found.tokens_per_second == 0
    assert load_test.table([found], 1.0).loc[2, "errors"] == 4


def test_a_folder_without_a_template_is_refused_before_a_server_starts(tmp_path):
    with pytest.raises(ModelError, match="has no chat template"):
        server.transformers_command(tmp_path, "float32")


def test_a_kernel_that_is_killed_leaves_no_server_behind(tmp_path):
    script = textwrap.dedent(f"""
        import sys, time
        from pathlib import Path
        from nbhelpers.serving import load_test, server
        command = lambda port: [sys.executable, {str(FAKE)!r}, str(port), "healthy"]
        with server.serve(command, Path({str(tmp_path)!r}) / "server.log"):
            print("ready", flush=True)
            time.sleep(60)
    """)
    environment = os.environ | {"PYTHONPATH": str(repository_root())}
    kernel = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
    assert kernel.stdout.readline().strip() == "ready"
    assert left_behind()
    kernel.kill()
    kernel.wait()  # `no_orphans` looks for the server
