"""What people do on our pages, in a real browser: `make browser`. An optional run, where there is a Chromium.

The journeys are tests, but no file that every run of the tests finds: a machine that only builds has no browser. `CHROMIUM` names
one that is not on the PATH; with `PICTURES=folder` a picture of each page is kept, to be looked at.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.browser.chromium import chromium


def main() -> None:
    """Run the journeys, or say why not."""
    if chromium() is None:
        print("Skipped: there is no Chromium on this machine. See tests/browser/__main__.py.")
        return
    journeys = sorted(str(path) for path in Path(__file__).parent.glob("*_journey.py"))
    sys.exit(pytest.main(["-q", "-p", "no:cacheprovider", *journeys, *sys.argv[1:]]))


if __name__ == "__main__":
    main()
