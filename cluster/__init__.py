"""Where runs go: cluster profiles and manifests, and job submission. May import the kernel and search_spaces."""
