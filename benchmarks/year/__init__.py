"""A simulated year: 52 weekly regenerations of a data set that grows and changes, each checked against its data."""
