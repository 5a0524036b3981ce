"""Writes both files of a card."""

from __future__ import annotations

import json
from pathlib import Path

from datasets.runtime.atomic import write_text_atomically
from datasets.runtime.cards.card import DataSetCard
from datasets.runtime.cards.croissant import croissant_of
from datasets.runtime.cards.markdown import readme_of
from datasets.runtime.config import StageConfig
from datasets.runtime.manifests import CROISSANT_FILE, DISTRIBUTION, README_FILE, project_version


def made_by(config: StageConfig) -> str:
    """Which code made a set. The commit is in the manifest: it changes where no byte of the set does."""
    return f"{DISTRIBUTION} {project_version()}, stage {config.stage} (version {config.stage_version})"


def write_cards(card: DataSetCard, directory: Path) -> None:
    """Write ``croissant.json`` and ``README.md`` beside the tars."""
    croissant = json.dumps(croissant_of(card), indent=1, ensure_ascii=False)
    write_text_atomically(directory / CROISSANT_FILE, croissant + "\n")
    write_text_atomically(directory / README_FILE, readme_of(card))
