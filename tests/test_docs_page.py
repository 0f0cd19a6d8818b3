"""The page at /docs in a headless Chromium: it shows every place, tries one, and fetches nothing from elsewhere."""

from pathlib import Path

import pytest
from chromium import browsing, find_chromium
from small_web import serving_web, small_chat

CHROMIUM = find_chromium()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (apt install chromium)")
def test_a_person_reads_what_there_is_and_tries_it(tmp_path: Path) -> None:
    assert CHROMIUM is not None
    with serving_web(chat=small_chat()) as web, browsing(CHROMIUM, tmp_path) as page:
        page.open(f"{web.url}/docs")
        page.wait("document.querySelectorAll('details').length > 5")
        page.read(
            "window.actions = [...document.querySelectorAll('details')]"
            ".find((one) => one.innerText.includes('/v1/actions')), true"
        )
        page.read("window.actions.open = true")
        assert "joint positions in rad" in page.read("window.actions.innerText")
        body = page.read("JSON.parse(window.actions.querySelector('textarea').value)")
        assert set(body) == {"instruction", "state", "images"}
        page.read("window.actions.querySelector('button').click(), true")
        page.wait("window.actions.querySelector('pre').innerText.includes('which robot')")
        said = [line for line in page.console if not line.startswith("[DOM]")]  # hints on how to write forms
        assert not [line for line in said if "400" not in line]
        assert page.requested
        assert all(address.startswith(web.url) for address in page.requested)
