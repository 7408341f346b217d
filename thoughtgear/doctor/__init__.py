"""Looks for what is wrong with stored runs and what drives them, explains it, and mends what can be mended.

doctor = Doctor(store, client)
for finding in (await doctor.scan()).findings:
    print(finding.what)
    await doctor.repair(finding)
"""

from thoughtgear.doctor.findings import Diagnosis, Finding
from thoughtgear.doctor.scan import Doctor

__all__ = ["Diagnosis", "Doctor", "Finding"]
