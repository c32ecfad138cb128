"""Adversarial regularisation of deep networks in PyTorch."""
