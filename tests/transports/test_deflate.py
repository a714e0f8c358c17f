"""permessage-deflate: what is agreed on, and how messages are compressed."""

import random
import zlib

import pytest
import trio
from attrs import define, field
from support.deflating import RSV1, TAIL, inflate, server_messages
from support.wire import BINARY, FIN, TEXT

from netra_trio.protocol.binary import BinaryFrame
from netra_trio.transports.deflate import PIECE_BYTES, SMALLEST, Compression, Deflate
from netra_trio.transports.frames import SharedPayload
from netra_trio.transports.headers import by_name

NONE = "server_no_context_takeover; client_no_context_takeover"
WORDS = b"the quick brown fox jumps over the lazy dog "
NOISE = random.Random(7).randbytes(3 * SMALLEST)  # noqa: S311 - not for a secret


@define
class Counter:
    """The counted messages."""

    counted: list[tuple[str, int, int]] = field(factory=list)

    def __call__(self, direction: str, plain: int, compressed: int) -> None:
        self.counted.append((direction, plain, compressed))


def agree(*values: str) -> Deflate | None:
    headers = [(b"Sec-WebSocket-Extensions", value.encode()) for value in values]
    return Compression(Counter()).agree(by_name(headers))


def text_of(size: int) -> bytes:
    return (WORDS * (size // len(WORDS) + 1))[:size]


# --- negotiation

ACCEPTED = {
    "permessage-deflate": (15, NONE),
    # What browsers offer.
    "permessage-deflate; client_max_window_bits": (15, NONE),
    "permessage-deflate;client_max_window_bits=10": (15, NONE),
    'permessage-deflate; client_max_window_bits="8"': (15, NONE),
    "permessage-deflate; server_no_context_takeover": (15, NONE),
    "permessage-deflate; client_no_context_takeover; server_no_context_takeover": (15, NONE),
    "permessage-deflate; server_max_window_bits=15": (15, f"{NONE}; server_max_window_bits=15"),
    "permessage-deflate; server_max_window_bits=9": (9, f"{NONE}; server_max_window_bits=9"),
    "permessage-deflate; server_max_window_bits=12; client_max_window_bits": (
        12,
        f"{NONE}; server_max_window_bits=12",
    ),
    "x-webkit-deflate-frame, permessage-deflate": (15, NONE),
    "permessage-bzip2; level=9, permessage-deflate": (15, NONE),
    # The first offer that can be accepted.
    "permessage-deflate; server_max_window_bits=10, permessage-deflate": (
        10,
        f"{NONE}; server_max_window_bits=10",
    ),
    "permessage-deflate; server_max_window_bits=8, permessage-deflate": (15, NONE),
    "permessage-deflate; unknown, permessage-deflate; client_max_window_bits": (15, NONE),
}

DECLINED = [
    "permessage-deflate; unknown",
    "permessage-deflate; unknown=1",
    "permessage-deflate; server_no_context_takeover=1",
    "permessage-deflate; client_no_context_takeover=true",
    "permessage-deflate; server_max_window_bits",
    "permessage-deflate; server_max_window_bits=7",
    "permessage-deflate; server_max_window_bits=8",
    "permessage-deflate; server_max_window_bits=16",
    "permessage-deflate; server_max_window_bits=09",
    "permessage-deflate; server_max_window_bits=abc",
    "permessage-deflate; client_max_window_bits=7",
    "permessage-deflate; client_max_window_bits=16",
    "permessage-deflate; client_max_window_bits=+9",
    "permessage-deflate; server_no_context_takeover; server_no_context_takeover",
    "permessage-deflate; client_no_context_takeover; client_no_context_takeover",
    "permessage-deflate; client_max_window_bits; client_max_window_bits",
    "permessage-deflate; server_max_window_bits=9; server_max_window_bits=10",
    "permessage-deflate; unknown, permessage-deflate; other",
    "Permessage-Deflate",
    "deflate",
    "",
    " , ",
]


@pytest.mark.parametrize("offer", ACCEPTED)
def test_an_offer_is_accepted(offer: str) -> None:
    bits, parameters = ACCEPTED[offer]
    agreed = agree(offer)
    assert agreed is not None
    assert (agreed.window_bits, agreed.response) == (bits, f"permessage-deflate; {parameters}")


@pytest.mark.parametrize("offer", DECLINED)
def test_an_offer_is_declined(offer: str) -> None:
    assert agree(offer) is None


def test_without_an_offer_nothing_is_selected() -> None:
    assert agree() is None


def test_offers_may_be_in_several_headers() -> None:
    agreed = agree(
        "permessage-deflate; unknown", "", "permessage-deflate; server_max_window_bits=9"
    )
    assert agreed is not None
    assert agreed.window_bits == 9


def test_connections_share_what_they_agree_on() -> None:
    compression = Compression(Counter())
    headers = by_name([(b"Sec-WebSocket-Extensions", b"permessage-deflate")])
    assert compression.agree(headers) is compression.agree(headers)


# --- compressing


@pytest.fixture
def counter() -> Counter:
    return Counter()


@pytest.fixture
def deflate(counter: Counter) -> Deflate:
    return Deflate(15, "", counter)


async def test_messages_from_1_kib_on_are_compressed(deflate: Deflate, counter: Counter) -> None:
    below, at = text_of(SMALLEST - 1), text_of(SMALLEST)
    assert not deflate.compresses([b"", below])
    assert deflate.compresses([below, at])
    assert not deflate.compresses([])
    data = await deflate.frames(TEXT, [below, at])
    assert list(server_messages(data)) == [(TEXT, below, False), (TEXT, at, True)]
    [(direction, plain, compressed)] = counter.counted
    assert (direction, plain) == ("sent", SMALLEST)
    assert len(data) == 4 + len(below) + 4 + compressed - (2 if compressed < 126 else 0)


async def test_a_binary_message_may_stand_between_texts(deflate: Deflate) -> None:
    small, large = BinaryFrame(b"small"), BinaryFrame(text_of(5000))
    data = await deflate.frames(TEXT, [b"before", small, large, text_of(5000)])
    assert list(server_messages(data)) == [
        (TEXT, b"before", False),
        (BINARY, small, False),
        (BINARY, large, True),
        (TEXT, text_of(5000), True),
    ]


async def test_a_message_that_would_not_be_shorter_is_not_compressed(
    deflate: Deflate, counter: Counter
) -> None:
    data = await deflate.frames(BINARY, [NOISE, text_of(5000)])
    assert list(server_messages(data)) == [(BINARY, NOISE, False), (BINARY, text_of(5000), True)]
    assert [plain for _, plain, _ in counter.counted] == [5000]
    shared = SharedPayload(NOISE)
    assert deflate.shared_frame(shared) == shared.text_frame
    deflate.count_shared(shared)
    assert len(counter.counted) == 1


@pytest.mark.parametrize("bits", range(9, 16))
@pytest.mark.parametrize("size", [SMALLEST, 70_000, 256 * 1024])
async def test_a_client_needs_no_larger_window_than_agreed(bits: int, size: int) -> None:
    """With a small window zlib refuses a reference beyond it, if it inflates in parts."""
    text = b"".join(b"%d, " % (number * number) for number in range(size // 10))
    text = (text * 2)[:size]
    data = await Deflate(bits, "", Counter()).frames(TEXT, [text])
    payload = data[10 if len(data) > 65_545 else 4 :]
    assert data[0] == FIN | RSV1 | TEXT
    assert not payload.endswith(TAIL)
    assert inflate_in_parts(payload, bits) == text
    assert inflate(payload) == text


def inflate_in_parts(payload: bytes, bits: int) -> bytes:
    """Inflate with a buffer that holds nothing of what was inflated before."""
    stream, text, left = zlib.decompressobj(-bits), b"", payload + TAIL
    while left:
        text += stream.decompress(left, 100)
        left = stream.unconsumed_tail
    return text + stream.flush()


async def test_nothing_is_kept_for_the_next_message(deflate: Deflate) -> None:
    text = text_of(5000)
    first, second = await deflate.frames(TEXT, [text]), await deflate.frames(TEXT, [text])
    assert first == second


@pytest.mark.parametrize(
    ("sizes", "checkpoints"),
    [
        ([PIECE_BYTES], 0),
        ([PIECE_BYTES + 1], 1),
        ([8 * PIECE_BYTES], 7),
        ([PIECE_BYTES // 2] * 5, 2),
    ],
)
async def test_other_tasks_run_while_much_is_compressed(
    deflate: Deflate, monkeypatch: pytest.MonkeyPatch, sizes: list[int], checkpoints: int
) -> None:
    count, checkpoint = 0, trio.lowlevel.checkpoint

    async def counted() -> None:
        nonlocal count
        count += 1
        await checkpoint()

    monkeypatch.setattr(trio.lowlevel, "checkpoint", counted)
    await deflate.frames(TEXT, [text_of(size) for size in sizes])
    assert count == checkpoints


async def test_a_shared_payload_is_compressed_once_for_each_window(counter: Counter) -> None:
    payload = SharedPayload(text_of(5000))
    large, small = Deflate(15, "", counter), Deflate(9, "", counter)
    framed = large.shared_frame(payload)
    assert large.shared_frame(payload) is framed
    assert await large.frames(TEXT, [payload, payload]) == framed + framed
    assert list(server_messages(framed)) == [(TEXT, payload, True)]
    assert small.shared_frame(payload) is not framed
    assert sorted(payload.compressed) == [9, 15]
    assert len(counter.counted) == 2  # those of `frames`
    large.count_shared(payload)
    assert counter.counted[2] == counter.counted[0]


def test_a_small_shared_payload_is_not_compressed(deflate: Deflate, counter: Counter) -> None:
    payload = SharedPayload(text_of(SMALLEST - 1))
    assert deflate.shared_frame(payload) is payload.text_frame
    deflate.count_shared(payload)
    assert not counter.counted
