"""Interatomic potentials: energies, forces and stresses of crystals by machine-learned models.

A potential is a file here with a class (see `base.Potential`), and a line in `registry.POTENTIALS`.
"""
