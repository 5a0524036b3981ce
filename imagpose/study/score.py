"""``python -m imagpose user-study score``: R2G, G2R and Jab of each generator from people's answers."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.errors import InputError
from datasets.runtime.reading.names import code_span
from imagpose.config import ScoreStudyConfig
from imagpose.study.agreement import fleiss_kappa, krippendorff_alpha
from imagpose.study.answers import Rater, StudyKey, read_key, read_raters
from imagpose.study.scores_page import FIGURES, markdown

logger = logging.getLogger(__name__)


def run_score(config: ScoreStudyConfig) -> int:
    """Write ``scores.json`` and ``scores.md``; returns the exit code.

    Raises:
        InputError: no key, no answers to it, or files that are refused (`imagpose.study.answers`).
    """
    key = read_key(config.key)
    raters = read_raters(config.answers, key)
    if not any(rater.meanings for rater in raters):
        raise InputError("the files hold no answer at all; nothing can be scored")
    scores = score(key, raters, config.confidence)
    config.out.mkdir(parents=True, exist_ok=True)
    write_text_atomically(config.out / "scores.json", json.dumps(scores, indent=1) + "\n")
    write_text_atomically(config.out / "scores.md", markdown(scores))
    for row in scores["generators"]:
        shares = (f"{name} {row[figure]['share']:.1%}" for figure, name in FIGURES.items() if row[figure]["answers"])
        logger.info("%s: %s", code_span(row["generator"]), ", ".join(shares))
    logger.info("scores in %s", config.out / "scores.md")
    return 0


def score(key: StudyKey, raters: Sequence[Rater], confidence: float) -> dict[str, Any]:
    """All figures, as JSON: of each generator, of the raters' agreement, and how complete the answers are."""
    return {
        "pack": key.pack,
        "confidence": confidence,
        "items": len(key.items),
        "raters": [
            {"file": str(rater.file.name), "session": rater.session, "answers": len(rater.meanings)} for rater in raters
        ],
        "complete_raters": sum(len(rater.meanings) == len(key.items) for rater in raters),
        "generators": [_generator(name, key, raters, confidence) for name in key.generators],
        "agreement": {task: _agreement(task, key, raters) for task in ("real", "best")},
    }


def _generator(name: str, key: StudyKey, raters: Sequence[Rater], confidence: float) -> dict[str, Any]:
    """R2G: real pictures of its part taken for generated; G2R: its pictures taken for real; Jab: votes for it."""
    counted: dict[str, list[bool]] = {figure: [] for figure in FIGURES}
    for rater in raters:
        for identifier, meaning in rater.meanings.items():
            item = key.items[identifier]
            if item.task == "best":
                if name in item.choices.values():
                    counted["jab"].append(meaning == name)
            elif item.generator == name:
                figure = "r2g" if item.truth == "real" else "g2r"
                counted[figure].append(meaning != item.truth)
    return {"generator": name, **{figure: share(hits, confidence) for figure, hits in counted.items()}}


def share(hits: Sequence[bool], confidence: float) -> dict[str, Any]:
    """A share with Wilson's interval (Wilson 1927), which holds at 0 and 1 and for few answers too."""
    if not hits:
        return {"hits": 0, "answers": 0, "share": None, "interval": None}
    result = stats.binomtest(sum(hits), len(hits))
    interval = result.proportion_ci(confidence_level=confidence, method="wilson")
    return {
        "hits": sum(hits),
        "answers": len(hits),
        "share": sum(hits) / len(hits),
        "interval": [float(interval.low), float(interval.high)],
    }


def _agreement(task: str, key: StudyKey, raters: Sequence[Rater]) -> dict[str, Any]:
    """Of one task; who answered none of it is no rater of it."""
    items = [identifier for identifier, item in key.items.items() if item.task == task]
    took_part = [rater.meanings for rater in raters if any(item in rater.meanings for item in items)]
    categories = sorted(key.generators) if task == "best" else ["generated", "real"]
    counts = np.array([_votes(item, took_part, categories) for item in items]).reshape(len(items), len(categories))
    facts = {"items": len(items), "raters": len(took_part), "compared": int((counts.sum(1) >= 2).sum())}
    if not facts["compared"]:
        return facts | {"measure": None, "value": None}
    if (counts.sum(1) == len(took_part)).all():
        return facts | {"measure": "Fleiss' kappa", "value": fleiss_kappa(counts)}
    return facts | {"measure": "Krippendorff's alpha", "value": krippendorff_alpha(counts)}


def _votes(item: str, raters: Iterable[Mapping[str, str]], categories: Sequence[str]) -> list[int]:
    given = [meanings[item] for meanings in raters if item in meanings]
    return [given.count(category) for category in categories]
