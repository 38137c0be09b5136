"""Settings of all tests."""

import os

# Before PyTorch is imported: its threads wait for each other, and where other tests run beside
# them on the same cores a second becomes a minute.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Commands in this process compile their kernels. In the first run after an installation `crysgen
# sample` would switch that off for the whole process, and the tests after it.
os.environ.setdefault("NUMBA_DISABLE_JIT", "0")

import pytest
from hypothesis import HealthCheck, settings

# Machines that run tests are slow at times, and a failure must come again at the next run.
settings.register_profile(
    "crysmetrics",
    deadline=None,
    derandomize=True,
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
settings.load_profile("crysmetrics")


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    from pages import BROWSER, DRIVER

    if not (BROWSER and DRIVER):
        pytest.skip("there is no Chromium with chromedriver here")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    profile = tmp_path_factory.mktemp("profile")
    for argument in (
        *("--headless=new", "--no-sandbox", "--no-first-run", "--disable-dev-shm-usage"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--use-angle=swiftshader", "--enable-unsafe-swiftshader", f"--user-data-dir={profile}"),
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(DRIVER)
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()
