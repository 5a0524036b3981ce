"""The network: a stock diffusers UNet on a 2x2 canvas, with pose, image-level and feature-level conditioning.

`B` canvases (or views), `C` latent channels, `h, w` latent cells, `N` tokens, `D` token width, `P` pose channels.
"""
