"""DukeMTMC-reID and Occluded-Duke: Market-1501's folders, other file names.

``0001_c2_f0046182.jpg`` is person 1 at camera 2, frame 46182 (Zheng et al., ICCV 2017; Ristani et al., ECCVW 2016).
Occluded-Duke (Miao et al., ICCV 2019) sorts the same files into other splits. Nobody has the pid 0 or -1: the gallery's
distractors are 408 people with numbers of their own.
"""

from __future__ import annotations

import re

from datasets.sources.files import SUFFIX_PATTERN, ImageSource, Listing, Row
from datasets.sources.market1501 import list_folders, row_of_numbers

EXPECTED = "expected bounding_box_train, bounding_box_test and query with files such as 0001_c2_f0046182.jpg"
PROBLEM = "the name is not of the form 0001_c2_f0046182.jpg"
PUBLISHED_COUNTS = {
    "train images": 16_522,
    "train identities": 702,
    "query images": 2_228,
    "query identities": 702,
    "gallery images": 17_661,
    "gallery identities": 1_110,
}
"""Of the data set's own page, https://github.com/layumi/DukeMTMC-reID_evaluation."""
OCCLUDED_COUNTS = {
    "train images": 15_618,
    "train identities": 702,
    "query images": 2_210,
    "query identities": 519,
    "gallery images": 17_661,
    "gallery identities": 1_110,
}
"""Of Miao et al. 2019, section 4.1."""

_NAME = re.compile(r"(?P<pid>\d{4,10})_c(?P<camid>\d{1,2})_f(?P<frame>\d{1,10})" + SUFFIX_PATTERN)


def parse_name(name: str) -> Row | None:
    """Identity, camera and frame from a file's name; None if it is not one of DukeMTMC's."""
    return row_of_numbers(_NAME, name)


def list_images(source: ImageSource) -> Listing:
    """Index rows of all files in the three folders, not yet checked.

    Raises:
        DatasetLayoutError: if a folder is missing.
    """
    return list_folders(source, parse_name, PROBLEM, EXPECTED)
