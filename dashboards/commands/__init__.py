"""The commands about pages and reports; each module registers its own."""
