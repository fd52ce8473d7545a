"""Demonstrations by scripted experts and trained policies: attempts played in parallel, kept when they succeed."""
