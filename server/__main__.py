"""``python -m server`` is ``looprooms``."""

from __future__ import annotations

from server.cli import main

main(prog_name="looprooms")
