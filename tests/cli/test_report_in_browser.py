"""The page in a real browser, headless: what is shown is what loops compute, with keys alone, on a narrow window."""

import math
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fairseq_cli.knnlm import main
from tests.builders.shown_retrieval import FIRST, NASTY, shown_retrieval
from tests.oracles.knn import knn_probability, mixture

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::ResourceWarning")]

FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    " --disable-component-update --disable-sync --disable-dev-shm-usage --hide-scrollbars"
)
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    service = shutil.which("chromedriver")
    if chromium is None or service is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path_factory.mktemp('browser')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = selenium.Chrome(options=options, service=selenium.ChromeService(service))
    yield opened
    opened.quit()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = shown_retrieval(tmp_path_factory.mktemp("shown"), tokens=3000, source_tokens=5000, words=200)
    main(["report", str(directory), "--log-format", "none"])
    return directory


@pytest.fixture
def page(driver: Any, directory: Path) -> Iterator[Any]:
    """Opens the page; in the end, nothing may have been complained of, requests that the policy stopped included."""
    size(driver, 1200, 900)
    driver.get((directory / "report.html").as_uri())
    wait(lambda: driver.execute_script("return document.documentElement.dataset.ready"))
    yield driver
    assert driver.get_log("browser") == []


def size(driver: Any, width: int, height: int) -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def wait(condition: Callable[[], Any]) -> Any:
    """Returns the condition's value as soon as it is true."""
    end = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < end, "the page did not come so far"
    return value


def press(driver: Any, *keys: str) -> None:
    from selenium.webdriver.common.action_chains import ActionChains

    for key in keys:
        ActionChains(driver).send_keys(key).perform()


def chosen(driver: Any) -> int | None:
    found = driver.execute_script("return document.getElementById('text').getAttribute('aria-activedescendant')")
    return int(found[1:]) if found else None


def text_of(driver: Any, selector: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map((e) => e.textContent)"
    return list(driver.execute_script(script, selector))


def columns_of(directory: Path) -> dict[str, np.ndarray]:
    columns = {file.stem: np.load(file) for file in directory.glob("*.npy")}
    columns["hits"] = np.unpackbits(columns["hits"], axis=1, count=12, bitorder="little")
    return columns


def symbols_of(directory: Path) -> list[str]:
    lines = (directory.parent / "data-bin/dict.txt").read_text(encoding="utf-8").split("\n")[:-1]
    return ["<s>", "<pad>", "↵", "<unk>", *(line.rsplit(" ", 1)[0] for line in lines)]


def gains_of(columns: dict[str, np.ndarray], lmbda: float = 0.25) -> list[float]:
    """Returns every token's gain, in bits."""
    gains = []
    for n, lm in enumerate(columns["lm_log_prob"]):
        p = knn_probability(columns["distances"][n], columns["ids"][n], columns["hits"][n].astype(int), 1, 2.0)
        gains.append((math.log(mixture(math.exp(lm), p, lmbda)) - lm) / math.log(2))
    return gains


def number(text: str) -> float:
    return float(text.replace("−", "-").replace(",", "").replace("%", "").strip())


def test_words_are_shown_as_they_are(page: Any, directory: Path) -> None:
    symbols, targets = symbols_of(directory), np.load(directory / "targets.npy")
    shown = text_of(page, "#text .t")
    assert shown == [symbols[t] for t in targets[: len(shown)]]
    assert set(NASTY) <= set(shown)
    assert page.title == "kNN-LM on valid"
    assert page.execute_script("return document.querySelectorAll('#text img, #text script').length") == 0


def test_a_word_shows_its_probabilities_and_neighbours(page: Any, directory: Path) -> None:
    columns, symbols, gains = columns_of(directory), symbols_of(directory), gains_of(columns_of(directory))
    source = np.fromfile(directory.parent / "data-bin/train.bin", "<u2")
    at_NH = columns["ids"][:, :8] + FIRST
    borders = [((at_NH >= FIRST) & (at_NH < 14)).any(1).argmax(), (at_NH + 6 > len(source)).any(1).argmax()]
    for token in (0, 3, 4, 40, 45, *map(int, borders)):
        page.execute_script("document.getElementById('t' + arguments[0]).click()", token)
        there = columns["ids"][token, :8] >= 0
        wait(lambda: text_of(page, "#details .note"))
        assert len(text_of(page, ".neighbours li")) == there.sum()
        p = knn_probability(
            columns["distances"][token], columns["ids"][token], columns["hits"][token].astype(int), 1, 2.0
        )
        lm = math.exp(columns["lm_log_prob"][token])
        wanted = [lm, p, mixture(lm, p, 0.25)]
        assert [number(text) for text in text_of(page, ".probs .number")] == pytest.approx(wanted, rel=6e-3, abs=1e-9)
        assert number(text_of(page, ".verdict b")[0].split()[0]) == pytest.approx(gains[token], abs=0.006)
        costs = np.exp(-columns["distances"][token].astype(float) / 2)
        for rank, item in enumerate(text_of(page, ".neighbours .neighbour")):
            found = re.fullmatch(r"\d+\.(.*)(✓ hit|miss)(.+?) % of the votesdistance (.+)row (.+)", item, re.DOTALL)
            assert found is not None, item
            row = columns["ids"][token, rank]
            assert found[1] == symbols[source[row + FIRST]]
            assert (found[2] == "✓ hit") == bool(columns["hits"][token, rank])
            assert number(found[3]) == pytest.approx(100 * costs[rank] / costs.sum(), abs=0.5, rel=0.06)
            assert number(found[4]) == pytest.approx(columns["distances"][token, rank], rel=6e-3)
            assert number(found[5]) == row
            at = row + FIRST
            context = [symbols[t] for t in source[max(0, at - 14) : at + 6]]
            left, right = (
                ["…"] * int(at >= 14),
                ["…"] * int(at + 6 <= len(source)),
            )  # none where the text begins or ends
            assert text_of(page, ".neighbours .context")[rank].split(" ") == [*left, *context, *right]


def test_verbatim_context_is_marked(page: Any, directory: Path) -> None:
    token = int(np.flatnonzero(np.load(directory / "positions.npy") == 50)[0])  # ten tokens into the leak
    page.execute_script("document.getElementById('t' + arguments[0]).click()", token)
    wait(lambda: text_of(page, ".neighbours .same"))
    assert len(text_of(page, ".neighbours li .same")[0].split(" ")) >= 10


def test_keys_alone_do_everything(page: Any, directory: Path) -> None:
    from selenium.webdriver.common.keys import Keys

    symbols, targets = symbols_of(directory), np.load(directory / "targets.npy")
    press(page, "j")
    assert chosen(page) == 0
    press(page, "j", Keys.ARROW_RIGHT, "k", Keys.ARROW_LEFT, "j")
    assert chosen(page) == 1
    press(page, Keys.ARROW_DOWN)
    below = chosen(page)
    tops = page.execute_script("return [1, arguments[0]].map((i) => document.getElementById('t' + i).offsetTop)", below)
    assert tops[0] < tops[1] < tops[0] + 80
    press(page, Keys.ARROW_UP)
    assert chosen(page) is not None and abs(chosen(page) - 1) <= 2
    press(page, Keys.END)
    assert chosen(page) == len(targets) - 1
    inside = "const r = document.querySelector('.t.sel').getBoundingClientRect();"
    inside += " return r.top >= 0 && r.bottom <= innerHeight"
    wait(lambda: page.execute_script(inside))
    press(page, "/", *"w17", Keys.ENTER)
    wanted = [n for n, t in enumerate(targets) if symbols[t] == "w17"]
    wait(lambda: len(text_of(page, ".hit-row")) == len(wanted))
    assert chosen(page) == wanted[0]
    press(page, "j")
    assert chosen(page) == wanted[1]
    press(page, "t")
    assert text_of(page, ".t.sel") == ["w17"] and not text_of(page, ".hit-row")
    press(page, Keys.ESCAPE)
    assert not text_of(page, ".t.sel")
    page.execute_script("document.getElementById('tab-read').focus()")
    press(page, Keys.ARROW_RIGHT)
    assert page.execute_script("return document.activeElement.id") == "tab-groups"
    assert len(wait(lambda: text_of(page, ".group"))) == 4


def choose(driver: Any, order: str) -> None:
    script = "const s = document.getElementById('order'); s.value = arguments[0]; s.dispatchEvent(new Event('change'))"
    driver.execute_script(script, order)


@pytest.mark.parametrize(("order", "sign"), [("gain", -1), ("harm", 1)])
def test_largest_changes_come_first(page: Any, directory: Path, order: str, sign: int) -> None:
    gains = np.array(gains_of(columns_of(directory)))
    choose(page, order)
    found = page.execute_script("return [...document.querySelectorAll('.hit-row')].map((e) => Number(e.dataset.i))")
    assert len(found) == 300
    assert gains[found] == pytest.approx(np.sort(sign * gains)[:300] * sign, abs=1e-5)


def test_rare_words_and_parts_of_words(page: Any, directory: Path) -> None:
    symbols, targets = symbols_of(directory), np.load(directory / "targets.npy")
    counts = np.bincount(np.fromfile(directory.parent / "data-bin/train.bin", "<u2"), minlength=len(symbols))
    page.execute_script("document.getElementById('rare').click()")
    rare = [n for n, t in enumerate(targets) if counts[t] < 10]
    assert text_of(page, "#status")[0].startswith(f"{len(rare):,} of 3,000 tokens")
    page.execute_script("document.getElementById('rare').click()")
    for query, fits in (
        ("W1*", lambda s: s.startswith("w1")),
        ("*script*", lambda s: "script" in s),
        ("w1", lambda s: s == "w1"),
    ):
        press(page, "/", query, "\ue007")
        wanted = sum(bool(fits(symbols[t])) for t in targets)
        assert text_of(page, "#status")[0].startswith(f"{wanted:,} of 3,000 tokens"), query


def test_tables_are_those_of_python(page: Any, directory: Path) -> None:
    columns, gains = columns_of(directory), gains_of(columns_of(directory))
    symbols = symbols_of(directory)
    source = np.fromfile(directory.parent / "data-bin/train.bin", "<u2")
    counts = np.bincount(source, minlength=len(symbols))
    page.execute_script("document.getElementById('tab-groups').click()")
    wait(lambda: text_of(page, ".group"))
    rows = page.execute_script(
        "return [...document.querySelector('.group').querySelectorAll('tbody tr')]"
        ".map((row) => [...row.children].slice(0, 5).map((cell) => cell.textContent))"
    )
    bounds = {"never": (0, 0), "1 – 9": (1, 9), "10 – 99": (10, 99), "100 – 999": (100, 999)}
    for label, tokens, lm, mixed, adds in rows:
        low, high = bounds[label]
        inside = [n for n, t in enumerate(columns["targets"]) if low <= counts[t] <= high]
        mean = -sum(columns["lm_log_prob"][n] for n in inside) / len(inside) / math.log(2)
        gain = sum(gains[n] for n in inside)
        assert number(tokens) == len(inside)
        assert number(lm) == pytest.approx(mean, abs=0.006)
        assert number(mixed) == pytest.approx(mean - gain / len(inside), abs=0.006)
        assert number(adds) == pytest.approx(gain / len(gains), abs=0.0006)


def test_lambda_is_moved_in_the_page(page: Any, directory: Path) -> None:
    columns = columns_of(directory)
    script = "const s = document.getElementById('lmbda'); s.value = 0.6; s.dispatchEvent(new Event('input'))"
    page.execute_script(script)
    gain = np.mean(gains_of(columns, 0.6))
    ppl = 2 ** (-columns["lm_log_prob"].mean() / math.log(2) - gain)
    assert number(text_of(page, "#figures dd")[1].split()[0]) == pytest.approx(ppl, abs=0.006)
    page.execute_script("document.getElementById('lmbda-reset').click()")
    assert text_of(page, "#lmbda-value") == ["0.25"]
    wait(lambda: "best on this text" in text_of(page, "#best")[0])


@pytest.mark.parametrize("tab", ["read", "groups", "about"])
def test_a_narrow_window_needs_no_scrolling_sideways(page: Any, tab: str) -> None:
    size(page, 320, 640)
    page.execute_script("document.getElementById('tab-' + arguments[0]).click()", tab)
    assert page.execute_script("return document.documentElement.scrollWidth") <= 320
    if tab == "read":
        page.execute_script("document.querySelector('#text .t').click()")
        wait(lambda: text_of(page, ".neighbours li"))
        assert page.execute_script("return document.documentElement.scrollWidth") <= 320
        script = (
            "const r = document.getElementById('details').getBoundingClientRect(); return [r.left, r.right, r.bottom]"
        )
        assert page.execute_script(script) == [0, 320, 640]


def test_only_what_is_near_the_window_is_in_the_document(page: Any) -> None:
    before = page.execute_script("return document.querySelectorAll('.t[data-i]').length")
    assert 0 < before < 3000
    page.execute_script("scrollTo(0, document.body.scrollHeight)")
    wait(lambda: page.execute_script("return document.getElementById('t2999') !== null"))
    wait(lambda: page.execute_script("return document.getElementById('t0') === null"))


def test_themes_follow_the_system_and_the_button(page: Any) -> None:
    colour = "return getComputedStyle(document.body).backgroundColor"
    light = page.execute_script(colour)
    media = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", media)
    dark = page.execute_script(colour)
    assert dark != light
    seen = []
    for _ in range(3):
        page.execute_script("document.getElementById('theme').click()")
        seen.append(page.execute_script(colour))
    assert seen == [light, dark, dark]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
