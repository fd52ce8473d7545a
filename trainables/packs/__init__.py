"""Packs: K seeds of one configuration trained at once, with their optimisers and precision."""
