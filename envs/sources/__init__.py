"""Data sources, one folder each: dataset names, environments, file formats, scores."""
