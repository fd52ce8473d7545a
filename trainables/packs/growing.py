"""What a fork's members begin with where their network has parts that their parent's had not, or the other way round.

Parts of one name are carried over, and must be of one shape; a new part begins as it is drawn, with its target; a part
that is gone is left behind. The optimisers begin anew then: Adam's averages of a new part would be corrected for steps
that they never saw.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Begun:
    """A member's state, and what of it is not its parent's."""

    state: dict[str, Any]
    drawn: list[str]
    """Parts that begin as they are drawn."""
    left: list[str]
    """Parts of the parent that have no place."""

    def line(self) -> str:
        """Return it in one line, for logs; '' where the parts are the parent's."""
        said = [f"{', '.join(self.drawn)} begin as drawn"] if self.drawn else []
        said += [f"{', '.join(self.left)} of the parent are left behind"] if self.left else []
        return "; ".join([*said, "the optimiser begins anew"]) if said else ""


def begun_from(parent: dict[str, Any], fresh: dict[str, Any]) -> Begun:
    """Return what a member begins with: `parent` and `fresh` are what `Pack.member_state` returns, as drawn `fresh`."""
    theirs, ours = _parts(parent["weights"]), _parts(fresh["weights"])
    drawn = [part for part in ours if part not in theirs]
    left = [part for part in theirs if part not in ours]
    if not drawn and not left:
        return Begun(parent, [], [])
    weights = {name: value for name, value in fresh["weights"].items() if _part(name) in drawn}
    weights |= {name: value for name, value in parent["weights"].items() if _part(name) not in left}
    averages = {"averages": weights} if "averages" in fresh else {}
    buffers = {name: value for name, value in parent.get("buffers", {}).items() if _part(name) not in left}
    kept = {name: fresh[name] for name in ("optimiser", "optimisers") if name in fresh}
    state = {"weights": weights, **averages, **kept, **({"buffers": buffers} if buffers else {})}
    return Begun(state, drawn, left)


def _part(name: str) -> str:
    return name.partition(".")[0]


def _parts(names: Collection[str]) -> list[str]:
    return list(dict.fromkeys(map(_part, names)))
