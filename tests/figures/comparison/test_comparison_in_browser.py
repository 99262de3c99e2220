"""The comparison of runs in a real browser."""

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from confreg.figures.comparison.page import write_comparison
from confreg.figures.comparison.runs import read_compared_runs

PATIENCE_S = 20
OTHER = {"optimizer": {"weight_decay": 0.25}}


def wait_until(holds: Callable[[], Any]) -> None:
    start = time.monotonic()
    while not holds():
        assert time.monotonic() - start < PATIENCE_S, "what was waited for did not come"
        time.sleep(0.02)


def complaints(browser: Any) -> list[str]:
    return [entry["message"] for entry in browser.get_log("browser") if entry["level"] in ("WARNING", "SEVERE")]


def requests(browser: Any) -> set[str]:
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [message["params"]["request"]["url"] for message in messages if message["method"] == "Network.requestWillBeSent"]
    return {url for url in urls if not url.startswith(("data:", "blob:"))}


@pytest.fixture
def page(browser: Any, make_runs: Callable[..., Any]) -> Iterator[Any]:
    """The opened comparison of three runs: two seeds of one condition, one of another, with a hostile name."""
    runs = [make_runs("s/seed=2", seed=2), make_runs("s/seed=10", seed=10), make_runs("s/<img src=x onerror=attacked=1>", settings=OTHER)]
    (runs[0] / "report.html").write_text("<title>of the run</title>", encoding="utf-8")
    written = write_comparison(read_compared_runs([runs[0].parent]))
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "light"}]})
    metrics = {"width": 1366, "height": 768, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get_log("browser"), browser.get_log("performance")  # what other pages left
    browser.get(written.as_uri())
    yield browser
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def traces(page: Any, figure: str) -> list[dict[str, Any]]:
    kept = "({mode: each.mode, fill: each.fill, x: each.x, y: each.y})"
    return page.execute_script(f"return document.getElementById(arguments[0]).data.map((each) => {kept})", figure)


def column(page: Any, table: str, at: int) -> list[str]:
    rows = f"[...document.querySelectorAll(\"[aria-label='Table of {table}'] tbody tr\")]"
    return page.execute_script(f"return {rows}.map((row) => row.cells[{at}].textContent)")


def test_the_comparison_opens_sorts_hides_and_follows_the_look_without_complaint_or_request(page):
    assert page.execute_script("return [...document.querySelectorAll('.figure')].every((each) => each.querySelector('.main-svg'))")
    assert requests(page) == {page.current_url}
    bands_lines_and_means(page)
    tables_sort(page)
    conditions_hide(page)
    dark_comes_from_the_system(page)
    narrow_screens_do_not_scroll_sideways(page)
    assert page.execute_script("return window.attacked") is None
    assert page.find_elements("css selector", "img") == []
    assert complaints(page) == []


def bands_lines_and_means(page: Any) -> None:
    drawn = traces(page, "loss_nats")
    bands = [trace for trace in drawn if trace["fill"] == "toself"]
    means = [trace for trace in drawn if trace["mode"] == "lines+markers"]
    assert (len(bands), len(means)) == (1, 2)
    assert len(bands[0]["x"]) == 2 * len(means[0]["x"]) == 12
    (runs,) = (trace for trace in drawn if trace["mode"] == "lines" and not trace["fill"] and None in trace["y"])
    first, second = runs["y"][:6], runs["y"][7:13]
    middle = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
    assert means[1]["y"] == pytest.approx(middle, rel=1e-3)
    assert bands[0]["y"][:6] == [max(pair) for pair in zip(first, second, strict=True)]


def tables_sort(page: Any) -> None:
    usual = column(page, "runs", 2)
    heading = page.find_element("css selector", "[aria-label='Table of runs'] thead tr:last-child th:nth-child(3) button")
    for state, seeds in (("descending", ["10", "2", "0"]), ("ascending", ["0", "2", "10"]), ("none", usual)):
        heading.send_keys("\ue007")  # Enter
        assert column(page, "runs", 2) == seeds
        assert page.execute_script("return arguments[0].closest('th').getAttribute('aria-sort')", heading) == state
    assert page.find_element("link text", "seed=2").get_attribute("href").endswith("/s/seed%3D2/report.html")


def conditions_hide(page: Any) -> None:
    button = page.find_elements("css selector", "#legend button")[1]
    before = len(traces(page, "loss_nats"))
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert len(traces(page, "loss_nats")) < before
    button.click()
    assert len(traces(page, "loss_nats")) == before


def dark_comes_from_the_system(page: Any) -> None:
    means = "document.querySelector('#loss_nats .scatterlayer .trace:last-child .js-line')"
    colours = f"return [getComputedStyle(document.body).backgroundColor, getComputedStyle({means}).stroke]"
    light = page.execute_script(colours)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]})
    wait_until(lambda: all(now != then for now, then in zip(page.execute_script(colours), light, strict=True)))


def narrow_screens_do_not_scroll_sideways(page: Any) -> None:
    for width in (1024, 360):
        metrics = {"width": width, "height": 740, "deviceScaleFactor": 1, "mobile": width < 500}
        page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        fits = f"Math.max(innerWidth, document.documentElement.scrollWidth, document.querySelector('.main-svg').clientWidth) === {width}"
        wait_until(partial(page.execute_script, f"return {fits}"))
