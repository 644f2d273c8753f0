"""The page in a real browser, before a real server with the published bundles: every flow, and what goes wrong in it."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import nibabel
import numpy as np
import psutil
import pytest
import serving
import soundfile
import tifffile
from PIL import Image

playwright = pytest.importorskip("playwright.sync_api")
from playwright.sync_api import BrowserContext, Page, expect  # noqa: E402

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PRETRAINED = serving.CHECKOUT / "pretrained"
BUNDLES = ["tagger-en", "tagger-zh", "separator-2speakers", "separator-2speakers-causal", "segmenter-hippocampus"]
SAMPLES = serving.CHECKOUT / "services" / "page" / "samples"
SCAN, TALK = SAMPLES / "hippocampus-mni152.nii.gz", SAMPLES / "two-speakers.flac"
SCREENSHOTS = serving.CHECKOUT / "build" / "screenshots"
SECONDS = 60_000  # milliseconds that anything may take; a loaded machine is slow, not wrong
ARGUMENTS = [
    "--no-sandbox",  # tests may run as root, where Chromium has none
    "--use-gl=angle",
    "--use-angle=swiftshader",
    "--enable-unsafe-swiftshader",  # WebGL without a graphics card
    "--use-fake-ui-for-media-stream",
    "--use-fake-device-for-media-stream",  # a microphone that beeps
    "--autoplay-policy=no-user-gesture-required",
]

expect.set_options(timeout=SECONDS)
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")]


class Backend:
    """A server of some published bundles that can be killed and started again where it was."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.stack = folder, contextlib.ExitStack()
        self.server: Any = None

    def start(self, names: Sequence[str], port: int | None = None) -> None:
        bundles = self.folder / f"{len(names)} bundles"
        bundles.mkdir()
        for name in names:
            (bundles / name).symlink_to(PRETRAINED / name)
        environment = {"CONVOY_BUNDLES": str(bundles), "CONVOY_JOBS": str(self.folder / "jobs"), "CONVOY_PRECISION": "f32"}
        with pytest.MonkeyPatch.context() as patch:
            if port:
                patch.setattr(serving, "_free_port", lambda: port)
            self.server = self.stack.enter_context(serving.serving("services.gateway:Gateway", self.folder, environment))

    def kill(self) -> int:
        """As a power cut would; returns the port, to start again at."""
        process = self.server.process
        for one in [*psutil.Process(process.pid).children(recursive=True), process]:
            one.kill()
        process.wait(20)
        return int(self.server.url.rpartition(":")[2])


@pytest.fixture(scope="module")
def backend(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    backend = Backend(tmp_path_factory.mktemp("page"))
    with backend.stack:
        backend.start(BUNDLES)
        yield backend


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    # Closed with the module: as long as it is open, an event loop runs in this thread.
    with playwright.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


class Watched:
    """A page and what it did that it should not."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.page, self.url, self.wrong, self.refusals = context.new_page(), url, [], False
        self.page.set_default_timeout(SECONDS)
        self.page.on("pageerror", lambda error: self.wrong.append(f"uncaught: {error}"))
        self.page.on("console", self._console)
        context.on("request", self._request)

    def _console(self, message: Any) -> None:
        """Warnings and errors; the browser itself notes each answer that is an error."""
        refusal = self.refusals and message.text.startswith("Failed to load resource")
        if message.type in {"error", "warning"} and not refusal:
            self.wrong.append(f"{message.type}: {message.text}")

    def _request(self, request: Any) -> None:
        if not request.url.startswith((self.url + "/", "blob:", "data:")):
            self.wrong.append(f"asked {request.url}")


@contextlib.contextmanager
def visiting(browser: Any, url: str, name: str, options: dict[str, Any]) -> Iterator[Watched]:
    """A new visitor's page, in English, light and wide unless `options` say otherwise; clean at the end, with a screenshot."""
    usual = {"locale": "en-US", "color_scheme": "light", "viewport": {"width": 1280, "height": 900}}
    context = browser.new_context(**usual | options)
    context.grant_permissions(["microphone", "clipboard-read", "clipboard-write"])
    watched = Watched(context, url)
    watched.page.goto(url)
    yield watched
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    watched.page.evaluate("scrollTo(0, 0)")
    watched.page.screenshot(path=SCREENSHOTS / f"{re.sub(r'[^a-z_]+', '-', name).strip('-')}.png", full_page=True)
    context.close()
    assert watched.wrong == []


@pytest.fixture
def watched(browser: Any, backend: Backend, request: pytest.FixtureRequest) -> Iterator[Watched]:
    with visiting(browser, backend.server.url, request.node.name, getattr(request, "param", {})) as watched:
        yield watched


def assert_problem(page: Page, panel: str, message: str, code: str) -> None:
    """The server's words, its code, and the request's id, where it happened."""
    problem = page.locator(f"#{panel}-problem .problem")
    expect(problem).to_contain_text(message)
    expect(problem).to_contain_text(re.compile(rf"{code} · request [0-9a-f]{{32}}"))


def fill_width(page: Page) -> None:
    """Nothing is wider than the window."""
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


NARROW = {"locale": "zh-CN", "color_scheme": "dark", "viewport": {"width": 360, "height": 740}}


# ---- text ---------------------------------------------------------------------------------------------------------------


def test_chinese_text_is_tagged_and_copied(watched):
    page = watched.page
    page.locator("[data-text-sample=zh]").click()
    words = page.locator("#tokens .token .word")
    expect(words.nth(2)).to_have_text("北京大学")
    expect(page.locator("#text-about-model")).to_have_text("tagger-zh")
    token = page.locator(".token", has_text="北京大学")
    token.hover()
    expect(page.locator("#tip")).to_contain_text(re.compile(r"nt organisation.*\d %.*characters 6–10"))
    page.locator(".token").first.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(token).to_be_focused()
    page.locator("[data-label=nt]").click()
    expect(page.locator(".token.chosen")).to_have_text(["北京大学nt"])
    page.get_by_role("button", name="Copy CoNLL").click()
    expect(page.locator("#text-copied")).to_have_text("Copied.")
    lines = page.evaluate("navigator.clipboard.readText()").splitlines()
    assert lines[2] == "北京大学\tnt"
    page.get_by_role("button", name="Copy JSON").click()
    expect(page.locator("#copies .icon path[d^='M5 12.5']").nth(1)).to_be_visible()
    copied = json.loads(page.evaluate("navigator.clipboard.readText()"))
    assert (
        copied["tokens"]
        == httpx.post(f"{watched.url}/tag", json={"texts": [page.locator("#text").input_value()]}).json()["results"][0]["tokens"]
    )


@pytest.mark.parametrize("watched", [NARROW], indirect=True)
def test_offsets_count_what_the_eye_counts(watched):
    page = watched.page
    text = "👩‍🚀🚀 Ada\n𝒳 lives in London 😀."
    page.locator("#text").fill(text)
    page.locator("#text").press("Control+Enter")
    expect(page.locator(".token", has_text="London")).to_contain_text("PROPN")
    shown = page.evaluate(
        "[...document.querySelectorAll('#tokens .label')].map(e => e.remove()) && document.getElementById('tokens').textContent"
    )
    assert shown == text
    fill_width(page)


def test_a_text_that_cannot_be_tagged_is_told_so(watched):
    page, watched.refusals = watched.page, True
    page.locator("#text").fill("   ")
    page.locator("#tag").click()
    assert_problem(page, "text", "the text is empty", "text_empty")
    page.locator("[data-text-sample=en]").click()
    expect(page.locator("#text-about-model")).to_have_text("tagger-en")
    expect(page.locator("#text-problem")).to_be_empty()


# ---- sound --------------------------------------------------------------------------------------------------------------


def test_a_recording_comes_apart_is_heard_and_downloaded(watched, tmp_path):
    page = watched.page
    page.get_by_role("tab", name="Sound").click()
    page.locator("#sound-sample").click()
    lanes = page.locator("#tracks .lane")
    expect(lanes).to_have_count(3)
    expect(page.locator("#sound-about-model")).to_have_text("separator-2speakers")
    answer = httpx.post(
        f"{watched.url}/separate", files={"audio": (TALK.name, TALK.read_bytes())}, data={"model": "separator-2speakers"}
    )
    voices, rate = soundfile.read(io.BytesIO(answer.content), dtype="float32")
    with page.expect_download() as download:
        lanes.nth(2).get_by_role("button", name="Download as WAV").click()
    saved, saved_rate = soundfile.read(download.value.path(), dtype="float32")
    assert (saved_rate, download.value.suggested_filename) == (rate, "two-speakers-voice-2.wav")
    np.testing.assert_allclose(saved, voices[:, 1], atol=1e-6)
    # The mixture gives way to its voices; a voice alone silences the others.
    mute, solo = lanes.nth(0).get_by_role("button", name="Mute"), lanes.nth(1).get_by_role("button", name="Solo")
    expect(mute).to_have_attribute("aria-pressed", "true")
    solo.click()
    expect(page.locator(".lane.silent")).to_have_count(2)
    solo.click()
    expect(page.locator(".lane.silent")).to_have_count(1)
    page.locator("#play").click()
    expect(page.locator("#time")).not_to_have_text(re.compile(r"^0:00\.0"))
    page.locator("#play").click()
    expect(page.locator("#play")).to_have_accessible_name("Play")
    page.locator("#seek").fill("4.5")
    expect(page.locator("#time")).to_have_text("0:04.5 / 0:10.0")
    drawn = "c => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size"
    assert all(canvas.evaluate(drawn) > 8 for canvas in page.locator(".spectrogram").all())


def test_what_is_no_recording_is_told_so_in_the_servers_words(watched):
    page, watched.refusals = watched.page, True
    page.get_by_role("tab", name="Sound").click()
    dropped = "const d = new DataTransfer(); d.items.add(new File(['<html>an error page</html>'], 'talk.wav')); return d"
    transfer = page.evaluate_handle(f"() => {{ {dropped} }}")
    page.dispatch_event("#panel-sound h1", "drop", {"dataTransfer": transfer})  # beside the zone, which is as good
    assert_problem(page, "sound", "bytes that begin with", "audio_unsupported")
    expect(page.locator("#player")).to_be_hidden()


def test_the_microphone_is_recorded_and_separated(watched):
    page = watched.page
    page.get_by_role("tab", name="Sound").click()
    page.locator("#record").click()
    expect(page.locator("#record-time")).to_have_text(re.compile(r"0:0[1-9]"))
    page.locator("#record-stop").click()
    expect(page.locator("#tracks .lane")).to_have_count(3)


@pytest.mark.parametrize("watched", [NARROW], indirect=True)
def test_the_microphone_is_separated_while_it_is_heard(watched, tmp_path):
    page = watched.page
    page.get_by_role("tab", name="声音").click()
    page.locator("input[value=live]").check(force=True)
    page.locator("#live-start").click()
    expect(page.locator("#live-state")).to_contain_text("separator-2speakers-causal 正在收听")
    page.get_by_role("button", name="收听").first.click()
    expect(page.locator("#live-time")).to_have_text(re.compile(r"0:0(1\.[5-9]|[2-9])"))
    for meter in page.locator("#meters .meter").all():
        assert 0 <= float(meter.evaluate("m => m.style.getPropertyValue('--level')")) <= 1
    page.locator("#live-stop").click()
    lanes = page.locator("#tracks .lane")
    expect(lanes).to_have_count(3)
    sounds = []
    for lane in lanes.all():
        with page.expect_download() as download:
            lane.get_by_role("button", name="下载 WAV").click()
        sounds.append(soundfile.read(download.value.path(), dtype="float32"))
    assert {rate for _, rate in sounds} == {8000}
    assert len({len(samples) for samples, _ in sounds}) == 1
    assert len(sounds[0][0]) > 8000
    fill_width(page)


# ---- volumes ------------------------------------------------------------------------------------------------------------


def labels_of(content: bytes) -> np.ndarray:
    packed = gzip.decompress(content) if content[:2] == b"\x1f\x8b" else content
    return np.asarray(nibabel.Nifti1Image.from_bytes(packed).dataobj)


@pytest.mark.parametrize("watched", [{}, NARROW], ids=["wide", "narrow"], indirect=True)
def test_a_scan_is_shown_with_its_labels(watched):
    page = watched.page
    page.locator("#tab-volume").click()
    page.locator("#volume-sample").click()
    rows = page.locator("#volume-classes tr")
    expect(rows).to_have_count(2)
    with page.expect_download() as download:
        page.locator("#volume-downloads button").click()
    assert download.value.suggested_filename == "hippocampus-mni152-labels.nii.gz"
    counts = np.bincount(labels_of(download.value.path().read_bytes()).ravel())
    for row, name, count in zip(rows.all(), ("Anterior", "Posterior"), counts[1:], strict=True):
        expect(row).to_contain_text(name)
        expect(row).to_contain_text(f"{count / 1000:.2f}")
        expect(row).to_contain_text(f"{count:,}")
    await_colours(page, lambda pixels: pixels > 500)
    page.locator("#volume-opacity").fill("0")
    await_colours(page, lambda pixels: pixels < 50)
    page.locator("#volume-opacity").fill("0.6")
    page.locator("#class-1").uncheck()
    await_colours(page, lambda pixels: pixels < 50)
    page.locator("#class-1").check()
    page.locator("#volume-plane").select_option("sagittal")
    await_colours(page, lambda pixels: pixels > 500)
    number, place = page.locator("#cross-z-value"), page.locator("#volume-mm")
    before, millimetres = int(number.inner_text()), place.inner_text()
    page.locator("#cross-z").focus()
    page.keyboard.press("ArrowRight")
    expect(number).to_have_text(str(before + 1))
    expect(place).not_to_have_text(millimetres)
    fill_width(page)


def await_colours(page: Page, right: Callable[[int], bool]) -> None:
    """Until the viewer shows that many orange pixels, as the first class is; the screen follows what is drawn a little later."""
    for _ in range(40):
        picture = Image.open(io.BytesIO(page.locator("#volume-canvas").screenshot())).convert("RGB")
        red, _, blue = (plane.astype(int) for plane in np.moveaxis(np.asarray(picture), -1, 0))
        if right(pixels := int((red - blue > 60).sum())):
            return
        page.wait_for_timeout(250)
    raise AssertionError(f"{pixels} orange pixels")


def test_what_is_no_volume_is_told_so_in_the_servers_words(watched):
    page, watched.refusals = watched.page, True
    page.get_by_role("tab", name="Volume").click()
    page.locator("#volume-file").set_input_files({"name": "scan.nii", "mimeType": "", "buffer": b"not a scan" * 100})
    assert_problem(page, "volume", "expected", r"volume_\w+")
    expect(page.locator("#volume-result")).to_be_hidden()


def test_formats_that_no_browser_draws_are_drawn_by_the_server(watched, tmp_path):
    page = watched.page
    values = np.asarray(nibabel.load(SCAN).dataobj).T.astype(np.float32)
    tifffile.imwrite(tmp_path / "scan.tif", values, photometric="minisblack")
    page.get_by_role("tab", name="Volume").click()
    page.get_by_text("Options").click()
    page.get_by_label("Voxel spacing").fill("1,1,1")
    page.locator("#volume-file").set_input_files(tmp_path / "scan.tif")
    picture = page.locator("#volume-picture")
    expect(picture).to_be_visible()
    assert picture.evaluate("async p => { await p.decode(); return p.naturalHeight }") == 320
    expect(page.locator("#volume-classes tr")).to_have_count(2)
    with page.expect_download() as download:
        page.get_by_role("button", name="Label map").click()
    assert labels_of(download.value.path().read_bytes()).shape == values.T.shape


# ---- the page itself, and what happens around it ------------------------------------------------------------------------


def test_language_and_appearance_are_chosen_and_remembered(watched):
    page = watched.page
    title = page.get_by_role("heading", level=1)
    expect(title).to_have_text("Words and what they are")
    page.locator("#language").click()
    expect(title).to_have_text("词语与词性")
    assert page.evaluate("document.documentElement.lang") == "zh-Hans"
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.locator("#theme").select_option("dark")
    assert page.evaluate(background) != light
    page.goto(f"{watched.url}/#models")
    page.reload()
    expect(page.get_by_role("tab", name="模型")).to_have_attribute("aria-selected", "true")
    expect(page.locator(".model h3")).to_have_count(len(BUNDLES))
    expect(page.locator(".model", has_text="segmenter-hippocampus")).to_contain_text("重叠度 Dice")
    assert page.evaluate(background) != light
    empty = page.locator("[data-said]:visible:not(:has(*))").all_inner_texts()
    assert "" not in empty
    page.locator("#tab-models").press("Home")
    expect(page.locator("#tab-text")).to_be_focused()
    expect(page.locator("#panel-text")).to_be_visible()


def test_a_key_is_asked_for_where_the_server_wants_one(browser, tmp_path):
    environment = {"CONVOY_API_KEYS": "laboratory: 0123456789abcdef", "PYTHONPATH": str(Path(__file__).parent)}
    with (
        serving.serving("fake_service:Fake", tmp_path, environment) as server,
        visiting(browser, server.url, "key", {}) as watched,
    ):
        page, watched.refusals = watched.page, True
        dialog = page.locator("#key-dialog")
        dialog.get_by_label("API key").fill("not the key at all")
        dialog.get_by_role("button", name="Use key").click()
        expect(dialog.get_by_text("The server did not accept this key.")).to_be_visible()
        dialog.get_by_label("API key").fill("0123456789abcdef")
        dialog.get_by_role("button", name="Use key").click()
        expect(dialog).to_be_hidden()
        page.locator("[data-text-sample=en]").click()
        expect(page.locator("#text-about-model")).to_have_text("tagger-en")
        page.locator("#tab-sound").click()
        page.locator("input[value=live]").check(force=True)
        page.locator("#live-start").click()  # the key goes in a subprotocol
        expect(page.locator("#live-time")).to_have_text(re.compile(r"0:00\.[3-9]"))
        page.locator("#live-stop").click()
        expect(page.locator("#tracks .lane")).to_have_count(3)


def repeated_scan(folder: Path, *times: int) -> Path:
    """Work of some seconds: the sample, several times along each axis."""
    image = nibabel.load(SCAN)
    nibabel.save(nibabel.Nifti1Image(np.tile(np.asarray(image.dataobj), times), image.affine), folder / "large.nii")
    return folder / "large.nii"


def test_work_is_picked_up_by_a_page_loaded_anew_and_cancelled(watched, tmp_path):
    page = watched.page
    page.goto(f"{watched.url}/#volume")
    page.locator("#volume-file").set_input_files(repeated_scan(tmp_path, 3, 3, 3))
    progress = page.locator("#volume-progress .progress")
    expect(progress).to_contain_text(re.compile("Waiting|queue|Working"))
    task = json.loads(page.evaluate("localStorage.getItem('convoy.task.segment')"))["id"]
    page.reload()
    expect(progress).to_contain_text("large.nii")
    progress.get_by_role("button", name="Cancel").click()
    expect(page.locator("#volume-progress")).to_have_text("Cancelled.")
    assert httpx.get(f"{watched.url}/segment/status", params={"task_id": task}).json()["status"] == "canceled"
    assert page.evaluate("localStorage.getItem('convoy.task.segment')") is None


def test_a_server_that_dies_in_the_middle_loses_nothing(watched, backend, tmp_path):
    page, watched.refusals = watched.page, True
    page.goto(f"{watched.url}/#volume")
    page.locator("#volume-file").set_input_files(repeated_scan(tmp_path, 1, 2, 2))
    progress = page.locator("#volume-progress .progress")
    expect(progress).to_contain_text("Working")
    port = backend.kill()
    expect(progress).to_contain_text("Connection lost; trying again.")
    page.locator("#tab-text").click()
    page.locator("[data-text-sample=en]").click()
    expect(page.locator("#text-problem")).to_contain_text("The server cannot be reached.")
    backend.start(["tagger-en", "segmenter-hippocampus"], port)
    page.locator("#text-problem").get_by_role("button", name="Try again").click()
    expect(page.locator("#text-about-model")).to_have_text("tagger-en")
    page.locator("#tab-volume").click()
    expect(page.locator("#volume-classes tr")).to_have_count(2, timeout=2 * SECONDS)
