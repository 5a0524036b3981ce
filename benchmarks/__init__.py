"""Measurements that back the figures in docs/: speed and memory against public implementations, in the same run."""
