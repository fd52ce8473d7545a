"""The commands about clusters and what runs on them; each module registers its own."""
