"""What training on a CPU keeps from step to step: the memory that tensors free, and the kernels that oneDNN made."""

import ctypes
import os
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""Parameters of glibc's mallopt(3)."""

KERNELS = 4096
"""Kernels that oneDNN keeps; its own default is 1,024. A bf16 run of the six-modality recipe needs 1,112, of about 0.3 MiB each."""


def keep_freed_memory() -> None:
    """Let glibc keep the memory that tensors on a CPU free, rather than return it to the system and fault it in again each step.

    Blocks of up to 32 MiB, glibc's own upper limit, come from the heap, and the heap does not shrink. Other C libraries: no effect.
    """
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_THRESHOLD, 2**25)
        libc.mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def keep_kernels() -> None:
    """Let oneDNN keep the kernels of all shapes of a run that mixes lengths, unless the user has set how many.

    With too few it makes kernels anew all the time, each at another place, and the heap grows by the holes in between. oneDNN reads
    this once, before its first kernel.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(KERNELS))
