"""Replay buffers: what a policy did while it learned, in append-only segments on disk."""
