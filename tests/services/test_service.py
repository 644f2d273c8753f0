"""Our page, without a server."""

from __future__ import annotations

from services.service import PAGE, page_policy


def test_the_page_needs_nothing_from_elsewhere():
    page = PAGE.read_text(encoding="utf-8")
    assert "//" not in page.replace("// ", "")  # no address of any other host, with a scheme or without
    assert "innerHTML" not in page
    assert not any(f'on{event}="' in page for event in ("click", "load", "error", "submit"))
    policy = page_policy(page)
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
