"""The shipped library, and what was learned from it: see `docs/library.md`."""
