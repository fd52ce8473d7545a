"""Kinds of clusters: one file each, found by the name in a profile's `kind`. Must not import ray when imported."""
