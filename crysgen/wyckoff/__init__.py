"""Crystals by space groups: ways to fill Wyckoff positions, and projection onto a group."""
