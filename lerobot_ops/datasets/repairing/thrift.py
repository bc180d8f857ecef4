"""Thrift's compact protocol, as much of it as parquet's metadata needs: structs to Python values and back."""

from typing import Any

_TRUE, _FALSE, _BYTE, _I16, _I32, _I64, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = range(1, 13)
_INTEGERS = (_I16, _I32, _I64)


class Struct(dict[int, Any]):
    """A struct's fields by their number; `types` keeps each field's type, so that it can be written again."""

    def __init__(self, values: "Struct | None" = None) -> None:
        super().__init__(values or {})
        self.types: dict[int, Any] = dict(values.types) if values is not None else {}

    def put(self, field: int, value: Any, *, like: int) -> None:
        """Set a field that may be new, of the same type as the field `like`."""
        self[field], self.types[field] = value, self.types[like]


class _List(list[Any]):
    """A list that knows the type of its elements."""

    kind = _STRUCT


def load_struct(content: bytes) -> tuple[Struct, int]:
    """The struct at the beginning of `content`, and how many bytes it takes; raises IndexError or ValueError."""
    return _Reader(content).struct()


def dump_struct(struct: Struct) -> bytes:
    """The bytes of a struct that `load_struct` made; lists may have grown, fields may have gone."""
    out = bytearray()
    _write_struct(out, struct)
    return bytes(out)


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._content, self._at = content, 0

    def struct(self) -> tuple[Struct, int]:
        found, field = Struct(), 0
        while head := self._byte():
            kind, step = head & 15, head >> 4
            field = field + step if step else _unzigzag(self._varint())
            found[field], found.types[field] = self._value(kind, in_list=False), kind
        return found, self._at

    def _value(self, kind: int, in_list: bool) -> Any:
        if kind in (_TRUE, _FALSE):
            return self._byte() == _TRUE if in_list else kind == _TRUE
        if kind == _BYTE:
            return self._byte()
        if kind in _INTEGERS:
            return _unzigzag(self._varint())
        if kind == _DOUBLE:
            return self._take(8)
        if kind == _BINARY:
            return self._take(self._varint())
        if kind in (_LIST, _SET):
            head = self._byte()
            size = head >> 4
            found = _List()
            found.kind = head & 15
            found += (self._value(found.kind, in_list=True) for _ in range(self._varint() if size == 15 else size))
            return found
        if kind == _STRUCT:
            return self.struct()[0]
        raise ValueError(f"thrift type {kind}")

    def _byte(self) -> int:
        self._at += 1
        return self._content[self._at - 1]

    def _take(self, size: int) -> bytes:
        self._at += size
        if self._at > len(self._content):
            raise IndexError("the struct is cut off")
        return self._content[self._at - size : self._at]

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self._byte()
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 70:
                raise ValueError("a number is too long")


def _write_struct(out: bytearray, struct: Struct) -> None:
    last = 0
    for field in sorted(struct):
        value, kind = struct[field], struct.types[field]
        if kind in (_TRUE, _FALSE):
            kind = _TRUE if value else _FALSE
        if 1 <= field - last <= 15:
            out.append((field - last) << 4 | kind)
        else:
            out.append(kind)
            _write_varint(out, _zigzag(field))
        last = field
        if kind not in (_TRUE, _FALSE):
            _write_value(out, kind, value)
    out.append(0)


def _write_value(out: bytearray, kind: int, value: Any) -> None:
    if kind in (_TRUE, _FALSE):
        out.append(_TRUE if value else _FALSE)
    elif kind == _BYTE:
        out.append(value)
    elif kind in _INTEGERS:
        _write_varint(out, _zigzag(value))
    elif kind == _DOUBLE:
        out += value
    elif kind == _BINARY:
        _write_varint(out, len(value))
        out += value
    elif kind in (_LIST, _SET):
        element = value.kind if isinstance(value, _List) else _STRUCT
        if len(value) < 15:
            out.append(len(value) << 4 | element)
        else:
            out.append(15 << 4 | element)
            _write_varint(out, len(value))
        for each in value:
            _write_value(out, element, each)
    else:
        _write_struct(out, value)


def _write_varint(out: bytearray, value: int) -> None:
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)


def _zigzag(value: int) -> int:
    return value << 1 if value >= 0 else (-value << 1) - 1


def _unzigzag(value: int) -> int:
    return value >> 1 if value & 1 == 0 else -(value >> 1) - 1
