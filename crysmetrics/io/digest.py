"""The hash of a set that is never held as a whole."""

from __future__ import annotations

import json
from hashlib import sha256

from crysmetrics.io.crystals import Crystals
from crysmetrics.spill import Entries


class SetDigest:
    """`Crystals.sha256` of a set that comes in parts; ids and contents wait on disk."""

    def __init__(self) -> None:
        self._entries = Entries()
        self._failed: list[str] = []

    def add(self, crystals: Crystals) -> None:
        """Take in one part."""
        hashes = crystals.content_hashes(decimals=8)
        self._entries.add(zip(crystals.ids, map(bytes.fromhex, hashes), strict=True))
        self._failed += (f.file.rpartition("/")[2] for f in crystals.failures)

    def hexdigest(self) -> str:
        """Compute the hash of all parts, which is that of the whole."""
        digest = sha256(b"[[")
        for k, (name, content) in enumerate(self._entries):
            digest.update(b", " if k else b"")
            digest.update(json.dumps([name, content.hex()]).encode())
        digest.update(f"], {json.dumps(sorted(self._failed))}]".encode())
        return digest.hexdigest()
