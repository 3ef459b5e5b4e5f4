"""Take the README's picture of a report: its first screen, 1,080 pixels wide, by a headless Chromium.

stitchrl demo --out demo && python scripts/report_picture.py demo/run/report.html docs/report.png
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("picture", type=Path)
    args = parser.parse_args()
    browser = next((found for name in NAMES if (found := shutil.which(name))), None)
    if browser is None:
        raise SystemExit(f"The picture needs one of {', '.join(NAMES)} on PATH, and none is there. Install Chromium.")
    with tempfile.TemporaryDirectory() as profile:
        flags = "--headless --no-sandbox --disable-gpu --hide-scrollbars --window-size=1080,1060"
        picture = f"--screenshot={args.picture.resolve()}"
        command = [browser, *flags.split(), f"--user-data-dir={profile}", picture, args.report.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True)


if __name__ == "__main__":
    main()
