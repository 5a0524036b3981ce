"""The 2x2 canvas: how views are laid out, which are visible in training, which are asked in sampling."""
