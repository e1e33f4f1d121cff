"""How many kernels oneDNN keeps is what we say, unless the user says otherwise."""

import os
import subprocess
import sys

import pytest
import torch

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build of torch is without oneDNN")

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


def made(kept: int, **environment: str) -> int:
    """How many convolutions oneDNN had to make for two passes over as many lengths, of three kernels or more each."""
    plain = {key: value for key, value in os.environ.items() if key != "ONEDNN_PRIMITIVE_CACHE_CAPACITY"}
    settings = plain | {"ONEDNN_VERBOSE": "profile_create"} | environment
    command = [sys.executable, "-c", SCRIPT, str(kept)]
    done = subprocess.run(command, env=settings, capture_output=True, text=True, check=True)
    return sum("cache_miss" in line and ",convolution," in line for line in done.stdout.splitlines())


def test_no_kernel_is_made_twice_where_enough_are_kept() -> None:
    assert made(4 * SHAPES) == SHAPES
    assert made(SHAPES // 2) == 2 * SHAPES


def test_what_the_user_set_stays() -> None:
    assert made(4 * SHAPES, ONEDNN_PRIMITIVE_CACHE_CAPACITY=str(SHAPES // 2)) == 2 * SHAPES
