"""Algorithms, one file each: network, random draws, loss, action."""
