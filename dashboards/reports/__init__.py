"""What is written and attached to a sweep's run in MLflow at its end; each module registers a file by its name."""
