# A device in MicroPython, with nothing to install: WebSocket (RFC 6455) and CBOR (RFC 8949) are
# below, as small as they get. Runs on CPython as well.
#
#     python device.py ws://127.0.0.1:7070 kiln-3 TOKEN COUNT [SECONDS_BETWEEN]
#
# On a board: connect to the network first, then
#     import device
#     device.run("ws://192.0.2.1:7070", "kiln-3", TOKEN, measure=lambda: [("temperature", "Cel", 21.5)])
#
# Keeps what is not acknowledged and sends it again after a reconnect. The board needs no clock:
# each reading carries how many seconds ago it was measured.

import os
import socket
import struct
import sys
import time

try:
    from binascii import b2a_base64
except ImportError:
    from ubinascii import b2a_base64

KEEP = 100  # batches kept while there is no connection; about 100 bytes each
REMEMBER = 16  # commands whose answers are remembered, so that a repeated one runs once
REPEAT = 8  # of them, how many are said again after a reconnect


class Final(Exception):
    """Trying again would end the same way."""


# ---------------------------------------------------------------- CBOR


def encode(item):
    if item is None:
        return b"\xf6"
    if item is True or item is False:
        return b"\xf5" if item else b"\xf4"
    if isinstance(item, int):
        return _head(0, item) if item >= 0 else _head(1, -1 - item)
    if isinstance(item, float):
        return b"\xfb" + struct.pack(">d", item)
    if isinstance(item, str):
        text = item.encode()
        return _head(3, len(text)) + text
    if isinstance(item, (list, tuple)):
        return _head(4, len(item)) + b"".join([encode(i) for i in item])
    if isinstance(item, dict):
        pairs = [encode(k) + encode(v) for k, v in item.items()]
        return _head(5, len(pairs)) + b"".join(pairs)
    raise TypeError("cannot be encoded")


def _head(major, value):
    for size, extra, form in ((24, None, None), (1 << 8, 24, ">B"), (1 << 16, 25, ">H"),
                              (1 << 32, 26, ">I")):
        if value < size:
            if extra is None:
                return bytes([major << 5 | value])
            return bytes([major << 5 | extra]) + struct.pack(form, value)
    return bytes([major << 5 | 27]) + struct.pack(">Q", value)


def decode(data):
    return _decode(data, 0)[0]


def _decode(data, at):
    major, extra = data[at] >> 5, data[at] & 31
    at += 1
    if major == 7:
        if extra in (20, 21, 22):
            return (False, True, None)[extra - 20], at
        if extra == 25:  # short numbers such as 0.5 come as half floats
            return _half(data[at] << 8 | data[at + 1]), at + 2
        size, form = {26: (4, ">f"), 27: (8, ">d")}[extra]
        return struct.unpack(form, data[at:at + size])[0], at + size
    value = extra
    if extra >= 24:
        size, form = {24: (1, ">B"), 25: (2, ">H"), 26: (4, ">I"), 27: (8, ">Q")}[extra]
        value = struct.unpack(form, data[at:at + size])[0]
        at += size
    if major == 0:
        return value, at
    if major == 1:
        return -1 - value, at
    if major in (2, 3):
        text = bytes(data[at:at + value])
        return (text.decode() if major == 3 else text), at + value
    if major == 4:
        items = []
        for _ in range(value):
            item, at = _decode(data, at)
            items.append(item)
        return items, at
    if major == 5:
        pairs = {}
        for _ in range(value):
            key, at = _decode(data, at)
            pairs[key], at = _decode(data, at)
        return pairs, at
    return _decode(data, at)  # a tag: only what it stands before counts


def _half(bits):
    exponent, fraction = bits >> 10 & 31, bits & 1023
    if exponent == 31:
        value = float("nan") if fraction else float("inf")
    elif exponent:
        value = (1024 + fraction) * 2.0 ** (exponent - 25)
    else:
        value = fraction * 2.0 ** -24
    return -value if bits & 0x8000 else value


# ---------------------------------------------------------------- WebSocket


class WebSocket:
    def __init__(self, url, path, token):
        scheme, _, rest = url.partition("://")
        address, _, base = rest.partition("/")
        if base:
            path = "/" + base.rstrip("/") + path  # behind a proxy
        host, _, port = address.partition(":")
        port = int(port or (443 if scheme == "wss" else 80))
        plain = socket.socket()
        plain.settimeout(10)
        plain.connect(socket.getaddrinfo(host, port)[0][-1])
        self.socket = plain
        if scheme == "wss":
            try:
                import ssl
                # On a board: load the authority's certificate as your port's ssl module wants it.
                self.socket = ssl.create_default_context().wrap_socket(plain, server_hostname=host)
            except (ImportError, AttributeError):
                import ussl
                self.socket = ussl.wrap_socket(plain, server_hostname=host)
        self.plain = plain
        self.buffer = b""
        key = b2a_base64(os.urandom(16)).strip().decode()
        self._write((
            "GET %s HTTP/1.1\r\nHost: %s:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n"
            "Sec-WebSocket-Protocol: tidegate.v1\r\nAuthorization: Bearer %s\r\n\r\n"
            % (path, host, port, key, token)).encode())
        while b"\r\n\r\n" not in self.buffer:
            self._fill()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        status = int(head.split(b" ", 2)[1])
        if status != 101:
            text = self.buffer.decode().strip()
            if status in (400, 401, 403, 404, 426):
                raise Final("the gateway refused the connection: %d %s" % (status, text))
            raise OSError("the gateway answered %d %s" % (status, text))

    def send(self, data, opcode=2):
        mask = os.urandom(4)
        length = len(data)
        if length < 126:
            head = struct.pack(">BB", 0x80 | opcode, 0x80 | length)
        elif length < 65536:
            head = struct.pack(">BBH", 0x80 | opcode, 0xFE, length)
        else:
            head = struct.pack(">BBQ", 0x80 | opcode, 0xFF, length)
        masked = bytearray(data)
        for index in range(length):
            masked[index] ^= mask[index & 3]
        self._write(head + mask + bytes(masked))

    def receive(self, seconds):
        """The next binary message, or None when none comes in this time."""
        message = b""
        while True:
            frame = self._frame(seconds)
            if frame is None:
                return None
            opcode, last, data = frame
            if opcode == 9:
                self.send(data, 10)  # the gateway's heartbeat
            elif opcode == 8:
                code = struct.unpack(">H", data[:2])[0] if len(data) >= 2 else 1005
                text = "closed by the gateway: %d %s" % (code, data[2:].decode())
                if code in (4003, 4009, 1002, 1003, 1007, 1009):
                    raise Final(text)
                raise OSError(text)
            elif opcode in (0, 1, 2):
                message += data
                if last:
                    return message

    def close(self):
        try:
            self.send(struct.pack(">H", 1000), 8)
        except OSError:
            pass
        self.socket.close()

    def _frame(self, seconds):
        while True:
            frame = self._take_frame()
            if frame is not None:
                return frame
            self.plain.settimeout(max(seconds, 0.001))
            try:
                self._fill()
            except OSError as error:
                # ETIMEDOUT or EAGAIN by their numbers, and CPython's own class.
                if type(error).__name__ == "TimeoutError" or error.args[0] in (11, 110, 116):
                    return None
                raise
            finally:
                self.plain.settimeout(10)

    def _take_frame(self):
        data = self.buffer
        if len(data) < 2:
            return None
        length, at = data[1] & 127, 2
        if length == 126:
            at = 4
            if len(data) < at:
                return None
            length = struct.unpack(">H", data[2:4])[0]
        elif length == 127:
            at = 10
            if len(data) < at:
                return None
            length = struct.unpack(">Q", data[2:10])[0]
        if len(data) < at + length:
            return None
        self.buffer = data[at + length:]
        return data[0] & 15, bool(data[0] & 128), data[at:at + length]

    def _fill(self):
        data = self.socket.recv(1024) if hasattr(self.socket, "recv") else self.socket.read(1024)
        if not data:
            raise OSError("the gateway hung up")
        self.buffer += data

    def _write(self, data):
        if hasattr(self.socket, "sendall"):
            self.socket.sendall(data)
        else:
            self.socket.write(data)


# ---------------------------------------------------------------- the device


def ticks():
    """Milliseconds that only ever grow, as far as the platform has them."""
    return time.ticks_ms() if hasattr(time, "ticks_ms") else int(time.monotonic() * 1000)


def since(then):
    now = ticks()
    return (time.ticks_diff(now, then) if hasattr(time, "ticks_diff") else now - then) / 1000


class Device:
    def __init__(self, url, device, token, interval=1.0, commands=None):
        self.url, self.path, self.token = url, "/v1/devices/" + device, token
        # Numbers start at 1 after each boot, so each boot needs an epoch of its own.
        self.epoch = struct.unpack(">I", os.urandom(4))[0]
        self.seq = 0
        self.kept = []  # (seq, when, readings), oldest first
        self.interval = interval
        self.commands = {"identify": self._identify, "set-interval": self._set_interval}
        self.commands.update(commands or {})
        self.answers = []  # (id, RESULT), oldest first
        self.sent = 0  # the highest number written to this connection
        self.window = 0
        self.gateway = None
        self.wait = 0.5
        self.retry_at = ticks()
        self.retry_in = 0

    def add(self, readings):
        if len(self.kept) >= KEEP:
            print("dropped", self.kept.pop(0)[0])
        self.seq += 1
        self.kept.append((self.seq, ticks(), readings))

    def work(self, seconds):
        """Sends and receives for this time. Call it again and again."""
        began = ticks()
        while True:
            try:
                if self.gateway is None:
                    if since(self.retry_at) >= self.retry_in:
                        self._connect()
                    else:
                        time.sleep(0.02)
                else:
                    self._flush()
                    message = self.gateway.receive(min(0.1, max(0.0, seconds - since(began))))
                    if message is not None:
                        self._take(decode(message))
            except OSError as error:
                print("no connection:", error)
                if self.gateway is not None:
                    self.gateway.socket.close()
                self.gateway = None
                # Half of it is chance, so that many devices do not come back in one instant.
                self.retry_at = ticks()
                self.retry_in = self.wait * (0.5 + os.urandom(1)[0] / 510)
                self.wait = min(self.wait * 2, 60)
            if since(began) >= seconds:
                return

    def close(self):
        if self.gateway is not None:
            self.gateway.close()
            self.gateway = None

    def _connect(self):
        gateway = WebSocket(self.url, self.path, self.token)
        gateway.send(encode([0, {"epoch": self.epoch, "model": "MicroPython",
                                 "commands": list(self.commands)}]))
        message = gateway.receive(10)
        if message is None:
            raise OSError("no WELCOME")
        message = decode(message)
        if message[0] != 16:
            raise Final("this is not a tidegate gateway")
        self.window = message[1]["window"]
        self._settle(message[1]["acked"])
        self.sent = 0  # everything not acknowledged goes out again, in order
        # Nothing says whether a RESULT arrived: the gateway drops those that it has.
        for _, answer in self.answers[-REPEAT:]:
            gateway.send(answer)
        self.wait = 0.5
        self.gateway = gateway

    def _flush(self):
        # At most `window` on the way: a small board takes a small one.
        for seq, when, readings in self.kept[:self.window]:
            if seq > self.sent:
                # Under 2^28 a time is relative to now: so many seconds ago.
                age = -since(when)
                pack = [{0: name, 1: unit, 2: value, 6: age} for name, unit, value in readings]
                self.gateway.send(encode([1, seq, pack]))
                self.sent = seq

    def _take(self, message):
        kind = message[0]
        if kind == 17:  # ACK
            self._settle(message[1])
        elif kind == 18:  # REJECT: it will never be taken
            print("rejected:", message[1:4])
            self.kept = [entry for entry in self.kept if entry[0] != message[1]]
        elif kind == 19:  # COMMAND
            self._command(message[1], message[2], message[3])

    def _command(self, id, name, params):
        for known, answer in self.answers:
            if known == id:
                self.gateway.send(answer)
                return
        try:
            if name not in self.commands:
                raise ValueError(name + " is not known here")
            answer = encode([2, id, True, self.commands[name](params)])
        except Exception as error:  # whatever it is, whoever asked is told
            answer = encode([2, id, False, str(error) or type(error).__name__])
        self.answers = self.answers[1 - REMEMBER:] + [(id, answer)]
        self.gateway.send(answer)

    def _identify(self, params):
        return {"model": "MicroPython", "platform": sys.platform, "batches": self.seq}

    def _set_interval(self, params):
        seconds = params.get("seconds") if isinstance(params, dict) else None
        if not isinstance(seconds, (int, float)) or not 0.01 <= seconds <= 3600:
            raise ValueError('"seconds" must be a number from 0.01 to 3600')
        before, self.interval = self.interval, seconds
        return {"seconds": seconds, "before": before}

    def _settle(self, acked):
        while self.kept and self.kept[0][0] <= acked:
            self.kept.pop(0)


def run(url, name, token, measure, count=None, interval=1.0, commands=None):
    """Measures every `interval` seconds, `count` times or for ever; returns when all is safe.

    `commands` maps names to functions that take the parameters and return the result."""
    device = Device(url, name, token, interval, commands)
    made = 0
    while count is None or made < count:
        device.add(measure())
        made += 1
        device.work(device.interval)
    while device.kept:
        device.work(0.1)
    device.close()
    return made


if __name__ == "__main__":
    if len(sys.argv) < 5:
        print("usage: device.py URL DEVICE TOKEN COUNT [SECONDS_BETWEEN]")
        sys.exit(2)
    made = run(sys.argv[1], sys.argv[2], sys.argv[3],
               lambda: [("temperature", "Cel", 20 + os.urandom(1)[0] / 100)],
               int(sys.argv[4]), float(sys.argv[5]) if len(sys.argv) > 5 else 1.0)
    print("%d batches acknowledged" % made)
