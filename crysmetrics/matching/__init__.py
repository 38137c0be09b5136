"""Structure matching: which crystals are the same, by pymatgen's StructureMatcher, compiled.

`cells` reduces crystals to primitive Niggli cells, `distances` compares pairs of them,
`duplicates` groups equal ones, `pairing` tells which prediction belongs to which reference.
"""
