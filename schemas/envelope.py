"""The envelope of a document, fast in both directions: of a page's records only the document differs,
so the rest is encoded and decoded once for each page, and no field of the document is ever touched."""

from __future__ import annotations

from reshelve.schemas.codec import DOCUMENT, PREFIX_BYTES, CodecError

VERSION_HEADER = "version"


def _length(size: int) -> bytes:
    """`size` as Avro's zigzag varint."""
    value = size << 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def envelope_head(version: int, read_at: int) -> bytes:
    """All of the record before the document's length, encoded by fastavro once for a page."""
    return DOCUMENT.encode({"version": version, "read_at": read_at, "document": b""})[:-1]


def seal(head: bytes, document: bytes) -> bytes:
    """The record: `head`, the document's length, the document."""
    size = len(document)
    if size < 8192:  # by far the most: one or two bytes of length, built without a loop
        if size < 64:
            return b"%b%c%b" % (head, size << 1, document)
        return b"%b%c%c%b" % (head, size << 1 & 0x7F | 0x80, size >> 6, document)
    return b"".join((head, _length(size), document))


class EnvelopeReader:
    """Opens envelopes. The head of the record before is remembered: while it is the same (a page has
    one), the version is known and the document's place follows from the record's size alone."""

    def __init__(self) -> None:
        self._head = b"\x00"  # no record starts with it
        self._version = 0

    def open(self, record: bytes) -> tuple[int, bytes]:
        """(version, document). Raises CodecError when `record` is not a document."""
        if not record.startswith(self._head):
            self._learn(record)
        rest = len(record) - len(self._head)
        # The varint of a length n takes 1 byte below 2**6, 2 below 2**13, one more for each 7 bits.
        size = 1
        while rest - size >= 1 << 7 * size - 1:
            size += 1
        return self._version, record[len(self._head) + size :]

    def _learn(self, record: bytes) -> None:
        fields = DOCUMENT.decode(record)
        head = envelope_head(fields["version"], fields["read_at"])
        if record != seal(head, fields["document"]):
            raise CodecError("not a Document: bytes after the record")
        assert len(head) > PREFIX_BYTES
        self._head, self._version = head, fields["version"]
