"""How much a file may ask for before it is refused: bytes, ratios, counts.

No input, however it was packed, may take more than about 1 GB of memory only to be refused.
"""

from __future__ import annotations

MAX_FILE_BYTES = 64 * 1024**2
"""Largest text that is unpacked into memory: a member of an archive, or a compressed file."""

MAX_PLAIN_BYTES = 256 * 1024**2
"""Largest uncompressed structure file among many."""

MAX_WHOLE_BYTES = 256 * 1024**2
"""Largest uncompressed file whose text must be held as a whole, as those of most formats."""

MAX_WHOLE_MEMORY = 900_000_000
"""Most bytes that such a file and its text take together; one character beyond Latin-1 makes the
text two or four times as large."""

MAX_TOTAL_BYTES = 4 * 1024**3
"""Largest total that an archive or a compressed table may unpack to, and largest single file."""

MAX_RATIO = 100
"""Largest ratio of unpacked to packed bytes; texts of structures reach 5 to 20."""

RATIO_FLOOR = 32 * 1024**2
"""Bytes that may be unpacked whatever the ratio: small files of equal lines compress very well."""

MAX_MEMBERS = 1_000_000
"""Most files in an archive."""

MIN_MEMBER_BYTES = 64
"""Fewest packed bytes of a file in an archive, on the average of more than `MEMBERS_FLOOR`."""

MEMBERS_FLOOR = 10_000
"""Files that an archive may hold whatever its size."""

MAX_NAME_BYTES = 4096
"""Longest path of a file in an archive."""

MAX_NAMES_BYTES = 64 * 1024**2
"""Longest total of the paths in an archive."""

MAX_FAILURES = 500_000
"""Most structures of one input that may fail; beyond, the input as a whole is refused."""

MAX_FAILURES_AT_FIRST = 20_000
"""Most structures that may fail before the first one is read."""


def unpacked_limit(packed: int, limit: int) -> int:
    """Compute how many bytes something of `packed` bytes may unpack to, at most `limit`."""
    return min(limit, max(RATIO_FLOOR, MAX_RATIO * packed))
