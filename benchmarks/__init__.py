"""Measurements that back the figures in docs/: speed and memory against public implementations, in the same run.

A module here is a benchmark (``__main__.py`` names it) or material of several; what the packages need belongs there.
"""
