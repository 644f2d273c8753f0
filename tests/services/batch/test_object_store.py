"""Inputs and outputs in S3, on a real server (moto's) that goes away in the middle and comes back."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
import time

import pytest

from tests.object_store import KEYS, free_port
from tests.services.batch.corpus import Started, command, run, write_corpus


class Door:
    """Hands connections on to a server; when it is closed, they break and new ones are refused."""

    def __init__(self, target: int) -> None:
        self.port, self._target = free_port(), target
        self._listener: socket.socket | None = None
        self._connections: list[socket.socket] = []

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                self._connections += [client, server]
                threading.Thread(target=self._hand_on, args=(client, server), daemon=True).start()

    def _hand_on(self, *ends: socket.socket) -> None:
        with contextlib.suppress(OSError), ends[0], ends[1]:
            while True:
                for ready in select.select(ends, [], [])[0]:
                    if not (content := ready.recv(65536)):
                        return
                    ends[ready is ends[0]].sendall(content)


def objects(store, prefix: str) -> dict[str, bytes]:
    listed = store.list_objects_v2(Bucket="lab", Prefix=prefix).get("Contents", [])
    return {each["Key"].removeprefix(prefix): store.get_object(Bucket="lab", Key=each["Key"])["Body"].read() for each in listed}


@pytest.mark.timeout(300)
def test_a_store_that_goes_away_and_comes_back(store_port, store, tmp_path, tiny_segmenter):
    corpus, bundle = write_corpus(tmp_path / "corpus", 10), tiny_segmenter(tmp_path)
    store.create_bucket(Bucket="lab")
    for path in (corpus / "volumes").rglob("*.gz"):
        store.upload_file(str(path), "lab", f"in/{path.relative_to(corpus / 'volumes')}")
    door = Door(store_port)
    settings = KEYS | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{door.port}"}
    door.open()

    def arguments(out: str) -> list[str]:
        return command("segment", ["s3://lab/in"], f"s3://lab/{out}", [bundle], "--summary", "--processes", "1")

    code, said = run(arguments("quiet"), settings)
    assert code == 1, said
    assert "11/11" in said
    killed = 0
    while killed < 2:
        started = Started(arguments("broken"), settings)
        while len(objects(store, "broken/.convoy/done")) < 3 * (killed + 1) and not started.ended():
            time.sleep(0.02)
        started.kill()
        killed += 1
    started = Started(arguments("broken"), settings)
    while len(objects(store, "broken/.convoy/done")) < 8 and not started.ended():
        time.sleep(0.02)
    door.close()
    time.sleep(2)
    door.open()
    code, said = started.finish()
    assert code == 1, said
    quiet = objects(store, "quiet/")
    assert objects(store, "broken/") == quiet
    assert sum(name.endswith(".nii.gz") for name in quiet) == 10
    assert {"manifest.jsonl", "manifest.parquet"} <= set(quiet)
    door.close()
