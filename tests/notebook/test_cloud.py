"""The task files of `cloud/`: the suite reads its command in each, and SkyPilot and RunPod read theirs."""

import json
import os
import re
import shlex
import subprocess

import pytest
import yaml

from nbhelpers.core import storage
from nbhelpers.notebook.command_line import _parser

FOLDER = storage.repository_root() / "cloud"
FILES = sorted(path for path in FOLDER.iterdir() if path.suffix in (".json", ".yaml"))


def texts_of(value) -> list[str]:
    """All texts in the content of a file."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [text for part in value for text in texts_of(part)]
    return [value] if isinstance(value, str) else []


def read(path):
    return yaml.safe_load(path.read_text())  # JSON is YAML


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_the_suite_reads_its_own_command(path):
    commands = [text for text in texts_of(read(path)) if "-m nbhelpers run" in text]
    assert len(commands) == 1
    (line,) = re.findall(r"-m nbhelpers (run [^\n]*?)(?:'?\s*$)", commands[0], re.M)
    options = _parser().parse_args(shlex.split(line))
    assert options.retry == 1
    assert re.search(r"-r requirements.txt\b", " ".join(texts_of(read(path))))


def test_the_readme_names_every_file_and_no_other():
    text = (FOLDER / "README.md").read_text()
    assert set(re.findall(r"\]\(([\w.]+)\)", text)) == {path.name for path in FILES}


def checked(variable: str, code: str) -> str:
    """What a check prints in the environment of an SDK, which the named variable's interpreter has."""
    python = os.environ.get(variable)
    if not python:
        pytest.skip(f"{variable} names no interpreter")
    done = subprocess.run([python, "-c", code], cwd=FOLDER.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2_000:]
    return done.stdout


@pytest.mark.slow
def test_skypilot_reads_its_file():
    code = "import sky; t = sky.Task.from_yaml('cloud/skypilot.yaml'); print(t.name, [r.use_spot for r in t.resources])"
    code = code.replace("from_yaml('cloud/skypilot.yaml')", "from_yaml_config(CONFIG)")
    config = read(FOLDER / "skypilot.yaml") | {"envs": {"ADDRESS": "s3://bucket/runs", "NOTEBOOKS": "02"}}
    assert "nbhelpers [True, True, True]" in checked("SKYPILOT_PYTHON", f"CONFIG = {config!r}\n{code}")


@pytest.mark.slow
def test_runpod_takes_its_arguments():
    pod = json.loads((FOLDER / "runpod.json").read_text())
    code = f"import inspect, runpod; inspect.signature(runpod.create_pod).bind(**{pod!r}); print('bound')"
    assert "bound" in checked("RUNPOD_PYTHON", code)
