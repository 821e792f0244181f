"""The sliders of notebook 07 in a real browser: JupyterLab with headless Chromium. Skipped where Chromium is not."""

import contextlib
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import closing, contextmanager

import nbformat
import pytest

from nbhelpers.core.storage import repository_root

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs chromium and chromium-driver (Debian's packages)"),
]


def free_port() -> int:
    with closing(socket.socket()) as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@contextmanager
def jupyterlab(folder):
    port = free_port()
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--ip=127.0.0.1"]
    command += [f"--ServerApp.root_dir={folder}", "--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True"]
    with open(folder / "lab.log", "w") as log:
        server = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
    try:
        wait(lambda: answers(f"http://127.0.0.1:{port}/api/status"), "JupyterLab does not answer")
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:
            return reply.status == 200
    except OSError:
        return False


def wait(condition, otherwise: str, seconds: float = 600.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.5)
    raise AssertionError(otherwise)


@contextmanager
def browser():
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1600,1400"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=DRIVER))
    try:
        yield driver
    finally:
        driver.quit()


def test_a_slider_moved_in_jupyterlab_changes_the_table(tmp_path):
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.common.by import By
    from selenium.webdriver.common.keys import Keys

    notebook = nbformat.read(repository_root() / "notebooks" / "07_cost_analysis.ipynb", as_version=4)
    parameters = next(cell for cell in notebook.cells if cell.id == "parameters")
    parameters.source = parameters.source.replace(
        'output_dir: str = "outputs"', f'output_dir: str = "{tmp_path}/outputs"'
    )
    nbformat.write(notebook, tmp_path / "07.ipynb")
    with jupyterlab(tmp_path) as url, browser() as driver:
        driver.get(f"{url}/lab/tree/07.ipynb")
        opened = "return !!(window.jupyterapp && window.jupyterapp.shell.currentWidget?.context?.isReady)"
        wait(lambda: driver.execute_script(opened), "the notebook does not open")
        kernel = "return window.jupyterapp.shell.currentWidget?.sessionContext?.session?.kernel?.status"
        wait(lambda: driver.execute_script(kernel) == "idle", "no kernel")
        driver.execute_script("window.jupyterapp.commands.execute('notebook:run-all-cells')")

        def explorer():
            script = "window.jupyterapp.shell.currentWidget.content.widgets.find(c => c.model.id === 'explore')"
            driver.execute_script(f"const c = {script}; if (c) c.node.scrollIntoView()")
            found = driver.find_elements(By.CSS_SELECTOR, ".jupyter-widgets.widget-html table")
            return found[0] if found else None

        table = wait(explorer, "no table of options: " + (tmp_path / "lab.log").read_text()[-500:])
        before = table.text
        assert "H100" in before
        label = next(x for x in driver.find_elements(By.CSS_SELECTOR, ".widget-slider label") if x.text == "max_length")
        handle = label.find_element(By.XPATH, "..").find_element(By.CSS_SELECTOR, ".noUi-handle")
        handle.click()
        for _ in range(5):
            handle.send_keys(Keys.ARROW_RIGHT)

        def changed():
            with contextlib.suppress(StaleElementReferenceException):  # it is being drawn anew
                table = explorer()
                return table is not None and table.text not in ("", before)

        wait(changed, "the table did not change")
        driver.save_screenshot(str(tmp_path / "explorer.png"))


@pytest.mark.parametrize("width", [1200, 390])
def test_the_page_of_a_run_sorts_without_an_error_and_is_no_wider_than_its_window(width, tmp_path):
    from selenium import webdriver
    from selenium.webdriver.common.by import By

    from nbhelpers.core import storage
    from nbhelpers.notebook import report

    reference = repository_root() / "outputs" / "reference"
    for path in reference.glob("[0-9]*/metrics.json"):
        shutil.copytree(path.parent, tmp_path / "run" / path.parent.name)
    page = report.write_index(tmp_path / "run")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    try:
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        pages = [page, *(file for file in (tmp_path / "run").glob("*/*.html"))]
        assert len(pages) == 1 + len(list(tmp_path.glob("run/*/metrics.json")))
        for file in pages:
            driver.get(file.as_uri())
            assert driver.execute_script("return document.documentElement.scrollWidth") <= width, file
            for link in driver.find_elements(By.CSS_SELECTOR, "a[href]"):
                target = link.get_dom_attribute("href")
                if target.startswith("#"):
                    assert driver.find_elements(By.ID, target[1:]), f"{file.name}: {target}"
                elif not target.startswith("https://"):
                    assert (file.parent / target).exists(), f"{file.name}: {target}"
        driver.get(page.as_uri())
        table = driver.find_element(By.CSS_SELECTOR, "table.sortable")

        def times() -> list[float]:
            cells = table.find_elements(By.CSS_SELECTOR, "td[data-label=time]")
            return [float(cell.get_dom_attribute("data-sort")) for cell in cells]

        before = times()
        button = table.find_elements(By.XPATH, ".//th/button[text()='time']")[0]
        for down in (False, True):
            button.click()
            assert times() == sorted(before, reverse=down)
        assert storage.read_json(tmp_path / "run" / "suite.json") is None
        assert driver.get_log("browser") == []
    finally:
        driver.quit()
