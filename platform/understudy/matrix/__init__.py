"""Methods x tasks: each cell a run, or a sweep of its own, under one parent, and their comparison."""
