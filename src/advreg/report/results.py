"""Reading a results file, and nothing else than one."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from advreg.errors import RunError

FORMAT = 1


def read_kind(
    path: str | os.PathLike[str], kind: str, needed: Sequence[str], command: str = ""
) -> dict[str, Any]:
    """Reads results of one kind.

    Args:
        path: The file.
        kind: What it must say that it is.
        needed: What must be in it.
        command: What writes such a file; the kind by default.

    Raises:
        RunError: It is missing, damaged, or of another kind.
    """
    command = command or kind
    mend = f"name the results.json that {command} wrote"
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}); {mend}.") from None
    except ValueError:
        raise RunError(f"{path} is damaged or not JSON; {mend}.") from None
    found = results.get("kind") if isinstance(results, dict) else None
    if found != kind:
        raise RunError(f"{path} is of the kind {found!r}, not {kind!r}; {mend}.")
    if results.get("format") != FORMAT:
        raise RunError(
            f"{path} has format {results.get('format')!r}, not {FORMAT}; run {command} again."
        )
    if missing := [name for name in needed if name not in results]:
        raise RunError(f"{path} lacks {', '.join(missing)}; run {command} again.")
    return dict(results)
