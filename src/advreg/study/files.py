"""The plain files in a study's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from advreg.errors import RunError
from advreg.files import replace_file


def write_json(path: Path, values: Any) -> None:
    """Writes plain values, whole or not at all.

    Raises:
        RunError: It cannot be written.
    """
    text = json.dumps(values, indent=1, allow_nan=False)
    replace_file(path, lambda name: name.write_text(text, encoding="utf-8"))


def read_json(path: Path) -> Any:
    """Plain values from a file; None where there is none.

    Raises:
        RunError: It is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError):
        raise RunError(f"{path} cannot be read; remove it, and it is made again.") from None
