"""Croissant metadata of a set (MLCommons, version 1.0): https://docs.mlcommons.org/croissant/docs/croissant-spec.html.

The record set joins the pictures inside the tars with the table by key. `mlcroissant` (1.1) cannot parse a JSON member
inside an archive, and two file sets in one archive break its joins; so the labels come from the table, which says what
the JSON members say, and there is one file set.
"""

from __future__ import annotations

from typing import Any

from datasets.runtime.cards.card import KEY, Column, DataSetCard, Tar

CONFORMS_TO = "http://mlcommons.org/croissant/1.0"
RECORDS, PICTURES = "samples", "pictures"
"""Ids of the record set and of the pictures' file set."""
KEY_OF_MEMBER = r"^([^.]+)"
"""A member's name up to the first dot, as WebDataset reads it. A key stays as it is: mlcroissant applies it twice."""
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "citeAs": "cr:citeAs",
    "column": "cr:column",
    "conformsTo": "dct:conformsTo",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "dct": "http://purl.org/dc/terms/",
    "equivalentProperty": "cr:equivalentProperty",
    "examples": {"@id": "cr:examples", "@type": "@json"},
    "extract": "cr:extract",
    "field": "cr:field",
    "fileProperty": "cr:fileProperty",
    "fileObject": "cr:fileObject",
    "fileSet": "cr:fileSet",
    "format": "cr:format",
    "includes": "cr:includes",
    "isLiveDataset": "cr:isLiveDataset",
    "jsonPath": "cr:jsonPath",
    "key": "cr:key",
    "md5": "cr:md5",
    "parentField": "cr:parentField",
    "path": "cr:path",
    "recordSet": "cr:recordSet",
    "references": "cr:references",
    "regex": "cr:regex",
    "repeated": "cr:repeated",
    "replace": "cr:replace",
    "samplingRate": "cr:samplingRate",
    "sc": "https://schema.org/",
    "separator": "cr:separator",
    "source": "cr:source",
    "subField": "cr:subField",
    "transform": "cr:transform",
}
"""The specification's own, word for word: readers compare it."""


def croissant_of(card: DataSetCard) -> dict[str, Any]:
    """The JSON-LD document. It has no ``datePublished``: equal sets have equal bytes whenever they are made."""
    provenance = "\n".join(f"{name}: {value}" for name, value in card.provenance.items())
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": card.name,
        "description": card.description,
        "version": f"{card.version}.0.0",
        "license": card.terms,
        **({"citeAs": card.citation} if card.citation else {}),
        "keywords": card.keywords(),
        "rai:dataCollection": provenance,
        "rai:dataCollectionType": ["Synthetic data"] if card.synthetic else ["Others"],
        "rai:personalSensitiveInformation": [card.people],
        "distribution": [*map(_tar, card.tars), _table(card), _pictures(card)],
        "recordSet": [_records(card)],
    }


def _tar(tar: Tar) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": tar.name,
        "name": tar.name,
        "description": f"{tar.samples} samples of split {tar.split}",
        "contentUrl": tar.name,
        "contentSize": f"{tar.bytes} B",
        "encodingFormat": "application/x-tar",
        "sha256": tar.sha256,
    }


def _table(card: DataSetCard) -> dict[str, Any]:
    return {
        "@type": "cr:FileObject",
        "@id": card.table.name,
        "name": card.table.name,
        "description": "a row for each sample: what its JSON member says",
        "contentUrl": card.table.name,
        "encodingFormat": "application/x-parquet",
        "sha256": card.table.sha256,
    }


def _pictures(card: DataSetCard) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": PICTURES,
        "name": PICTURES,
        "description": "the pictures inside the tars; beside each lies KEY.json",
        "containedIn": [{"@id": tar.name} for tar in card.tars],
        "encodingFormat": ["image/jpeg", "image/png"],
        "includes": ["*.jpg", "*.png"],
    }


def _records(card: DataSetCard) -> dict[str, Any]:
    key = next(column for column in card.table.columns if column.name == KEY)
    of_pictures = {"fileSet": {"@id": PICTURES}}
    by_name = {"extract": {"fileProperty": "filename"}, "transform": {"regex": KEY_OF_MEMBER}}
    in_table = {"fileObject": {"@id": card.table.name}, "extract": {"column": KEY}}
    image = Column("image", "sc:ImageObject", "the picture")
    return {
        "@type": "cr:RecordSet",
        "@id": RECORDS,
        "name": RECORDS,
        "description": "one record for each sample",
        "key": {"@id": f"{RECORDS}/{KEY}"},
        "field": [
            _field(key, of_pictures | by_name) | {"references": in_table},
            _field(image, of_pictures | {"extract": {"fileProperty": "content"}}),
            *(_field(column, _column(card, column)) for column in card.table.columns if column is not key),
        ],
    }


def _column(card: DataSetCard, column: Column) -> dict[str, Any]:
    return {"fileObject": {"@id": card.table.name}, "extract": {"column": column.name}}


def _field(column: Column, source: dict[str, Any]) -> dict[str, Any]:
    return {
        "@type": "cr:Field",
        "@id": f"{RECORDS}/{column.name}",
        "name": column.name,
        "description": column.description,
        "dataType": column.type,
        **({"repeated": True} if column.repeated else {}),
        "source": source,
    }
