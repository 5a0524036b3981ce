"""A trained network outside the benchmark: features of any images; ONNX, with what a user has to know beside it."""
