"""The hash of a set that is never held as a whole."""

from __future__ import annotations

import json
from hashlib import sha256

from crysmetrics.io.crystals import Crystals


class SetDigest:
    """`Crystals.sha256` of a set that comes in parts."""

    def __init__(self) -> None:
        self._entries: list[tuple[str, bytes]] = []
        self._failed: list[str] = []

    def add(self, crystals: Crystals) -> None:
        """Take in one part."""
        hashes = crystals.content_hashes(decimals=8)
        self._entries += zip(crystals.ids, map(bytes.fromhex, hashes), strict=True)
        self._failed += (f.file.rpartition("/")[2] for f in crystals.failures)

    def hexdigest(self) -> str:
        """The hash of all parts, which is that of the whole."""
        digest = sha256(b"[[")
        for k, (name, content) in enumerate(sorted(self._entries)):
            digest.update(b", " if k else b"")
            digest.update(json.dumps([name, content.hex()]).encode())
        digest.update(f"], {json.dumps(sorted(self._failed))}]".encode())
        return digest.hexdigest()
