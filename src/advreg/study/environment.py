"""Where figures were measured, so that a result file explains itself."""

from __future__ import annotations

import platform
import subprocess
from datetime import datetime, timezone
from pathlib import Path

import torch

from advreg.study.pool import available_cores
from advreg.version import __version__


def environment() -> dict[str, str | int]:
    """Versions, processor and its vectors, cores, the date in UTC; no machine or user name.

    In a checkout the commit too, with "+changes" where the sources differ from it.
    """
    found: dict[str, str | int] = {
        "advreg": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "cores": available_cores(),
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    commit = _commit(Path(__file__).resolve().parents[3])
    return found | ({"commit": commit} if commit else {})


def _commit(folder: Path) -> str:
    if not (folder / ".git").exists():  # installed, perhaps within a checkout of something else
        return ""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return f"{commit}+changes" if _git(folder, "status", "--porcelain", "src") else commit
    except (OSError, subprocess.CalledProcessError):  # there is no git, or it refuses
        return ""


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def _processor() -> str:
    described = Path("/proc/cpuinfo")
    if described.is_file():
        for line in described.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or "unknown"
