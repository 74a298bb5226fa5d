"""The report in a real browser: its elements, its clicks, phone width, and names that are HTML."""
# SPDX-License-Identifier: Apache-2.0

import html.parser
import json
import pathlib
import re
import shutil
import subprocess
from typing import Any

import numpy as np
import pytest

import optax_alphadecay as oad
from optax_alphadecay.inspection.page import plain, render

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
DASH = "\N{EN DASH}"
EVIL = "layers/0/<img src=x onerror=alert(1)></script><script>document.title='hacked'</script>"


def model(seed: int = 0, name: str = EVIL) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal((64, 64)) * np.geomspace(1, 10, 64),
        "layers/0/up": rng.standard_normal((64, 96)),
        "layers/1/up": rng.standard_normal((64, 96)) * np.geomspace(1, 5, 96),
        "layers/1/query": np.ones((64, 64)),
        "layers/1/query_nan": np.full((64, 64), np.nan),
        "pooler": rng.standard_normal((64, 64)),
        "norm": np.ones(64),
    }


class Elements(html.parser.HTMLParser):
    """Counts the elements of a page by tag, and keeps the text of those with an id."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: dict[str, int] = {}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1


def browse(page: str, folder: pathlib.Path, script: str, width: int = 1200) -> tuple[dict[str, Any], Elements]:
    """Open a page, run a script that gives an object, and return it with the elements that are there then."""
    report = f"<script>document.body.dataset.result = JSON.stringify((() => {{ {script} }})())</script></body>"
    path = folder / "page.html"
    path.write_text(page.replace("</body>", report), encoding="utf-8")
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900"]
    done = subprocess.run(
        [*command, "--dump-dom", path.as_uri()], capture_output=True, timeout=120, check=True, text=True
    )
    [found] = re.findall(r'data-result="([^"]*)"', done.stdout)
    return json.loads(html.unescape(found)), Elements(done.stdout)


@needs_browser
@pytest.mark.parametrize("width", [500, 1200])
def test_page_shows_what_was_measured(tmp_path: pathlib.Path, width: int) -> None:
    inspection = oad.inspect(model())
    script = """
      const all = (selector) => [...document.querySelectorAll(selector)];
      const result = {
        title: document.title, summary: all("#summary li").length, dots: all("#layers .hit").length,
        heat: all("#heat tbody td button").length, rows: all("#modules tbody tr").length,
        names: all("#modules tbody td:first-child").map((node) => node.textContent),
        overflow: document.documentElement.scrollWidth - window.innerWidth, left_out: all("#left-out tr").length,
        images: all("img").length, heads: all("#modules thead th").map((one) => [one.dataset.heading, one.innerText]),
      };
      all("#modules thead button").find((node) => node.textContent.startsWith("alpha (median")).click();
      result.sorted = all("#modules tbody tr td:nth-child(3)").map((node) => node.textContent);
      all("#modules tbody tr").find((node) => node.textContent.startsWith("layers/1/up")).click();
      result.chosen = document.querySelector("#chosen").textContent;
      result.fits = all("#detail .legend span").map((node) => node.textContent);
      result.points = all("#detail circle").length;
      all("#heat tbody td button")[0].click();
      result.chosen_in_heat = document.querySelector("#chosen").textContent;
      const filter = document.querySelector("#filter");
      filter.value = "UP"; filter.dispatchEvent(new Event("input"));
      result.filtered = all("#modules tbody tr").length;
      const measure = document.querySelector("#measure");
      measure.value = "ratio"; measure.dispatchEvent(new Event("change"));
      result.ratios = all("#heat tbody td button").map((node) => node.textContent);
      return result;
    """
    result, elements = browse(render([inspection]), tmp_path, script, width)
    assert result["title"] == "Spectra of a model" and result["images"] == 0 and "img" not in elements.tags
    assert EVIL in result["names"] and len(result["names"]) == result["rows"] == len(inspection) == 6
    assert result["dots"] == 3 and result["heat"] == 5 and result["left_out"] == 1
    assert len(result["heads"]) == 16 and all(printed == shown for printed, shown in result["heads"])
    assert result["overflow"] <= 0  # nothing but tables scrolls sideways
    alphas = [float(text) for text in result["sorted"] if text != DASH]
    assert len(alphas) == 4 and alphas == sorted(alphas) and result["sorted"][4:] == [DASH, DASH]
    up = next(module for module in inspection if module.name == "layers/1/up")
    assert result["chosen"] == "layers/1/up"
    assert f"median: alpha {up.alpha:.4g}" in result["fits"] and "edge of a random matrix" in result["fits"]
    assert 20 < result["points"] <= 64
    assert result["chosen_in_heat"] == inspection.modules[0].name
    assert result["filtered"] == 2 and "3.00" in result["ratios"]


@needs_browser
def test_page_compares_checkpoints(tmp_path: pathlib.Path) -> None:
    script = """
      const all = (selector) => [...document.querySelectorAll(selector)];
      const choice = document.querySelector("#checkpoint");
      const first = document.querySelector("#summary li:nth-child(2)").textContent;
      choice.value = "1"; choice.dispatchEvent(new Event("change"));
      return { options: choice.options.length, lines: all("#trajectories path").length,
        rows: all("#trajectories tbody tr").length,
        changed: document.querySelector("#summary li:nth-child(2)").textContent !== first };
    """
    pair = [oad.inspect(model(seed, "layers/0/query"), shuffle=False) for seed in (0, 1)]
    result, _ = browse(render(pair), tmp_path, script)
    assert result["options"] == 2 and result["rows"] == 6 and result["changed"]
    assert result["lines"] >= 4 + 3  # modules with an alpha, and means of their types


def test_names_cannot_leave_the_data() -> None:
    page = render([oad.inspect(model(), shuffle=False)])
    assert EVIL not in page and "<img" not in page
    assert page.count("</script>") == 2
    data = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    [checkpoint] = json.loads(data[0])["checkpoints"]
    assert EVIL in [module["name"] for module in checkpoint["modules"]]
    assert "default-src 'none'" in page  # the browser itself refuses to load anything


def test_spectra_are_thinned_out() -> None:
    wide = oad.inspect({"up": np.random.default_rng(0).standard_normal((400, 500))}, shuffle=False)
    data = json.loads(re.findall(r'id="data">(.*?)</script>', render([wide]), re.DOTALL)[0])
    points = data["checkpoints"][0]["modules"][0]["spectrum"]
    values = wide.modules[0].eigenvalues
    assert 80 < len(points) <= 160
    assert points[0] == [pytest.approx(values[-1], rel=1e-5), 1 / 400]
    assert points[-1] == [pytest.approx(values[0], rel=1e-5), 1.0]
    assert plain((1, 2)) == [1, 2] and plain(float("inf")) is None
