"""Where images come from: layouts, files, the checked index, the subsets. No skeleton, no tar, no torch."""
