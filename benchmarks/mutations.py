"""Damage: the ways in which `fuzz.py` changes good bytes into bad ones; all of it follows from a `random.Random`."""

from __future__ import annotations

import random
import re
import struct
from collections.abc import Callable, Sequence

Mutation = Callable[[bytearray, random.Random, Sequence[bytes]], bytearray]

EXTREMES = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**63, 2**64 - 1]
WORDS = [
    *(b"0", b"-1", b"1", b"65536", b"4294967295", b"-2147483648", b"99999999999999999999", b"1e309", b"-1e309", b"nan", b"inf"),
    *(
        b"1e-320",
        b"",
        b"\0",
        b"null",
        b"true",
        b"[]",
        b"{}",
        b'"',
        b"%s%n",
        b"../../../etc/passwd",
        b"/dev/zero",
        b"http://127.0.0.1:1/",
    ),
    *(b"\xff\xfe", b"\xed\xa0\x80", "\N{RIGHT-TO-LEFT OVERRIDE}".encode(), b"A" * 5000),
]
HEADER = 600  # bytes in which most formats keep what decides


def flip_bits(data: bytearray, chance: random.Random, others: Sequence[bytes]) -> bytearray:
    for _ in range(2 ** chance.randrange(7)):
        data[_place(data, chance)] ^= 1 << chance.randrange(8)
    return data


def truncate(data: bytearray, chance: random.Random, others: Sequence[bytes]) -> bytearray:
    return data[: chance.randrange(len(data) + 1)]


def extend(data: bytearray, chance: random.Random, others: Sequence[bytes]) -> bytearray:
    return data + bytes(chance.randrange(256) for _ in range(2 ** chance.randrange(13)))


def cut_out(data: bytearray, chance: random.Random, others: Sequence[bytes]) -> bytearray:
    start = _place(data, chance)
    return data[:start] + data[start + 2 ** chance.randrange(12) :]


def repeat(data: bytearray, chance: random.Random, others: Sequence[bytes]) -> bytearray:
    start = _place(data, chance)
    piece = data[start : start + 2 ** chance.randrange(10)]
    return data[:start] + piece * chance.randrange(2, 20) + data[start:]


def splice(data: bytearray, chance: random.Random, others: Sequence[bytes]) -> bytearray:
    """The beginning of one and the end of another."""
    other = chance.choice(others)
    return data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other) + 1) :]


def edit_number(data: bytearray, chance: random.Random, others: Sequence[bytes]) -> bytearray:
    """A binary number of the header becomes an extreme one: huge sizes, rates, offsets, counts."""
    size, code = chance.choice([(1, "B"), (2, "H"), (4, "I"), (8, "Q")])
    start = max(0, min(_place(data, chance), len(data) - size))
    number = chance.choice([*EXTREMES, chance.getrandbits(64)]) % 2 ** (8 * size)
    data[start : start + size] = struct.pack(chance.choice("<>") + code, number)
    return data


def edit_float(data: bytearray, chance: random.Random, others: Sequence[bytes]) -> bytearray:
    size, code = chance.choice([(4, "f"), (8, "d")])
    start = max(0, min(_place(data, chance), len(data) - size))
    value = chance.choice([0.0, -0.0, -1.0, 1e-38, 1e38, float("nan"), float("inf"), float("-inf")])
    data[start : start + size] = struct.pack(chance.choice("<>") + code, value)
    return data


def edit_word(data: bytearray, chance: random.Random, others: Sequence[bytes]) -> bytearray:
    """A number or word written in letters becomes another."""
    found = list(re.finditer(rb"-?\d+(?:\.\d+)?|[A-Za-z_]{3,}", bytes(data[:20_000])))
    if not found:
        return flip_bits(data, chance, others)
    word = chance.choice(found)
    return data[: word.start()] + chance.choice(WORDS) + data[word.end() :]


def insert_word(data: bytearray, chance: random.Random, others: Sequence[bytes]) -> bytearray:
    start = _place(data, chance)
    return data[:start] + chance.choice(WORDS) + data[start:]


def swap(data: bytearray, chance: random.Random, others: Sequence[bytes]) -> bytearray:
    one, two = sorted((_place(data, chance), _place(data, chance)))
    return data[:one] + data[two:] + data[one:two]


MUTATIONS: list[Mutation] = [
    *(flip_bits, truncate, extend, cut_out, repeat, splice),
    *(edit_number, edit_number, edit_float, edit_word, edit_word, insert_word, swap),
]


def mutated(data: bytes, chance: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """One to four mutations of `data`, mostly one.

    Args:
        data: good bytes.
        chance: decides everything.
        others: what pieces are spliced in from.
    """
    damaged = bytearray(data)
    for _ in range(chance.choice([1, 1, 1, 2, 2, 4])):
        damaged = chance.choice(MUTATIONS)(damaged or bytearray(b"\0"), chance, others or [data])
    return bytes(damaged)


def _place(data: bytearray, chance: random.Random) -> int:
    """Mostly near the beginning, where headers are."""
    if not data:
        data += b"\0"
    return chance.randrange(min(len(data), HEADER) if chance.random() < 0.7 else len(data))
