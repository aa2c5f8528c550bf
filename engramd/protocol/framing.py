"""Frames: a `uint32` big-endian length, then one CBOR map of that many bytes.

The decoder is strict, because peers may be hostile: no indefinite lengths, no duplicate keys, no keys but text (and bytes,
which the schema refuses), bounded depth, no semantic tags (RFC 8949, section 3.4, lets a tag ask for arbitrary work), and a length
checked before a byte of the body is kept.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from typing import Any, NoReturn

import cbor2

from .errors import EngramError

LENGTH = struct.Struct(">I")
MAX_DEPTH = 16
MAX_CONTAINERS = 2**17  # lists and maps of one frame: as many as the largest put that is allowed may have
MAX_ITEMS = 2**20  # of a frame with very many of them
_FEW = 64 * 1024  # bytes that cannot hold too many of them to matter
_HEADS = bytes(range(0x80, 0xC0))  # of lists and maps; inside of strings these bytes are something else


def _refuse_tag(_decoder: object, *_rest: object) -> NoReturn:
    raise ValueError("semantic tags are not allowed")


# Every tag that cbor2 would act on, and the hook for the others.
_TAGS: Mapping[int, Callable[..., Any]] = dict.fromkeys(
    (*(0, 1, 2, 3, 4, 5, 24, 25, 28, 29, 30, 35, 36, 37, 43000, 52, 54, 100), *(256, 258, 260, 261, 1004, 55799)), _refuse_tag
)


_decoder = partial(
    cbor2.CBORDecoder,
    tag_hook=_refuse_tag,
    semantic_decoders=_TAGS,
    max_depth=MAX_DEPTH,
    allow_indefinite=False,
    allow_duplicate_keys=False,
    strict_hashable_types=True,
)


def decode(data: bytes) -> Any:
    """Decode one CBOR item that fills `data`; raises EngramError("protocol") for anything else, and for too many lists and maps."""
    if len(data) > _FEW:
        _bound_containers(data)
    source = io.BytesIO(data)
    try:
        value = _decoder(source).decode()
    except (cbor2.CBORDecodeError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise EngramError("protocol", f"the frame is not valid CBOR: {error}") from error
    if source.tell() != len(data):
        raise EngramError("protocol", "the frame is not valid CBOR: bytes follow the first item")
    return value


def _bound_containers(data: bytes) -> None:
    """Raise EngramError("protocol") for more lists and maps than MAX_CONTAINERS: of a byte of a frame they make 60 and more in memory.

    What is no CBOR is left to the decoder. To walk over all items takes longer than to decode them, so it is done only where it must be.
    """
    few = len(data) // 1024
    if sum(1 for _ in islice(_kinds(data), few)) < few:  # nearly all of it is in a few strings
        return
    if len(data) - len(data.translate(None, _HEADS)) <= MAX_CONTAINERS:
        return
    containers = 0
    for nth, major in enumerate(_kinds(data)):
        containers += major in (4, 5)
        if containers > MAX_CONTAINERS or nth > MAX_ITEMS:
            raise EngramError(
                "protocol", f"the frame has more than {MAX_CONTAINERS} lists and maps, or {MAX_ITEMS} items; send less at a time"
            )


def _kinds(data: bytes) -> Iterator[int]:
    """The major type of each item, those inside of others too."""
    at = 0
    while at < len(data):
        major, low = data[at] >> 5, data[at] & 31
        size = 0 if low < 24 else 1 << (low - 24) if low < 28 else len(data)
        if major in (2, 3):
            size += int.from_bytes(data[at + 1 : at + 1 + size]) if size else low
        yield major
        at += 1 + size


encode: Callable[[Any], bytes] = cbor2.dumps


def _head(major: int, count: int) -> bytes:
    """The head of an item of a major type (RFC 8949, section 3): here, how many items or pairs follow."""
    if count < 24:
        return bytes((major << 5 | count,))
    size = 0 if count < 2**8 else 1 if count < 2**16 else 2
    return bytes((major << 5 | 24 + size,)) + count.to_bytes(1 << size)


def encode_array(items: Sequence[bytes]) -> bytes:
    """A CBOR array of items that are already encoded."""
    return b"".join((_head(4, len(items)), *items))


def encode_map(members: Mapping[str, bytes]) -> bytes:
    """A CBOR map whose values are already encoded."""
    parts = [_head(5, len(members))]
    for key, value in members.items():
        parts += (encode(key), value)
    return b"".join(parts)


def frame(body: bytes) -> bytes:
    """Put the length before an encoded body."""
    return LENGTH.pack(len(body)) + body


class FrameDecoder:
    """Cuts a byte stream into frame bodies, however the bytes arrive.

    Args:
        max_frame: the largest body accepted, in bytes.
    """

    def __init__(self, max_frame: int) -> None:
        self.max_frame = max_frame
        self._rest = bytearray()
        self._needed = LENGTH.size  # bytes of it that are worth a look

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take bytes and yield the bodies that are now whole, in order. Exhaust it before the next call.

        Raises:
            EngramError: `too_large` when a length over the limit is reached. The stream cannot be resumed after it.
        """
        if self._rest:
            self._rest += data
            if len(self._rest) < self._needed:  # of a large frame there are many pieces: they are looked at once all are there
                return
            data, self._rest = bytes(self._rest), bytearray()
        at, size = 0, len(data)
        try:
            while size - at >= LENGTH.size:
                start = at + LENGTH.size
                (length,) = LENGTH.unpack_from(data, at)
                if length > self.max_frame:
                    raise EngramError(
                        "too_large",
                        f"a frame of {length} bytes is over the limit of {self.max_frame}",
                        limit=self.max_frame,
                        size=length,
                    )
                if size - start < length:
                    self._needed = LENGTH.size + length
                    break
                at = start + length
                yield data[start:at]
            else:
                self._needed = LENGTH.size
        finally:
            self._rest = bytearray(memoryview(data)[at:])

    @property
    def partial(self) -> int:
        """The bytes of a frame that has not arrived whole."""
        return len(self._rest)

    def clear(self) -> None:
        """Forget what has not arrived whole."""
        self._rest = bytearray()
