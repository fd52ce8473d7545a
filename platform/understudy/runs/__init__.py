"""Runs: their directory, launch, resume, extension, mirror and results. Ray is known to `on_ray` only."""
