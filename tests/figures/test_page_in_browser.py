"""The page of a run in a real browser, as somebody with a mouse, with a keyboard, with a phone or with a dark room meets it."""

import json
import re
from typing import Any

import pytest

from confreg.figures.page import write_page

IS_DRAWN = "waiting.length === 0"


def column_of(page: Any, heading: str) -> list[str]:
    script = """
        const headings = [...document.querySelectorAll('#table th button')];
        const at = headings.findIndex((each) => each.textContent.startsWith(arguments[0]));
        return [...document.querySelectorAll('#table tbody tr')].map((row) => row.cells[at]?.textContent);"""
    return page.run(script, heading)


def test_the_page_opens_without_a_complaint_and_without_a_request(visit, finished_page):
    visit.open(finished_page, IS_DRAWN)
    assert visit.complaints() == []
    assert visit.requests() == {finished_page.as_uri()}


def test_every_panel_has_a_figure_one_sentence_and_its_columns(page):
    script = """return [...document.querySelectorAll('.card')].map((card) =>
        [card.querySelectorAll('.main-svg').length, card.querySelector('.source')?.textContent]);"""
    drawn = [(figures, source) for figures, source in page.run(script) if source]
    assert len(drawn) == 14
    assert all(figures > 0 for figures, _ in drawn[:-1])
    assert all("columns: " in source for _, source in drawn)


@pytest.mark.parametrize("figure", ["neurons", "null-plane", "frequency-plane", "spectrum"])
def test_the_slider_moves_what_is_drawn_at_its_step_by_arrow_keys(page, figure):
    from selenium.webdriver.common.keys import Keys

    page.run("document.getElementById(arguments[0]).scrollIntoView({behavior: 'instant', block: 'center'})", figure)
    page.wait_until("return isSeen.has(arguments[0])", figure)
    shown = "return JSON.stringify(document.getElementById(arguments[0]).data.map((trace) => [trace.x, trace.y]))"
    before, place = page.run(shown, figure), cursor_place(page)
    page.run("document.getElementById('step').focus({preventScroll: true})")
    page.press(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert page.element("readout").text.startswith("step 724 ")
    assert page.element("step").get_attribute("aria-valuetext") == "step 724"
    page.wait_until(lambda: page.run(shown, figure) != before)
    assert cursor_place(page) < place


def cursor_place(page: Any) -> float:
    return page.run("return document.querySelector('#loss .cursor').getBoundingClientRect().left")


def test_the_shaded_null_space_ends_with_the_last_singular_value(page):
    band = page.run("return nullSpace(run.steps[run.steps.length - 1])[0]")
    assert (band["x0"], band["x1"]) == (59.5, 63.5)


def test_a_step_without_a_frequency_direction_is_not_told_to_have_small_effects(page):
    script = """
        const known = points.frequency_cosine, at = run.steps.length - 1;
        points.frequency_cosine = known.map((row) => row.map(() => null));
        notePlane(frequencyPlane, at, true);
        const said = document.getElementById(frequencyPlane.note).textContent;
        points.frequency_cosine = known;
        notePlane(frequencyPlane, at, true);
        return [said, document.getElementById(frequencyPlane.note).textContent];"""
    without, usual = page.run(script)
    assert without.startswith("There is no frequency direction at this step")
    assert "too small to divide" not in without
    assert "no frequency direction" not in usual


def test_play_starts_again_from_step_0_advances_and_pauses(page):
    page.element("play").click()
    assert page.element("play").text == "Pause"
    assert page.element("readout").text.startswith("step 0 ")
    page.wait_until(lambda: page.element("readout").text.startswith("step 1 "))
    page.element("play").click()
    assert page.element("play").text == "Play"


def test_play_stops_at_the_last_step(page):
    page.run("showStep(run.steps.length - 2)")
    page.element("play").click()
    page.wait_until(lambda: page.element("play").text == "Play")
    assert page.element("readout").text.startswith("step 1,500 ")


def test_a_click_on_a_curve_goes_to_its_step(page):
    page.run("document.getElementById('loss').emit('plotly_click', {points: [{x: stepPosition(64)}]})")
    assert page.element("readout").text.startswith("step 64 ")


def test_the_table_sorts_by_a_heading_with_the_keyboard(page):
    from selenium.webdriver.common.keys import Keys

    heading = page.find("#table th:nth-child(6) button")[0]
    page.run("arguments[0].focus()", heading)
    for state, is_reversed in (("descending", True), ("ascending", False)):
        page.press(Keys.ENTER)
        shares = [float(text.split()[0]) for text in column_of(page, "null space")]
        assert shares == sorted(shares, reverse=is_reversed)
        assert page.find("#table th:nth-child(6)")[0].get_attribute("aria-sort") == state
    page.press(Keys.ENTER)
    assert page.find("#table th:nth-child(6)")[0].get_attribute("aria-sort") == "none"


def test_the_table_shows_the_kind_the_name_and_the_number_of_rows_that_are_asked_for(page):
    for kind, names in (("entropy", {0, 1, 2, 3}), ("token-frequency", {4, 5, 6, 7, 8}), ("ever", set(range(9)))):
        choose(page, "filter-kind", kind)
        assert {int(name.split(".")[1]) for name in column_of(page, "neuron")} == names
    choose(page, "filter-kind", "all")
    assert len(column_of(page, "neuron")) == 15
    choose(page, "filter-rows", "all")
    assert len(column_of(page, "neuron")) == 128
    page.element("filter-name").send_keys("1.12")
    assert set(column_of(page, "neuron")) == {"1.12", *(f"1.{neuron}" for neuron in range(120, 128))}
    assert page.element("table-count").text == "9 of 9 rows"


def choose(page: Any, identity: str, value: str) -> None:
    script = "const place = document.getElementById(arguments[0]); place.value = arguments[1]; place.dispatchEvent(new Event('input'));"
    page.run(script, identity, value)


def test_what_a_reader_types_into_the_filter_stays_text_and_no_match_is_told(page):
    page.element("filter-name").send_keys("<img src=x onerror=h=1>")
    assert "No neuron of that name" in page.element("table").text
    assert page.find("#table img") == []


def colours_of(page: Any) -> dict[str, str]:
    return page.run(
        "const tick = document.querySelector('#loss .xtick text'); const style = (place) => getComputedStyle(place);"
        "return {paper: style(document.body).backgroundColor, ink: style(document.body).color, tick: style(tick).fill,"
        "line: style(document.querySelector('#loss .scatterlayer .js-line')).stroke}"
    )


def test_dark_comes_from_the_system_and_the_button_turns_it_back_with_all_figures(page):
    light = colours_of(page)
    page.set_media(prefers_color_scheme="dark")
    page.wait_until(lambda: colours_of(page)["line"] != light["line"])
    dark = colours_of(page)
    assert all(dark[name] != light[name] for name in light)
    assert dark["tick"] == dark["ink"]
    assert page.element("theme").text == "Light colours"
    page.element("theme").click()
    page.wait_until(lambda: colours_of(page) == light)


def test_larger_text_enlarges_the_words_and_the_figures(page):
    sizes = """return [document.querySelector('.read'), document.querySelector('#loss .xtick text')].map((place) =>
        parseFloat(getComputedStyle(place).fontSize));"""
    before = page.run(sizes)
    page.element("text-size").click()
    page.wait_until(lambda: all(after > 1.2 * size for after, size in zip(page.run(sizes), before, strict=True)))
    assert min(page.run(sizes)) > 1.2 * min(before)


@pytest.mark.parametrize(("width", "height"), [(360, 740), (1024, 768), (1920, 1080)])
def test_no_width_scrolls_sideways_and_wide_screens_have_larger_words(page, width, height):
    page.set_size(width, height)
    page.wait_until(lambda: page.run("return document.documentElement.scrollWidth <= innerWidth && innerWidth === arguments[0]", width))
    page.wait_until(lambda: page.run("return [...document.querySelectorAll('.main-svg')].every((svg) => svg.clientWidth <= innerWidth)"))
    page.run("scrollTo({left: 500, behavior: 'instant'})")
    assert page.run("return scrollX") == 0
    assert page.run("return parseFloat(getComputedStyle(document.body).fontSize)") >= (18 if width == 1920 else 15)


def test_tab_reaches_every_control_in_the_order_of_the_page_and_shows_where_it_is(page):
    from selenium.webdriver.common.keys import Keys

    page.run("document.getElementById('text-size').focus()")
    reached, name = ["text-size"], "const at = document.activeElement; return at.id || at.getAttribute('href') || at.className"
    while reached[-1] != "scroller":
        page.press(Keys.TAB)
        reached.append(page.run(name))
        assert page.run("return getComputedStyle(document.activeElement).outlineStyle") != "none", reached[-1]
        assert len(reached) < 60, reached
    wanted = ["text-size", "theme", "#over-training", "play", "step", "filter-kind", "filter-name", "filter-rows", "scroller"]
    assert [each for each in reached if each in wanted] == wanted


def test_somebody_who_asked_for_less_motion_is_not_scrolled_smoothly(page):
    behaviour = "return getComputedStyle(document.documentElement).scrollBehavior"
    page.set_media(prefers_reduced_motion="no-preference")
    assert page.run(behaviour) == "smooth"
    page.set_media(prefers_reduced_motion="reduce")
    assert page.run(behaviour) == "auto"


def test_hovering_tells_the_neuron_and_its_values(page):
    texts = page.run("return document.getElementById('null-plane').data.flatMap((trace) => trace.hovertext || [])")
    assert len(texts) == 128
    first = next(text for text in texts if text.startswith("<b>1.0</b>"))
    assert re.search(
        r"entropy neuron<br>entropy effect 0\.\d{4} ± 0\.\d{4} nats, through the norm 0\.\d\d<br>null-space share 0\.\d\d \(chance 0\.44\)",
        first,
    )


def test_on_paper_everything_is_drawn_in_light_colours(page):
    page.set_media(prefers_color_scheme="dark")
    page.wait_until(lambda: page.element("theme").text == "Light colours")
    listen = "addEventListener('beforeprint', () => { window.printed = [waiting.length, isDark]; }, {once: true});"
    page.run(f"{listen} dispatchEvent(new Event('beforeprint'))")
    assert page.run("return printed") == [0, False]
    page.run("dispatchEvent(new Event('afterprint'))")
    assert page.run("return isDark") is True


def test_hostile_names_are_shown_and_never_run(visit, make_run):
    run, attack = (
        make_run(steps=(0, 64, 1500), n_neurons=16, n_documents=8),
        '</script><img src=x onerror="window.attacked=1"><script>window.attacked=1</script>',
    )
    config = {
        "run": {"name": attack},
        "measure": {"request": {"rules": {"clusters_min": attack, "frequency_cosine_min": attack}}},
        attack: attack,
    }
    (run / "config.yaml").write_text(json.dumps(config), encoding="utf-8")
    (run / "run.json").write_text(json.dumps({"status": attack, attack: attack}), encoding="utf-8")
    visit.open(write_page(run), IS_DRAWN)
    assert attack in visit.find("h1")[0].text
    assert visit.run("return window.attacked") is None
    assert visit.find("img") == []
    assert visit.complaints() == []


def test_a_panel_without_data_says_what_is_missing(visit, make_run):
    run = make_run(steps=(0,), n_neurons=16, n_documents=8, bayes=False, without=("spectrum", "config.yaml"))
    visit.open(write_page(run), IS_DRAWN)
    empty = """return Object.fromEntries([...document.querySelectorAll('.card')].map((card) =>
        [card.querySelector('h3').textContent, card.querySelector('.empty')?.textContent]));"""
    said = visit.run(empty)
    assert "not known" in said["Confidence against the truth"]
    assert "not known" in said["Distance from the best prediction"]
    for panel in ("Number of named neurons", "Births and deaths", "Entropy neurons: what the rule looks at"):
        assert said[panel].startswith("Nothing is named: the measured text has 8 documents")
    assert said["Spectrum of the unembedding"].startswith("No spectrum was recorded")
    assert visit.run("return document.getElementById('null-plane').layout.annotations[0].text") == "No neuron has both shares at this step."
    assert "No threshold is drawn" in visit.element("frequency-plane-note").text
    assert not visit.element("play").is_enabled()
    assert visit.complaints() == []
