"""A set's ``README.md``, with the front matter that the Hugging Face hub reads.

Front matter is JSON values in YAML's places: every JSON text is YAML too, so no name can break out of its place.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence

from datasets.runtime.cards.card import DataSetCard
from datasets.runtime.reading.names import code_cell, code_span, plain_text

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
LARGER = "1M<n<10M"


def readme_of(card: DataSetCard) -> str:
    """The card as Markdown."""
    splits = list(dict.fromkeys(tar.split for tar in card.tars))
    parts = [
        _front_matter(card, splits),
        f"# {plain_text(card.title)}",
        plain_text(card.description),
        _section("What is in it", _counts(card, splits)),
        _section("Fields", _fields(card)),
        *(_section(heading, text) for heading, text in card.notes.items()),
        _section("Where it comes from", markdown_table(("", ""), card.provenance.items())),
        _section("How to read it", READING.format(tar=card.tars[0].name if card.tars else "NAME.tar")),
        _section("People and terms", f"{plain_text(card.people)}\n\n{plain_text(card.terms)}\n\n{PEOPLE}"),
        _section("Files", _files(card)),
    ]
    return "\n\n".join(parts) + "\n"


def markdown_table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table of Markdown; texts as plain text, numbers with separators, hashes as code.

    Args:
        head: titles of the columns.
        rows: their cells.
    """
    lines = [head, ["---"] * len(head), *([_cell(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    if isinstance(value, int):
        return f"{value:,}"
    text = str(value)
    return code_cell(text) if len(text) == 64 and text.isalnum() else plain_text(text)


def _section(heading: str, text: str) -> str:
    return f"## {heading}\n\n{text}"


def _front_matter(card: DataSetCard, splits: Sequence[str]) -> str:
    samples = sum(tar.samples for tar in card.tars)
    files = [{"split": split, "path": f"{split}-*.tar"} for split in splits]
    fields = {
        "pretty_name": card.title,
        "license": "other",
        "license_name": "terms-of-the-source",
        "size_categories": [next((size for limit, size in SIZES if samples < limit), LARGER)],
        "tags": card.keywords(),
        "configs": [{"config_name": "default", "data_files": files}],
    }
    lines = [f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items()]
    return "\n".join(["---", *lines, "---"])


def _counts(card: DataSetCard, splits: Sequence[str]) -> str:
    """Counts of the whole set, then of each split."""
    rows = [
        (
            split,
            sum(tar.samples for tar in card.tars if tar.split == split),
            card.identities[split],
            sum(1 for tar in card.tars if tar.split == split),
        )
        for split in splits
    ]
    of_all = markdown_table(("", ""), card.counts.items())
    return f"{of_all}\n\n{markdown_table(('split', 'images', 'identities', 'tars'), rows)}"


def _fields(card: DataSetCard) -> str:
    rows = [(column.name, column.type, column.description) for column in card.table.columns]
    said = f"Columns of {code_span(card.table.name)}; `KEY.json` says the same of each sample."
    return f"{said}\n\n{markdown_table(('field', 'type', 'meaning'), rows)}"


def _files(card: DataSetCard) -> str:
    rows = [(tar.name, tar.bytes, tar.sha256) for tar in card.tars]
    return markdown_table(("file", "bytes", "SHA-256"), [*rows, (card.table.name, "", card.table.sha256)])


READING = """A sample is `KEY.jpg` (or `KEY.png`) and `KEY.json`.

```python
import webdataset
samples = webdataset.WebDataset("{tar}", shardshuffle=False).decode("pil")
samples = samples.to_tuple("__key__", "jpg;png", "json")
```

`croissant.json` describes the same for Croissant's readers. `mlcroissant` unpacks tars into a cache where it finds them
by their *names* alone, so give each set a cache of its own (`export CROISSANT_CACHE=FOLDER`):

```python
import mlcroissant
record = next(iter(mlcroissant.Dataset("croissant.json").records("samples")))
```"""
PEOPLE = "Do not use these pictures to identify anyone."
