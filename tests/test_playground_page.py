"""The playground's page in a headless Chromium: what a person does with keyboard and eyes."""

from collections.abc import Iterator

import pytest
from chromium import Page, browsing, find_chromium
from small_playground import PlaygroundServer, Replayed, described, playing
from small_rollouts import FIRST

from blm.actors.playground import PlaygroundOptions
from blm.serve.guard.config import GuardConfig
from blm.serve.guard.keys import digest

CHROMIUM = find_chromium()
pytestmark = [pytest.mark.sim, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here (apt install chromium)")]
OPTIONS = PlaygroundOptions(speed=4, display_px=128, steps_a_frame=4, trained=("panda/PushCube",))


@pytest.fixture(scope="module")
def replayed() -> Replayed:
    """A policy that succeeds in two scenes."""
    return Replayed([FIRST, FIRST + 1])


@pytest.fixture(scope="module")
def server(replayed: Replayed) -> Iterator[PlaygroundServer]:
    """A server that acts and talks."""
    with playing(replayed.compute, described(), OPTIONS) as running:
        yield running


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """One browser for all."""
    assert CHROMIUM is not None
    with browsing(CHROMIUM, tmp_path_factory.mktemp("chromium")) as opened:
        opened.size(1280, 1000)
        yield opened


@pytest.fixture
def ready(page: Page, server: PlaygroundServer) -> Page:
    """The page, freshly loaded and connected."""
    page.console.clear()
    page.requested.clear()
    page.open(f"{server.url}/playground")
    page.wait("known.link === 'ready'")
    return page


def run_to_the_end(page: Page) -> None:
    page.press("r")
    page.wait("running()")
    page.wait("!running()")


def test_a_person_runs_a_task_with_one_key_and_sees_it_done(ready: Page, server: PlaygroundServer) -> None:
    assert ready.text("#link") == "Connected"
    assert "c0ffee" in ready.text("#model")
    assert ready.read("[...find('task').querySelectorAll('optgroup')].map((one) => one.label)") == [
        "Trained on",
        "Never trained on",
    ]
    assert ready.read("find('sees').hidden"), "nothing was seen yet"
    ready.press("r")
    ready.wait("known.episode === 'running' && known.looks.length > 1")
    assert ready.text("#outcome") == "Running"
    assert ready.text("#who") == "Franka Panda · Push cube · scene 0"
    assert "push the blue cube" in ready.text("#said")
    assert ready.read("document.querySelectorAll('#pictures canvas[aria-label]').length") == 2
    ready.wait("known.episode === 'success'")
    assert ready.text("#outcome").startswith("Done after ")
    assert ready.text("#count").startswith(f"step {ready.read('known.step')} of 90 ")
    looks = ready.read("known.looks.length")
    assert ready.read("document.querySelectorAll('#chart rect').length") == 5 * looks
    assert ready.read("Math.max(...known.looks.map((look) => split(look).mllm))") == 12
    assert "MLLM 12 ms" in ready.text("#legend")
    assert f"look {looks}:" in ready.text("#chart-last")
    colours = "new Set(document.querySelector('canvas').getContext('2d').getImageData(0, 0, 128, 128).data).size"
    assert ready.read(colours) > 20, "the picture is drawn"
    ready.press("m")
    ready.wait("document.querySelector('.px').textContent.startsWith('112 px')")
    assert ready.console == []
    assert {address.startswith((server.url, "data:")) for address in ready.requested} == {True}


def test_a_person_talks_about_the_picture(ready: Page, server: PlaygroundServer) -> None:
    assert ready.read("find('question').disabled")
    run_to_the_end(ready)
    ready.press("t")
    ready.write("Where is the cube?")
    ready.press("Enter")
    ready.wait("document.querySelectorAll('.theirs small').length === 1")
    assert "I see 2 pictures of 112 px; you asked: Where is the cube?" in ready.text("#talk .theirs")
    assert ready.text("#talk .mine") == "Where is the cube?"
    ready.read("ask('And the goal?')")
    ready.wait("document.querySelectorAll('.theirs small').length === 2")
    messages = server.talker.asked[-1]["messages"]
    assert [message["role"] for message in messages] == ["user", "assistant", "user"], "it is still the same picture"
    ready.read("find('scene').value = 1")
    ready.press("Escape")
    run_to_the_end(ready)
    ready.read("ask('And now?')")
    ready.wait("document.querySelectorAll('.theirs small').length === 3")
    assert len(server.talker.asked[-1]["messages"]) == 1, "another picture is another conversation"


def test_a_person_tells_the_robot_something_else_and_stops_it(ready: Page) -> None:
    ready.press("r")
    ready.wait("known.episode === 'running'")
    ready.press("i")
    ready.write("leave the cube alone")
    ready.press("Enter")
    ready.wait("find('said').textContent === 'leave the cube alone'")
    ready.press("Escape")
    ready.press("Escape")
    ready.wait("known.episode === 'stopped'")
    assert ready.text("#outcome") == "Stopped"


def test_every_control_has_a_name_and_takes_the_focus(ready: Page) -> None:
    named = "(one.labels && one.labels.length) || one.ariaLabel || one.textContent.trim()"
    controls = "[...document.querySelectorAll('input, select, button')].filter((one) => one.offsetParent)"
    assert ready.read(f"{controls}.length") > 10
    assert ready.read(f"{controls}.filter((one) => !({named})).length") == 0
    reached = set()
    for _ in range(14):
        ready.press("Tab")
        reached.add(ready.read("document.activeElement.id || document.activeElement.textContent"))
    assert {"robot", "task", "scene", "another", "instruction", "run"} <= reached
    narrow = "document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    ready.size(390, 800)
    assert ready.read(narrow), "nothing sticks out on a telephone"
    ready.size(1280, 1000)


def test_a_server_that_goes_is_said_and_found_again(ready: Page, server: PlaygroundServer) -> None:
    ready.press("r")
    ready.wait("known.episode === 'running'")
    server.stop()
    ready.wait("known.link === 'gone'")
    assert ready.text("#outcome") == "The server is gone"
    assert "does not answer" in ready.text("#notice")
    assert ready.read("find('run').disabled")
    server.start()
    ready.read("find('retry').click()")
    ready.wait("known.link === 'ready'")
    assert ready.read("find('notice').hidden")
    assert not ready.read("find('run').disabled")


def test_a_locked_server_without_conversation_asks_for_the_key_and_says_so(page: Page, replayed: Replayed) -> None:
    keys = GuardConfig(key_hashes={"visitor": digest("blm-the-right-key")})
    with playing(replayed.compute, described(), OPTIONS, chat=False, guarded=keys) as locked:
        page.open(f"{locked.url}/playground")
        page.wait("known.link === 'refused' && !find('key-form').hidden")
        page.write("wrong")
        page.press("Enter")
        page.wait("find('notice-words').textContent.includes('does not know this key')")
        page.read("find('key').value = ''")
        page.write("blm-the-right-key")
        page.press("Enter")
        page.wait("known.link === 'ready'")
        run_to_the_end(page)
        assert page.read("known.episode") == "success"
        assert "nobody to talk to" in page.text("#talk-hint")
        assert page.read("find('question').disabled")
