"""What trained networks are tested with besides, without training them again.

- `settings`: what is tried; `stages`: who draws what, which network is tested how; `one_network`: the command for a
  single network.
"""
