"""Training identities held out for choosing settings, so that nothing is chosen by looking at test figures."""

from __future__ import annotations

import numpy as np

from datasets.runtime.errors import InputError
from datasets.sources.files import Row


def hold_identities_out(rows: list[Row], count: int, seed: int) -> list[Row]:
    """The training split alone, in which some identities have become query and gallery.

    The rule is Market-1501's: one random image of an identity at each of its cameras is a query, the others are
    gallery. Identities seen by a single camera are not chosen: nothing could be found for them.

    Args:
        rows: of the whole data set; not changed.
        count: how many identities are held out.
        seed: which ones, and which of their images are queries.

    Raises:
        InputError: fewer than `count` + 2 training identities, or too few that two cameras have seen.
    """
    train = [row for row in rows if row["split"] == "train"]
    cameras: dict[int, set[int]] = {}
    for row in (row for row in train if row["role"] == "person"):
        cameras.setdefault(row["pid"], set()).add(row["camid"])
    eligible = sorted(pid for pid, seen_by in cameras.items() if len(seen_by) > 1)
    if count > len(eligible) or count > len(cameras) - 2:
        raise InputError(
            f"validation_identities {count}: of {len(cameras)} training identities {len(eligible)} were seen by two "
            "cameras or more, and two must be left to train on"
        )
    rng = np.random.default_rng([seed, 4])
    held_out = set(rng.permutation(eligible)[:count].tolist())
    queries: set[str] = set()
    seen: set[tuple[int, int]] = set()
    for position in rng.permutation(len(train)):
        row = train[position]
        place = (row["pid"], row["camid"])
        if row["pid"] in held_out and place not in seen:
            seen.add(place)
            queries.add(row["path"])
    return [
        row if row["pid"] not in held_out else {**row, "split": "query" if row["path"] in queries else "gallery"}
        for row in train
    ]
