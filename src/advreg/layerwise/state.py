"""The sites' part of an adversary's state: out as plain tensors and numbers, and back."""

from __future__ import annotations

from typing import Any

from advreg.errors import StateError
from advreg.layerwise.site import Call, Site


def sites_state(sites: list[Site]) -> dict[str, Any]:
    """What each site has to restore, by name."""
    return {
        site.name: {
            "alias": site.alias,
            "runs": site.runs,
            "records": int(site.records),
            "calls": [
                {"rho": call.rho, "age": call.age, "memory": call.memory.state_dict()}
                for call in site.calls
            ],
        }
        for site in sites
    }


def restore_sites(sites: list[Site], state: dict[str, Any]) -> None:
    """Restores what `sites_state` returned.

    Raises:
        StateError: The state is of other sites.
    """
    theirs, mine = set(state), {site.name for site in sites}
    if theirs and theirs != mine:
        raise StateError(
            f"The state has sites {sorted(theirs)}, the adversary {sorted(mine)};"
            " attach with the sites that the state was made with."
        )
    for site in sites:
        if site.name not in state:
            continue
        saved = state[site.name]
        site.alias, site.runs, site.records = saved["alias"], saved["runs"], saved["records"]
        site.calls = []
        for one in saved["calls"]:
            call = Call(site.build(), one["rho"], one["age"])
            call.memory.load_state_dict(one["memory"])
            site.calls.append(call)
