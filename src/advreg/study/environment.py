"""Where figures were measured, so that a result file explains itself."""

from __future__ import annotations

import platform
from datetime import datetime, timezone
from pathlib import Path

import torch

from advreg.study.plan import available_cores
from advreg.version import __version__


def environment() -> dict[str, str | int]:
    """Versions, processor, cores and the date in UTC; no machine or user name."""
    return {
        "advreg": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": available_cores(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _processor() -> str:
    described = Path("/proc/cpuinfo")
    if described.is_file():
        for line in described.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
