"""Short loans of a GPU machine without a network: what travels, what runs there and for how long, what comes back.

docs/gpu.md says how they are used. The shell scripts know the clock, the modules know the artifacts.
"""
