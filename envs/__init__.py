"""Environments and datasets: one file per source, the episode store, the windows that training samples, rollouts.

Nothing is imported here: importing one source must not load the simulators of the others.
"""
