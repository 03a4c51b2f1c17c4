"""The page as its reader meets it: in a real browser, wide and narrow, without network."""

import base64
import gzip
import json
import math
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from lvf.config.schema import CONF_DIR
from lvf.records.archive import read_bytes
from lvf.records.store import load
from lvf.reporting.figures.catalogue import Data
from lvf.reporting.page.content import marks
from lvf.reporting.page.write import write_page
from lvf.reporting.report import Report
from lvf.reporting.select.selection import Selection, selected

from .conftest import Write, axes

pytestmark = pytest.mark.slow  # the claims of the page take some seconds to judge
ROOT = CONF_DIR.parent
RECORDS = ROOT / "results" / "embedded" / "records.tar.zst"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
MARKS = "#tradeoff .mark-symbol.role-mark path"
PATIENCE_MS = 120_000
"""A busy machine takes longer than the 5 seconds that are the default."""
expect.set_options(timeout=PATIENCE_MS)
KNOWN_WARNING = "Detected faceted independent scales"
"""Vega-Lite says so of every facet with layers; the sizes are right."""


@pytest.fixture(scope="module")
def data() -> Data:
    """The committed records, and the published numbers of instruction finetuning."""
    scores = Data.read(RECORDS).scores
    scores = scores[scores.regime == "ift"]
    return Data(selected(scores), scores)


@pytest.fixture(scope="module")
def page_file(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the committed and the published records."""
    report = Report(Selection(data.models), data.scores)
    return write_page(report, tmp_path_factory.mktemp("page") / "index.html")


@pytest.fixture(scope="module")
def packed(page_file: Path) -> dict[str, Any]:
    """The page's compressed block, as Python's own modules unpack it."""
    text = re.search(r'id="packed">(.*?)</script>', page_file.read_text(), re.S)
    assert text is not None
    return json.loads(gzip.decompress(base64.b64decode(text[1])))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = shutil.which("chromium")
    if path is None:
        assert "CI" not in os.environ, "CI must install the Debian package chromium"
        pytest.skip("needs a browser: apt-get install chromium")
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=path, args=FLAGS)
        yield found
        found.close()


@pytest.fixture(params=WIDTHS)
def page(browser: Browser, page_file: Path, request: pytest.FixtureRequest) -> Iterator[Page]:
    """The opened page; whatever the console says or the network is asked for is a failure."""
    width, height = WIDTHS[request.param]
    opened = browser.new_page(viewport={"width": width, "height": height})
    opened.set_default_timeout(PATIENCE_MS)
    troubles: list[str] = []
    opened.on("console", lambda message: _note(message.text, troubles))
    opened.on("pageerror", lambda error: troubles.append(str(error)))
    opened.on("request", lambda asked: _note_network(asked.url, troubles))
    opened.goto(page_file.as_uri())
    opened.wait_for_selector("#tradeoff[data-drawn]")
    opened.wait_for_selector("#forest[data-drawn]")
    yield opened
    opened.close()
    assert troubles == []


def _note(text: str, troubles: list[str]) -> None:
    if KNOWN_WARNING not in text:
        troubles.append(text)


def _note_network(url: str, troubles: list[str]) -> None:
    if not url.startswith(("file:", "data:", "blob:")):
        troubles.append(f"asked for {url}")


def open_tab(page: Page, name: str) -> None:
    page.get_by_role("tab", name=name, exact=True).click()


def records_of(link: Locator, packed: dict[str, Any]) -> list[dict[str, Any]]:
    """The records that a link of a number leads to."""
    numbers = (link.get_attribute("href") or "").removeprefix("#records-").split(".")
    return [packed["records"][int(number)] for number in numbers]


def test_the_page_is_small_enough_to_be_mailed(page_file: Path) -> None:
    assert page_file.stat().st_size < 2_000_000


def test_nothing_reaches_beyond_the_width_of_the_page(page: Page) -> None:
    for tab in page.get_by_role("tab").all():
        tab.click()
        page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


def test_the_first_screen_has_the_banner_the_answer_and_a_whole_panel(page: Page) -> None:
    screen = page.viewport_size
    assert screen is not None
    words = page.inner_text("header")
    assert "1.1 M parameters" in words and "generated" in words and "commit" in words
    assert len(page.locator(".answers li").all()) == 3
    panel = page.locator("#tradeoff .role-scope > g > path.background").first.bounding_box()
    assert panel is not None and panel["y"] + panel["height"] <= screen["height"]


def test_the_plot_draws_every_main_method_at_its_scores_and_all_others_by_a_switch(
    page: Page, data: Data
) -> None:
    """The marks' labels for screen readers hold the data that Vega drew them from."""
    here = data.models[(data.models.scale == "embedded") & data.models.target.notna()]
    setting = ["domain", "label", "lr_peak", "run_duration", "duration"]
    shown = here[(here.role == "base") | ((here.role == "main") & here.is_drawn)]
    for rows in (shown, here):
        means = rows.groupby(setting, dropna=False)[["target", "retention"]].mean().dropna()
        marks = page.locator(MARKS)
        expect(marks).to_have_count(len(means))
        labels = [mark.get_attribute("aria-label") or "" for mark in marks.all()]
        drawn = [float(re.search(r"target score → *: ([\d.]+)", text)[1]) for text in labels]
        assert sorted(drawn) == pytest.approx(sorted(means.target), abs=1e-4)
        page.check("#tradeoff-controls input[type=checkbox]")


def test_the_plot_can_show_another_measure_and_other_records(page: Page) -> None:
    page.select_option("#tradeoff-controls select >> nth=0", label="published")
    expect(page.locator(MARKS)).to_have_count(20 + 20 + 12 + 3)  # of Figs 3 and S4, and the bases
    page.select_option("#tradeoff-controls select >> nth=0", label="embedded")
    before = page.locator("#tradeoff svg").inner_html()
    page.select_option("#tradeoff-controls select >> nth=1", index=1)
    page.wait_for_function(
        "before => document.querySelector('#tradeoff svg').innerHTML !== before", arg=before
    )


def test_one_method_can_be_highlighted_without_a_mouse(page: Page) -> None:
    def num_faint() -> int:
        faint = [float(mark.get_attribute("opacity") or 1) < 0.5 for mark in marks.all()]
        return sum(faint)

    marks = page.locator(MARKS)
    total = marks.count()
    assert num_faint() == 0
    page.select_option("#tradeoff-controls select >> nth=2", label="full")
    assert 0 < num_faint() < total


def test_a_mark_tells_its_setting_on_hover_and_its_records_on_click(page: Page) -> None:
    mark = page.locator(MARKS).nth(3)
    mark.scroll_into_view_if_needed()
    mark.hover(force=True)
    page.wait_for_selector("#vg-tooltip-element.visible")
    assert "learning rate" in page.inner_text("#vg-tooltip-element")
    mark.click(force=True)
    page.wait_for_selector("#details[open]")
    assert "records of this number" in page.inner_text("#details h3")


def test_the_claims_are_drawn_with_their_intervals_and_lead_to_their_comparisons(
    page: Page, data: Data
) -> None:
    known = [one for one in data.verdicts if one.effect is not None]
    own = [one for one in known if one.evidence_set == "embedded"]
    marks = page.locator("#forest .mark-symbol.role-mark path")
    expect(marks).to_have_count(len(own))
    marks.first.click(force=True)
    page.wait_for_selector("#details[open]")
    assert "Comparisons" in page.inner_text("#details")


def test_tabs_are_turned_by_arrow_keys(page: Page) -> None:
    page.get_by_role("tab", name="Verdicts").focus()
    page.keyboard.press("ArrowRight")
    results = page.get_by_role("tab", name="Results")
    expect(results).to_be_focused()
    assert results.get_attribute("aria-selected") == "true"
    assert page.get_by_role("tabpanel").count() == 1


def test_tables_sort_by_a_click_and_turn_round_by_a_second(page: Page) -> None:
    open_tab(page, "Results")
    table = page.get_by_role("tabpanel").locator("table").first
    heading = table.locator("th", has_text="source NLL")
    index = heading.evaluate("(one) => one.cellIndex")

    def column() -> list[float]:
        cells = table.locator(f"tbody tr td:nth-child({index + 1})").all()
        texts = [cell.inner_text().split(" ")[0] for cell in cells]
        known = [text != "–" for text in texts]
        assert known == sorted(known, reverse=True)  # what is not measured stands last
        return [float(text) for text in texts if text != "–"]

    heading.locator("button").click()
    rising = column()
    assert rising == sorted(rising) and len(set(rising)) > 3
    heading.locator("button").click()
    assert column() == rising[::-1] and heading.get_attribute("aria-sort") == "descending"


def test_a_table_is_downloaded_as_it_stands(page: Page) -> None:
    open_tab(page, "Results")
    panel = page.get_by_role("tabpanel")
    with page.expect_download() as caught:
        panel.locator(".download").first.click()
    table = pd.read_csv(caught.value.path())
    assert list(table.columns) == panel.locator("table").first.locator("th").all_inner_texts()
    assert len(table) == panel.locator("table").first.locator("tbody tr").count()


def test_the_chosen_rate_has_the_lowest_validation_loss(page: Page) -> None:
    open_tab(page, "Learning rates")
    rows = page.get_by_role("tabpanel").locator("table").first.locator("tbody tr").all()
    cells = [row.locator("td").all_inner_texts() for row in rows]
    losses: dict[str, list[float]] = {}
    chosen: dict[str, float] = {}
    for method, _, _, loss, mark in cells:
        losses.setdefault(method, []).append(float(loss.split(" ")[0]))
        if mark.startswith("chosen"):
            chosen[method] = losses[method][-1]
    assert len(chosen) > 1 and all(value == min(losses[name]) for name, value in chosen.items())


def test_cost_stands_beside_score(page: Page) -> None:
    open_tab(page, "Cost")
    page.wait_for_selector("#cost[data-drawn]")
    table = page.get_by_role("tabpanel").locator("table").first
    headings = table.locator("th").all_inner_texts()
    share = headings.index("FLOPs, of full's")
    full = table.locator("tbody tr", has_text="full").first.locator("td").all_inner_texts()
    assert full[share] == "1.00"


def test_the_papers_tables_show_its_numbers_and_lead_to_them(page: Page) -> None:
    open_tab(page, "The paper's tables")
    table = page.locator("details", has_text="Table S7: maths IFT").last
    table.locator("summary").click()
    row = table.locator("tbody tr", has_text="LoRA r=256").filter(has_text="8 epochs")
    number = row.locator("a").first
    assert number.inner_text().startswith("0.634")
    number.click()
    record = json.loads(page.inner_text("#details pre"))
    assert record["axes"]["dataset"] == "metamathqa" and record["file"] == "results/paper.csv"
    assert record["metrics"]["exact_match,strict-match"]["value"] == 0.634


def test_a_number_leads_to_its_record(page: Page, data: Data, packed: dict[str, Any]) -> None:
    open_tab(page, "Results")
    number = page.get_by_role("tabpanel").locator("td a").first
    shown = float(number.inner_text().split()[0])
    (kept,) = records_of(number, packed)
    number.click()
    record = json.loads(page.inner_text("#details pre"))
    assert record == kept
    values = [one["value"] for one in record["metrics"].values()]
    assert round(values[0], 3) == shown
    (path,) = {path for path in data.scores.path if path.endswith(record["file"])}
    stored = json.loads(read_bytes(Path(path)))
    assert stored["task"] == record["task"] and stored["run_id"] == record["run_id"]
    page.keyboard.press("Escape")
    assert not page.locator("#details").is_visible()


def test_the_gap_behind_a_rank_leads_to_the_records_of_both_methods(
    page: Page, packed: dict[str, Any]
) -> None:
    open_tab(page, "Ranks")
    rows = page.get_by_role("tabpanel").locator("tbody tr", has_text="LoRA")
    gap = rows.locator("a").first
    records = records_of(gap, packed)
    assert {record["axes"]["method"] for record in records} == {"full", "lora"}
    gap.click()
    page.wait_for_selector("#details[open]")
    assert page.locator("#details details").count() == len(records) > 2


def test_tables_without_measurements_are_on_the_page_in_the_papers_order(page: Page) -> None:
    open_tab(page, "The paper's tables")
    titles = page.get_by_role("tabpanel").locator("summary").all_inner_texts()
    numbers = [re.match(r"Table (S?\d+)", text)[1] for text in titles]
    assert numbers == ["1", *(f"S{n}" for n in (*range(5, 9), *range(10, 17)))]
    memory = page.locator("details", has_text="Table S14").last
    memory.locator("summary").click()
    assert all(number in memory.inner_text() for number in ("15.12", "1.3125"))


def test_a_verdict_tells_what_it_rests_on(page: Page) -> None:
    row = page.get_by_role("tabpanel").locator("tbody tr", has_text="holds").first
    row.locator("a").click()
    page.wait_for_selector("#details[open]")
    assert "holds" in page.inner_text("#details p >> nth=0")
    page.locator("#details details summary").first.click()
    assert page.locator("#details details[open]").count() == 1


def test_every_published_number_is_on_the_page(data: Data, packed: dict[str, Any]) -> None:
    found = [one for one in packed["records"] if one["source"] == "paper"]
    values = [next(iter(one["metrics"].values()))["value"] for one in found]
    published = data.scores[data.scores.source == "paper"]
    assert sorted(values) == sorted(published.value)


def test_the_page_is_dark_where_the_reader_wants_it_dark(browser: Browser, page_file: Path) -> None:
    opened = browser.new_page(color_scheme="dark")
    opened.goto(page_file.as_uri())
    opened.wait_for_selector("#tradeoff[data-drawn]")
    paper = opened.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", paper))) < 60
    label = opened.locator("#tradeoff .role-legend-label text").first
    ink = label.evaluate("(one) => getComputedStyle(one).fill")
    assert min(map(int, re.findall(r"\d+", ink))) > 180
    opened.close()


def test_a_page_without_records_still_opens(tmp_path: Path, browser: Browser) -> None:
    nothing = Data.read(tmp_path)
    none: pd.DataFrame = nothing.models.iloc[:0]
    path = write_page(Report(Selection(none), nothing.scores.iloc[:0]), tmp_path / "empty.html")
    opened = browser.new_page()
    opened.goto(path.as_uri())
    assert "No records to draw" in opened.inner_text("#tradeoff")
    opened.close()


def test_without_target_scores_learning_is_the_probability_of_a_target_token(write: Write) -> None:
    write(axes("base"), nll_target=2.0)
    folder = write(axes(), nll_target=0.5, nll_source=3.0)
    base, full = marks(selected(load(folder)))
    assert base["learned"] == pytest.approx(math.exp(-2.0), rel=1e-4)
    assert full["learned"] == pytest.approx(math.exp(-0.5), rel=1e-4)
    assert full["likelihood"] == pytest.approx(math.exp(-3.0), rel=1e-4)
    assert full["learned_low"] < full["learned"] < full["learned_high"]
