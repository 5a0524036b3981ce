"""From sources and poses to pictures: the pipeline, and the command for one's own photographs."""
