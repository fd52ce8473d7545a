"""Networks that algorithms are built of: MLPs, transformers, picture encoders, critics."""
