"""The page in a browser, by keyboard alone: needs selenium, and chromium with its driver."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi")
pytest.importorskip("qdrant_edge")
uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("selenium")
BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not (BROWSER and DRIVER):
    pytest.skip("no chromium and chromedriver", allow_module_level=True)

from selenium import webdriver  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

from limbeck import compress  # noqa: E402
from limbeck.search.index import Index  # noqa: E402
from limbeck.serve.app import make_app  # noqa: E402
from limbeck.serve.settings import Settings  # noqa: E402

QUERIES = ["two tables", "a string"]
TEXTS = ["join two tables on a key column", "split a string", "return a tuple", "zwei Tabellen"]
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --disable-background-networking --disable-component-update "
    "--disable-sync --no-first-run --window-size=1400,900"
)

pytestmark = pytest.mark.slow


@contextmanager
def running(app: Any) -> Iterator[str]:
    """The address of an application that is served."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_config=None))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            thread.join(0.01)
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    finally:
        server.should_exit = True
        thread.join()


class Page:
    """A page in a browser, typed at."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def js(self, code: str, *arguments: Any) -> Any:
        return self.driver.execute_script(code, *arguments)

    def until(self, holds: Callable[[], Any]) -> Any:
        return WebDriverWait(self.driver, 30, poll_frequency=0.02).until(lambda _: holds())

    def opened(self, url: str) -> Page:
        self.driver.get(url)
        self.until(lambda: self.shown(".card") or self.shown(".error"))
        return self

    def shown(self, selector: str) -> bool:
        code = "return [...document.querySelectorAll(arguments[0])].some((e) => e.checkVisibility())"
        return self.js(code, selector)

    def texts(self, selector: str) -> list[str]:
        return self.js("return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)", selector)

    def size(self, width: int, height: int = 900, scheme: str = "light") -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})

    @property
    def focus(self) -> str:
        return self.js("const e = document.activeElement; return e.id || e.value || e.textContent")

    def press(self, *keys: str) -> None:
        self.driver.switch_to.active_element.send_keys(*keys)

    def tab_to(self, name: str, *, back: bool = False) -> None:
        """Tab on until something has the focus."""
        for _ in range(40):
            if self.focus == name:
                return
            self.press(Keys.SHIFT + Keys.TAB if back else Keys.TAB)
        raise AssertionError(f"no way to {name} by Tab: at {self.focus}")

    def write(self, name: str, text: str) -> None:
        """Go to a field and write something else."""
        self.js("document.activeElement.blur(); window.getSelection().removeAllRanges()")
        self.tab_to(name)
        self.press(Keys.CONTROL + "a")
        self.press(Keys.DELETE)
        self.press(text)

    def scores(self) -> list[dict[str, float]]:
        """For each query its texts in order, and what each scores."""
        code = """const rows = (card) => [...card.querySelectorAll("li")];
            const score = (li) => li.querySelector(".score").lastChild.textContent;
            const pair = (li) => [li.querySelector(".text").textContent, score(li)];
            return [...document.querySelectorAll(".card")].map((card) => rows(card).map(pair));"""
        return [{text: float(score.replace("−", "-")) for text, score in card} for card in self.js(code)]


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('profile')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options, webdriver.ChromeService(str(DRIVER)))
    yield made
    made.quit()


@pytest.fixture
def page(driver: Any, encoder: Any, index_folder: Path) -> Iterator[Page]:
    """Of a server with an index, with texts of ours."""
    app = make_app(encoder, Settings(), indexes={"notes": Index.without_model(index_folder)})
    with running(app) as url:
        made = Page(driver).opened(url)
        made.write("queries", "\n".join(QUERIES))
        made.write("texts", "\n".join(TEXTS))
        made.until(lambda: len(made.texts(".heat tbody tr")) == 2 and len(made.texts(".heat thead th")) == 4)
        driver.get_log("browser")
        yield made
        complaints = [each["message"] for each in driver.get_log("browser")]
        assert not [each for each in complaints if "Failed to load resource" not in each]  # of scripts and policies


def vectors(encoder: Any, dim: int) -> tuple[np.ndarray, np.ndarray]:
    return (
        encoder.encode(QUERIES, task="retrieval", role="query", dim=dim),
        encoder.encode(TEXTS, task="retrieval", dim=dim),
    )


def check(page: Page, expected: np.ndarray) -> None:
    for scores, row in zip(page.scores(), expected, strict=True):
        assert list(scores.values()) == sorted(scores.values(), reverse=True)
        np.testing.assert_allclose([scores[text] for text in TEXTS], row, atol=1.1e-3)


def test_dims_precision_and_task_are_chosen_by_keys_and_the_ranking_follows(page: Page, encoder: Any) -> None:
    queries, texts = vectors(encoder, 32)
    check(page, queries @ texts.T)
    assert page.texts("#bytes b") == ["128 bytes"]
    page.tab_to("dims")
    page.press(Keys.ARROW_LEFT)
    queries, texts = vectors(encoder, 16)
    check(page, queries @ texts.T)
    assert page.texts("#bytes b") == ["64 bytes"] and page.texts("#dims-said") == ["16"]
    page.press(Keys.TAB, Keys.ARROW_RIGHT)
    (left, _), (right, _) = map(compress.to_int8, (queries, texts))
    codes = [compress.truncate(each.astype(np.float32), 16) for each in (left, right)]
    check(page, codes[0] @ codes[1].T)
    assert page.texts("#bytes b") == ["16 bytes"]
    page.press(Keys.ARROW_RIGHT)
    check(page, compress.hamming_similarity(compress.to_bits(queries), compress.to_bits(texts)))
    assert page.texts("#bytes b") == ["2 bytes"] and "Hamming" in page.texts("#compare-said")[0]
    page.press(Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    page.tab_to("task", back=True)
    page.press("text-m")
    page.until(lambda: "task text-matching" in page.texts("#compare-said")[0])
    queries, texts = (encoder.encode(each, task="text-matching", dim=16) for each in (QUERIES, TEXTS))
    check(page, queries @ texts.T)


def test_the_map_shows_each_pair(page: Page, encoder: Any) -> None:
    def cells() -> np.ndarray:
        rows = page.js("return [...document.querySelectorAll('.heat tbody tr')].map((tr) => [...tr.cells].slice(1).map("
                       "(td) => td.textContent))")  # fmt: skip
        return np.array([[float(cell.replace("−", "-")) for cell in row] for row in rows])

    queries, texts = vectors(encoder, 32)
    np.testing.assert_allclose(cells(), queries @ texts.T, atol=5.1e-3)
    page.tab_to("both")
    page.press(Keys.ARROW_RIGHT)
    np.testing.assert_allclose(cells(), texts @ texts.T, atol=5.1e-3)
    page.tab_to("map")  # it can be scrolled by keys where it is wider than the page


def test_only_what_was_typed_last_is_shown(page: Page) -> None:
    calls = "window.calls = []; const old = fetch; window.fetch = (u, o) => { calls.push(o.body); return old(u, o); }"
    page.js(calls)
    page.write("queries", "a key")
    page.until(lambda: page.texts(".card h3") == ["a key"])
    bodies = [json.loads(each) for each in page.js("return calls.filter(Boolean)")]
    assert {"a key"} in [set(each["input"]) for each in bodies]
    assert TEXTS not in [each["input"] for each in bodies]  # they were sent before
    slow = """const old = fetch; window.aborted = 0; window.fetch = (u, o) => { window.fetch = old;
        const dropped = (fail) => () => { aborted++; fail(o.signal.reason); };
        return new Promise((_, fail) => o.signal.addEventListener("abort", dropped(fail))); }"""
    page.js(slow)
    page.write("queries", "first")
    page.until(lambda: page.js("return document.querySelector('#compare [aria-busy]') !== null"))
    page.write("queries", "second")
    page.until(lambda: page.texts(".card h3") == ["second"])
    assert page.js("return aborted") == 1 and not page.shown("#compare-error")


def test_what_goes_wrong_is_said_in_words(page: Page) -> None:
    page.write("texts", "short\n\n" + "two tables on a key column " * 20)
    page.until(lambda: page.shown("#compare-error"))
    said = page.texts("#compare-error p")[0]
    assert "The text in line 3 has" in said and "over the limit of 32" in said
    page.write("texts", "short")
    page.until(lambda: not page.shown("#compare-error"))
    page.write("texts", "")
    page.until(lambda: page.texts("#compare-said") == ["Type a text."])


def test_an_index_is_searched_from_its_tab(page: Page) -> None:
    page.tab_to("tab-compare", back=True)
    page.press(Keys.ARROW_RIGHT)
    assert page.shown("#search") and not page.shown("#compare") and page.focus == "tab-search"
    page.write("query", "two tables")
    page.until(lambda: len(page.texts("#hits li")) == 4)
    assert "4 documents; 32 dims × 1 bit = 4 bytes a vector" in page.texts("#index-said")[0]
    page.write("where", "lang=en,de; year>=2022")
    page.until(lambda: sorted(page.texts("#hits .name")) == ["2", "3"])
    page.write("where", "year=soon")
    page.until(lambda: page.shown("#search-error"))
    assert "Field 'year' holds integer" in page.texts("#search-error p")[0]
    page.write("where", "")
    page.tab_to("by", back=True)
    page.press("words")
    page.until(lambda: page.texts("#hits .name") == ["Tables"])


def test_a_server_with_keys_asks_for_one_and_the_tab_keeps_it(driver: Any, encoder: Any) -> None:
    with running(make_app(encoder, Settings(), keys="one")) as url:
        page = Page(driver).opened(url)
        assert page.focus == "key" and page.texts("#compare-error p") == ["This server wants an API key."]
        assert not page.shown("#queries")
        page.press("two", Keys.ENTER)
        page.until(lambda: page.texts("#compare-error p") == ["The server does not take this key."])
        assert page.js("return sessionStorage.length") == 0
        page.press(Keys.CONTROL + "a")
        page.press("one", Keys.ENTER)
        page.until(lambda: page.shown("#queries"))
        driver.refresh()
        page.until(lambda: page.shown("#queries"))
        assert page.js("return localStorage.length + document.cookie.length") == 0
    with running(make_app(encoder, Settings())) as url:
        page = Page(driver).opened(url)
        assert not page.shown("#key-form") and page.js("return sessionStorage.length") == 0


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1400])
def test_it_fits_narrow_and_wide_windows_in_both_schemes(page: Page, width: int, scheme: str) -> None:
    page.size(width, scheme=scheme)
    for tab in ("compare", "search"):
        page.js("document.getElementById(arguments[0]).click()", f"tab-{tab}")
        assert page.js("return document.documentElement.scrollWidth") <= width
        low = page.js(CONTRASTS, f"#{tab}")
        assert not low, low


# Texts whose colour stands out too little from what is behind them (WCAG 2: 4.5, of large ones 3).
CONTRASTS = """
const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
const paint = (colours) => {
  canvas.clearRect(0, 0, 1, 1);
  for (const colour of colours) { canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1); }
  const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((v) => v / 255)
    .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
};
const low = [];
for (const element of document.querySelectorAll(`header *, ${arguments[0]} *`)) {
  const words = [...element.childNodes].filter((n) => n.nodeType === 3 && n.data.trim()).map((n) => n.data).join(" ");
  if (!words || !element.checkVisibility() || element.closest("option, .unseen, .skip, :disabled")) continue;
  const behind = [];
  for (let at = element; at; at = at.parentElement) behind.unshift(getComputedStyle(at).backgroundColor);
  const style = getComputedStyle(element);
  const [a, b] = [paint(behind), paint([...behind, style.color])].sort((x, y) => y - x);
  const ratio = (a + 0.05) / (b + 0.05), large = parseFloat(style.fontSize) >= 24;
  if (ratio < (large ? 3 : 4.5)) low.push([words.slice(0, 40), ratio]);
}
return low;
"""
