"""The few facts about an ONNX file that onnxruntime does not tell, read without loading it."""

from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from robustad.errors import StateError

# Fields of ModelProto, OperatorSetIdProto and StringStringEntryProto (onnx.proto, stable since its
# first release).
OPSET_IMPORT, DOMAIN, VERSION = 8, 1, 2
METADATA_PROPS, KEY, VALUE = 14, 1, 2
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
MAX_VARINT_BYTES = 10
# Bytes read of a field at most; of metadata, room for millions of held-out scores.
LONGEST = {OPSET_IMPORT: 1 << 10, METADATA_PROPS: 1 << 26}


@dataclass(frozen=True)
class Header:
    """What the outermost message of an ONNX file says.

    Attributes
    ----------
    opsets : dict of str to int
        Version of the operators by domain; the standard one is the empty string.
    metadata : dict of str to str
        The custom metadata.
    """

    opsets: dict[str, int]
    metadata: dict[str, str]


def read_header(path: str | Path) -> Header:
    """Walk over the outermost fields of a file; the graph is skipped, whatever its size.

    Parameters
    ----------
    path : str or Path
        The file.

    Raises
    ------
    StateError
        If the file ends within a field, or is no protobuf message of this kind.
    """
    path = Path(path)
    size = path.stat().st_size
    opsets: dict[str, int] = {}
    metadata: dict[str, str] = {}
    with path.open("rb") as file:
        try:
            while file.tell() < size:
                field, wire, value = _field(file, size)
                if wire != BYTES or not isinstance(value, bytes):
                    continue
                if field == OPSET_IMPORT:
                    domain, version = _opset(value)
                    opsets[domain] = version
                elif field == METADATA_PROPS:
                    key, text = _entry(value)
                    metadata[key] = text
        except EOFError as error:
            raise StateError(
                f"{path}: not an ONNX file that can be run: truncated, or another format ({error})"
            ) from error
    if not opsets:
        raise StateError(f"{path}: not an ONNX file that can be run: it names no operator set")
    return Header(opsets, metadata)


def _field(file: BinaryIO, size: int) -> tuple[int, int, int | bytes]:
    """Number, wire type and value of the next field; b'' for a graph, which is skipped."""
    tag = _varint(file)
    field, wire = tag >> 3, tag & 7
    if wire == VARINT:
        return field, wire, _varint(file)
    if wire == BYTES:
        length = _varint(file)
        if file.tell() + length > size:
            raise EOFError(f"{file.tell() + length} bytes expected, {size} there")
        if field in LONGEST:
            if length > LONGEST[field]:
                raise EOFError(f"a field of {length} bytes, expected {LONGEST[field]} at most")
            return field, wire, file.read(length)
        file.seek(length, 1)
        return field, wire, b""
    if wire in (FIXED64, FIXED32):
        file.seek(8 if wire == FIXED64 else 4, 1)
        return field, wire, 0
    raise EOFError(f"no field of a model at byte {file.tell()}")


def _varint(file: BinaryIO) -> int:
    value = 0
    for i in range(MAX_VARINT_BYTES):
        byte = file.read(1)
        if not byte:
            raise EOFError("it ends within a number")
        value |= (byte[0] & 0x7F) << (7 * i)
        if not byte[0] & 0x80:
            return value
    raise EOFError("a number of more than 64 bits")


def _opset(message: bytes) -> tuple[str, int]:
    domain, version = "", 0
    file = BytesIO(message)
    while file.tell() < len(message):
        tag = _varint(file)
        if tag == DOMAIN << 3 | BYTES:
            domain = _text(file, len(message))
        elif tag == VERSION << 3 | VARINT:
            version = _varint(file)
        else:
            raise EOFError("a damaged operator set")
    return domain, version


def _entry(message: bytes) -> tuple[str, str]:
    """Key and value of an entry of the metadata."""
    found = {KEY: "", VALUE: ""}
    file = BytesIO(message)
    while file.tell() < len(message):
        tag = _varint(file)
        if tag & 7 != BYTES or tag >> 3 not in found:
            raise EOFError("a damaged entry of the metadata")
        found[tag >> 3] = _text(file, len(message))
    return found[KEY], found[VALUE]


def _text(file: BinaryIO, size: int) -> str:
    length = _varint(file)
    if file.tell() + length > size:
        raise EOFError("it ends within a text")
    return file.read(length).decode("utf-8", "replace")
