"""Training loops and what they are made of: data, batches, hooks, evaluation, logs."""
