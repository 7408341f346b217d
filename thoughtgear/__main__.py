"""`python -m thoughtgear`."""

from __future__ import annotations

from thoughtgear.cli import main

if __name__ == "__main__":
    main()
