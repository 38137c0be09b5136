"""Proposers: where candidate crystals come from. The table of `--method` is in `base`."""
