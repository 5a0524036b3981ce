"""WebDataset tars: written, taken over, encoded once, read in training order.

No layout of a data set, no model that is trained.
"""
