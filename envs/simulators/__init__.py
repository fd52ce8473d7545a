"""What several sources share of simulators: rendering, videos, deterministic resets, registered environments."""
