"""What the report says of the regeneration before: which gains changed, and by more than their intervals or not."""

from __future__ import annotations

from typing import Any

from reid.history.compare import changes, shifts, verdict
from reid.history.entry import entry_of
from reid.report.data import points
from reid.report.material import Material


def since_before(material: Material) -> dict[str, Any]:
    """How this regeneration differs from the one before it, where that is known."""
    config, before = material.config, material.config.before
    if before is None:
        return {"since": None}
    now = entry_of(config.benchmark, config.images, config.generators, config.synthetic, config=config.resolved)
    moved = shifts(before, now)
    rows = [
        {
            "fraction": shift.fraction,
            "before": points(shift.before.value),
            "after": points(shift.after.value),
            "change": points(shift.value),
            "margin": "" if shift.margin is None else f"± {shift.margin:.1f}",
            "certain": "more" if shift.certain else "within" if shift.margin is not None else "unknown",
        }
        for shift in moved
    ]
    return {
        "since": {"day": before.finished[:10], "pages": before.pages, "verdict": verdict(moved), "rows": rows}
        | {"changes": changes(before, now) or ["nothing that is recorded"]}
    }
