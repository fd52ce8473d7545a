"""The commands about data: list, inspect, import, export, download and generate datasets."""
