"""Files of other people's formats: read with checks, written beside their place, downloaded with checksums."""
