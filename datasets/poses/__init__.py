"""Skeletons: joints, files, extraction, comparison; one sub-package per pose network."""
