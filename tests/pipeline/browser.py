"""A headless browser for the report's tests: what a page says after its scripts have run."""

import html
import json
import re
import subprocess
from pathlib import Path

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--virtual-time-budget=8000",
)
EARLY = """<script>window.problems = [];
function note(text) { window.problems.push(String(text)); }
window.addEventListener("error", function (e) { note(e.message); });
window.addEventListener("unhandledrejection", function (e) { note(e.reason); });
console.error = function () { note(Array.from(arguments).join(" ")); };
</script>"""
LATE = """<script>window.addEventListener("load", function () { setTimeout(async function () {
  var first = document.querySelector(".plot");
  var svg = await Plotly.toImage(first, { format: "svg", width: 1000, height: 400 });
  var root = document.documentElement, out = document.createElement("pre");
  out.id = "probe"; out.textContent = JSON.stringify({
    problems: window.problems, svg: svg.slice(0, 18), svg_size: svg.length,
    overflow: root.scrollWidth - root.clientWidth,
    pictures: Array.prototype.map.call(document.querySelectorAll(".plot, .broken"), function (p) {
      return { id: p.id, svg: p.querySelectorAll("svg.main-svg").length,
        marks: p.querySelectorAll("path, image, rect").length }; }),
    text: document.body.innerText, scripts: document.querySelectorAll(".planted").length,
  }); document.body.appendChild(out); }, 1500); });</script>"""


def probe(chromium: str, page: Path, scratch: Path, width: int = 1280) -> dict:
    """Errors, horizontal overflow, pictures and text of a page, drawn at this width."""
    text = page.read_text(encoding="utf-8")
    copy = scratch / "probed.html"
    copy.write_text(
        text.replace("<head>", "<head>" + EARLY, 1).replace("</body>", LATE + "</body>"),
        encoding="utf-8",
    )
    run = subprocess.run(
        [
            chromium,
            *FLAGS,
            f"--user-data-dir={scratch / 'browser'}",
            f"--window-size={width},1000",
            "--dump-dom",
            copy.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=90,
        check=True,
    )
    found = re.search(r'<pre id="probe">(.*?)</pre>', run.stdout, re.DOTALL)
    assert found, run.stderr[-2000:]
    return json.loads(html.unescape(found.group(1)))
