"""A study's pictures in their order under names that say nothing, and the key that says it all.

The order comes from the seed and from the pictures' own bytes, so that equal inputs give an equal page, but who has the
page alone cannot repeat the draw. The page then shuffles once more for each person.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from datasets.runtime.hashing import json_sha256
from imagpose.study.equal_pictures import REAL, PictureName, Size
from imagpose.study.plan import Choice, Part, StudyPlan

POSE = "\0pose"
"""The set that drawn skeletons are of."""
KEY_FORMAT, ANSWERS_FORMAT, VERSION = "imagpose-user-study-key", "imagpose-user-study-answers", 1


class Arrangement:
    """What the page holds (`page`) and what its maker keeps (`key`); both are JSON."""

    def __init__(
        self, plan: StudyPlan, files: Mapping[PictureName, bytes], size: Size, seed: int, content: Sequence[bytes]
    ) -> None:
        """Put everything in order.

        Args:
            plan: what is asked.
            files: all pictures, made alike; skeletons under `POSE`.
            size: height and width of them.
            seed: of the order.
            content: the originals' bytes.
        """
        digest = hashlib.sha256(str(seed).encode())
        for piece in content:
            digest.update(hashlib.sha256(piece).digest())
        self._rng = np.random.default_rng(list(digest.digest()))
        self._files, self._items = files, {}
        parts = [self._part(plan.parts[i]) for i in self._rng.permutation(len(plan.parts))]
        best = [self._choice(plan.choices[i]) for i in self._rng.permutation(len(plan.choices))]
        shown = {"size": list(size), "parts": parts, "best": best}
        self.pack = json_sha256(shown)
        self.page: dict[str, Any] = {"format": ANSWERS_FORMAT, "version": VERSION, "pack": self.pack, **shown}
        self.key: dict[str, Any] = {
            "format": KEY_FORMAT,
            "version": VERSION,
            "pack": self.pack,
            "seed": seed,
            "generators": [part.generator for part in plan.parts],
            "items": self._items,
        }

    def _part(self, part: Part) -> list[list[str]]:
        """Identifier and picture of each item of a part."""
        mixed = [(part.generator, key) for key in part.generated] + [(REAL, key) for key in part.real]
        items = []
        for i in self._rng.permutation(len(mixed)):
            name, key = mixed[i]
            identifier = self._identifier()
            truth = "real" if name == REAL else "generated"
            self._items[identifier] = {"task": "real", "generator": part.generator, "truth": truth, "picture": key}
            items.append([identifier, self._shown(name, key)])
        return items

    def _choice(self, choice: Choice) -> list[Any]:
        """Identifier, sources, pose and the pictures to choose from, each with an identifier of its own."""
        identifier = self._identifier()
        names = list(choice.pictures)
        chosen = {self._identifier(): names[i] for i in self._rng.permutation(len(names))}
        self._items[identifier] = {
            "task": "best",
            "sources": list(choice.sources),
            "pose": choice.pose,
            "choices": chosen,
            "pictures": dict(choice.pictures),
        }
        return [
            identifier,
            [self._shown(REAL, key) for key in choice.sources],
            self._shown(POSE, choice.pose),
            [[mark, self._shown(name, choice.pictures[name])] for mark, name in chosen.items()],
        ]

    def _identifier(self) -> str:
        return self._rng.bytes(8).hex()

    def _shown(self, name: str, key: str) -> str:
        return base64.b64encode(self._files[name, key]).decode("ascii")
