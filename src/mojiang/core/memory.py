"""Memory that was freed, and what the C library does with it."""

from __future__ import annotations

import ctypes


def give_freed_memory_back() -> None:
    """Hand what the C library keeps of freed memory back to the kernel, where it is glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
