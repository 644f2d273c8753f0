"""Keeps a service's memory as small as what it holds.

glibc's allocator makes up to eight arenas for each processor, each for some of the threads, and keeps what is freed in them.
The many sizes of many requests break arenas into pieces, so that a process grows for hours though it holds no more than before.
Fewer arenas, and giving back regularly what lies free in them, end that. Other C libraries are left as they are.
"""

from __future__ import annotations

import asyncio
import ctypes
import functools
import gc
import logging
import os
import sys
from typing import Any

from models.runtime import threads

log = logging.getLogger("convoy.memory")

GIVE_BACK_SECONDS = 20.0  # a tenth of a millisecond for each MiB that goes back, in which whoever allocates waits
_LEAST_ARENAS = 2
_M_ARENA_MAX = -8  # of malloc.h


def few_arenas() -> None:
    """One for each processor from now on, instead of eight, unless MALLOC_ARENA_MAX says otherwise.

    To be said early: glibc asks for the limit once only, at the ninth arena.
    """
    if (glibc := _glibc()) is not None and not os.environ.get("MALLOC_ARENA_MAX"):
        glibc.mallopt(_M_ARENA_MAX, max(_LEAST_ARENAS, threads()))


def freeze() -> None:
    """What is loaded now stays: the garbage collector need not look through it after every large answer."""
    gc.collect()
    gc.freeze()


def give_back() -> None:
    """Return to the system whatever pages nothing lies in any more."""
    if (glibc := _glibc()) is not None:
        glibc.malloc_trim(0)


async def give_back_regularly() -> None:
    """`give_back` in a thread, until this is cancelled."""
    while True:
        await asyncio.sleep(GIVE_BACK_SECONDS)
        try:
            await asyncio.to_thread(give_back)
        except RuntimeError as problem:  # no thread can be had; there may be one the next time
            log.warning("free memory was not given back: %s", problem)


@functools.cache
def _glibc() -> Any:
    """The C library, None where it is another one."""
    library = ctypes.CDLL(None) if sys.platform == "linux" else None
    return library if hasattr(library, "malloc_trim") else None
