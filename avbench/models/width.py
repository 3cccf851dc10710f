"""How wide networks are, which settings say too and which therefore imports nothing."""

WIDTH = 64  # channels of the first stage of the ResNet-18 that is published
