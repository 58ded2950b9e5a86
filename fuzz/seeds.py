#!/usr/bin/env python3
"""Writes what the fuzz targets begin with: FOLDER/TARGET/NAME, from the project's golden files.

    fuzz/seeds.py FOLDER
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MASK = bytes([0x37, 0xFA, 0x21, 0x3D])

REQUEST = (
    "GET /v1/devices/kiln-3 HTTP/1.1\r\nHost: gateway.example\r\nConnection: Upgrade\r\n"
    "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: tidegate.v1{}\r\n{}\r\n"
)

REGISTRY = """# devices
[devices.kiln-3]
token = "sha256:{0}"
created = 2026-01-02T03:04:05Z
previous = "sha256:{1}"
previous_expires = 2026-01-03T03:04:05Z
readings = ["temp*", "door"]
commands = ["set-*"]

[devices.boiler_2]
certificate = true
""".format("ab" * 32, "cd" * 32)

COMMAND = b'{"name":"set-interval","id":"i-1","params":{"seconds":0.5,"list":[1,null,"x"]},"ttl":60,"redeliver":false}'


def golden():
    """Every golden message of the device protocol: its name and its bytes."""
    for file in sorted((ROOT / "tests/golden/wire").glob("*.txt")):
        lines = (line.split("#", 1)[0] for line in file.read_text().splitlines())
        yield file.stem, bytes.fromhex("".join("".join(lines).split()))


def frame(first, payload):
    length = len(payload)
    head = [first, 0x80 | length] if length < 126 else [first, 0xFE, length >> 8, length & 255]
    return bytes(head) + MASK + bytes(b ^ MASK[i % 4] for i, b in enumerate(payload))


def ask(line, more="", body=b""):
    return f"{line} HTTP/1.1\r\nHost: localhost\r\n{more}\r\n".encode() + body


def seeds():
    messages = dict(golden())
    for name, message in messages.items():
        target = "senml" if name.startswith("pack-") else "messages"
        yield target, name, message
        yield "frames", name, b"\xff\x07" + frame(0x82, message)
        half = len(message) // 2
        pieces = [frame(0x02, message[:half]), frame(0x89, b"?"), frame(0x80, message[half:])]
        yield "frames", name + "-pieces", b"\x05\x00" + b"".join(pieces)
    yield "frames", "close", b"\x01\x01" + frame(0x88, b"\x03\xe8bye") + frame(0x89, b"")
    yield "frames", "text", b"\x09\x02" + frame(0x01, b"\xc3") + frame(0x80, b"\xa9")
    yield "frames", "empty-pieces", b"\xff\x01" + frame(0x02, b"") + 200 * frame(0x00, b"")
    yield "frames", "large", b"\xff\x01" + frame(0x82, bytes(400)) + frame(0x82, bytes(401))
    yield "handshake", "plain", REQUEST.format("", "").encode()
    yield "handshake", "browser", REQUEST.format(", bearer.TOKEN", "Origin: https://a.example\r\n").encode()
    yield "handshake", "token", REQUEST.format("", "Authorization: Bearer TOKEN\r\n").encode()
    yield "handshake", "absolute", REQUEST.replace(" /v1", " http://a/v1").format("", "").encode()
    yield "registry", "two", REGISTRY.encode()
    for file in sorted((ROOT / "config").glob("*.toml")):
        yield ("registry" if "devices" in file.name else "configuration"), file.stem, file.read_bytes()
    # Every setting, from the blocks of the document.
    text = (ROOT / "docs/configuration.md").read_text()
    for number, block in enumerate(re.findall(r"```toml\n(.*?)```", text, re.S)):
        yield "configuration", f"document-{number}", block.encode()
    yield "http", "body", COMMAND
    api = (ROOT / "src/dashboard/openapi.json").read_text()
    for number, path in enumerate(re.findall(r'^    "(/[^"]*)": \{', api, re.M)):
        path = re.sub(r"\{[^}]*\}", "kiln-3", path)
        yield "http", f"get-{number}", ask(f"GET {path}?device=kiln-3&limit=5&state=sent&from=1&to=2")
    more = f"Content-Type: application/json\r\nContent-Length: {len(COMMAND)}\r\n"
    yield "http", "post", ask("POST /api/v1/devices/kiln-3/commands?wait=0.5", more, COMMAND)
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(COMMAND), COMMAND)
    more = "Transfer-Encoding: chunked\r\nOrigin: http://localhost\r\n"
    yield "http", "chunked", ask("POST /api/v1/devices/kiln-3/commands", more, chunked)
    upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    yield "http", "stream", ask("GET /api/v1/stream?device=kiln-3", upgrade, frame(0x81, b"{}"))


def main():
    folder = Path(sys.argv[1])
    for target, name, content in seeds():
        (folder / target).mkdir(parents=True, exist_ok=True)
        (folder / target / name).write_bytes(content)


if __name__ == "__main__":
    main()
