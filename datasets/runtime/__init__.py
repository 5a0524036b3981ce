"""The ground floor: configs, artifacts, command line, errors, progress, processes. Imports nothing else of ours."""
