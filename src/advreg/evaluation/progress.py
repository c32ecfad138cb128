"""Kept until the imports of this folder name `advreg.progress`."""

from advreg.progress import Clock, Progress

__all__ = ["Clock", "Progress"]
