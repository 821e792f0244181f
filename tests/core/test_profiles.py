import csv
import dataclasses
import os
from pathlib import Path

import psutil
import pytest
import torch

from nbhelpers.core import hardware, parameters, profiles
from nbhelpers.core.errors import ParameterError

PRICES = Path(__file__).parents[2] / "data" / "gpu_prices.csv"


def machine(gpu: str | None, gigabytes: float = 0) -> hardware.Hardware:
    """As torch reports it: `gigabytes` is a little under what the card is sold as, in powers of ten over it."""
    return hardware.Hardware("CPU", 2, 8 * 2**30, gpu, int(gigabytes * 1e9), "Linux x86_64")


@pytest.mark.parametrize(
    ("gpu", "gigabytes", "expected"),
    [
        (None, 0, "cpu"),
        ("Tesla T4", 15.6, "t4"),
        ("Tesla V100-SXM2-16GB", 16.9, "t4"),
        ("NVIDIA L4", 23.6, "rtx4090"),
        ("NVIDIA GeForce RTX 4090", 25.3, "rtx4090"),
        ("NVIDIA A100-SXM4-40GB", 42.3, "a100"),
        ("NVIDIA A100-SXM4-80GB", 85.1, "a100"),
        ("NVIDIA H100 80GB HBM3", 85.0, "h100"),
        ("NVIDIA H200", 150.1, "h100"),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", 10.5, "t4"),
        ("NVIDIA H100 80GB HBM3 MIG 3g.40gb", 42.1, "a100"),
    ],
)
def test_auto_takes_the_profile_that_the_gpu_memory_carries(gpu, gigabytes, expected):
    assert profiles.choose("auto", machine(gpu, gigabytes)).name == expected


def test_auto_never_takes_a_smaller_profile_for_more_memory():
    order = list(profiles.PROFILES)
    ranks = [order.index(profiles.choose("auto", machine("A card", size)).name) for size in range(1, 100)]
    assert ranks == sorted(ranks)
    assert len(set(ranks)) == 3


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_a_named_profile_is_taken_on_any_machine(name):
    assert profiles.choose(name, machine(None)) is profiles.choose(name, machine("Tesla T4", 15.6))
    assert profiles.choose(name, machine(None)).name == name


def test_an_unknown_profile_is_refused_with_the_known_ones():
    with pytest.raises(ParameterError, match=r"profile='gpu' .*auto, smoke, cpu, t4, rtx4090, a100, h100"):
        profiles.choose("gpu", machine(None))


def control_group(folder: Path, version: int, limit: str, used: int, files: int = 0) -> Path:
    names = {2: ("memory.max", "memory.current", "memory.stat")}.get(
        version, ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "memory/memory.stat")
    )
    stat = f"anon {used - files}\nactive_file {files // 4}\ninactive_file {files - files // 4}\n"
    (folder / "memory").mkdir()
    for name, text in zip(names, (f"{limit}\n", f"{used}\n", stat), strict=True):
        (folder / name).write_text(text)
    return folder


@pytest.mark.parametrize("version", [1, 2])
def test_the_container_limit_is_respected(version, tmp_path, monkeypatch):
    limit, used = 64 * 2**20, 48 * 2**20
    monkeypatch.setattr(hardware, "CGROUP", control_group(tmp_path, version, str(limit), used))
    assert hardware.memory_free() == limit - used
    assert hardware.detect().memory == limit


@pytest.mark.parametrize("version", [1, 2])
def test_files_the_kernel_keeps_in_memory_count_as_free(version, tmp_path, monkeypatch):
    group = control_group(tmp_path, version, str(64 * 2**20), used=60 * 2**20, files=40 * 2**20)
    monkeypatch.setattr(hardware, "CGROUP", group)
    assert hardware.memory_free() == 44 * 2**20


def test_a_full_container_has_nothing_free(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "CGROUP", control_group(tmp_path, 2, "1000", used=2000))
    assert hardware.memory_free() == 0


@pytest.mark.parametrize(("version", "limit"), [(2, "max"), (1, str(2**63 - 4096))])
def test_a_container_without_a_limit_has_the_memory_of_the_machine(version, limit, tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "CGROUP", control_group(tmp_path, version, limit, used=2**20))
    assert hardware.detect().memory == psutil.virtual_memory().total
    now = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: now)  # other processes take and give back at any time
    assert hardware.memory_free() == now.available


def test_hardware_counts_the_cores_this_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3}, raising=False)
    assert hardware.detect().cores == 1


def test_the_precision_probe_names_a_dtype():
    assert hardware.precision(machine(None)) in ("float32", "bfloat16")


@pytest.mark.parametrize(("bfloat16", "expected"), [(1.0, "bfloat16"), (2.4, "float32"), (9.0, "float32")])
def test_a_cpu_computes_in_bfloat16_only_where_it_is_clearly_faster(bfloat16, expected, monkeypatch):
    milliseconds = {torch.float32: 2.5, torch.bfloat16: bfloat16}
    monkeypatch.setattr(hardware, "_milliseconds_of_product", milliseconds.get)
    assert hardware.precision(machine(None)) == expected


@pytest.mark.parametrize(("capability", "expected"), [((7, 5), "float16"), ((8, 0), "bfloat16"), ((9, 0), "bfloat16")])
def test_a_gpu_without_bfloat16_computes_in_float16(capability, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    assert hardware.precision(machine("A card", 16)) == expected


@pytest.mark.parametrize("profile", profiles.PROFILES.values(), ids=lambda profile: profile.name)
def test_every_value_of_a_profile_is_usable(profile):
    values = dataclasses.asdict(profile)
    assert all(value > 0 for value in values.values() if isinstance(value, int | float) and value is not False)
    assert all(value for value in values.values() if isinstance(value, str))
    assert profile.check_dtype in ("float32", "bfloat16", "float16")
    limited = values.keys() & parameters.LIMITS.keys()
    assert {"max_length", "max_steps", "learning_rate"} <= limited
    declared = {name: parameters.Parameter(name, type(values[name]).__name__, values[name]) for name in limited}
    parameters.check_parameters(declared, [], values)


@pytest.mark.parametrize("profile", profiles.PROFILES.values(), ids=lambda profile: profile.name)
def test_every_profile_has_a_price_with_source_and_date(profile):
    with open(PRICES, encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["name"] == profile.price]
    assert len(rows) == 1
    assert float(rows[0]["dollars_per_hour"]) > 0
    assert rows[0]["source"].startswith("https://")
    assert rows[0]["date"]


def test_the_answer_fits_behind_the_prompt():
    assert all(profile.max_new_tokens < profile.max_length for profile in profiles.PROFILES.values())
