"""Memory of the running service after many distinct texts, against that after the first thousand.

    python benchmarks/memory.py --texts 100000

Starts the gateway on a free port with the bundles in ``pretrained``, sends distinct random texts (half of them words of random
letters, half Chinese characters), and prints as JSON the resident memory of the service's processes after 1,000 texts and at the
end. Exits with 1 if the ratio is above ``--limit``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--texts", type=int, default=100_000, help="distinct texts to send (default: 100000)")
    parser.add_argument("--first", type=int, default=1_000, help="texts before the first measurement (default: 1000)")
    parser.add_argument("--per-call", type=int, default=20, help="texts in one call (default: 20)")
    parser.add_argument("--limit", type=float, default=1.05, help="largest ratio that passes (default: 1.05)")
    parser.add_argument("--service", default="services.gateway:Gateway", help="what `bentoml serve` serves")
    arguments = parser.parse_args()
    with running(arguments.service) as (url, process):
        report = measure(url, process, arguments)
    print(json.dumps(report, indent=2))
    sys.exit(report["ratio"] > arguments.limit)


def measure(url: str, process: subprocess.Popen[bytes], arguments: argparse.Namespace) -> dict[str, float]:
    """Send all texts and take the two figures; memory in MiB."""
    generator, started, first, tokens = random.Random(0), time.perf_counter(), 0.0, 0
    for sent in range(0, arguments.texts, arguments.per_call):
        if not first and sent >= arguments.first:
            first = memory(process.pid)
        tokens += send(url, [text(generator) for _ in range(arguments.per_call)])
    last = memory(process.pid)
    figures = {"seconds": time.perf_counter() - started, "first_mib": first, "last_mib": last, "ratio": last / first}
    return {"texts": arguments.texts, "tokens": tokens, **{name: round(value, 4) for name, value in figures.items()}}


def text(generator: random.Random) -> str:
    """A random text of 3 to 40 tokens; practically never the same twice."""
    length = generator.randint(3, 40)
    if generator.random() < 0.5:
        return "".join(chr(generator.randint(0x4E00, 0x9FA5)) for _ in range(length)) + "。"
    low, high = (0x61, 0x7A) if generator.random() < 0.9 else (0xA1, 0x24F)
    words = ("".join(chr(generator.randint(low, high)) for _ in range(generator.randint(1, 12))) for _ in range(length))
    return " ".join(words) + "."


def send(url: str, texts: list[str]) -> int:
    """Tag the texts; returns the number of tokens that came back."""
    body = json.dumps({"texts": texts}).encode()
    request = urllib.request.Request(f"{url}/tag", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        results = json.load(response)["results"]
    return sum(len(result["tokens"]) for result in results if "tokens" in result)


def memory(pid: int) -> float:
    """Resident MiB of a process and all below it."""
    parent = psutil.Process(pid)
    total = 0
    for process in [parent, *parent.children(recursive=True)]:
        with contextlib.suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total / 2**20


@contextlib.contextmanager
def running(service: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The service on a free port; its log is thrown away."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "bentoml", "serve", service, "--host", "127.0.0.1", "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    url = f"http://127.0.0.1:{port}"
    try:
        while not ready(url):
            if process.poll() is not None:
                sys.exit(f"the service did not start: {' '.join(command)}")
            time.sleep(0.2)
        yield url, process
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=5) as response:
            return response.status == 200
    except OSError:
        return False


if __name__ == "__main__":
    main()
