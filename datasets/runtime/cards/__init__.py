"""Cards of data sets: what a folder of shards holds, as ``README.md`` for people and ``croissant.json`` for machines.

What a card says comes from the stage that made the set; no path, no date and no name of a machine is in it, so equal
sets have equal cards.
"""
