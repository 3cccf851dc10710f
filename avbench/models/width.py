"""How wide networks are, which settings say too and which therefore imports nothing."""

# Channels of the published ResNet-18's first stage; every stage after it has twice as many as the one before.
WIDTH = 64
