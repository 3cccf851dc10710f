"""The page in Debian's Chromium: sorting, the keyboard, a phone's width, the dark, and no error in the console.

Needs chromium and chromedriver (Debian's packages chromium and chromium-driver) and Python's selenium; without one of
them, or where the browser does not start, these tests are skipped, and say so.
"""

import io
import shutil

import numpy as np
import pytest
from matplotlib.image import imread

from avbench.analysis.report import assess
from tests.analysis.presented import page_files_of, sheets_of
from tests.analysis.rich_run import HOSTILE, rich_run

webdriver = pytest.importorskip("selenium.webdriver", reason="needs selenium (pip install -e '.[dev]')")
from selenium.common.exceptions import WebDriverException  # noqa: E402
from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
)  # fmt: skip
PHONE, DESK = 390, 1280


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The page of a run with everything in it, as a file."""
    folder = tmp_path_factory.mktemp("browser")
    assessed = assess([rich_run(folder / "run")], resamples=20)
    for name, content in page_files_of(assessed).items():
        (folder / name).write_bytes(content)
    return sheets_of(assessed), (folder / "index.html").as_uri()


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    found = {name: shutil.which(name) for name in ("chromium", "chromedriver")}
    if None in found.values():
        pytest.skip("needs chromium and chromedriver (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = found["chromium"]
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    try:
        # Both paths are given, so that selenium looks for nothing and downloads nothing.
        driver = webdriver.Chrome(options=options, service=Service(found["chromedriver"]))
    except WebDriverException as error:
        pytest.skip(f"chromium does not start here: {str(error.msg).splitlines()[0]}")
    yield driver
    driver.quit()


@pytest.fixture
def show(browser, page):
    """Opens the page in a window of this width, in the light or in the dark."""

    def opened(width, *, dark=False, unfolded=True):
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        browser.get(page[1])
        if unfolded:
            browser.execute_script("document.querySelectorAll('details').forEach(part => { part.open = true; })")
        return browser

    return opened


@pytest.fixture(autouse=True)
def no_complaint(browser):
    """Whatever a test does, the console stays empty."""
    browser.get_log("browser")
    yield
    assert browser.get_log("browser") == []


# What reaches beyond the right edge of the screen, leaving out what scrolls in a box of its own.
BEYOND = """
return [...document.querySelectorAll("body *")]
  .filter(one => !one.closest("thead, tbody, img, pre") && one.getBoundingClientRect().right > innerWidth + 1)
  .filter(one => one.tagName !== "TABLE" && one.tagName !== "CAPTION")
  .map(one => `${one.tagName} ${one.className} ${one.textContent.trim().slice(0, 50)}`)
"""


@pytest.mark.parametrize("width", [320, PHONE, 768, DESK])
def test_nothing_is_wider_than_the_screen(show, width):
    browser = show(width)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    assert browser.execute_script(BEYOND) == []


def test_on_a_phone_the_figures_of_a_column_are_whole(show):
    browser = show(PHONE)
    pictures = browser.execute_script(
        "return [...document.querySelectorAll('#confidence .picture')].map(one => [one.scrollWidth, one.clientWidth])"
    )
    assert len(pictures) == 2
    assert all(inside <= shown for inside, shown in pictures)


def test_on_a_phone_what_is_said_above_a_wide_table_stays_while_it_scrolls(show):
    browser = show(PHONE)
    left, right, far = browser.execute_script(
        """
        const box = document.getElementById("accuracy-0").closest(".scroll");
        box.scrollLeft = 10000;
        const words = box.querySelector("caption > div").getBoundingClientRect();
        return [words.left, words.right, box.scrollLeft];
        """
    )
    assert far > 50
    assert left >= 0
    assert right <= PHONE


def luminance(color):
    """Of a colour as CSS computes it, by WCAG."""
    parts = [float(part) / 255 for part in color.split("(")[1].rstrip(")").split(",")[:3]]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def lightness_of(element):
    """Mean of a screenshot of it, 0 black, 1 white, and how far its pixels spread."""
    pixels = imread(io.BytesIO(element.screenshot_as_png), format="png")[..., :3]
    return float(pixels.mean()), float(pixels.std())


@pytest.mark.parametrize("dark", [False, True])
def test_figures_and_words_are_dark_in_the_dark_and_light_in_the_light(show, dark):
    browser = show(DESK, dark=dark)
    images = browser.find_elements(By.CSS_SELECTOR, "figure img")
    assert len(images) > 8
    for image in images:
        mean, spread = lightness_of(image)
        assert (mean < 0.3) if dark else (mean > 0.7), image.accessible_name
        assert spread > 0.05, f"{image.accessible_name}: nothing is to be seen"
    paper = luminance(browser.execute_script("return getComputedStyle(document.body).backgroundColor"))
    assert (paper < 0.05) is dark
    for words in ("body", ".lead", "figcaption", "caption span", "nav a", "td small", ".notes", "thead th"):
        ink = luminance(
            browser.execute_script("return getComputedStyle(document.querySelector(arguments[0])).color", words)
        )
        assert (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05) >= 4.5, f"{words} can hardly be read"


def column_of(browser, table, column):
    return browser.execute_script(
        "return [...document.getElementById(arguments[0]).tBodies[0].rows]"
        ".map(row => row.cells[arguments[1]].dataset.value ?? row.cells[arguments[1]].textContent)",
        table,
        column,
    )


def numbers(texts):
    return [float(text) for text in texts]


def test_a_click_on_a_heading_sorts_and_the_third_puts_it_back(show, page):
    browser = show(DESK)
    (sheet,) = (sheet for sheet in page[0] if sheet.name == "metrics-0.2")
    values = [row[2].value for row in sheet.rows]
    assert len(set(values)) > 4
    button = browser.find_element(By.CSS_SELECTOR, "#metrics-0\\.2 thead th:nth-child(3) button")
    heading = button.find_element(By.XPATH, "..")
    seen = []
    for _ in range(3):
        button.click()
        seen.append((heading.get_attribute("aria-sort"), numbers(column_of(browser, "metrics-0.2", 2))))
    assert seen == [("descending", sorted(values, reverse=True)), ("ascending", sorted(values)), ("none", values)]


def test_words_sort_by_the_alphabet_first(show):
    browser = show(DESK)
    button = browser.find_element(By.CSS_SELECTOR, "#learning thead th:nth-child(1) button")
    button.click()
    names = column_of(browser, "learning", 0)
    assert names[-2:] == ["visual", "visual"]
    assert names.index("audio") < names.index("baseline") < names.index("greedy")
    assert HOSTILE in names


def focused(browser):
    return browser.switch_to.active_element


def test_a_heading_sorts_by_the_keyboard_alone(show, page):
    browser = show(DESK)
    (sheet,) = (sheet for sheet in page[0] if sheet.name == "learning")
    place = sheet.headings.index("validation accuracy")
    for _ in range(200):
        focused(browser).send_keys(Keys.TAB)
        if focused(browser).tag_name == "button" and focused(browser).text.startswith("validation accuracy"):
            break
    else:
        pytest.fail("the tabulator never comes to the heading")
    assert browser.execute_script("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    falling = sorted((row[place].value for row in sheet.rows if row[place].value is not None), reverse=True)
    focused(browser).send_keys(Keys.ENTER)
    assert numbers(column_of(browser, "learning", place)[:-1]) == falling
    assert column_of(browser, "learning", place)[-1] == "–"  # what has no number stays last
    focused(browser).send_keys(Keys.SPACE)
    assert numbers(column_of(browser, "learning", place)[:-1]) == falling[::-1]
    assert focused(browser).text.startswith("validation accuracy"), "the focus stays where it was"


def test_folds_open_and_wide_tables_scroll_by_the_keyboard(show):
    browser = show(PHONE, unfolded=False)
    summary = browser.find_element(By.CSS_SELECTOR, "#tables-accuracy summary")
    fold = summary.find_element(By.XPATH, "..")
    assert fold.get_attribute("open") is None
    summary.send_keys(Keys.ENTER)
    assert fold.get_attribute("open") is not None
    table = browser.find_element(By.CSS_SELECTOR, "#learning").find_element(By.XPATH, "..")
    assert table.get_attribute("tabindex") == "0"
    table.send_keys(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    script = "return new Promise(done => setTimeout(() => done(arguments[0].scrollLeft), 300))"
    assert browser.execute_script(script, table) > 0


def test_contents_lead_to_their_places_and_nothing_is_fetched(show):
    browser = show(PHONE, unfolded=False)
    link = browser.find_element(By.CSS_SELECTOR, "nav a[href='#learnt']")
    link.send_keys(Keys.ENTER)
    assert browser.current_url.endswith("#learnt")
    top = browser.execute_script("return document.getElementById('learnt').getBoundingClientRect().top")
    assert -50 < top < 100
    names = browser.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in names if not name.startswith("data:")] == []
