"""Frames: a `uint32` big-endian length, then one CBOR map of that many bytes.

The decoder is strict, because peers may be hostile: no indefinite lengths, no duplicate keys, no keys but text (and bytes,
which the schema refuses), bounded depth, no semantic tags (RFC 8949, section 3.4, lets a tag ask for arbitrary work), and a length
checked before a byte of the body is kept.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NoReturn

import cbor2

from .errors import EngramError

LENGTH = struct.Struct(">I")
MAX_DEPTH = 16


def _refuse_tag(_decoder: object, *_rest: object) -> NoReturn:
    raise ValueError("semantic tags are not allowed")


# Every tag that cbor2 would act on, and the hook for the others.
_TAGS: Mapping[int, Callable[..., Any]] = dict.fromkeys(
    (*(0, 1, 2, 3, 4, 5, 24, 25, 28, 29, 30, 35, 36, 37, 43000, 52, 54, 100), *(256, 258, 260, 261, 1004, 55799)), _refuse_tag
)


def decode(data: bytes) -> Any:
    """Decode one CBOR item that fills `data`; raises EngramError("protocol") for anything else."""
    source = io.BytesIO(data)
    try:
        value = cbor2.CBORDecoder(
            source,
            tag_hook=_refuse_tag,
            semantic_decoders=_TAGS,
            max_depth=MAX_DEPTH,
            allow_indefinite=False,
            allow_duplicate_keys=False,
            strict_hashable_types=True,
        ).decode()
    except (cbor2.CBORDecodeError, ValueError, RecursionError, MemoryError, OverflowError) as error:
        raise EngramError("protocol", f"the frame is not valid CBOR: {error}") from error
    if source.tell() != len(data):
        raise EngramError("protocol", "the frame is not valid CBOR: bytes follow the first item")
    return value


encode: Callable[[Any], bytes] = cbor2.dumps


def _head(major: int, count: int) -> bytes:
    """The head of an item of a major type (RFC 8949, section 3): here, how many items or pairs follow."""
    if count < 24:
        return bytes((major << 5 | count,))
    size = 0 if count < 2**8 else 1 if count < 2**16 else 2
    return bytes((major << 5 | 24 + size,)) + count.to_bytes(1 << size)


def encode_array(items: Sequence[bytes]) -> bytes:
    """A CBOR array of items that are already encoded."""
    return _head(4, len(items)) + b"".join(items)


def encode_map(members: Mapping[str, bytes]) -> bytes:
    """A CBOR map whose values are already encoded."""
    return _head(5, len(members)) + b"".join(encode(key) + value for key, value in members.items())


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
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Take bytes and yield the bodies that are now whole, in order. Exhaust it before the next call.

        Raises:
            EngramError: `too_large` when a length over the limit is reached. The stream cannot be resumed after it.
        """
        buffer = self._buffer
        buffer += data
        at = 0
        try:
            while len(buffer) - at >= LENGTH.size:
                start = at + LENGTH.size
                (length,) = LENGTH.unpack_from(buffer, at)
                if length > self.max_frame:
                    raise EngramError(
                        "too_large",
                        f"a frame of {length} bytes is over the limit of {self.max_frame}",
                        limit=self.max_frame,
                        size=length,
                    )
                if len(buffer) - start < length:
                    break
                at = start + length
                yield bytes(memoryview(buffer)[start:at])
        finally:
            del buffer[:at]

    @property
    def partial(self) -> int:
        """The bytes of a frame that has not arrived whole."""
        return len(self._buffer)

    def clear(self) -> None:
        """Forget what has not arrived whole."""
        self._buffer = bytearray()
