"""The episode store: one on-disk form for every source, mapped into memory, never copied."""
