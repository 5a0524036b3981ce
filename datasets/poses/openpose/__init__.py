"""Backend `openpose`: CMU's network, its weights, its maps decoded to people. Nothing that another network shares."""
