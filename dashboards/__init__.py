"""Pages about sweeps, runs, episodes and datasets, on this machine alone. They read, and write nothing."""
