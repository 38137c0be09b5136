"""Learned models that say how alike, how large, how plausible and how likely structures are."""
