"""Reading a results file, and nothing else than one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from advreg.errors import RunError

KIND = "advreg demo"
FORMAT = 1
NEEDED = (
    "title",
    "command",
    "settings",
    "arms",
    "seeds",
    "epsilons",
    "rows",
    "summary",
    "cost",
    "verdicts",
    "failures",
    "environment",
)


def read_results(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads what a study has written.

    Args:
        path: The file.

    Raises:
        RunError: It is missing, damaged, or of another kind.
    """
    mend = "name the results.json that advreg demo wrote"
    try:
        results = json.loads(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}); {mend}.") from None
    except ValueError:
        raise RunError(f"{path} is damaged or not JSON; {mend}.") from None
    kind = results.get("kind") if isinstance(results, dict) else None
    if kind != KIND:
        raise RunError(f"{path} is of the kind {kind!r}, not {KIND!r}; {mend}.")
    if results.get("format") != FORMAT:
        raise RunError(
            f"{path} has format {results.get('format')!r}, not {FORMAT}; run advreg demo again."
        )
    missing = [name for name in NEEDED if name not in results]
    if missing:
        raise RunError(f"{path} lacks {', '.join(missing)}; run advreg demo again.")
    return results
