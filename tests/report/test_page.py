"""The report: every number is the table's, and no name in it is more than a name."""

from __future__ import annotations

import csv
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from circa_train.field import DEFAULT_PRIME
from circa_train.plots import accuracy_vs_k
from circa_train.report import Content, report_page
from circa_train.report.markup import data_element, escaped
from circa_train.runs.table import to_csv

HOSTILE = '</script><script>alert(1)</script><img src=x onerror="alert(2)">\'"&$a_b$'


def row(k: int, accuracy: float, **changed: Any) -> dict[str, Any]:
    base = {
        "kind": "evaluate", "run": f"runs/{k}", "config_hash": f"00{k:08d}", "overrides": f"fault.k={k}",
        "seconds": 1.5, "model": "resnet8", "data": "digits", "split": "test", "checkpoint": "runs/a/best.pt",
        "network": "a", "method": "as it is", "finetuned": False, "trained_k": None,
        "fault": "truncated_sign", "mode": "poszero", "k": k, "prime": DEFAULT_PRIME, "frac_bits": 20,
        "accuracy": accuracy, "accuracy_low": accuracy - 0.01, "accuracy_high": accuracy + 0.01,
        "draws": 5, "images": 359, "baseline_accuracy": 0.95, "relus": 1000, "and_gates": 1000 * (31 - k),
        "table_bytes": 32000 * (31 - k),
    }  # fmt: skip
    return {**base, **changed}


ROWS = [row(8, 0.1 + 0.2), row(12, 0.94), row(20, 1 / 3), row(16, 0.9, network=HOSTILE, run=HOSTILE)]


def page(rows: list[dict[str, Any]] = ROWS, **more: Any) -> str:
    figures = {"accuracy_vs_k": accuracy_vs_k(rows)}
    return report_page(Content("Results of <runs>", "plot.py runs=$(rm)", rows, figures=figures, **more))


class Reader(HTMLParser):
    """Collects the elements of a page, the text of its data, and the cells of its tables."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.data, self.tables, self._open = "", {}, ""
        self._table, self._cell = "", False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if tag == "script":
            self._open = found.get("id") or "code"
        if tag == "table":
            self._table = found.get("id") or ""
            self.tables.setdefault(self._table, [])
        if tag == "tr":
            self.tables[self._table].append([])
        if tag == "td":
            self.tables[self._table][-1].append([found.get("data-value"), ""])
            self._cell = True

    def handle_endtag(self, tag: str) -> None:
        self._open = "" if tag == "script" else self._open
        self._cell = self._cell and tag != "td"

    def handle_data(self, data: str) -> None:
        if self._open == "report-data":
            self.data += data
        if self._cell:
            self.tables[self._table][-1][-1][1] += data


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    reader.close()
    return reader


def test_the_table_in_the_page_is_the_csv_and_its_numbers_are_whole() -> None:
    reader = read(page())
    assert json.loads(reader.data)["csv"] == to_csv(ROWS)
    shown = {float(cells[8][0]) for cells in reader.tables["evaluations"] if cells}
    assert shown == {float(each["accuracy"]) for each in csv.DictReader(io.StringIO(to_csv(ROWS)))}
    assert {cells[8][1] for cells in reader.tables["evaluations"] if cells} == {
        "30.00%", "94.00%", "33.33%", "90.00%",
    }  # fmt: skip


def test_every_point_says_value_interval_n_and_command() -> None:
    reader = read(page())
    notes = json.loads(reader.data)["notes"]["figure0"]
    hits = [attrs for tag, attrs in reader.tags if attrs.get("class") == "hit"]
    assert len(hits) == len(notes) == 4
    assert "94.00% [93.00, 95.00]\n95% interval over the draws; 5 draws of 359 images" in notes[1]
    assert notes[1].endswith("scripts/evaluate.py fault.k=12")
    xs = [float(str(hit["cx"])) for hit in hits[:3]]
    assert xs == sorted(xs)


def test_an_allocation_for_gates_is_neither_confirmed_nor_compared() -> None:
    asked = {
        "kind": "search", "run": "s", "model": "resnet8", "data": "digits", "gates": 11.0, "budget": None,
        "confirmed": None, "beats_uniform": None, "chosen.and_gates": 2**20,
        "chosen.test.loss.mean": 0.0071, "chosen.test.verdict": "measured",
    }  # fmt: skip
    text = page([row(12, 0.9), asked])
    assert "11 AND gates per sign test, allocated by the exact law; on test images 0.71 points lost" in text
    assert "one k for all" not in text
    assert "onfirmed" not in text.split("What the search answers")[-1].split("</details>")[0]


def test_names_are_names_and_nothing_else() -> None:
    changed = dict.fromkeys(("model", "data", "split", "method", "overrides", "checkpoint"), HOSTILE)
    rows = [row(12, 0.9, **changed, network=HOSTILE), row(16, 0.8)]
    site = {**rows[0], "site": HOSTILE, "observed.values": 3, "expected.wrap_zeroed": 1.0}
    answer = {"kind": "search", "run": HOSTILE, "model": HOSTILE, "data": HOSTILE, "budget": 0.01, "k": 3}
    given = {"run": HOSTILE, "site": HOSTILE, "relus": 3, "k": 3, "and_gates": 3, "harm_k": None}
    more = {"sites": [site], "allocations": [given], "left_out": {HOSTILE: HOSTILE}, "remarks": HOSTILE}
    reader = read(page([*rows, answer], **more))
    assert [attrs.get("type") for tag, attrs in reader.tags if tag == "script"] == ["application/json", None]
    assert not [tag for tag, _ in reader.tags if tag in ("img", "iframe", "object", "link", "b")]
    assert not [name for _, attrs in reader.tags for name in attrs if name.startswith("on")]
    assert HOSTILE in {cell[1] for table in reader.tables.values() for cells in table for cell in cells}


def test_the_page_asks_nobody_and_lets_only_its_own_script_run() -> None:
    text = page()
    assert "script-src 'sha256-" in text
    assert "default-src 'none'" in text
    named = {"src", "href", "xlink:href", "action", "srcset", "poster"}
    found = [value for _, attrs in read(text).tags for name, value in attrs.items() if name in named]
    found += re.findall(r"url\(([^)]+)\)", text)
    assert found
    assert all(str(address).startswith(("#", "data:")) for address in found)
    assert set(re.findall(r"https?://[^\s\"'<]+", text)) <= {
        "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink",
    }  # fmt: skip


def test_identifiers_are_unique_and_references_found() -> None:
    figures = {"one": accuracy_vs_k(ROWS[:3]), "two": accuracy_vs_k(ROWS[:3])}
    reader = read(report_page(Content("t", "c", ROWS, figures=figures)))
    names = [attrs["id"] for _, attrs in reader.tags if attrs.get("id")]
    assert len(names) == len(set(names))
    wanted = [str(attrs["xlink:href"])[1:] for _, attrs in reader.tags if attrs.get("xlink:href")]
    assert wanted
    assert set(wanted) <= set(names)


def test_the_same_runs_give_the_same_page() -> None:
    assert page() == page()


def test_names_that_no_utf8_can_say_are_spelled_out() -> None:
    assert escaped("a\udc80b") == "a\\udc80b"
    odd = "</script>\u2028\udc80"
    assert json.loads(re.sub("<.*?>", "", data_element("d", odd))) == odd


@pytest.mark.slow
def test_in_a_browser_tables_sort_filter_and_figures_tell(tmp_path: Path) -> None:
    """Chromium, headless: no error, no request, the table sorts by mouse and keyboard, a point tells."""
    import shutil

    playwright = pytest.importorskip("playwright.sync_api", reason="pip install '.[browser]'")
    names = ("chromium", "chromium-browser", "google-chrome")
    chromium = next(filter(None, map(shutil.which, names)), None)
    if chromium is None:
        pytest.skip("needs a chromium on the path, e.g. apt install chromium")
    path = tmp_path / "report.html"
    path.write_text(page(), encoding="utf-8")
    wrong: list[str] = []
    asked: list[str] = []
    with playwright.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        view = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme="dark")
        view.set_default_timeout(120_000)
        view.on("console", lambda message: wrong.append(message.text))
        view.on("pageerror", lambda error: wrong.append(str(error)))
        view.on("dialog", lambda dialog: (wrong.append("a name ran"), dialog.dismiss()))
        view.on("request", lambda request: asked.append(request.url))
        view.goto(path.as_uri())

        def column(index: int = 8) -> list[float]:
            rows = "#evaluations tbody tr:not([hidden])"
            script = f"rows => rows.map(row => Number(row.cells[{index}].dataset.value))"
            return list(view.eval_on_selector_all(rows, script))

        whole = sorted(float(each["accuracy"]) for each in ROWS)
        head = view.locator("#evaluations th", has_text=re.compile("^accuracy$"))
        head.locator("button").click()
        assert (column(), head.get_attribute("aria-sort")) == (whole, "ascending")
        view.keyboard.press("Enter")  # the button has the focus
        assert (column(), head.get_attribute("aria-sort")) == (whole[::-1], "descending")
        view.fill('[data-filters="evaluations"]', "poszero alert(2)")
        assert column() == [0.9]
        assert view.inner_text('[data-counts="evaluations"]') == "1 of 4 rows"
        view.locator("svg.figure").first.focus()
        view.keyboard.press("ArrowRight")
        assert view.inner_text("#told").startswith("PosZero")
        assert "scripts/evaluate.py fault.k=8" in view.inner_text("#told")
        view.keyboard.press("Escape")
        assert view.locator("#told").is_hidden()
        with view.expect_download() as caught:
            view.click("#save-csv")
        assert Path(caught.value.path()).read_text() == to_csv(ROWS)
        assert view.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        paper = view.evaluate("getComputedStyle(document.body).backgroundColor")
        assert paper == "rgb(22, 24, 28)"  # the dark one
        view.emulate_media(media="print")
        assert view.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        browser.close()
    assert wrong == []
    assert asked == [path.as_uri()] or all(each.startswith(("file:", "blob:")) for each in asked)
