"""Known structures as proposals for a composition.

`Library.load().propose({3: 1, 27: 1, 8: 2})` puts lithium, cobalt and oxygen into the structures
of compounds that are likely to have the same one.
"""

from crysgen.retrieval.library.library import Library
from crysgen.retrieval.proposals.proposal import Proposal, to_crystals

__all__ = ["Library", "Proposal", "to_crystals"]
