"""How long the lessons take to build, to open, and to answer a slider.

    python benchmarks/lessons.py [--out benchmarks/results/lessons.md]

All lessons are built from nothing with empty caches (the compilation cache too), then written again from the cache. Each page is
then opened in headless Chromium from a local server, three times: *usable* is the time from the request until every figure near
the screen is drawn, and *answer* the slowest time from moving a control to the figure's new picture, over all positions of all
controls. Medians of the three are shown. Each lesson's own seconds are those of a process that builds it alone with empty caches.
"""

from __future__ import annotations

import argparse
import http.server
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from environment import describe
from stitchrl.lab.registry import LESSONS

MEASURE = """<script>
(async () => {
  const idle = () => new Promise((done) => setTimeout(done, 0));
  while (!window.stitchrl) await idle();
  await new Promise((done) => requestAnimationFrame(() => setTimeout(done, 0)));
  await Promise.all(Object.values(window.stitchrl.figures).map((figure) => figure.ready));
  const usable = performance.now();
  await window.stitchrl.drawAll();
  let slowest = 0, moved = 0;
  for (const figure of Object.values(window.stitchrl.figures))
    for (const control of figure.content.controls)
      for (const value of control.values) {
        const begun = performance.now();
        await figure.set(control.name, value);
        slowest = Math.max(slowest, performance.now() - begun);
        moved += 1;
      }
  await fetch("/report", { method: "POST", body: JSON.stringify({ usable, slowest, moved }) });
})();
</script>"""


def built(folder: Path, caches: Path, names: list[str]) -> float:
    """Seconds of one command that writes lessons."""
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "stitchrl.cli", "lab", *names, "--export", str(folder), "--quiet"],
        check=True, env=os.environ | {"XDG_CACHE_HOME": str(caches)}, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    return time.perf_counter() - begun


def opened(browser: str, folder: Path, name: str) -> dict[str, Any]:
    """What a page says of itself once it was opened and its controls were moved."""
    page = folder / f"measured-{name}.html"
    text = (folder / f"{name}.html").read_text(encoding="utf-8")
    page.write_text(text.replace("</body>", MEASURE + "</body>"), encoding="utf-8")
    said: dict[str, Any] = {}
    heard = threading.Event()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, *_: object) -> None:
            pass

        def do_POST(self) -> None:
            said.update(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()
            heard.set()

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={profile}",
            "--remote-debugging-port=0",
        ]
        process = subprocess.Popen(
            [browser, *flags, "--window-size=1100,900", f"http://127.0.0.1:{server.server_port}/{page.name}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            if not heard.wait(120):
                raise SystemExit(f"The page of {name} did not report within two minutes.")
        finally:
            process.kill()
            process.wait()
            server.shutdown()
    page.unlink()
    return said


def main() -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "lessons.md")
    options = parser.parse_args()
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        raise SystemExit("This benchmark needs chromium or google-chrome on PATH.")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "pages"
        whole = built(folder, Path(scratch) / "caches", [])
        again = built(folder, Path(scratch) / "caches", [])
        lines = [
            "# The lessons", "", describe("python benchmarks/lessons.py"), "", (__doc__ or "").split("\n\n", 2)[2].strip(), "",
            f"All {len(LESSONS)} from nothing: **{whole:.0f} s**; written again from the cache: {again:.1f} s. Shared files: "
            f"{sum(file.stat().st_size for file in (folder / 'assets').iterdir()) / 1e6:.2f} MB.", "",
            "| lesson | built alone, s | page, kB | usable, s | answer, ms | positions |", "|---|---|---|---|---|---|",
        ]  # fmt: skip
        for name in LESSONS:
            alone = built(Path(scratch) / "alone", Path(scratch) / f"cache-{name}", [name])
            turns = [opened(browser, folder, name) for _ in range(3)]
            usable = statistics.median(turn["usable"] for turn in turns) / 1000
            answer = statistics.median(turn["slowest"] for turn in turns)
            size = (folder / f"{name}.html").stat().st_size / 1000
            lines.append(f"| {name} | {alone:.1f} | {size:.0f} | {usable:.2f} | {answer:.0f} | {turns[0]['moved']} |")
            print(lines[-1], flush=True)
    options.out.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
