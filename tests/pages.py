"""Pages as a parser and a browser see them."""

from __future__ import annotations

import re
import shutil
from html.parser import HTMLParser

BROWSER = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
DRIVER = shutil.which("chromedriver")
VOID = {"meta", "link", "br", "img"}


class Outline(HTMLParser):
    """What a page is made of."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.links, self.addresses = [], [], [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append((tag, attrs))
        if tag not in VOID:
            self.open.append(tag)
        if "id" in attrs:
            self.ids.append(attrs["id"])
        if tag == "a":
            self.links.append(attrs["href"])
        self.addresses += [attrs[k] for k in ("src", "href", "srcset", "data") if k in attrs]

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def fits(browser, page, width, scheme):
    """Open a page in a window of some width, and see that it fits there and has its colours."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 844, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get(page.as_uri())
    # Nothing sticks out to the side.
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    background = browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    is_light = sum(map(int, re.findall(r"\d+", background)[:3])) > 380
    assert is_light == (scheme == "light")


def picture_of(element):
    """A screenshot; a software renderer on a busy machine may not have one ready in time."""
    from selenium.common.exceptions import TimeoutException

    for _ in range(5):
        try:
            return element.screenshot_as_png
        except TimeoutException:
            continue
    return element.screenshot_as_png


def viewed(browser, name):
    """How many colours a viewer's picture has, and the picture."""
    import io

    from PIL import Image

    element = browser.find_element("id", name)
    browser.execute_script("arguments[0].scrollIntoView({block: 'center', behavior: 'instant'})",
                           element)  # fmt: skip
    data = picture_of(element)
    image = Image.open(io.BytesIO(data)).convert("RGB")
    colours = image.getcolors(image.width * image.height) or []
    return len(colours), data
