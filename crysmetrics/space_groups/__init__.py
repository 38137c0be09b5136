"""Space groups as arrays: operations, Wyckoff positions, and what each allows a lattice to be."""
