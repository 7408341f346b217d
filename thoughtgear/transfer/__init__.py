"""Copies a store into another one, of whatever kind: what is there, and after an interruption what is left.

report = await StoreCopy(open_store("sqlite:///runs.db"), open_store("postgresql://…")).run()
"""

from thoughtgear.transfer.report import CopyReport
from thoughtgear.transfer.store import StoreCopy

__all__ = ["CopyReport", "StoreCopy"]
