"""What is behind the separator's endpoints, without a server."""

from __future__ import annotations

import pytest
from fake_service import FakeSeparator
from recordings import recording

from models.errors import ConfigError, TooLargeError, UnavailableError, UnprocessableError
from models.separator.audio import Limits
from services.file_calls import display_stem
from services.pool import Job
from services.separation import SeparateForm, Separation, check_room_for_voices, separate_upload
from services.separator import SeparatorEndpoints
from services.settings import Settings
from services.uploads import Upload
from services.workspace import Workspaces


def test_bundles_are_chosen_by_what_they_can():
    both = {name: FakeSeparator(name, causal) for name, causal in (("live", True), ("a", False), ("b", False))}
    separation = Separation(both, Settings())
    assert separation.choose(None, live=False).spec.name == "a"
    assert separation.choose(None, live=True).spec.name == "live"
    assert separation.choose("live", live=False).spec.name == "live"
    with pytest.raises(UnprocessableError, match="not causal"):
        separation.choose("b", live=True)
    alone = Separation({"live": both["live"]}, Settings())
    assert alone.choose(None, live=False).spec.name == "live"
    for separators, live in (({}, False), ({}, True), ({"a": both["a"]}, True)):
        with pytest.raises(UnavailableError, match="separator bundle is loaded"):
            Separation(separators, Settings()).choose(None, live=live)


def test_voices_that_would_fill_the_disk_or_do_not_fit_are_refused(tmp_path):
    path, limits = tmp_path / "recording", Limits(seconds=10)
    path.write_bytes(recording(seconds=5, rate=700_000))
    check_room_for_voices(path, limits, 2, "wav", 28_000_000)
    with pytest.raises(TooLargeError, match="at most 27999999 bytes of voices, got 28000000"):
        check_room_for_voices(path, limits, 2, "wav", 27_999_999)
    with pytest.raises(UnprocessableError, match=r"at most 655350 Hz .* Ask for wav"):
        check_room_for_voices(path, limits, 2, "flac", 28_000_000)


def test_a_full_disk_is_not_the_clients_fault(tmp_path):
    class Full(FakeSeparator):
        def separate_file(self, source, target, **options):
            raise ConfigError("the output cannot be written") from OSError(28, "No space left on device")

    workspaces = Workspaces(tmp_path)
    workspace = workspaces.new()
    upload = Upload(workspace.path / "recording")
    upload.path.write_bytes(recording())
    with pytest.raises(UnavailableError, match="No space left on device"):
        separate_upload(Full("full"), upload, SeparateForm(), workspace, Settings(), Job())
    workspaces.close()


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("talk.wav", "talk"),
        ("", ""),
        ("..", ""),
        ("../../etc/passwd", "passwd"),
        ("C:\\a\\b.mp3", "b"),
        ("a\r\nSet-Cookie: x.wav", "aSet-Cookie x"),
        ("录音 1.wav", "录音 1"),
        ("scan.NII.gz", "scan"),
        ("x" * 300, "x" * 80),
    ],
)
def test_what_the_answer_is_called(given, shown):
    assert display_stem(given, (".nii.gz",)) == shown


def test_the_catalogue_lists_what_is_loaded():
    endpoints = SeparatorEndpoints({"live": FakeSeparator("live", causal=True)}, Settings())
    entry = endpoints.catalogue[0]
    assert (entry["name"], entry["causal"], entry["sources"]) == ("live", True, ["first", "second"])
