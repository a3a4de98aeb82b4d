"""The page in a real browser: Debian's chromium, without a window and without a network."""

from __future__ import annotations

import dataclasses
import math
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from selenium.common.exceptions import NoAlertPresentException
from selenium.webdriver import ActionChains, Chrome, ChromeOptions, Keys
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

from diff_reports import ATTACK, report
from fqonnx.diff import LayerDiff
from fqonnx.diff_report import DiffReport
from fqonnx.html import to_html
from fqonnx.html.numerals import percent
from fqonnx.overrides import load_overrides

_BROWSER, _DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if _BROWSER is None or _DRIVER is None:
    pytest.skip("needs chromium and chromedriver", allow_module_level=True)

Open = Callable[[DiffReport], Chrome]


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chrome]:
    options = ChromeOptions()
    options.binary_location = str(_BROWSER)
    for argument in (
        *("headless", "no-sandbox", "disable-gpu", "no-first-run", "disable-sync", "disable-quic"),
        *("disable-background-networking", "disable-component-update"),
        f"user-data-dir={tmp_path_factory.mktemp('profile')}",
        "host-resolver-rules=MAP * ~NOTFOUND",
    ):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Service(str(_DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser: Chrome, tmp_path: Path) -> Iterator[Open]:
    """Return what opens the page of a report, which loads nothing and leaves the console empty."""

    def open_page(found: DiffReport) -> Chrome:
        path = tmp_path / "report.html"
        path.write_text(to_html(found), encoding="utf-8")
        browser.get(path.as_uri())
        return browser

    screen(browser, 1200)
    yield open_page
    assert browser.execute_script("return performance.getEntriesByType('resource')") == []
    assert browser.get_log("browser") == []


def screen(browser: Chrome, width: int, **media: str) -> None:
    """Set the width of the screen and what it is asked to look like."""
    phone = width < 500
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": phone}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": media.get("scheme", "light")}]
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"media": media.get("media", ""), "features": features}
    )


def find(browser: Chrome, css: str) -> WebElement:
    return browser.find_element(By.CSS_SELECTOR, css)


def texts(browser: Chrome, css: str) -> list[str]:
    script = "return [...document.querySelectorAll(arguments[0])].map((x) => x.textContent.trim())"
    found: list[str] = browser.execute_script(script, css)
    return found


def head(browser: Chrome, title: str) -> tuple[WebElement, int]:
    """Return the button that sorts by a column of layers, and the column's number from 1."""
    heads = browser.find_elements(By.CSS_SELECTOR, "#table thead th")
    place = [x.text.rstrip("↕↑↓") for x in heads].index(title)
    return heads[place].find_element(By.TAG_NAME, "button"), place + 1


def sorted_by(browser: Chrome) -> dict[str, str]:
    """Return the columns that the table is sorted by, and their directions."""
    script = """return [...document.querySelectorAll('#table th[aria-sort]')]
        .map((x) => [x.textContent.trim(), x.getAttribute('aria-sort')])"""
    return {title: way for title, way in browser.execute_script(script) if way != "none"}


def point_at(browser: Chrome, layer: int, picture: str = ".depth.wide") -> ActionChains:
    """Return what moves the pointer to a layer in the picture."""
    svg = find(browser, picture)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", svg)
    script = """const svg = arguments[0], box = svg.getBoundingClientRect();
        const [first, last] = svg.dataset.x.split(' ').map(Number);
        const rows = document.querySelectorAll('#table tbody tr');
        const x = first + (last - first) * arguments[1] / (rows.length - 1 || 1);
        return x / svg.viewBox.baseVal.width * box.width - box.width / 2"""
    x = browser.execute_script(script, svg, layer)
    return ActionChains(browser).move_to_element_with_offset(svg, round(x), 0)


def shown(layer: LayerDiff) -> list[str]:
    """Return what the picture says of a layer."""
    errors = (
        *(layer.model_rel_error, layer.accumulated_rel_error),
        *(layer.local_rel_error, layer.weight_rel_error),
    )
    return [*map(percent, errors), str(layer.bits), f"{layer.dim_in} × {layer.dim_out}"]


def with_layers(found: DiffReport, **changes: Any) -> DiffReport:
    """Return a report whose first layer is changed."""
    return dataclasses.replace(
        found, layers=[dataclasses.replace(found.layers[0], **changes), *found.layers[1:]]
    )


def test_columns_sort_by_click(opened: Open) -> None:
    found = with_layers(report(), weight_rel_error=math.nan)
    browser = opened(found)
    assert sorted_by(browser) == {"alone": "descending"}
    button, column = head(browser, "weight")
    expected = [percent(error) for error in sorted(x.weight_rel_error for x in found.layers[1:])]
    cells = f"#table tbody td:nth-child({column})"
    button.click()
    assert texts(browser, cells) == [*reversed(expected), "n/a"]
    assert sorted_by(browser) == {"weight": "descending"}
    button.click()
    assert texts(browser, cells) == [*expected, "n/a"]
    assert sorted_by(browser) == {"weight": "ascending"}
    assert len(browser.find_elements(By.CSS_SELECTOR, "#table tbody tr")) == 12


def test_columns_sort_by_keyboard(opened: Open) -> None:
    browser = opened(report(80))
    button, _ = head(browser, "layer")
    browser.execute_script("arguments[0].focus()", button)
    button.send_keys(Keys.ENTER)
    assert sorted_by(browser) == {"layer": "ascending"}
    names = texts(browser, "#table tbody .name")
    order = [int(name.split(".")[2]) for name in names]
    assert order == sorted(order)  # 10 behind 9
    button.send_keys(Keys.SPACE)
    assert texts(browser, "#table tbody .name") == names[::-1]


def test_infinities_sort_as_the_largest(opened: Open) -> None:
    browser = opened(with_layers(report(), local_rel_error=math.inf))
    button, column = head(browser, "local")
    button.click()
    assert texts(browser, f"#table tbody td:nth-child({column})")[0] == "∞"


def test_the_pointer_shows_the_values_of_its_layer(opened: Open) -> None:
    found = report(36)
    browser = opened(found)
    tip = find(browser, "#tip")
    assert not tip.is_displayed()
    for layer in (0, 17, 35):
        point_at(browser, layer).perform()
        assert tip.is_displayed()
        assert texts(browser, "#tip .name") == [found.layers[layer].name]
        assert texts(browser, "#tip dd") == shown(found.layers[layer])
        assert tip.rect["x"] >= 0
        assert tip.rect["x"] + tip.rect["width"] <= 1200
    ActionChains(browser).move_to_element(find(browser, "#histogram")).perform()
    assert not tip.is_displayed()


def test_the_pointer_finds_the_layer_in_a_sorted_table(opened: Open) -> None:
    found = report(12)
    browser = opened(found)
    head(browser, "#")[0].click()
    point_at(browser, 3).perform()
    assert texts(browser, "#tip dd") == shown(found.layers[3])


def test_arrow_keys_go_along_the_layers(opened: Open) -> None:
    found = report(12)
    browser = opened(found)
    point_at(browser, 4).click().send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT).perform()
    assert texts(browser, "#tip .name") == [found.layers[6].name]
    ActionChains(browser).send_keys(Keys.ENTER).perform()
    assert find(browser, "#chosen").get_property("value") == "6"
    ActionChains(browser).send_keys(Keys.ESCAPE).perform()
    assert not find(browser, "#tip").is_displayed()


def test_a_single_layer_has_a_picture(opened: Open) -> None:
    found = report(1)
    browser = opened(found)
    point_at(browser, 0).perform()
    assert texts(browser, "#tip dd") == shown(found.layers[0])


def chosen(browser: Chrome) -> tuple[list[str], list[str], list[str]]:
    """Return the chosen layer by list and table, and the shares and levels of its histogram."""
    script = "return document.getElementById('chosen').selectedOptions[0].textContent"
    assert texts(browser, "#table [aria-current] .name") == [browser.execute_script(script)]
    return (
        texts(browser, "#table [aria-current] .name"),
        texts(browser, "#bars .share"),
        texts(browser, "#bars .value"),
    )


def test_a_chosen_layer_shows_its_histogram(opened: Open) -> None:
    found = report(12)
    browser = opened(found)
    worst = max(found.layers, key=lambda layer: layer.model_rel_error)
    two_bits = (["15.9%", "34.1%", "34.1%", "15.9%"], ["−1.5", "−0.5", "0.5", "1.5"])
    assert chosen(browser) == ([worst.name], *two_bits)
    assert len(texts(browser, "#bars rect")) == 64
    first = find(browser, "#bars").get_attribute("innerHTML")
    of_three_bits = found.layers[3]
    assert of_three_bits.bits == 3
    find(browser, '#table tr[data-layer="3"] button').click()
    name, shares, levels = chosen(browser)
    assert name == [of_three_bits.name]
    assert levels[0] == "−2.051"
    assert len(shares) == len(levels) == 8
    assert find(browser, "#bars").get_attribute("innerHTML") != first
    Select(find(browser, "#chosen")).select_by_index(5)
    assert chosen(browser) == ([found.layers[5].name], *two_bits)
    point_at(browser, 10).click().perform()
    assert chosen(browser)[0] == [found.layers[10].name]
    assert len(chosen(browser)[1]) == 8


def test_bars_are_as_high_as_their_counts(opened: Open) -> None:
    found = report(1)
    browser = opened(found)
    script = (
        "return [...document.querySelectorAll('#bars rect')].map((x) => x.height.baseVal.value)"
    )
    heights = browser.execute_script(script)
    counts = found.layers[0].histogram.counts
    assert heights == pytest.approx([144 * count / max(counts) for count in counts], abs=0.01)


def test_a_layer_without_coefficients_says_so(opened: Open) -> None:
    histogram = dataclasses.replace(report(1).layers[0].histogram, counts=[0] * 64)
    browser = opened(with_layers(report(1), histogram=histogram))
    assert texts(browser, "#bars text") == ["This layer has no histogram."]


def test_the_toml_is_copied(opened: Open, tmp_path: Path) -> None:
    found = report()
    browser = opened(found)
    button = find(browser, "[data-copy]")
    button.click()
    assert button.text == "Copied"
    browser.execute_script("document.body.append(document.createElement('textarea'))")
    area = find(browser, "textarea")
    area.send_keys(Keys.CONTROL, "v")
    (tmp_path / "overrides.toml").write_text(str(area.get_property("value")))
    overrides = load_overrides(tmp_path / "overrides.toml")
    raised = [entry.layer for entry in found.advice if entry.bits == 4][:3]
    assert [(x.pattern, x.bits) for x in overrides] == [(name, 4) for name in raised]


def lightness(browser: Chrome, css: str, colour: str) -> float:
    script = "return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]"
    found = str(browser.execute_script(script, css, colour))
    return sum(float(part) for part in found[found.index("(") + 1 : -1].split(",")[:3]) / 765


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_page_and_pictures_follow_the_colour_scheme(opened: Open, scheme: str) -> None:
    browser = opened(report())
    screen(browser, 1200, scheme=scheme)
    letters = [
        *(("body", "color"), ("h1", "color"), ("table td", "color"), ("#bars .share", "fill")),
        *((".depth text", "fill"), (".depth path[style*=local]", "stroke"), ("#chosen", "color")),
    ]
    paper = lightness(browser, "body", "backgroundColor")
    assert paper < 0.2 if scheme == "dark" else paper > 0.9
    for css, colour in letters:
        assert abs(lightness(browser, css, colour) - paper) > 0.35, css


def test_paper_is_white_and_nothing_is_cut_off(opened: Open) -> None:
    browser = opened(report(60))
    screen(browser, 720, scheme="dark", media="print")
    assert lightness(browser, "body", "backgroundColor") > 0.9
    script = """return [...document.querySelectorAll('.box')]
        .every((x) => getComputedStyle(x).overflow === 'visible')"""
    assert browser.execute_script(script)
    assert find(browser, "#table").rect["height"] > 800


@pytest.mark.parametrize("width", [320, 360, 768])
def test_the_page_does_not_scroll_sideways(opened: Open, width: int) -> None:
    screen_of, long = opened, "a_name_without_any_end_" * 12
    found = with_layers(report(36), name=long)
    found = dataclasses.replace(found, files={long: "0" * 64}, slow=[long], warnings=[long])
    browser = screen_of(found)
    screen(browser, width)
    browser.refresh()
    script = "return document.documentElement.scrollWidth"
    assert browser.execute_script(script) <= width
    point_at(browser, 0, ".depth.narrow" if width < 640 else ".depth.wide").perform()
    assert texts(browser, "#tip .name") == [long]
    assert browser.execute_script(script) <= width


def test_names_are_no_scripts(opened: Open) -> None:
    found = report()
    attack = f"<img src=x onerror=alert(1)>{ATTACK}"
    named = [dataclasses.replace(x, name=f"{x.name}{attack}") for x in found.layers]
    advice = [dataclasses.replace(x, layer=f"{x.layer}{attack}") for x in found.advice]
    outputs = [dataclasses.replace(x, name=f"{x.name}{attack}") for x in found.outputs]
    browser = opened(dataclasses.replace(found, layers=named, advice=advice, outputs=outputs))
    find(browser, '#table tr[data-layer="2"] button').click()
    point_at(browser, 2).perform()
    assert texts(browser, "#tip .name") == [named[2].name]
    assert texts(browser, '#table tr[data-layer="2"] .name') == [named[2].name]
    assert attack in texts(browser, "#toml")[0]
    assert texts(browser, "#outputs h3 .name")[0] == outputs[0].name
    with pytest.raises(NoAlertPresentException):
        _ = browser.switch_to.alert.text
    assert browser.find_elements(By.TAG_NAME, "img") == []


def test_five_hundred_layers_are_quick(opened: Open) -> None:
    browser = opened(report(500))
    script = "return performance.getEntriesByType('navigation')[0].loadEventEnd"
    assert browser.execute_script(script) < 2000  # ms; a few hundred where nothing else runs
    spent = """const start = performance.now(); arguments[0].click();
        document.body.offsetHeight; return performance.now() - start"""
    assert browser.execute_script(spent, head(browser, "weight")[0]) < 1000
    button = find(browser, '#table tr[data-layer="499"] button')
    assert browser.execute_script(spent, button) < 500
    point_at(browser, 250).perform()
    assert texts(browser, "#tip dd")
