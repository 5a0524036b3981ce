"""From sources and poses to pictures: the pipeline and ``generate``. Whole sets are made in `synthesis`."""
