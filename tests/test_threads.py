"""Threads wait without spinning, whether torch or kv_memory was imported first, unless the user says otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

AS_USER = """
import os, threading
from kv_memory.engines.threads import wait_passively
wait_passively()
print(os.environ.get("OMP_WAIT_POLICY"), threading.active_count())
"""
TORCH_FIRST = """
import threading, time
import torch
from kv_memory.pocket import model_path

torch.set_num_threads(2)
ones = torch.ones(100_000)

def spun():
    "Seconds of computing while there is next to nothing to compute: what threads spin after an operation."
    ones.add_(1)
    began = time.process_time()
    for _ in range(20):
        ones.add_(1)
        time.sleep(0.03)
    return time.process_time() - began

def own():
    return torch.get_num_threads(), torch.get_num_interop_threads()

before, number = spun(), own()
{open}
{open}
teams = [thread.name for thread in threading.enumerate()].count("kv_memory OpenMP team")
print(before, spun(), own() == number, teams)
"""
OPENED = {
    "Memory": "from kv_memory import Memory; Memory().session('s').chat([{'role': 'user', 'content': 'Hi'}])",
    "an engine": "from kv_memory.engines.transformers import TransformersEngine; TransformersEngine.load(model_path())",
}
ALONE = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KV_MEMORY_PASSIVE_WAIT")


def run(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs it in a process of a user who has set these variables alone."""
    unset = {key: value for key, value in os.environ.items() if key not in ALONE}
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, env={**unset, **environment}, capture_output=True, text=True, check=True)


def test_a_memory_sets_the_policy_before_torch_is_loaded() -> None:
    code = "from kv_memory import Memory; Memory()\nimport os; print(os.environ['OMP_WAIT_POLICY'])"
    done = run(code, OMP_DISPLAY_ENV="VERBOSE")  # libgomp prints its settings when it is loaded
    assert done.stdout.split() == ["PASSIVE"]
    if "GOMP_SPINCOUNT" not in done.stderr:
        pytest.skip("this torch is not over libgomp")
    assert "GOMP_SPINCOUNT = '0'" in done.stderr


@pytest.mark.parametrize(
    ("first", "environment", "policy"),
    [
        ("", {"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"),
        ("", {"GOMP_SPINCOUNT": "500"}, "None"),
        ("", {"KMP_BLOCKTIME": "5"}, "None"),
        ("", {"KV_MEMORY_PASSIVE_WAIT": "0"}, "None"),
        ("", {}, "PASSIVE"),
        ("import torch", {"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"),
        ("import torch", {"KV_MEMORY_PASSIVE_WAIT": "0"}, "None"),
        ("import torch", {}, "PASSIVE"),
    ],
)
def test_what_the_user_has_set_is_kept(first: str, environment: dict[str, str], policy: str) -> None:
    teams = int(policy == "PASSIVE" and first != "" and sys.platform == "linux")
    assert run(first + AS_USER, **environment).stdout.split() == [policy, str(1 + teams)]


@pytest.mark.skipif(sys.platform != "linux", reason="libgomp is the OpenMP of torch's wheels for Linux")
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="on one CPU libgomp does not spin")
@pytest.mark.parametrize("opened", OPENED)
def test_with_torch_imported_before_its_threads_spin_no_more_and_are_as_many(opened: str) -> None:
    spun, spun_after, as_many, teams = run(TORCH_FIRST.replace("{open}", OPENED[opened])).stdout.split()
    if float(spun) < 0.01:
        pytest.skip("here libgomp's threads spin too shortly to see it")
    assert float(spun_after) < float(spun) / 3
    assert (as_many, teams) == ("True", "1")
