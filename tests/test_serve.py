"""The browser pages: what they show, that they show it to readers alone, and write nothing."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from email.message import Message
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web
from helpers.browser import CHROMIUM, CONTRASTS, Browser, contrast
from helpers.pages import Page
from helpers.studies import tiny_data

import l2kd_ray
from l2kd_ray.core.store import Damaged
from l2kd_ray.errors import InputError
from l2kd_ray.serve.app import application
from l2kd_ray.serve.storage import ReadOnlyStore

EVIL = "<script>alert(1)</script>"
PARTS = ("", "/curves", "/tree", "/answers", "/replay")


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage with a study that is swept, and one that has not begun."""
    folder = tmp_path_factory.mktemp("storage")
    root = folder / "results"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("HF_HUB_OFFLINE", "1")
        for name, methods in (("swept", ["finetune", "lamol", "l2kd"]), ("begun", ["lamol"])):
            file = folder / f"{name}.yaml"
            data = {"name": name, "methods": methods, "storage": str(root)}
            file.write_text(yaml.safe_dump(tiny_data(**data)))
        l2kd_ray.load_study("swept.yaml").sweep("inline")
        begun = l2kd_ray.load_study("begun.yaml", {"seeds": [7]})
        begun._folder.keep_study("name: begun\n")  # cannot be read: it names no tasks
        begun._folder.add_keys(stage for t in begun.study.trials() for stage in t.stages())
        failure = {"kind": "learn", "key": "ab" * 16, "error": f"ValueError: {EVIL}"}
        begun._folder.keep_failures([{**failure, "traceback": f"Traceback\n{EVIL}"}])
    return root


@contextmanager
def listening(app: web.Application) -> Iterator[str]:
    """The address of the app, served from a thread."""
    loop, ready = asyncio.new_event_loop(), threading.Event()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    runner = web.AppRunner(app)

    async def start() -> None:
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        ready.set()

    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    asyncio.run_coroutine_threadsafe(start(), loop).result(30)
    yield f"http://127.0.0.1:{port}"
    asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(30)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(30)


@pytest.fixture(scope="module")
def pages(storage: Path) -> Iterator[str]:
    """The address of the pages of the storage."""
    with listening(application(str(storage))) as address:
        yield address


def get(address: str, path: str, verb: str = "GET", **headers: str) -> tuple[int, Message, str]:
    """Status, headers and text of one answer to the path as it is written; pages that still read
    the study are asked again."""
    for _ in range(60):
        connection = HTTPConnection(address.removeprefix("http://"), timeout=30)
        connection.request(verb, path, headers=headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        if "Reading the s" not in text:
            break
        time.sleep(0.2)
    return answer.status, answer.headers, text


def test_all_studies_of_a_storage_stand_on_one_page(pages: str) -> None:
    status, _, text = get(pages, "/")
    assert status == 200
    page = Page(text.replace("<!doctype html>", ""))
    assert "swept" in page.words
    assert "begun" in page.words
    assert "1 failed" in page.words
    assert re.search(r"points (below|above) multi-task", page.words)
    assert 'data-live="5"' in text


@pytest.mark.parametrize("part", PARTS)
def test_a_page_of_a_study_is_whole(pages: str, part: str) -> None:
    status, headers, text = get(pages, f"/study/swept{part}")
    assert status == 200
    page = Page(text)
    assert "swept" in page.words
    assert not re.search(r"\bnan\b|\bNone\b|Undefined", page.words)
    assert "unsafe-inline" not in headers["Content-Security-Policy"]
    assert " style=" not in text  # the policy would not let it
    for reference in page.references:
        assert reference.startswith(("/", "?", "data:")), reference


def test_a_study_shows_its_gaps_without_intervals(pages: str) -> None:
    """An interval that nobody counts as a look would make later ones hold less often."""
    _, _, text = get(pages, "/study/swept")
    words = " ".join(Page(text).words.split())
    assert "lamol" in words
    assert "2 of 2" in words
    assert "Gap so far" in words


def test_a_study_whose_file_cannot_be_read_still_shows_its_progress(pages: str) -> None:
    status, _, text = get(pages, "/study/begun")
    page = Page(text)
    assert status == 200
    assert "cannot be used here" in page.words
    assert "failed stages" in page.words
    assert EVIL in page.words  # as text
    assert EVIL not in text


def test_answers_stand_side_by_side_and_the_most_forgotten_first(pages: str) -> None:
    query = "method=finetune+{}&beside=l2kd+{}&order=gen.rest>gen.intent&task=gen.rest"
    _, _, text = get(pages, f"/study/swept/answers?{query}")
    assert text.count("<article") == 4
    assert text.count('class="learned"') == 8  # of two methods
    assert re.findall(r"<h3>(.*?)</h3>", text) == ["finetune", "l2kd"] * 4
    _, _, other = get(pages, f"/study/swept/answers?{query}&from=2")
    assert other.count("<article") == 2
    _, _, odd = get(pages, "/study/swept/answers?method=../../etc&task=<b>&from=-1&seed=%00")
    assert odd.count("<article") == 4  # what is not offered is not taken


def test_curves_are_drawn_for_each_trial_and_chosen_by_method(pages: str) -> None:
    _, _, every = get(pages, "/study/swept/curves")
    _, _, one = get(pages, "/study/swept/curves?method=l2kd+{}")
    assert every.count("<figure>") == 8  # two orders of three methods, and the references
    assert one.count("<figure>") == 2
    assert one.count('class="teacher"') > 2
    _, _, kd = get(pages, "/study/swept/curves?measure=kd")
    assert kd.count("<figure>") == 2  # those that have that term
    names = ("loss", "qa", "lm", "kd", "replay", "grad_norm", "lr", "tokens_per_second")
    assert all(f'<option value="{name}"' in kd for name in names)


def test_the_tree_shows_what_is_done_and_shared(pages: str) -> None:
    _, _, text = get(pages, "/study/swept/tree")
    trees = re.findall(r'<svg class="tree".*?</svg>', text, re.S)
    assert len(trees) == 3
    assert all(tree.count('<rect class="done"') == 5 for tree in trees)
    assert "shared by 2 orders here" in trees[0]
    link = re.search(r'href="(/stage/\w+)"', trees[0])
    assert link
    status, _, stage = get(pages, link[1])
    assert status == 200
    assert "manifest" in stage.lower()


def test_the_report_is_shown_and_only_its_own_script_runs(pages: str) -> None:
    status, headers, text = get(pages, "/study/swept/report")
    assert status == 200
    assert "Gap to multi-task" in text
    policy = headers["Content-Security-Policy"]
    assert "script-src 'sha256-" in policy
    status, _, text = get(pages, "/study/begun/report")
    assert status == 404
    assert "l2kd report begun" in text


OUTSIDE = (
    *("/study/../../etc/passwd", "/study/%2e%2e%2fresults", "/study/..%2f..%2fetc%2fpasswd"),
    *("/stage/../learn", "/stage/%2e%2e", "/stage/" + "ab" * 16, "/style.css/../app.py"),
    *("/study/swept/figures", "/study/swept/study.yaml", "/templates/base.html", "/study/%00"),
)


@pytest.mark.parametrize("path", OUTSIDE)
def test_no_address_reaches_a_file(pages: str, path: str) -> None:
    status, headers, text = get(pages, path)
    assert status == 404
    assert "root:" not in text
    assert "Content-Security-Policy" in headers


@pytest.mark.parametrize("verb", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_but_reading_is_answered(pages: str, verb: str) -> None:
    assert get(pages, "/study/swept", verb)[0] == 405


def test_every_answer_has_the_headers_that_keep_it_here(pages: str) -> None:
    for path in ("/", "/style.css", "/page.js", "/nowhere", "/study/swept/report"):
        _, headers, _ = get(pages, path)
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Referrer-Policy"] == "no-referrer"
        policy = headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy


def test_without_a_token_only_this_machine_is_served(storage: Path) -> None:
    for host in ("0.0.0.0", "10.1.2.3", "::", "example.org"):
        with pytest.raises(InputError, match="--token"):
            application(str(storage), host)
    for host in ("127.0.0.1", "localhost", "::1"):
        application(str(storage), host)


def test_a_name_of_the_web_that_points_here_is_refused(pages: str) -> None:
    """DNS rebinding: a page of the web could read this server as its own origin."""
    assert get(pages, "/", Host="evil.example:8275")[0] == 403
    assert get(pages, "/", Host="localhost:8275")[0] == 200


def test_an_empty_token_is_none(storage: Path) -> None:
    """As of `--token "$UNSET"`."""
    with pytest.raises(InputError, match="--token"):
        application(str(storage), "0.0.0.0", "")
    with listening(application(str(storage), token="")) as pages:
        assert get(pages, "/", Host="evil.example")[0] == 403
        assert get(pages, "/", Host="localhost")[0] == 200


def test_a_token_is_asked_for_and_leaves_the_address(storage: Path) -> None:
    with listening(application(str(storage), "0.0.0.0", "a-long-secret")) as pages:
        for path in ("/", "/study/swept", "/style.css", "/nowhere"):
            assert get(pages, path)[0] == 401
            assert get(pages, f"{path}?token=a-long-secre")[0] == 401
            assert get(pages, path, Authorization="Bearer a-long-secret")[0] != 401
        status, headers, _ = get(pages, "/study/swept?token=a-long-secret&x=1")
        assert (status, headers["Location"]) == (303, "/study/swept?x=1")
        assert "HttpOnly" in headers["Set-Cookie"]
        assert "SameSite=Strict" in headers["Set-Cookie"]
        assert headers["Referrer-Policy"] == "no-referrer"  # the address holds the token
        assert headers["Cache-Control"] == "no-store"
        assert get(pages, "/", Cookie="l2kd_token=a-long-secret")[0] == 200
        assert get(pages, "/", Cookie="l2kd_token=schlüssel")[0] == 401


def test_the_store_of_the_pages_is_never_written(storage: Path, pages: str) -> None:
    store = ReadOnlyStore(str(storage))
    files = {path: path.stat().st_mtime_ns for path in storage.rglob("*")}
    with pytest.raises(PermissionError):
        store.write("studies/x", b"")
    with pytest.raises(PermissionError):
        store.upload(Path(__file__), "studies/x")
    with pytest.raises(PermissionError):
        store.remove("studies")
    store.withdraw(Damaged("learn", "ab" * 16, "for the test"))
    for part in (*PARTS, "/report"):
        get(pages, f"/study/swept{part}")
    assert {path: path.stat().st_mtime_ns for path in storage.rglob("*")} == files


def test_a_file_is_read_again_when_it_changes_and_is_gone_when_it_goes(tmp_path: Path) -> None:
    store, file = ReadOnlyStore(str(tmp_path)), tmp_path / "studies/x/live-1.json"
    file.parent.mkdir(parents=True)
    file.write_text("one")
    reads = []
    inner = store.filesystem

    class Counting:
        def __getattr__(self, name: str) -> Any:
            if name == "open_input_stream":
                reads.append(name)
            return getattr(inner, name)

    store.filesystem = Counting()

    def look() -> bytes | None:
        store.files("studies/x", recursive=False)
        return store.read("studies/x/live-1.json")

    assert (look(), look(), len(reads)) == (b"one", b"one", 1)
    file.write_text("three")
    assert (look(), len(reads)) == (b"three", 2)
    file.unlink()
    assert look() is None


def test_a_damaged_stage_is_left_for_the_sweep(storage: Path) -> None:
    manifest = next(storage.glob("stages/learn/*/*/manifest.json"))
    whole = manifest.read_bytes()
    try:
        manifest.write_bytes(whole[:-20])
        with listening(application(str(storage))) as pages:
            assert get(pages, f"/stage/{manifest.parent.name}")[0] == 404
            assert get(pages, "/study/swept")[0] == 200
        assert manifest.read_bytes() == whole[:-20]
    finally:
        manifest.write_bytes(whole)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if not CHROMIUM:
        pytest.skip("no chromium")
    found = Browser(tmp_path_factory.mktemp("profile"))
    yield found
    found.close()


def wait(browser: Browser, script: str, seconds: float = 30) -> None:
    """Until the script says yes."""
    until = time.monotonic() + seconds
    while not browser.ask(script):
        assert time.monotonic() < until, script
        time.sleep(0.2)


@pytest.mark.parametrize("part", PARTS)
def test_in_a_browser_a_page_is_quiet_fits_and_can_be_read(
    browser: Browser, pages: str, part: str
) -> None:
    """At a desktop's and a phone's width, light and dark; the policy lets all that it needs."""
    browser.look(1100)
    browser.open(f"{pages}/study/swept{part}")
    wait(browser, "!document.body.textContent.includes('Reading the study')")
    faults = {"Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"}
    assert not [event for event in browser.events if event["method"] in faults]
    for width, dark in ((1100, False), (390, True)):
        browser.look(width, dark=dark)
        assert browser.ask("document.documentElement.scrollWidth") <= width
        faint = {tuple(pair) for pair in browser.ask(CONTRASTS) if contrast(*pair) < 4.5}
        assert not faint, dark


def test_in_a_browser_a_list_needs_no_button(browser: Browser, pages: str) -> None:
    browser.look(1100)
    browser.open(f"{pages}/study/swept/curves")
    wait(browser, "document.querySelectorAll('.panels figure').length > 0")
    pick = "document.querySelector('select[name=method]')"
    changed = "dispatchEvent(new Event('change', {bubbles: true}))"
    browser.ask(f"{pick}.value = 'lamol {{}}'; {pick}.{changed}")
    wait(browser, "location.search.includes('method=lamol')")


def test_in_a_browser_a_page_renews_itself(browser: Browser, pages: str, storage: Path) -> None:
    browser.open(f"{pages}/")
    note = storage / "studies/swept/live-1.json"
    live = {"pid": 1, "host": "elsewhere", "since": "2026-01-01 00:00:00"}
    note.write_text(json.dumps(live))
    try:
        wait(browser, "document.body?.textContent.includes('running')")
    finally:
        note.unlink()
