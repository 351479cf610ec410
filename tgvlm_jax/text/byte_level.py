"""Byte-level BPE vocabularies write every byte as one printable character; this reads them back."""

import functools
from collections.abc import Collection, Sequence


@functools.cache
def _bytes_by_character() -> dict[str, int]:
    """Printable bytes of Latin-1 stand for themselves, the rest follow from U+0100 (GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(0x100) if byte not in printable]
    table = {chr(byte): byte for byte in printable}
    return table | {chr(0x100 + i): byte for i, byte in enumerate(others)}


def token_bytes(tokens: Sequence[str], *, special: Collection[str] = ()) -> list[bytes]:
    """The bytes that each vocabulary entry stands for; a special token stands for none.

    Unlike decoded text, bytes add up token by token: a character may be spread over several.
    """
    table = _bytes_by_character()
    return [
        b"" if token in special else bytes(table[character] for character in token)
        for token in tokens
    ]
