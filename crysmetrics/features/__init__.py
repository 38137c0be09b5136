"""Crystals to arrays: named, versioned extractors of features."""
