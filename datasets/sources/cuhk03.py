"""CUHK03-NP: the new protocol's folders, ``detected`` or ``labeled`` (Zhong et al., CVPR 2017).

Market-1501's three folders with names such as ``0003_c1_21.png``: person 3 at camera 1, image 21. The two folders show
the same people in boxes of a detector or of a person; each is a data set of its own. The original release (a MATLAB
file) and its 20 classic splits are not read.
"""

from __future__ import annotations

import re

from datasets.sources.files import SUFFIX_PATTERN, ImageSource, Listing, Row
from datasets.sources.market1501 import list_folders, row_of_numbers

EXPECTED = (
    "expected the folder 'detected' or 'labeled' of CUHK03-NP: bounding_box_train, bounding_box_test and query with "
    "files such as 0003_c1_21.png"
)
PROBLEM = "the name is not of the form 0003_c1_21.png"
PUBLISHED_COUNTS = {
    "train images": 7_365,
    "train identities": 767,
    "query images": 1_400,
    "query identities": 700,
    "gallery images": 5_332,
    "gallery identities": 700,
}
"""Of 'detected', after https://github.com/zhunzhong07/person-re-ranking; 'labeled' has 7,368 and 5,328."""

_NAME = re.compile(r"(?P<pid>\d{4,10})_c(?P<camid>\d{1,2})_(?P<frame>\d{1,10})" + SUFFIX_PATTERN)


def parse_name(name: str) -> Row | None:
    """Identity, camera and number of the image from a file's name; None if it is not one of CUHK03-NP's."""
    return row_of_numbers(_NAME, name)


def list_images(source: ImageSource) -> Listing:
    """Index rows of all files in the three folders, not yet checked.

    Raises:
        DatasetLayoutError: if a folder is missing.
    """
    return list_folders(source, parse_name, PROBLEM, EXPECTED)
