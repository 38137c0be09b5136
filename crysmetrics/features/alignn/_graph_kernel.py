"""Compiled part of `graph`: bonds, line graphs and their folding, structure by structure."""

from __future__ import annotations

import numpy as np

from crysmetrics.compiled import njit

NEAREST = 12
TOO_CLOSE = 0.15
"""Å; jarvis takes nearer atoms for the same atom."""
MAX_PAIRS = 4_000_000
"""Most bond pairs of one structure (4 GB in the network); a 200-atom crystal has 50,000."""


@njit(nogil=True, cache=True)
def graphs(
    numbers, offsets, edge_offsets, target, image, vector, distance, tolerance, fold, published
):
    """Build the graphs of some structures from their neighbours, as the columns of LineGraphs.

    `published`: a bond of an atom to its own image stands twice and never follows itself.
    """
    structures = len(offsets) - 1
    status = np.zeros(structures, np.int64)
    atom_counts = np.zeros(structures, np.int64)
    bond_counts = np.zeros(structures, np.int64)
    pair_counts = np.zeros(structures, np.int64)
    atom_out = (np.empty(len(numbers), np.int64), np.empty(len(numbers), np.float32))
    room = max(4 * len(target), 16)
    bond_ints, bond_reals = np.empty((room, 2), np.int64), np.empty((room, 2), np.float32)
    pair_ints = np.empty((16 * room, 2), np.int64)
    pair_reals = np.empty((16 * room, 2), np.float32)
    atoms = bonds = pairs = 0
    for b in range(structures):
        first, last = offsets[b], offsets[b + 1]
        begin, end = edge_offsets[first], edge_offsets[last]
        if begin == end:
            continue
        source, goal, along = _directed_bonds(
            edge_offsets[first : last + 1] - begin,
            target[begin:end] - first,
            image[begin:end],
            vector[begin:end],
            distance[begin:end],
            tolerance,
            published,
        )
        into = np.searchsorted(goal, np.arange(last - first + 1))
        size = 0
        for e in range(len(source)):
            size += into[source[e] + 1] - into[source[e]]
        if size > MAX_PAIRS:
            status[b] = 1
            continue
        z, sizes, bi, br, pi, pr = _folded(
            numbers[first:last], source, goal, along, into, fold, published
        )
        while bonds + len(bi) > len(bond_ints):
            bond_ints, bond_reals = _grown(bond_ints), _grown(bond_reals)
        while pairs + len(pi) > len(pair_ints):
            pair_ints, pair_reals = _grown(pair_ints), _grown(pair_reals)
        atom_out[0][atoms : atoms + len(z)], atom_out[1][atoms : atoms + len(z)] = z, sizes
        bond_ints[bonds : bonds + len(bi)] = bi + atoms
        bond_reals[bonds : bonds + len(bi)] = br
        pair_ints[pairs : pairs + len(pi)] = pi + bonds
        pair_reals[pairs : pairs + len(pi)] = pr
        atoms, bonds, pairs = atoms + len(z), bonds + len(bi), pairs + len(pi)
        atom_counts[b], bond_counts[b], pair_counts[b] = len(z), len(bi), len(pi)
    bi, br, pi, pr = bond_ints[:bonds], bond_reals[:bonds], pair_ints[:pairs], pair_reals[:pairs]
    return (
        atom_out[0][:atoms].copy(), atom_out[1][:atoms].copy(), atom_counts,
        bi[:, 0].copy(), bi[:, 1].copy(), br[:, 0].copy(), br[:, 1].copy(),
        pi[:, 0].copy(), pi[:, 1].copy(), pr[:, 0].copy(), pr[:, 1].copy(),
        bond_counts, pair_counts, status,
    )  # fmt: skip


@njit(nogil=True, cache=True)
def _grown(array):
    """Copy an array to one with room for twice as many rows."""
    return np.concatenate((array, np.empty_like(array)))


@njit(nogil=True, cache=True)
def _directed_bonds(starts, target, image, vector, distance, tolerance, published):
    """Find the bonds of one structure in both directions, sorted by target, then source.

    Returns source (E,), target (E,) and the vectors (E, 3) from source to target.
    """
    atoms = len(starts) - 1
    kept = np.zeros(len(target), np.bool_)
    for i in range(atoms):
        begin, end = starts[i], starts[i + 1]
        far = distance[begin:end]
        far = np.sort(far[far > TOO_CLOSE])
        k, reach = 0, 0.0
        while k < min(NEAREST, len(far)):
            reach = far[k] + tolerance
            while k < len(far) and far[k] <= reach:
                k += 1
        for e in range(begin, end):
            kept[e] = TOO_CLOSE < distance[e] <= reach
    source, goal = np.empty(2 * len(target), np.int64), np.empty(2 * len(target), np.int64)
    along = np.empty((2 * len(target), 3))
    count = 0
    for i in range(atoms):
        for e in range(starts[i], starts[i + 1]):
            if not kept[e]:
                continue
            j = target[e]
            source[count], goal[count], along[count] = i, j, vector[e]
            count += 1
            # The other direction comes from the other end, unless that did not keep the bond.
            # Published, an atom's bonds to the images at R and -R both get their other direction,
            # which is the other of the two once more.
            found = False
            for f in range(starts[j], starts[j + 1]):
                if not (published and i == j) and kept[f] and target[f] == i:
                    found |= (
                        image[f, 0] == -image[e, 0]
                        and image[f, 1] == -image[e, 1]
                        and image[f, 2] == -image[e, 2]
                    )
            if not found:
                source[count], goal[count], along[count] = j, i, -vector[e]
                count += 1
    order = np.argsort(goal[:count] * atoms + source[:count], kind="mergesort")
    return source[order], goal[order], along[order]


@njit(nogil=True, cache=True, inline="always")
def _mixed(a, b):
    """Hash two numbers in order to 64 bits (the finaliser of splitmix64)."""
    x = np.uint64(a) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(b)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(nogil=True, cache=True)
def _classes(colours):
    """Number the classes of equal colours by first appearance; return their first items, too."""
    order = np.argsort(colours, kind="mergesort")
    first = np.empty(len(colours), np.int64)  # the first item of the same colour
    for k in range(len(order)):
        same = k > 0 and colours[order[k]] == colours[order[k - 1]]
        first[order[k]] = first[order[k - 1]] if same else order[k]
    number, members = np.empty(len(colours), np.int64), np.empty(len(colours), np.int64)
    count = 0
    for k in range(len(colours)):
        if first[k] == k:
            number[k], members[count] = count, k
            count += 1
        else:
            number[k] = number[first[k]]
    return number, members[:count]


@njit(nogil=True, cache=True)
def _refined(numbers, source, goal, lengths, into, cosines, starts, fold, published):
    """Refine the classes of atoms and bonds until they are stable; return first members, too."""
    bonds = len(source)
    atom_colour = np.empty(len(numbers), np.uint64)
    for i in range(len(numbers)):
        atom_colour[i] = _mixed(numbers[i], 1)
    bond_colour, fresh = np.empty(bonds, np.uint64), np.empty(bonds, np.uint64)
    for e in range(bonds):
        length = np.uint64(np.round(lengths[e] / fold))
        bond_colour[e] = _mixed(_mixed(atom_colour[source[e]], atom_colour[goal[e]]), length)
    bins = np.empty(len(cosines), np.uint64)
    for t in range(len(cosines)):
        bins[t] = np.uint64(np.round((cosines[t] + 2.0) / fold))
    before = -1
    while True:
        # The sum of hashes is a hash of the multiset.
        for e in range(bonds):
            total = np.uint64(0)
            begin = into[source[e]]
            for k in range(into[source[e] + 1] - begin):
                if not published or begin + k != e:
                    total += _mixed(bond_colour[begin + k], bins[starts[e] + k])
            fresh[e] = _mixed(bond_colour[e], total)
        for i in range(len(numbers)):
            total = np.uint64(0)
            for e in range(into[i], into[i + 1]):
                total += fresh[e]
            atom_colour[i] = _mixed(atom_colour[i], total)
        for e in range(bonds):
            ends = _mixed(atom_colour[source[e]], atom_colour[goal[e]])
            bond_colour[e] = _mixed(fresh[e], ends)
        bond_class, bond_first = _classes(bond_colour)
        atom_class, atom_first = _classes(atom_colour)
        if len(bond_first) + len(atom_first) == before:
            return atom_class, atom_first, bond_class, bond_first
        before = len(bond_first) + len(atom_first)


@njit(nogil=True, cache=True)
def _folded(numbers, source, goal, along, into, fold, published):
    """Build one structure's graph and line graph, folded if `fold` is positive.

    Returns atomic numbers and sizes of atoms; source and target, length and count of bonds;
    source and target, cosine and count of pairs.
    """
    bonds = len(source)
    lengths = np.empty(bonds)
    for e in range(bonds):
        lengths[e] = np.sqrt(along[e, 0] ** 2 + along[e, 1] ** 2 + along[e, 2] ** 2)
    # Pairs of bond e = v->w: all bonds that end at v, in order; `starts` is where they stand.
    starts = np.zeros(bonds + 1, np.int64)
    for e in range(bonds):
        starts[e + 1] = starts[e] + into[source[e] + 1] - into[source[e]]
    cosines = np.empty(starts[-1])
    for e in range(bonds):
        begin = into[source[e]]
        for k in range(starts[e + 1] - starts[e]):
            f = begin + k
            dot = -(along[f, 0] * along[e, 0] + along[f, 1] * along[e, 1]
                    + along[f, 2] * along[e, 2])  # fmt: skip
            cosines[starts[e] + k] = min(1.0, max(-1.0, dot / (lengths[f] * lengths[e])))
    if fold > 0:
        atom_class, atom_first, bond_class, bond_first = _refined(
            numbers, source, goal, lengths, into, cosines, starts, fold, published
        )
    else:
        atom_class, bond_class = np.arange(len(numbers)), np.arange(bonds)
        atom_first, bond_first = np.arange(len(numbers)), np.arange(bonds)
    sizes = np.zeros(len(atom_first), np.float32)
    for i in range(len(numbers)):
        sizes[atom_class[i]] += 1
    # Bonds that end at the first member of each class of atoms, class by class. Classes are
    # numbered anew in this order, which is sorted by target.
    number = np.full(len(bond_first), -1)
    bond_ints = np.empty((len(bond_first), 2), np.int64)
    bond_reals = np.zeros((len(bond_first), 2), np.float32)
    members = np.empty(len(bond_first), np.int64)
    count = 0
    for a in range(len(atom_first)):
        for e in range(into[atom_first[a]], into[atom_first[a] + 1]):
            c = bond_class[e]
            if number[c] < 0:
                number[c], members[count] = count, e
                bond_ints[count, 0], bond_ints[count, 1] = atom_class[source[e]], a
                bond_reals[count, 0] = lengths[e]
                count += 1
            bond_reals[number[c], 1] += 1
    pair_ints = np.empty((len(cosines), 2), np.int64)
    pair_reals = np.empty((len(cosines), 2), np.float32)
    total = 0
    for c in range(count):
        e = members[c]
        begin, here = into[source[e]], total
        for k in range(starts[e + 1] - starts[e]):
            if published and begin + k == e:
                continue
            partner, cosine = number[bond_class[begin + k]], cosines[starts[e] + k]
            t = here if fold > 0 else total
            while t < total:
                same = abs(np.float64(pair_reals[t, 0]) - cosine) <= fold
                if same and pair_ints[t, 0] == partner:
                    break
                t += 1
            if t == total:
                pair_ints[t, 0], pair_ints[t, 1] = partner, c
                pair_reals[t, 0], pair_reals[t, 1] = cosine, 0.0
                total += 1
            pair_reals[t, 1] += 1
    return numbers[atom_first], sizes, bond_ints, bond_reals, pair_ints[:total], pair_reals[:total]
