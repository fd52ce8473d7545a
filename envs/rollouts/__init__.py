"""Policies played in environments: one decision for all environments and members, chunks, ensembling, videos."""
