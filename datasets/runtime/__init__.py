"""The ground floor: configs, artifacts, command line, devices, training states, registries.

Imports nothing else of ours; no data format and no network of any stage belongs here.
"""
