"""Put on PYTHONPATH by tests: refuses torch, and notes every attempt to reach another machine in the file CONVOY_TEST_CALLS."""

import os
import socket
import sys
from importlib.abc import MetaPathFinder


class _NoTorch(MetaPathFinder):
    def find_spec(self, fullname, path, target=None):
        if fullname.partition(".")[0] in {"torch", "torchaudio", "lightning", "gensim"}:
            raise ImportError(f"{fullname} is not there, as in the environment that serves")


def _note(name, address):
    with open(os.environ["CONVOY_TEST_CALLS"], "a", encoding="utf-8") as file:  # noqa: PTH123 (before anything else is imported)
        file.write(f"{name} {address!r}\n")


def _watched(name):
    real = getattr(socket.socket, name)

    def call(self, address, *rest):
        host = address[0] if isinstance(address, tuple) else ""
        if host not in {"", "127.0.0.1", "::1", "localhost"}:
            _note(name, address)
        return real(self, address, *rest)

    return call


def _watched_lookup(host, *rest, **options):
    if host not in {None, "", b"", "127.0.0.1", "::1", "localhost", "0.0.0.0"}:
        _note("getaddrinfo", host)
    return _lookup(host, *rest, **options)


sys.meta_path.insert(0, _NoTorch())
for _name in ("connect", "connect_ex"):
    setattr(socket.socket, _name, _watched(_name))
_lookup, socket.getaddrinfo = socket.getaddrinfo, _watched_lookup
