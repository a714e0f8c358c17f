"""Inflating of one message: what is valid, what is not, and what bounds it."""

import random
import tracemalloc
import zlib
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.deflating import MIB, TAIL, bomb, deflate, final_block

from netra_trio.transports.inflate import (
    FINAL_BLOCKS,
    PIECE_BYTES,
    STEP_BYTES,
    InflatedTooBig,
    Inflater,
    NotInflatable,
    compressed_limit,
)

LIMIT = 160 * 1024
EMPTY_BLOCK = b"\x00" + TAIL  # stored, not the last one
NOISE = random.Random(7).randbytes(LIMIT)  # noqa: S311 - not for a secret
TEXT = b"".join(b'{"key %d": "value"}' % i for i in range(1000))


def inflate(data: bytes, max_bytes: int = LIMIT) -> bytes:
    inflater = Inflater(data, max_bytes=max_bytes)
    while not inflater.step():
        assert len(inflater.data) <= max_bytes
    assert inflater.compressed_bytes == len(data)
    return bytes(inflater.data)


VALID = {
    "a text": (deflate(TEXT), TEXT),
    "no content": (b"\x00", b""),
    "no content, with Huffman codes": (b"\x02\x00", b""),
    "stored": (deflate(TEXT, level=0), TEXT),
    "a small window": (deflate(TEXT, bits=9), TEXT),
    "noise": (deflate(NOISE), NOISE),
    "much": (bomb(LIMIT), b"a" * LIMIT),
    "empty blocks": (EMPTY_BLOCK * 1000 + deflate(b"end"), b"end"),
    # The examples of RFC 7692, 7.2.3.
    "one block": (bytes.fromhex("f248cdc9c90700"), b"Hello"),
    "stored in a block": (bytes.fromhex("000500faff48656c6c6f00"), b"Hello"),
    "a final block": (bytes.fromhex("f348cdc9c9070000"), b"Hello"),
    "two blocks": (bytes.fromhex("f248050000 00ffffcac9c90700"), b"Hello"),
    # Some clients can only end a stream.
    "an end": (final_block(TEXT), TEXT),
    "text behind an end": (final_block(b"one") + deflate(b"two"), b"onetwo"),
    "many ends": (b"\x03\x00" * FINAL_BLOCKS + b"\x00", b""),
}


@pytest.mark.parametrize("name", VALID)
def test_a_valid_message_is_inflated(name: str) -> None:
    data, inflated = VALID[name]
    assert inflate(data) == inflated


def with_dictionary(text: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15, zdict=text)
    return (stream.compress(text) + stream.flush(zlib.Z_SYNC_FLUSH)).removesuffix(TAIL)


INVALID = {
    "nothing": b"",
    "a reserved block type": b"\x07",
    "lengths that do not fit": b"\x00\x01\x00\x00\x00",
    "text": b'{"type": "ping"}',
    "a reference before the beginning": b"\x02\x02\x00\x00",  # length 3, distance 1
    "a reference to the previous message": with_dictionary(TEXT),
    "noise behind an end": final_block(TEXT) + b"\xff\xff",
    "half an end": final_block(TEXT)[:-2],
    "half a block": deflate(TEXT)[: len(deflate(TEXT)) // 2],
    "all but the last byte": deflate(TEXT, level=0)[:-2],
    "the tail that has to be removed": deflate(TEXT) + TAIL,
    "one end too many": b"\x03\x00" * (FINAL_BLOCKS + 1) + b"\x00",
}


@pytest.mark.parametrize("name", INVALID)
def test_an_invalid_message_is_refused(name: str) -> None:
    with pytest.raises(NotInflatable):
        inflate(INVALID[name])


@pytest.mark.parametrize("level", [0, 1, 9])
@pytest.mark.parametrize("source", [NOISE, b"a" * LIMIT])
def test_the_limit_counts_inflated_bytes(source: bytes, level: int) -> None:
    size = 70_000
    data = deflate(source[:size], level=level)
    assert inflate(data, size) == source[:size]
    with pytest.raises(InflatedTooBig):
        inflate(data, size - 1)


@pytest.mark.parametrize("level", range(10))
@pytest.mark.parametrize("memory", [1, 9])
@pytest.mark.parametrize("size", [1, 100, 10_240, LIMIT])
def test_incompressible_data_is_within_the_limit(size: int, memory: int, level: int) -> None:
    stream = zlib.compressobj(level, zlib.DEFLATED, -9, memory)
    data = stream.compress(NOISE[:size]) + stream.flush(zlib.Z_SYNC_FLUSH)
    assert len(data) <= compressed_limit(size)


def test_a_bomb_takes_the_memory_of_its_limit() -> None:
    data = bomb(50 * MIB)
    assert len(data) < 52_000
    tracemalloc.start()
    try:
        with pytest.raises(InflatedTooBig):
            inflate(data)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * LIMIT


STEPPED = {
    "a bomb": bomb(LIMIT),
    "empty blocks": EMPTY_BLOCK * 10_000 + b"\x00",
    "noise": deflate(NOISE),
    "ends": b"\x03\x00" * FINAL_BLOCKS + b"\x00",
}


@pytest.mark.parametrize("name", STEPPED)
def test_each_step_is_small(name: str) -> None:
    data = STEPPED[name]
    inflater, steps, before = Inflater(data, max_bytes=LIMIT), 1, 0
    while not inflater.step():
        steps += 1
        assert len(inflater.data) - before <= STEP_BYTES
        before = len(inflater.data)
    assert steps >= len(data) // PIECE_BYTES
    assert steps >= len(inflater.data) // STEP_BYTES
    assert steps <= len(data) // PIECE_BYTES + len(inflater.data) // STEP_BYTES + FINAL_BLOCKS + 3


@given(
    text=st.binary(max_size=5000) | st.integers(1, 100_000).map(lambda size: b"ab" * size),
    level=st.integers(0, 9),
    bits=st.integers(9, 15),
)
def test_data_that_a_client_compresses_is_inflated(text: bytes, level: int, bits: int) -> None:
    assert inflate(deflate(text, level=level, bits=bits), len(text)) == text


@given(data=st.binary(max_size=3000), max_bytes=st.integers(0, 1000))
@example(data=deflate(TEXT)[:-3], max_bytes=50_000)
def test_any_bytes_have_an_end(data: bytes, max_bytes: int) -> None:
    with suppress(NotInflatable, InflatedTooBig):
        assert len(inflate(data, max_bytes)) <= max_bytes
