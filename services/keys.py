"""API keys: who may call, and under which name.

``CONVOY_API_KEYS_FILE`` names a file with a key a line, ``CONVOY_API_KEYS`` holds keys separated by commas; both count.

    # name: key, or name: sha256:digest (sha256sum of the key, without a newline); a bare key gets a name made from its digest
    laboratory: 3q2-7wEjRWeJq83vEjRWeJq8
    partner: sha256:5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8

Keys may share a name: add the new one, move over, remove the old one, and what the name owns stays its own. The file is read
again when it has changed, within a second; one that cannot be read or holds nonsense then is logged, and the keys before it stay
valid. An empty one locks everybody out.

Keys are compared as digests, all of them every time, in constant time. A key is random, so a plain SHA-256 hides it well enough.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import logging
import re
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import ClassVar

from models.errors import ConfigError, InputError

log = logging.getLogger("convoy.keys")

SUBPROTOCOL = "convoy"
_IN_SUBPROTOCOL = f"{SUBPROTOCOL}.key."
_ENTRY = re.compile(
    r"(?:(?P<name>[A-Za-z0-9._-]{1,64})\s*:\s*)??(?:sha256:(?P<digest>[0-9a-fA-F]{64})|(?P<key>[A-Za-z0-9._~+/=-]+))"
)
_SHORTEST = 16
_HOW = "Send it as `Authorization: Bearer KEY` or `X-API-Key: KEY`."
_EXPECTED = "NAME: KEY or NAME: sha256:DIGEST, a name of letters, digits, . _ and -, a key of those and ~ + / ="


class KeyMissingError(InputError):
    """No API key came."""

    code, status = "key_missing", 401
    headers: ClassVar[dict[str, str]] = {"WWW-Authenticate": 'Bearer realm="convoy"'}


class KeyUnknownError(InputError):
    """An API key came that is nobody's."""

    code, status = "key_unknown", 401
    headers: ClassVar[dict[str, str]] = {"WWW-Authenticate": 'Bearer realm="convoy", error="invalid_token"'}


class Keys:
    """The keys that are valid now.

    Args:
        fixed: entries that hold as long as the process runs.
        file: with further ones, a line each.
        check_seconds: between two looks at the file.

    Raises:
        ConfigError: an entry is malformed, the file cannot be read, or there is no key at all.
    """

    def __init__(self, fixed: Iterable[str], file: Path | None = None, check_seconds: float = 1.0) -> None:
        self._fixed, self._file, self._check_seconds = parse(fixed, "CONVOY_API_KEYS"), file, check_seconds
        self._seen: object = None
        self._next_look = 0.0
        self._names: dict[bytes, str] = {}
        self._read()
        if not self._names:
            raise ConfigError("no API key", where=str(file or "CONVOY_API_KEYS"), expected=_EXPECTED)

    @classmethod
    def given(cls, keys: str, file: str) -> Keys | None:
        """Those of the settings; None where there are none, and everybody may call."""
        return cls(keys.split(","), Path(file) if file else None) if keys or file else None

    def name_of(self, key: str) -> str | None:
        """Whose key it is; None where nobody's."""
        self._look()
        digest = hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
        found = None
        for known, name in self._names.items():  # all of them: the time tells nothing
            if hmac.compare_digest(digest, known):
                found = name
        return found

    def check(self, headers: Mapping[bytes, bytes]) -> str:
        """Whose key these headers hold.

        Raises:
            KeyMissingError: none.
            KeyUnknownError: nobody's.
        """
        if not (key := presented(headers)):
            raise KeyMissingError("an API key is needed", fix=_HOW)
        if (name := self.name_of(key)) is None:
            raise KeyUnknownError("the API key is not known", fix=_HOW)
        return name

    def _look(self) -> None:
        """Read the file again if it is another one, or has changed."""
        if self._file is None or (now := time.monotonic()) < self._next_look:
            return
        self._next_look = now + self._check_seconds
        if (state := _state(self._file)) != self._seen:
            try:
                self._read()
            except ConfigError as error:
                self._seen = state
                log.error("the API keys stay as they are: %s", error)
            else:
                log.warning("API keys read again: %d are valid", len(self._names))

    def _read(self) -> None:
        names = dict(self._fixed)
        if self._file is not None:
            state = _state(self._file)
            try:
                lines = self._file.read_text("utf-8").splitlines()
            except (OSError, ValueError) as error:
                where = "CONVOY_API_KEYS_FILE"
                raise ConfigError("the keys cannot be read", where=where, expected="a text file", got=error) from None
            names |= parse(lines, self._file.name)
            self._seen = state
        self._names = names


def parse(entries: Iterable[str], where: str) -> dict[bytes, str]:
    """Names by digest; empty entries and those that begin with # are left out.

    Raises:
        ConfigError: an entry is malformed, or a key stands there under two names. The message shows no key.
    """
    names: dict[bytes, str] = {}
    for number, text in enumerate(map(str.strip, entries), 1):
        if not text or text.startswith("#"):
            continue
        place = f"{where}, entry {number}"
        if (entry := _ENTRY.fullmatch(text)) is None:
            raise ConfigError("not an API key", where=place, expected=_EXPECTED)
        digest = bytes.fromhex(entry["digest"]) if entry["digest"] else _digest_of(entry["key"], place)
        name = entry["name"] or f"key-{digest.hex()[:8]}"
        if names.setdefault(digest, name) != name:
            raise ConfigError("a key under two names", where=place, expected="each key once", fix="Give everybody their own.")
    return names


def _digest_of(key: str, place: str) -> bytes:
    if len(key) < _SHORTEST:
        fix = "Make one with: python -c 'import secrets; print(secrets.token_urlsafe(24))'."
        expected, got = f"at least {_SHORTEST} characters", f"{len(key)}"
        raise ConfigError("the API key is too short", where=place, expected=expected, got=got, fix=fix)
    return hashlib.sha256(key.encode()).digest()


def _state(file: Path) -> object:
    """What is different when the file is: also after a rename over it, as secrets that are mounted are changed."""
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns, found.st_size


def presented(headers: Mapping[bytes, bytes]) -> str:
    """The key that a request shows; empty where it shows none.

    Pages cannot set headers of a WebSocket, so there a subprotocol may hold it: ``convoy.key.`` and the key in base64url, beside
    ``convoy``, which the server accepts.
    """
    kind, _, key = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if kind.lower() == "bearer" and key.strip():
        return key.strip()
    if given := headers.get(b"x-api-key", b"").decode("latin-1").strip():
        return given
    for offered in headers.get(b"sec-websocket-protocol", b"").decode("latin-1").split(","):
        if offered.strip().startswith(_IN_SUBPROTOCOL):
            return _unpacked(offered.strip().removeprefix(_IN_SUBPROTOCOL))
    return ""


def _unpacked(text: str) -> str:
    try:
        return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode("utf-8")
    except (binascii.Error, ValueError):
        return text  # nobody's key
