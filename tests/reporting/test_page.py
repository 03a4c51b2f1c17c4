"""The page as its reader meets it: in a real browser, wide and narrow, without network."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from lvf.config.schema import CONF_DIR
from lvf.records.archive import read_bytes
from lvf.reporting.figures import catalogue
from lvf.reporting.figures.catalogue import Data
from lvf.reporting.page import write
from lvf.reporting.page.write import write_page
from lvf.reporting.report import Report
from lvf.reporting.select.selection import Selection, selected

pytestmark = pytest.mark.slow  # the page takes 20 s to write
ROOT = CONF_DIR.parent
RECORDS = ROOT / "results" / "embedded" / "records.tar.zst"
FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
SHOWN = ("fig1", "figS4", "frontier")


@pytest.fixture(scope="module")
def data() -> Data:
    """The committed records, and the published numbers of instruction finetuning."""
    scores = Data.read(RECORDS).scores
    scores = scores[scores.regime == "ift"]
    return Data(selected(scores), scores)


@pytest.fixture(scope="module")
def page_file(data: Data, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the committed and the published records, with three of its figures."""
    few = {name: catalogue.CATALOGUE[name] for name in SHOWN}
    with pytest.MonkeyPatch.context() as patch:  # the others have tests of their own
        patch.setattr(write, "CATALOGUE", few)
        report = Report(Selection(data.models), data.scores)
        return write_page(report, tmp_path_factory.mktemp("page") / "index.html")


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
    troubles: list[str] = []
    opened.on("console", lambda message: troubles.append(message.text))
    opened.on("pageerror", lambda error: troubles.append(str(error)))
    opened.on("request", lambda asked: _note_network(asked.url, troubles))
    opened.goto(page_file.as_uri())
    opened.wait_for_selector("#plot-view svg")
    yield opened
    opened.close()
    assert troubles == []


def _note_network(url: str, troubles: list[str]) -> None:
    if not url.startswith(("file:", "data:", "blob:")):
        troubles.append(f"asked for {url}")


def test_nothing_reaches_beyond_the_width_of_the_page(page: Page) -> None:
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.evaluate("[...document.images].every((one) => one.getBoundingClientRect().width)")


def test_the_plot_draws_every_model_at_its_scores(page: Page, data: Data) -> None:
    """The marks' labels for screen readers hold the data that Vega drew them from."""
    here = data.models[(data.models.domain == "math") & (data.models.scale == "embedded")]
    trained = here[(here.method != "base") & here.target.notna()]
    means = trained.groupby(["label", "lr_peak", "duration"]).target.mean().round(3)
    page.select_option("#plot-group", label="embedded-math_ift")
    marks = page.locator("#plot-view .mark-symbol.role-mark path")
    expect(marks).to_have_count(len(means))
    assert len(means) > 5
    told = [mark.get_attribute("aria-label") or "" for mark in marks.all()]
    drawn = [float(re.search(r"strict match[^:]*: ([\d.]+)", text)[1]) for text in told]
    assert sorted(drawn) == pytest.approx(sorted(means), abs=5e-4)


def test_the_plot_can_show_another_measure_and_other_models(page: Page) -> None:
    page.select_option("#plot-measure", label="held-out source NLL, nats per token")
    page.wait_for_function("document.querySelector('#plot-view').textContent.includes('NLL')")
    page.select_option("#plot-group", label="paper-code_ift")
    page.wait_for_function(
        "document.querySelectorAll('#plot-view .mark-symbol.role-mark path').length === 20"
    )


def test_a_mark_tells_its_model_on_hover_and_its_records_on_click(page: Page) -> None:
    mark = page.locator("#plot-view .mark-symbol.role-mark path").first
    mark.scroll_into_view_if_needed()
    mark.hover(force=True)
    page.wait_for_selector("#vg-tooltip-element.visible")
    assert "method" in page.inner_text("#vg-tooltip-element")
    mark.click(force=True)
    assert "records of this number" in page.inner_text("#details h3")


def test_tables_sort_by_a_click_and_turn_round_by_a_second(page: Page) -> None:
    table = page.locator("#results table").first
    heading = table.locator("th", has_text="source NLL")
    index = heading.evaluate("(one) => one.cellIndex")

    def column() -> list[float]:
        cells = table.locator(f"tbody tr td:nth-child({index + 1})").all()
        texts = [cell.get_attribute("data-value") for cell in cells]
        known = [float(text) for text in texts if text]
        assert [bool(text) for text in texts] == [True] * len(known) + [False] * (
            len(texts) - len(known)
        )  # what is not measured stands last
        return known

    heading.locator("button").click()
    rising = column()
    assert rising == sorted(rising) and len(set(rising)) > 3
    heading.locator("button").click()
    assert column() == rising[::-1] and heading.get_attribute("aria-sort") == "descending"


def test_the_papers_tables_show_its_numbers_and_lead_to_them(page: Page) -> None:
    table = page.locator("details", has_text="Table S7: maths IFT").last
    table.locator("summary").click()
    row = table.locator("tbody tr", has_text="LoRA r=256").filter(has_text="8 epochs")
    number = row.locator("[data-records]").first
    assert number.inner_text().startswith("0.634")
    number.click()
    record = json.loads(page.inner_text("#details pre"))
    assert record["axes"]["dataset"] == "metamathqa" and record["file"] == "results/paper.csv"
    assert record["metrics"]["exact_match,strict-match"]["value"] == 0.634


def test_a_number_leads_to_its_record(page: Page, data: Data) -> None:
    number = page.locator("#results [data-records]").first
    shown = float(number.inner_text().split()[0])
    (key,) = (number.get_attribute("data-records") or "").split()
    number.click()
    record = json.loads(page.inner_text("#details pre"))
    values = [one["value"] for one in record["metrics"].values()]
    assert round(values[0], 3) == shown
    end = f"{key.split('/')[0]}/{key.split('/')[-1]}"
    (path,) = {path for path in data.scores.path if path.endswith(end)}
    kept = json.loads(read_bytes(Path(path)))
    assert kept["task"] == record["task"] and key.split("/")[0] == record["run_id"]
    page.keyboard.press("Escape")
    assert not page.locator("#details").is_visible()


def test_the_gap_behind_a_rank_leads_to_the_records_of_both_methods(page: Page) -> None:
    gap = page.locator("#ranks tbody tr", has_text="LoRA").locator("[data-records]").first
    keys = (gap.get_attribute("data-records") or "").split()
    assert {next(name for name in ("full", "lora") if name in key) for key in keys} == {
        "full", "lora",
    }  # fmt: skip
    gap.click()
    assert page.locator("#details details").count() == len(keys) > 2


def test_tables_without_measurements_are_on_the_page_in_the_papers_order(page: Page) -> None:
    told = page.locator("#tables summary").all_inner_texts()
    numbers = [re.match(r"Table (S?\d+)", text)[1] for text in told]
    assert numbers == ["1", *(f"S{n}" for n in (*range(1, 9), *range(10, 17)))]
    memory = page.locator("#tables details", has_text="Table S14").last
    memory.locator("summary").click()
    assert all(number in memory.inner_text() for number in ("15.12", "1.3125"))


def test_verdicts_are_filtered_and_tell_what_they_rest_on(page: Page) -> None:
    every = page.locator("table.claims tbody tr:visible").count()
    page.click("[data-filter=holds]")
    shown = page.locator("table.claims tbody tr:visible")
    assert 0 < shown.count() < every
    shown.first.locator("[data-verdict]:has(.holds)").first.click()
    assert "holds" in page.inner_text("#details p")
    page.locator("#details details summary").first.click()
    assert page.locator("#details details[open]").count() == 1


def test_every_published_number_is_on_the_page(data: Data, page_file: Path) -> None:
    embedded = re.search(r'id="data">(.*?)</script>', page_file.read_text(), re.S)
    records = json.loads(embedded[1].replace("<\\/", "</"))["records"]
    found = {key: one for key, one in records.items() if one["source"] == "paper"}
    published = data.scores[data.scores.source == "paper"]
    told = {(key.split("/")[0], one["task"]): next(iter(one["metrics"].values()))["value"]
            for key, one in found.items()}  # fmt: skip
    for row in published.itertuples():
        assert told[row.run_id, row.task] == row.value


def test_a_page_without_records_still_opens(tmp_path: Path, browser: Browser) -> None:
    nothing = Data.read(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "CATALOGUE", {})
        none: pd.DataFrame = nothing.models.iloc[:0]
        path = write_page(Report(Selection(none), nothing.scores.iloc[:0]), tmp_path / "empty.html")
    opened = browser.new_page()
    opened.goto(path.as_uri())
    assert "No model has both" in opened.inner_text("#plot-view")
    opened.close()
