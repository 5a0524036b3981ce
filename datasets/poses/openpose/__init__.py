"""Backend `openpose`: CMU's network, its weights, its maps decoded to people."""
