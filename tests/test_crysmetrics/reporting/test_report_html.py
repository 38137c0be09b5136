import re
from dataclasses import replace
from importlib.resources import files

import numpy as np
import pytest
from pages import Outline, fits, viewed
from sets import random_crystals

import crysmetrics
from crysmetrics.io import Crystals
from crysmetrics.metrics.base import Value
from crysmetrics.reporting import figures
from crysmetrics.reporting.html import _metric_row, render
from crysmetrics.reporting.pictures import MOST_ATOMS, viewer_cell
from crysmetrics.reporting.svg import nice_ticks

NASTY = "</script><img src=x onerror=alert(1)> & \"quotes\" 'n' <b>"


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CRYSMETRICS_CACHE", str(tmp_path_factory.mktemp("cache")))
        gen, ref = random_crystals(60, 1), random_crystals(60, 2)
        gen = gen.with_ids([NASTY, *gen.ids[1:]])
        frac = gen.frac_coords.copy()
        frac[1] = frac[0] + 0.01  # so that the nasty one is the worst
        gen = replace(gen, frac_coords=frac)
        gen = gen.with_failures([(f"{NASTY}-{i}.cif", "is <empty>") for i in range(7)])
        return crysmetrics.evaluate(gen, ref)


@pytest.fixture(scope="module")
def page(report, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(report.to_html("a <model>"), encoding="utf-8")
    return path


def test_page_is_well_formed_and_needs_nothing_else(page):
    outline = Outline(page.read_text(encoding="utf-8"))
    assert outline.open == []
    assert len(outline.ids) == len(set(outline.ids))
    assert {link[1:] for link in outline.links} <= set(outline.ids)
    assert all(a.startswith(("#", "data:")) for a in outline.addresses)
    styles = page.read_text(encoding="utf-8").split("<style>")[1].split("</style>")[0]
    assert "url(" not in styles
    assert "@import" not in styles


def test_page_is_accessible(page):
    outline = Outline(page.read_text(encoding="utf-8"))
    tags = [tag for tag, _ in outline.tags]
    assert dict(outline.tags[0][1]) == {"lang": "en"} or ("html", {"lang": "en"}) in outline.tags
    assert tags.count("h1") == 1
    charts = [attrs for tag, attrs in outline.tags if attrs.get("class") == "chart"]
    assert charts
    assert all(attrs.get("role") == "img" for attrs in charts)
    text = page.read_text(encoding="utf-8")
    body = re.sub(r"<script.*?</script>", "", text, flags=re.DOTALL)
    assert len(
        re.findall(r'<svg class="chart".*?><title>.+?</title><desc>.+?</desc>', body)
    ) == len(charts)
    for tag, attrs in outline.tags:
        if tag == "th":
            assert attrs.get("scope") in ("row", "col")


def test_colours_have_contrast():
    css = files("crysmetrics.reporting").joinpath("assets", "report.css").read_text()
    blocks = re.findall(r":root \{(.*?)\}", css, flags=re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6,8});", block))
        for back in ("page", "panel", "ours"):
            for front in ("text", "quiet", "link"):
                assert contrast(colours[front], colours[back]) >= 4.5, (front, back)
        for line in ("gen", "ref"):
            assert contrast(colours[line], colours["panel"]) >= 3, line


def contrast(a, b):
    """Contrast of two colours by WCAG 2."""
    light, dark = sorted((luminance(a), luminance(b)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour):
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))


def test_names_can_do_no_harm(page):
    text = page.read_text(encoding="utf-8")
    assert NASTY not in text
    assert "<img" not in text
    assert "a &lt;model&gt;" in text
    # Each script ends where it should, whatever is in it.
    assert text.count("<script") == text.count("</script>") == 3


def test_report_holds_all_it_should(report, page):
    text = page.read_text(encoding="utf-8")
    for key in report.metrics:
        assert f"<code>{key}</code>" in text
    for title in ("Density", "Formation energy", "Volume per atom", "Number of el", "Space group"):
        assert f"<h3>{title}" in text
    assert text.count("COV-R, ") == text.count("COV-P, ") == 2
    assert "FAD against sample size" in text
    assert "GemsDiff, Tables 2 and 3" in text
    assert "compare only with the same numbers" in text
    assert text.count("is &lt;empty&gt;") == 1
    assert text.count("&lt;b&gt;-") == 7


def test_partial_reports_leave_out_what_they_lack():
    gen = random_crystals(10, 3)
    for found in (crysmetrics.validity(gen), crysmetrics.emd(gen, gen, properties=["density"])):
        text = render(found)
        assert "<h2>Metrics" in text
        assert "3Dmol" not in text or found.metrics.keys() >= {"struct_validity"}
        assert "against thresholds" not in text


def test_same_inputs_same_page(report):
    assert report.to_html("x") == report.to_html("x")


def test_constant_values_make_a_figure():
    one = random_crystals(1, 4)
    same = Crystals.concatenate([one.with_ids([str(i)]) for i in range(8)])
    found = crysmetrics.evaluate(same, same, metrics=["emd_density", "coverage"])
    assert len(figures.distributions(found)) == 4
    assert "nan" not in "".join(f.svg for f in figures.distributions(found)).lower()


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]),
        (-3, 4, [-2, 0, 2, 4]),
        (0, 0.023, [0, 0.005, 0.01, 0.015, 0.02]),
        (2, 2, [2]),
    ],
)
def test_ticks_are_round(low, high, ticks):
    assert nice_ticks(low, high) == pytest.approx(ticks)


def test_atoms_on_the_border_are_repeated():
    cube = Crystals([29], [[0, 0, 0]], np.eye(3)[None] * 3, [1], ["Cu"])
    lines = viewer_cell(cube)["xyz"].splitlines()
    assert lines[0] == "8"
    assert sorted(lines[2:])[-1] == "Cu 3.0000 3.0000 3.0000"
    many = MOST_ATOMS + 1
    large = Crystals([29] * many, np.random.default_rng(0).random((many, 3)), np.eye(3)[None] * 30,
                     [many], ["x"])  # fmt: skip
    assert viewer_cell(large) is None


@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_in_a_browser(browser, page, width, scheme):
    fits(browser, page, width, scheme)
    assert browser.execute_script("return document.documentElement.dataset.viewer") == "ready"
    pictures = [viewed(browser, f"viewer-{side}") for side in ("gen", "ref")]
    assert all(colours > 50 for colours, _ in pictures), "an empty viewer has one colour"
    best = browser.find_element("css selector", "[data-kind=best]")
    browser.execute_script("arguments[0].click()", best)
    assert best.get_attribute("aria-pressed") == "true"
    again = [viewed(browser, f"viewer-{side}") for side in ("gen", "ref")]
    assert again[0][1] != pictures[0][1]
    caption = browser.find_element("id", "caption-gen").text
    assert best.text.splitlines()[-1] in caption
    assert browser.get_log("browser") == []


def test_viewer_turns(browser, page):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": 320, "height": 480, "deviceScaleFactor": 0.5, "mobile": True},
    )
    browser.get(page.as_uri())
    before = viewed(browser, "viewer-gen")[1]
    # Stopped before the picture is taken: a software renderer has no time for both.
    browser.execute_async_script(
        "const turn = document.getElementById('turn'), done = arguments[0];"
        "turn.click(); setTimeout(() => { turn.click(); done(); }, 400);"
    )
    assert viewed(browser, "viewer-gen")[1] != before


def test_errors_and_intervals_have_the_decimals_of_their_value():
    row = _metric_row("fad", Value(29.96, 9.9723, (5.0155, 54.9061), 97, 120))
    assert (row["value"], row["error"], row["interval"]) == ("29.96", "9.97", "5.02 – 54.91")
    row = _metric_row("kad", Value(None, None, None, 1, 1, "too few"))
    assert (row["value"], row["error"], row["interval"]) == ("–", "", "")
