"""The files of the page: built from the sources beside them, and sent as they should be."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import json
import re

import httpx
import pytest
from starlette.applications import Starlette

from services.page_files import BUILT, FOLDER, INDEX, POLICY, page_routes

MANIFEST = json.loads((BUILT / "manifest.json").read_text("utf-8"))
NPM = "https://registry.npmjs.org/"
SCRIPT = next(name for name in MANIFEST["built"] if re.fullmatch(r"main-\w{8}\.js", name))


def get(path: str, **headers: str) -> httpx.Response:
    """The answer, its content as it was sent."""

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(Starlette(routes=page_routes()))
        given = {"Accept-Encoding": "identity"} | {name.replace("_", "-"): value for name, value in headers.items()}
        client = httpx.AsyncClient(transport=transport, base_url="http://convoy", headers=given)
        async with client, client.stream("GET", path) as answer:
            content = b"".join([part async for part in answer.aiter_raw()])
        kept = {name: value for name, value in answer.headers.items() if name != "content-encoding"}
        packed = {"x-packed": answer.headers["content-encoding"]} if "content-encoding" in answer.headers else {}
        return httpx.Response(answer.status_code, headers=kept | packed, content=content)

    return asyncio.run(ask())


def digest(path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_built_files_are_those_of_the_sources():
    """Without node: the build writes down what it was made of. `make check` builds again where there is node."""
    sources = [path for path in (FOLDER / "src").rglob("*") if path.is_file()]
    sources += [FOLDER / name for name in ("build.mjs", "package.json", "package-lock.json", "tsconfig.json")]
    found = {path.relative_to(FOLDER).as_posix(): digest(path) for path in sources}
    assert found == MANIFEST["sources"], "the page's sources have changed since it was built: run `make page`"


def test_the_built_files_are_as_they_were_built():
    found = {path.name: digest(path) for path in BUILT.iterdir() if path.name != "manifest.json"}
    assert found == MANIFEST["built"], "a built file was edited: change its source, and run `make page`"


def test_the_lock_names_no_host_but_npms_own():
    lock = json.loads((FOLDER / "package-lock.json").read_text("utf-8"))
    packages = [about for name, about in lock["packages"].items() if name]
    assert all("integrity" in about for about in packages)
    assert all(
        about.get("resolved", "https://registry.npmjs.org/").startswith("https://registry.npmjs.org/") for about in packages
    )


def test_the_page_needs_nothing_from_elsewhere():
    page = INDEX.content.decode()
    assert "//" not in page  # no address of any other host, with a scheme or without
    assert not re.search(r"\s(?:on\w+|style)=", page)  # nothing that the policy forbids
    assert all(f"/page/{name}" in {route.path for route in page_routes()} for name in re.findall(r'"page/([^"]+)"', page))
    assert POLICY.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in POLICY


def test_files_named_by_their_digest_are_kept_for_ever_and_others_asked_for_again():
    script = get(f"/page/{SCRIPT}")
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    assert script.headers["cache-control"] == "public, max-age=31536000, immutable"
    icon = get("/page/icon.svg")
    assert icon.headers["cache-control"] == "no-cache"
    again = get("/page/icon.svg", If_None_Match=f'"other", W/{icon.headers["etag"]}')
    assert (again.status_code, again.content) == (304, b"")
    assert again.headers["etag"] == icon.headers["etag"]
    assert get("/page/icon.svg", If_None_Match='"other"').content == icon.content


def test_text_is_packed_for_those_who_take_it_so():
    plain = get(f"/page/{SCRIPT}")
    assert plain.content == (BUILT / SCRIPT).read_bytes()
    assert "x-packed" not in get(f"/page/{SCRIPT}", Accept_Encoding="br, gzip;q=0").headers
    packed = get(f"/page/{SCRIPT}", Accept_Encoding="br, gzip")
    assert packed.headers["x-packed"] == "gzip"
    assert packed.headers["vary"] == plain.headers["vary"] == "Accept-Encoding"
    assert gzip.decompress(packed.content) == plain.content


@pytest.mark.parametrize(
    ("name", "kind"), [("two-speakers.flac", "audio/flac"), ("hippocampus-mni152.nii.gz", "application/gzip")]
)
def test_samples_are_sent_as_they_are(name, kind):
    answer = get(f"/page/samples/{name}", Accept_Encoding="gzip")
    assert answer.headers["content-type"] == kind
    assert "x-packed" not in answer.headers
    assert answer.content == (FOLDER / "samples" / name).read_bytes()


@pytest.mark.parametrize(
    "path", ["/page/manifest.json", "/page/../page_files.py", "/page/samples/..%2f..%2fbuild.mjs", "/page/src/main.ts", "/page/"]
)
def test_nothing_else_is_served(path):
    assert get(path).status_code == 404
