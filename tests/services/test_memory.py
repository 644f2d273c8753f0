"""Memory: few arenas, and what lies free in them goes back to the system. Processes of their own: arenas are for good."""

from __future__ import annotations

import asyncio
import platform
import subprocess
import sys

import pytest
from layers import layered
from serving import CHECKOUT

from models.runtime import threads
from services import memory
from services.settings import Settings

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left as they are")

ARENAS = """
import ctypes, threading
from services import memory
{before}
together = threading.Barrier(12)
def allocate():
    together.wait()
    held = bytes(1000)
    together.wait()
threads = [threading.Thread(target=allocate) for _ in range(12)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
libc.malloc_info(0, ctypes.c_void_p(out := libc.fdopen(1, b"w")))
libc.fflush(ctypes.c_void_p(out))
"""

PIECES = """
import psutil
from services import memory
def megabytes():
    return psutil.Process().memory_info().rss / 2**20
before = megabytes()
pieces = [bytes([1]) * 100_000 for _ in range(2000)]
del pieces[:-1]  # the last one lies above all others, so that the heap cannot simply end earlier
freed = megabytes()
memory.give_back()
print(freed - before, megabytes() - before)
"""


SERVICE = """
from services import memory
memory.few_arenas = lambda: print("few arenas")
import fake_service
fake_service.Fake.to_asgi()
"""


def run(script: str, **environment: str) -> str:
    environment = {"CONVOY_THREADS": "1", "PYTHONPATH": str(CHECKOUT / "tests" / "services"), **environment}
    ran = subprocess.run(
        [sys.executable, "-c", script], cwd=CHECKOUT, env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    return ran.stdout


@glibc
def test_threads_share_a_few_arenas():
    script = ARENAS.format(before="memory.few_arenas()")
    assert run(ARENAS.format(before="")).count("<heap nr") > 4
    assert run(script).count("<heap nr") == 2
    assert run(script, CONVOY_THREADS="").count("<heap nr") <= max(2, threads())
    assert run(script, MALLOC_ARENA_MAX="4").count("<heap nr") == 4  # the operator's wish


def test_a_service_has_few_arenas_from_its_start():
    assert run(SERVICE) == "few arenas\n"


@glibc
def test_pages_that_nothing_lies_in_are_given_back():
    freed, given_back = map(float, run(PIECES).split())
    assert freed > 150
    assert given_back < 20


def test_a_service_gives_memory_back_as_long_as_it_lives(monkeypatch):
    times: list[int] = []
    frozen: list[int] = []

    def give_back() -> None:
        times.append(1)
        if len(times) == 1:
            raise RuntimeError("can't start new thread")

    monkeypatch.setattr(memory, "GIVE_BACK_SECONDS", 0.001)
    monkeypatch.setattr(memory, "give_back", give_back)
    monkeypatch.setattr(memory, "freeze", lambda: frozen.append(1))

    async def main() -> None:
        async def receive():
            await asyncio.sleep(0.2)
            return {"type": "lifespan.shutdown"}

        async def inner(scope, receive, send):
            await send({"type": "lifespan.startup.complete"})
            await receive()

        async def send(message): ...

        await layered([], Settings(), inner=inner)({"type": "lifespan"}, receive, send)
        count = len(times)
        await asyncio.sleep(0.05)
        assert len(times) <= count + 1  # one may have begun
        assert count > 2
        assert frozen == [1]

    asyncio.run(main())


@pytest.mark.parametrize("system", ["darwin", "win32"])
def test_elsewhere_nothing_is_done(monkeypatch, system):
    monkeypatch.setattr(sys, "platform", system)
    memory._glibc.cache_clear()
    try:
        memory.few_arenas()
        memory.give_back()
        assert memory._glibc() is None
    finally:
        memory._glibc.cache_clear()
