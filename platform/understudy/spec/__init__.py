"""What a run is: its keys, their validation, composition from groups, and search spaces."""
