"""Drives the figures of an exported lesson in headless Chromium, with the network blocked."""

from __future__ import annotations

import html
import json
import re
import subprocess
from pathlib import Path
from typing import Any

from pages import CHROMIUM

__all__ = ["drive", "live_answers"]

WATCH = """<script>
window.trouble = [];
window.addEventListener("error", (event) => window.trouble.push(String(event.message || event.target.outerHTML)), true);
document.addEventListener("securitypolicyviolation", (event) => window.trouble.push("refused: " + event.violatedDirective));
window.addEventListener("unhandledrejection", (event) => window.trouble.push(String(event.reason)));
for (const kind of ["error", "warn"]) console[kind] = (...words) => window.trouble.push(words.map(String).join(" "));
</script>"""

DRIVE = """<script>
(async () => {
  const report = { figures: {}, width: 0 };
  try {
    await window.stitchrl.drawAll();
    for (const [name, figure] of Object.entries(window.stitchrl.figures)) {
      const place = document.querySelector(`[data-figure="${name}"]`);
      const picture = () => place.querySelector(".chart").innerHTML;
      const numbers = [...place.querySelectorAll("[data-number]")];
      const told = () => Object.fromEntries(numbers.map((one) => [one.dataset.number, one.textContent]));
      const marks = place.querySelectorAll(".chart svg path, .chart svg rect, .chart svg text").length;
      const chart = place.querySelector(".chart");
      const seen = { marks, controls: {}, shown: [], chart: chart.scrollWidth, room: chart.clientWidth };
      for (const control of figure.content.controls) {
        await figure.set(control.name, control.start);
        const before = picture();
        let changed = 0, slowest = 0;
        for (const value of control.values) {
          const begun = performance.now();
          await figure.set(control.name, value);
          slowest = Math.max(slowest, performance.now() - begun);
          if (value !== control.start && picture() !== before) changed += 1;
          seen.shown.push({ settings: { ...figure.settings }, told: told(), numbers: figure.numbers });
        }
        await figure.set(control.name, control.start);
        seen.controls[control.name] = { changed, slowest };
      }
      report.figures[name] = seen;
    }
    report.width = document.documentElement.scrollWidth;
    report.window = document.documentElement.clientWidth;
  } catch (error) { window.trouble.push(String(error)); }
  report.trouble = window.trouble;
  const place = document.createElement("pre");
  place.id = "report";
  place.textContent = JSON.stringify(report);
  document.body.append(place);
})();
</script>"""


def drive(page: Path, *, width: int = 1000) -> dict[str, Any]:
    """Moves every control of a page to every value, and says what was seen.

    Returns:
        `trouble`: what the console said; `width` and `window`: of the page in pixels; `figures`: by name, how many marks were
        drawn, for each control how many values changed the picture and the slowest answer in milliseconds, and for each
        position the settings, the texts shown beside the figure and the numbers behind them.
    """
    copy = page.with_name(f"driven-{width}-{page.name}")
    text = page.read_text(encoding="utf-8").replace("<head>", "<head>" + WATCH, 1)
    before, end, after = text.rpartition("</body>")  # the last one: a script inside the page may speak of others
    copy.write_text(before + DRIVE + end + after, encoding="utf-8")
    return _report(copy, width)


def live_answers(script: str, cases: list[tuple[str, dict[str, Any], dict[str, Any]]], folder: Path) -> list[Any]:
    """What live functions answer in the browser to (function, settings, given)."""
    page = folder / "live.html"
    calls = json.dumps(cases)
    page.write_text(
        f"<!DOCTYPE html><html><head><meta charset='utf-8'>{WATCH}</head><body><script>{script}</script><script>"
        f"const answers = {calls}.map(([name, settings, given]) => window.stitchrlLive[name](settings, given));"
        "const place = document.createElement('pre'); place.id = 'report';"
        "place.textContent = JSON.stringify({ answers, trouble: window.trouble }); document.body.append(place);"
        "</script></body></html>",
        encoding="utf-8",
    )
    report = _report(page, 800)
    assert report["trouble"] == []
    answers: list[Any] = report["answers"]
    return answers


def _report(page: Path, width: int) -> dict[str, Any]:
    assert CHROMIUM is not None
    flags = (
        "--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND", "--proxy-server=127.0.0.1:9",
        f"--window-size={width},1400", "--virtual-time-budget=60000", "--dump-dom",
    )  # fmt: skip
    run = subprocess.run([CHROMIUM, *flags, page.as_uri()], capture_output=True, text=True, timeout=300, check=False)
    found = re.search(r'<pre id="report">(.*?)</pre>', run.stdout, re.DOTALL)
    assert found, run.stdout[-2000:] + run.stderr[-2000:]
    made: dict[str, Any] = json.loads(html.unescape(found[1]))
    return made
