"""Where images come from: layouts, files, the checked index, pairs and subsets. No pose network, no tar."""
