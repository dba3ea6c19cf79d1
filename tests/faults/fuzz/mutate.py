"""Damage: of bytes, of text, of the structure of JSON, XML, zip files and pickles."""

from __future__ import annotations

import io
import json
import os
import pickle
import random
import struct
import subprocess
import zipfile
from collections.abc import Callable
from typing import Any

Mutator = Callable[[random.Random, bytes], bytes]

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1)
CANARY = "CANARY"  # the file that payloads would write into the current folder


def truncate(rng: random.Random, data: bytes) -> bytes:
    """Cut the end off, often near the start or the end."""
    size = len(data)
    at = rng.choice([rng.randrange(size + 1), rng.randrange(min(size, 64) + 1)])
    return data[: rng.choice([at, size - min(at, size)])]


def flip_bits(rng: random.Random, data: bytes) -> bytes:
    """Flip one to sixteen bits."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4, 16])):
        if out:
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def flip_head(rng: random.Random, data: bytes) -> bytes:
    """Flip bits among the first bytes, where headers are."""
    head = min(len(data), 96)
    return flip_bits(rng, data[:head]) + data[head:]


def lie(rng: random.Random, data: bytes) -> bytes:
    """Overwrite what may be a length by an extreme value."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 3])):
        value = rng.choice([*EXTREMES, rng.getrandbits(32), len(data), 2**63 - 1])
        kind = rng.choice("<>") + rng.choice("BHIQ")
        size = struct.calcsize(kind)
        packed = struct.pack(kind, value & (256**size - 1))
        limit = rng.choice([len(out), min(len(out), 96)])
        at = rng.randrange(max(1, limit))
        out[at : at + size] = packed
    return bytes(out)


def splice(rng: random.Random, data: bytes) -> bytes:
    """Copy, move, repeat or delete a stretch."""
    size = len(data)
    a, b = sorted((rng.randrange(size + 1), rng.randrange(size + 1)))
    at = rng.randrange(size + 1)
    part = data[a : min(b, a + 4096)]
    return rng.choice(
        [
            data[:a] + data[b:],
            data[:at] + part + data[at:],
            data[:at] + part * rng.choice([2, 50]) + data[at:],
            data[:at] + part + data[at + len(part) :],
            data[:at] + bytes(rng.choice([1, 16, 3000])) + data[at:],
            data[:at] + rng.randbytes(rng.choice([1, 8, 200])) + data[at:],
        ]
    )


def nothing_like_it(rng: random.Random, data: bytes) -> bytes:
    """Another kind of file altogether."""
    return rng.choice(
        [
            b"",
            b"\0",
            b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
            b"this is text\n" * 9,
            rng.randbytes(300),
            b"PK\3\4",
            b"\x80\x02.",
        ]
    )


BYTES: list[Mutator] = [
    *(truncate, flip_bits, flip_bits, flip_head, lie, lie, splice),
    nothing_like_it,
]

_WORDS = [
    *(b"\xff\xfe", b"\xc3\x28", b"\xed\xa0\x80", b"\0", b"\r", b"\x0c", b"\x85"),
    *("\u2028".encode(), "\ufeff".encode(), "\u0665".encode(), b"../../etc/passwd"),
    *(b"-1", b"1e999", b"9" * 5000, b"99999999999999999999", b"NaN", b"1_000", b"0x7"),
    *(b" " * 30000 + b"x", b"a/" * 3000, b"%s%n", b"'", b'"', b"<", b"&lol;", b"{}"),
    b"400000000000",
]


def words(rng: random.Random, data: bytes) -> bytes:
    """Put hard words into text, in the place of some of it or beside it."""
    for _ in range(rng.choice([1, 1, 2, 5])):
        at = rng.randrange(len(data) + 1)
        gone = rng.choice([0, 0, 1, 5])
        data = data[:at] + rng.choice(_WORDS) + data[at + gone :]
    return data


def fields(rng: random.Random, data: bytes) -> bytes:
    """Replace whole fields of text lines."""
    lines = data.split(b"\n")
    for _ in range(rng.choice([1, 1, 3])):
        at = rng.randrange(len(lines))
        parts = lines[at].split(b" ")
        parts[rng.randrange(len(parts))] = rng.choice(_WORDS)
        lines[at] = b" ".join(parts)
    return b"\n".join(lines)


TEXT: list[Mutator] = [*BYTES, words, words, fields, fields, fields]


def _odd_value(rng: random.Random) -> Any:
    nested: Any = 0
    for _ in range(rng.choice([3, 30])):
        nested = rng.choice([[nested], {"a": nested}])
    return rng.choice(
        [
            *(None, True, 0, -1, 1.5, 10**30, 2**63, -(2**63), 1e308, 10**4000),
            *(float("nan"), float("inf"), "", "x", "\0", "\ud800", "a" * 5000, "../.."),
            *([], {}, [[]], [None], {"": None}, [1, "a"], nested, "12", "1e5", "nan"),
        ]
    )


def tree(rng: random.Random, data: bytes) -> bytes:
    """Change values, types and keys in JSON."""
    content = json.loads(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        places: list[tuple[Any, Any]] = []
        waiting = [content]
        while waiting:
            node = waiting.pop()
            items = node.items() if isinstance(node, dict) else enumerate(node)
            for key, value in items:
                places.append((node, key))
                if isinstance(value, (dict, list)) and value:
                    waiting.append(value)
        if not places:
            break
        node, key = rng.choice(places)
        action = rng.random()
        if action < 0.65:
            node[key] = _odd_value(rng)
        elif action < 0.85:
            del node[key]
        elif isinstance(node, dict):
            node[str(_odd_value(rng))[:50]] = node.pop(key)
        else:
            node.append(node[key])
    if rng.random() < 0.05:
        content = _odd_value(rng)
    return json.dumps(content).encode("utf-8", "surrogatepass")


def json_text(rng: random.Random, data: bytes) -> bytes:
    """What the structure cannot express: nesting, double keys, odd numbers."""
    at = data.find(b":", rng.randrange(len(data))) + 1
    depth = rng.choice([50, 990, 100_000])
    deep = rng.choice([b"[" * depth + b"]" * depth, b'{"a":' * depth + b"1"])
    return rng.choice(
        [
            data[:at] + deep + data[at:],
            deep,
            data[:-1] + b',"images":3,"annotations":[],"stages":1}',
            data[:at] + b"-" + b"9" * rng.choice([20, 400, 5000]) + b"," + data[at:],
            data.replace(b"1", rng.choice([b"1e400", b"-0", b"1.0", b"Infinity"])),
            data.decode().encode(rng.choice(["utf-16", "utf-32", "utf-8-sig"])),
        ]
    )


JSON: list[Mutator] = [*BYTES, words, tree, tree, tree, tree, tree, json_text]


def xml_text(rng: random.Random, data: bytes) -> bytes:
    """Entities that explode or read files, nesting, encodings."""
    laughs = "".join(
        f'<!ENTITY l{i} "{f"&l{i - 1};" * 10 if i else "lol"}">' for i in range(9)
    )
    body = data[data.find(b"<annotation") :]
    depth = rng.choice([50, 2000, 50_000])
    name = body.replace(b"circle", b"&x;", 1).replace(b"dog", b"&x;", 1)
    number = rng.choice([b"NaN", b"inf", b"-5", b"", b" 3 ", b"1e999", b"9" * 5000])
    tags = [b"xmin", b"xmax", b"width", b"height", b"name", b"difficult", b"bndbox"]
    tag = rng.choice(tags)
    start = data.find(b"<" + tag + b">") + len(tag) + 2
    end = data.find(b"</" + tag + b">")
    return rng.choice(
        [
            f'<!DOCTYPE a [{laughs}<!ENTITY x "&l8;">]>'.encode() + name,
            b'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>' + name,
            b'<!DOCTYPE a SYSTEM "http://127.0.0.1:9/x.dtd">' + name,
            f'<!DOCTYPE a [<!ENTITY x "{"y" * 10**5}">]>'.encode()
            + name.replace(b"&x;", b"&x;" * 5000),
            b"<a>" * depth + b"</a>" * depth,
            b"<annotation>" + b"<object>" * depth,
            rng.choice(
                [
                    b'<?xml version="1.0" encoding="utf-16"?>' + body,
                    b'<?xml version="1.0" encoding="no-such"?>' + body,
                    b'<?xml version="1.0" encoding="idna"?>' + body,
                    b'<?xml version="9"?>' + body,
                    body.decode().encode("utf-16"),
                ]
            ),
            *[data[:start] + number + data[end:]] * 4,
            *[data.replace(b"<" + tag + b">", b"<other>")] * 2,
        ]
    )


XML: list[Mutator] = [*BYTES, words, words, xml_text, xml_text, xml_text, xml_text]


class _Call:
    def __init__(self, *call: Any) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return self.call


def payloads() -> list[Any]:
    """Objects whose pickles run something when they are loaded."""
    code = f"open({CANARY!r}, 'w')"
    return [
        _Call(os.system, (f"touch {CANARY}",)),
        _Call(eval, (code,)),
        _Call(exec, (code,)),
        _Call(open, (CANARY, "w")),
        _Call(subprocess.call, (["touch", CANARY],)),
        _Call(getattr, (dict, "fromkeys")),
        _Call(__import__, ("antigravity",)),
        _Call(map, (eval, [code])),
        _Call(setattr, (_Call, CANARY, 1)),
    ]


def payload_bytes() -> list[bytes]:
    """Pickles that run something, in every protocol, and ones that only exhaust."""
    found = [pickle.dumps(p, k) for p in payloads() for k in range(6)]
    found += [pickle.dumps({"data": p, "labels": [p]}, 2) for p in payloads()]
    touch = f"touch {CANARY}".encode()
    found += [
        b"cos\nsystem\n(S'" + touch + b"'\ntR.",
        b"(S'" + touch + b"'\nios\nsystem\n.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c"
        + bytes([len(touch)])
        + touch
        + b"\x85R.",
        b"cbuiltins\ngetattr\n(cbuiltins\n__import__\nS'x'\ntR.",
        b"c__main__\nx.__class__.__mro__\n.",
        b"]\x94r\xff\xff\xff\xff.",  # object number 2^32 - 1
        b"\x80\x02]q\x00r\xff\xff\xff\x7f.",
        b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"a.",  # that many bytes
        b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b"a.",
        b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"N.",
        b"\x8b" + struct.pack("<i", 2**31 - 1) + b"1.",
        b"I" + b"9" * 100_000 + b"\n.",
        b"(" * 100_000 + b"l" * 1000 + b".",
        b"]" * 100_000 + b"a" * 99_999 + b".",
        b"}" + b"2" * 10_000 + b".",
        b"\x80\x02" + b"](" + b"0" * 5 + b".",
        b"N" + b"2\x86" * 60 + b".",  # a tree of 2^60 leaves
    ]
    return found


def pickles(rng: random.Random, data: bytes) -> bytes:
    """A pickle that runs or exhausts, alone or among the data."""
    evil = rng.choice(payload_bytes())
    at = rng.randrange(len(data))
    return rng.choice([evil, evil, evil, evil[:-1] + b"0" + data, data[:at] + evil])


PICKLE: list[Mutator] = [*BYTES, pickles, pickles]


def rezip(rng: random.Random, data: bytes) -> bytes:
    """Pack a zip file anew with other members, so that its checksums are right."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
    except Exception:  # a seed without zip
        return flip_bits(rng, data)
    names = list(members)
    name = rng.choice([*names, *[n for n in names if n.endswith(".pkl")] * 4])
    action = rng.randrange(9)
    options: dict[str, Any] = {}
    if action <= 2:
        members[name] = rng.choice(BYTES)(rng, members[name])
    elif action == 3:
        members[name] = pickles(rng, members[name] or b".")
    elif action == 4:
        del members[name]
    elif action == 5:  # a bomb: a few hundred kB that become 300 MB
        members[name] = bytes(300_000_000) if rng.random() < 0.1 else bytes(10**6)
        options["compression"] = zipfile.ZIP_DEFLATED
    elif action == 6:
        top = names[0].split("/")[0]
        extra = rng.choice(["constants.pkl", "../../escape", "data.pkl", "byteorder"])
        members[f"{top}/{extra}"] = rng.choice([b"", b"\x80\x02}.", b"big", b"\xff"])
    elif action == 7:
        members = {
            rng.choice([n, n[1:], f"x{n}", "../" + n]): members[n] for n in names
        }
    else:  # numbers and types inside of a pickle or of an .npy header
        content = members[name]
        for old, new in (
            *((b"FloatStorage", b"LongStorage"), (b"float32", b"float64")),
            *((b"'<i8'", b"'|O'"), (b"'<i4'", b"'<i8'"), (b"(4,)", b"(9999999999,)")),
            *(
                (b"False", b"True"),
                (b"shape", b"shap"),
                (b"K\x04", b"J\xff\xff\xff\x7f"),
            ),
            (b"cpu", b"gpu"),
        ):
            if rng.random() < 0.4:
                content = content.replace(old, new)
        members[name] = lie(rng, content) if content == members[name] else content
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        for member, content in members.items():
            archive.writestr(member, content)
    return buffer.getvalue()


ZIP: list[Mutator] = [*BYTES, rezip, rezip, rezip, rezip, rezip, rezip]
