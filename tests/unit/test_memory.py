"""Freed memory stays in the process; how many kernels oneDNN keeps is what we say, unless the user says otherwise."""

import os
import platform
import subprocess
import sys

import pytest
import torch

without_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build of torch is without oneDNN")
without_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator is told")

SHAPES = 30
SCRIPT = f"""
import sys
import torch
from mmssl.training import allocator as memory

memory.KERNELS = int(sys.argv[1])
memory.keep_kernels()
weight, x = torch.ones(8, 8, 3), torch.ones(4, 8, {SHAPES} + 64)
for _ in range(2):
    for length in range(64, {SHAPES} + 64):
        torch.nn.functional.conv1d(x[..., :length], weight)
"""

FAULTS = """
import resource
import sys
import torch
from mmssl.training.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
for _ in range(12):  # steps; the heap has its size after a few
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    kept = [torch.ones(mebibytes, 2**18) for mebibytes in (1, 40, 40, 100)]
    del kept
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Pages that the last of twelve steps takes from the system, of 46,336."""
    command = [sys.executable, "-c", FAULTS, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@without_glibc
def test_memory_of_large_tensors_is_not_taken_anew_each_step() -> None:
    assert faults("keep") < 1_000 < faults("leave")


def made(kept: int, **environment: str) -> int:
    """How many convolutions oneDNN had to make for two passes over as many lengths, of three kernels or more each."""
    plain = {key: value for key, value in os.environ.items() if key != "ONEDNN_PRIMITIVE_CACHE_CAPACITY"}
    settings = plain | {"ONEDNN_VERBOSE": "profile_create"} | environment
    command = [sys.executable, "-c", SCRIPT, str(kept)]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=True)
    return sum("cache_miss" in line and ",convolution," in line for line in done.stdout.splitlines())


@without_onednn
def test_no_kernel_is_made_twice_where_enough_are_kept() -> None:
    assert made(4 * SHAPES) == SHAPES
    assert made(SHAPES // 2) == 2 * SHAPES


@without_onednn
def test_what_the_user_set_stays() -> None:
    assert made(4 * SHAPES, ONEDNN_PRIMITIVE_CACHE_CAPACITY=str(SHAPES // 2)) == 2 * SHAPES
