"""The report in a real browser: it draws, plays, searches, fits the window, and runs no code from texts."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from browser import CHROMIUM, Browser
from report_run import FRAMES, Page, palettes, write_keypoints, write_run, write_store

from unisign_fast.evaluation.predictions import Prediction
from unisign_fast.pipelines.store.keypoint_store import KeypointStore
from unisign_fast.report.page import write_report

HOSTILE = ["<img src=x onerror=document.title='run'>", "</script><script>document.title='run'</script>", "]]>&lt;i>"]


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    return write_store(tmp_path_factory.mktemp("browser") / "store")


@pytest.fixture(scope="module")
def run(store) -> Path:
    """A run that samples hand crops; its predictions are wrong in one word each."""
    clips = KeypointStore.open(store).clips
    rows = [
        Prediction(c.id, c.text.replace("喜欢", "爱"), c.text) for c in clips if c.split == "test" and c.id != "clip11"
    ]
    return write_run(store.parent / "run", store, "slt", rows, evaluations=100, p_samp=0.25)


@pytest.fixture(scope="module")
def page(run) -> Path:
    write_report(run, run.parent / "report.html", clips=2, faces=False)
    return run.parent / "report.html"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium here: apt-get install chromium")
    with Browser() as opened:
        yield opened


FRAME = "document.querySelector('output').textContent"
PLAYING = "[...document.querySelectorAll('.toggle .word')].filter((word) => word.textContent === 'Pause').length"
FOCUSED = "document.activeElement.className || document.activeElement.tagName"
DRAWN = """[...document.querySelectorAll('.player')].map((player) => [...player.querySelectorAll('canvas')].map(
    (canvas) => new Set(new Uint32Array(canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data
    .buffer)).size))"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_opens_without_errors_or_requests_and_draws(browser, page, scheme):
    browser.open(page, scheme=scheme, motion="reduce")
    browser.wait(lambda: min(browser.value(DRAWN)[0]) > 4)
    counts = browser.value(DRAWN)
    assert len(counts) == 4 and all(len(player) == 3 and min(player) > 4 for player in counts)
    kinds = "Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled"
    complaints = [event for kind, event in browser.events if kind in kinds]
    canvas = "rendering"  # source of the warnings that this test causes by reading canvases
    assert [event for event in complaints if event.get("entry", {}).get("source") != canvas] == []
    asked = [event["request"]["url"] for kind, event in browser.events if kind == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith(("file:", "data:"))] == [] and len(asked) > 1
    back = browser.value("getComputedStyle(document.body).backgroundColor")
    wanted = palettes()[scheme]["paper"]
    assert back == f"rgb({', '.join(str(int(wanted[i : i + 2], 16)) for i in (1, 3, 5))})"
    unnamed = "[...document.querySelectorAll('svg, canvas')].filter((x) => !x.getAttribute('aria-label')).length"
    assert browser.value(unnamed) == 0


def test_clips_play_by_button_and_by_keyboard(browser, page):
    browser.open(page, motion="reduce")
    assert browser.value(FRAME) == f"1 of {FRAMES}, 0.00 s" and browser.value(PLAYING) == 0
    # The test is the clock: the clip plays once through in less time than a busy machine may take to ask for its frame.
    browser.value("window.ticks = []; window.setInterval = (tick) => ticks.push(tick); 0")
    browser.value("document.querySelector('.toggle').click()")
    browser.value("ticks[0]()")
    assert browser.value(FRAME).startswith("2 of") and browser.value(PLAYING) == 1
    browser.value("document.querySelector('.toggle').click()")
    assert browser.value(PLAYING) == 0
    browser.value("document.querySelector('.toggle').focus()")
    browser.press(" ", 32, " ")
    assert browser.value(PLAYING) == 1
    browser.press("Tab", 9)
    assert browser.value("document.activeElement.type") == "range"
    assert float(browser.value("parseFloat(getComputedStyle(document.activeElement).outlineWidth)")) >= 2
    browser.press(" ", 32, " ")
    assert browser.value(PLAYING) == 0
    at = int(browser.value(FRAME).split()[0])
    browser.press("ArrowRight", 39)
    assert int(browser.value(FRAME).split()[0]) == min(at + 1, FRAMES)


def test_reduced_motion_is_respected(browser, page):
    into_view = "document.querySelector('.player').scrollIntoView({block: 'center'})"
    settled = "new Promise((done) => setTimeout(done, 300))"
    browser.open(page, motion="reduce")
    browser.value(into_view)
    browser.value(settled)
    assert browser.value(PLAYING) == 0 and browser.value(FRAME).startswith("1 of")
    browser.value("document.querySelector('.toggle').click()")
    browser.wait(lambda: browser.value(PLAYING) == 0)
    assert browser.value(FRAME).startswith("1 of"), "once through"

    browser.open(page)
    browser.value(into_view)
    browser.wait(lambda: browser.value(PLAYING) > 0 and not browser.value(FRAME).startswith("1 of"))
    browser.value("document.getElementById('pause-all').click()")
    assert browser.value(PLAYING) == 0
    browser.value("scrollTo(0, 0)")
    browser.value(into_view)
    browser.value(settled)
    assert browser.value(PLAYING) == 0, "the reader's pause holds"


def test_sampled_frames_say_so_in_words(browser, page):
    sampled = Page(page).players[0]["hands"][0]["sampled"]
    browser.open(page, motion="reduce")
    states = []
    for frame in (sampled[0], next(t for t in range(FRAMES) if t not in sampled)):
        browser.value(f"players[0].show({frame})")
        states.append(browser.value("document.querySelector('.state').textContent"))
    assert states[0] == "▲ sampled" and states[1] in ("not sampled", "no crop")


def test_hand_crops_are_of_the_frame_that_is_shown(browser, page):
    browser.open(page, motion="reduce")
    browser.wait(lambda: min(browser.value(DRAWN)[0]) > 4)
    middle = "document.querySelector('.hand canvas').getContext('2d').getImageData(112, 112, 1, 1).data[2]"
    for frame in (2, 7, 12):
        browser.value(f"players[0].show({frame})")
        assert abs(browser.value(middle) - 10 * frame) < 10, "blue tells the frame"


@pytest.mark.parametrize("width", [320, 1100])
def test_nothing_runs_over_the_edge(browser, page, width):
    browser.open(page, width=width, motion="reduce")
    inner, whole = browser.value("[document.documentElement.clientWidth, document.documentElement.scrollWidth]")
    assert whole == inner <= width
    assert browser.value("document.documentElement.scrollHeight") > 2000


def test_tables_leave_room_for_what_they_show(browser, page):
    browser.open(page, motion="reduce")
    clip, texts = browser.value("[...document.querySelector('#rows tr').cells].map((cell) => cell.offsetWidth)")
    assert clip < texts / 2
    browser.open(page, width=400, motion="reduce")
    right = "document.querySelector('{}').getBoundingClientRect().right"
    edge = browser.value(right.format(".scroll:has(> .wide)"))
    assert browser.value(right.format(".ours td:nth-of-type(3)")) <= edge, "two metrics without scrolling"
    clip, texts = browser.value("[...document.querySelector('#rows tr').cells].map((cell) => cell.offsetWidth)")
    assert clip == texts > 300, "one below the other"


def test_predictions_are_found_and_put_in_order(browser, page):
    browser.open(page, motion="reduce")
    shown = "[...document.querySelectorAll('#rows tr:not([hidden]) code')].map((id) => id.textContent)"
    matches = "document.getElementById('matches').textContent"
    every = browser.value(shown)
    assert len(every) == 11 and browser.value(matches) == "11 of 11 clips"

    def search(query: str) -> list[str]:
        browser.value(f"document.getElementById('query').value = {query!r}")
        browser.value("document.getElementById('query').dispatchEvent(new Event('input'))")
        assert browser.value(matches) == f"{len(browser.value(shown))} of 11 clips"
        return browser.value(shown)

    assert search("CLIP9") == ["clip9"], "whatever the case"
    assert search("我喜欢<b>") == search("我喜欢") != [], "across the marks of differences"
    assert len(search("我爱")) == len(search("我喜欢"))
    assert search("missed") == [], "the marks are no text"
    assert search("ｃｌｉｐ９") == ["clip9"], "full-width letters"
    assert search("nothing") == [] and search("") == every

    def order(name: str) -> list[float]:
        browser.value(f"document.getElementById('order').value = {name!r}")
        browser.value("document.getElementById('order').dispatchEvent(new Event('change'))")
        return browser.value("[...document.querySelectorAll('#rows tr')].map((row) => +row.dataset.quality)")

    assert order("worst") == sorted(order("file")) and order("best") == sorted(order("file"), reverse=True)
    order("file")
    assert browser.value(shown) == every


def test_the_skeleton_is_drawn_over_the_video(browser, run, tmp_path):
    write_report(run, tmp_path / "faces.html", clips=1, faces=True)
    browser.open(tmp_path / "faces.html", motion="reduce")
    blue = (
        "document.querySelector('.skeleton canvas').getContext('2d').getImageData(60, 272, 1, 1).data.slice(2).join()"
    )
    browser.wait(lambda: browser.value(blue) != "0,0")
    for frame in (3, 10, 17):
        browser.value(f"players[0].show({frame})")
        value, opaque = map(int, browser.value(blue).split(","))
        assert abs(value - 10 * frame) < 20 and opaque == 255, "blue tells the frame"
    counts = (
        "new Set(new Uint32Array(players[0].skeleton.getContext('2d').getImageData(0, 0, 544, 544).data.buffer)).size"
    )
    with_video = browser.value(counts)
    browser.value("document.querySelector('.over').click()")
    assert browser.value(blue) == "0,0" and 4 < browser.value(counts) < with_video


def test_shoulders_are_joined(page):
    """Hand and wrist are joined, too; no line leads from the nose to a shoulder."""
    (parts, *_) = (player["parts"] for player in Page(page).players)
    edges = {tuple(sorted(edge)) for part in parts.values() for edge in part}
    nose, left_shoulder, right_shoulder, left_wrist, left_hand = 0, 3, 4, 7, 9
    assert (left_shoulder, right_shoulder) in edges and (left_wrist, left_hand) in edges
    assert not any(nose in edge for edge in edges)


def test_texts_are_never_markup_or_script(browser, store, tmp_path):
    rows = [Prediction(f"{i}{text}", HOSTILE[(i + i // 5) % 3], text) for i, text in enumerate(HOSTILE * 6)]
    for task in ("slt", "islr", "cslr"):
        name = "run <img src=x onerror=alert(1)>"
        folder = write_run(tmp_path / task / name, store, task, rows, evaluations=1)
        write_report(folder, tmp_path / f"{task}.html", clips=1, faces=False)
        assert not {"img", "i", "b"} & Page(tmp_path / f"{task}.html").tags
        browser.open(tmp_path / f"{task}.html", motion="reduce")
        assert browser.value("document.title") == f"Report of {folder}"
        assert browser.value("document.scripts.length") == 2 and browser.value("document.images.length") == 0
        assert [kind for kind, _ in browser.events if kind == "Runtime.exceptionThrown"] == []
        texts = browser.value("[...document.querySelectorAll('#rows dd')].map((text) => text.textContent).join()")
        assert "<img" in texts and "</script><script>" in texts


@pytest.mark.parametrize("evaluations", [1, 100])
def test_a_run_without_video_shows_its_skeletons(browser, tmp_path, evaluations):
    folder = write_run(tmp_path / "run", write_keypoints(tmp_path / "store"), "slt", [], evaluations=evaluations)
    write_report(folder, tmp_path / "report.html", clips=2, faces=True)
    shown = Page(tmp_path / "report.html")
    assert shown.text.count("holds keypoints only") == 1, "once, not with every clip"
    browser.open(tmp_path / "report.html", motion="reduce")
    counts = browser.value(DRAWN)
    assert len(counts) == 2 and all(len(player) == 1 and player[0] > 4 for player in counts)
    dots = browser.value("document.querySelectorAll('.chart')[1].querySelectorAll('circle:not(.best)').length")
    assert dots == (1 if evaluations == 1 else 0)
    assert [kind for kind, _ in browser.events if kind == "Runtime.exceptionThrown"] == []
