"""Skeletons: joints, files, extraction, comparison, pairs; one sub-package per network.

No tar, no training of the generator.
"""
