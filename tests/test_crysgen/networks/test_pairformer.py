"""PairFormer: a layer written out step by step, with norms that have factors of their own."""

import torch
from torch.nn.functional import silu

from crysgen.networks.pairformer import Block


def written_out(block, atoms, pairs, radial, mask):
    """Compute a layer as its definition has it, norms and all, triangles as a sum over atoms."""
    present, size = mask.to(atoms), atoms.shape[1]
    counts = present.sum(1)
    inner = block.pair_norm(pairs)
    left, right = silu(block.edges(inner)).chunk(2, -1)
    triangles = torch.einsum("bikt,bjkt,bk->bijt", left, right, present)
    pairs = pairs + block.close(triangles / counts[:, None, None, None].sqrt())
    heads = block.query_key_value(block.norm(atoms)).unflatten(-1, (3, block.heads, -1))
    query, key, value = heads.unbind(2)
    scores = torch.einsum("bihc,bjhc->bijh", query, key) / query.shape[-1] ** 0.5
    scores = (scores + block.bias(inner)).masked_fill(~mask[:, None, :, None], -torch.inf)
    attended = torch.einsum("bijh,bjhc->bihc", scores.softmax(2), value).flatten(2)
    around = torch.einsum("bijp,bj->bip", inner, present) / counts[:, None, None].sqrt()
    atoms = atoms + block.combine(torch.cat([attended, around], -1))
    atoms = atoms + block.feed_forward(block.second_norm(atoms))
    first, second = block.ends(block.third_norm(atoms)).chunk(2, -1)
    for i in range(size):
        for j in range(size):
            known = torch.cat([block.second_pair_norm(pairs[:, i, j]), radial[:, i, j]], -1)
            update = silu(block.inner(known) + first[:, i] + second[:, j])
            pairs = pairs.clone()
            pairs[:, i, j] += block.outer(update)
    return atoms, pairs


def test_a_layer_is_what_its_definition_says():
    torch.manual_seed(0)
    block = Block(16, 12, 6, 2, 8).double()
    for parameter in block.parameters():  # also those that begin at 0 or 1
        torch.nn.init.normal_(parameter, std=0.5)
    atoms = torch.randn(3, 5, 16).double()
    pairs, radial = torch.randn(3, 5, 5, 12).double(), torch.randn(3, 5, 5, 8).double()
    mask = torch.arange(5) < torch.tensor([5, 3, 1])[:, None]
    found = block(atoms, pairs, radial, mask)
    expected = written_out(block, atoms, pairs, radial, mask)
    real = mask[:, :, None] & mask[:, None]
    torch.testing.assert_close(found[0][mask], expected[0][mask])
    torch.testing.assert_close(found[1][real], expected[1][real])
