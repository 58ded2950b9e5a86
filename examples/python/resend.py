"""A device that loses nothing: keeps what is not acknowledged and sends it again after a reconnect.

    pip install websockets cbor2
    python resend.py ws://127.0.0.1:7070 kiln-3 TOKEN COUNT [SECONDS_BETWEEN]

Measures whether or not there is a connection. Ends with 0 once COUNT batches are acknowledged.
"""

import asyncio
import math
import random
import sys
import time
from collections import OrderedDict

import cbor2
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus, WebSocketException

HELLO, READINGS, RESULT, WELCOME, ACK, REJECT, COMMAND = 0, 1, 2, 16, 17, 18, 19
KEEP = 1000  # batches kept while there is no connection
REMEMBER = 64  # commands whose answers are remembered
REPEAT = 8  # of them, how many are said again after a reconnect
# Credentials revoked, replaced by another connection, and what this end did wrong: trying again
# would end the same way.
FINAL_CLOSES = {4003, 4009, 1002, 1003, 1007, 1009}
FINAL_REFUSALS = {400, 401, 403, 404, 426}


class Device:
    def __init__(self, url, device, token, interval=1.0):
        self.url = f"{url}/v1/devices/{device}"
        self.token = token
        # The numbers start at 1 with this process, so it needs an epoch nobody used before. A
        # device with a boot counter in flash takes that.
        self.epoch = random.getrandbits(53)
        self.seq = 0
        self.kept = OrderedDict()  # seq -> pack, oldest first
        self.unsent = []  # of these, what was not written to the present connection
        self.work = asyncio.Event()
        self.clock_offset = 0.0
        self.interval = interval
        self.handlers = {"identify": self.identify, "set-interval": self.set_interval}
        self.answers = OrderedDict()  # id -> RESULT, so that a repeated command runs once

    def now(self):
        """The gateway's time, for a device whose own clock cannot be trusted."""
        return time.time() + self.clock_offset

    def measure(self, name, unit, value):
        """Takes one reading; it is kept until the gateway has acknowledged it."""
        while len(self.kept) >= KEEP:
            # What to give up when memory is full is the device's decision: here, the oldest.
            print("dropped", self.kept.popitem(last=False)[0], file=sys.stderr)
        self.seq += 1
        self.kept[self.seq] = [{0: name, 1: unit, 2: value, 6: self.now()}]
        self.unsent.append(self.seq)
        self.work.set()

    async def run(self):
        """Connects, and connects again, until something ends it for good."""
        wait = 0.5
        while True:
            try:
                headers = {"Authorization": f"Bearer {self.token}"}
                async with connect(self.url, subprotocols=["tidegate.v1"],
                                   additional_headers=headers) as gateway:
                    wait = 0.5
                    await self.session(gateway)
            except ConnectionClosed as closed:
                code, reason = (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")
                if code in FINAL_CLOSES:
                    raise SystemExit(f"the gateway closed the connection: {code} {reason}")
                print("closed:", code, reason, file=sys.stderr)
            except InvalidStatus as refused:
                status, body = refused.response.status_code, refused.response.body or b""
                text = body.decode(errors="replace").strip()
                if status in FINAL_REFUSALS:
                    raise SystemExit(f"the gateway refused the connection: {status} {text}")
                print("refused:", status, text, file=sys.stderr)
            except (OSError, WebSocketException) as error:
                print("no connection:", error, file=sys.stderr)
            # Half of it is chance, so that a thousand devices do not come back in one instant.
            await asyncio.sleep(wait * random.uniform(0.5, 1))
            wait = min(wait * 2, 60)

    async def session(self, gateway):
        hello = {"epoch": self.epoch, "model": "resend.py", "commands": list(self.handlers)}
        await gateway.send(cbor2.dumps([HELLO, hello]))
        kind, welcome = cbor2.loads(await gateway.recv())[:2]
        if kind != WELCOME:
            raise SystemExit("this is not a tidegate gateway")
        self.clock_offset = welcome["time"] - time.time()
        self.settle(welcome["acked"])
        self.unsent = list(self.kept)  # everything not acknowledged goes out again, in order
        self.work.set()
        # Nothing says whether a RESULT arrived, so the last ones are said again; the gateway drops
        # those that it has.
        for answer in list(self.answers.values())[-REPEAT:]:
            await gateway.send(answer)
        window = welcome["window"]
        sending = asyncio.create_task(self.send_all(gateway, window))
        try:
            async for message in gateway:
                await self.take(gateway, cbor2.loads(message))
            # A normal close ends the loop without an exception.
            raise ConnectionClosed(gateway.protocol.close_rcvd, gateway.protocol.close_sent)
        finally:
            sending.cancel()

    async def send_all(self, gateway, window):
        while True:
            while self.unsent and len(self.kept) - len(self.unsent) < window:
                seq = self.unsent.pop(0)
                if seq in self.kept:
                    await gateway.send(cbor2.dumps([READINGS, seq, self.kept[seq]]))
            self.work.clear()
            await self.work.wait()

    async def take(self, gateway, message):
        kind = message[0]
        if kind == ACK:
            self.settle(message[1])
        elif kind == REJECT:
            print("rejected:", *message[1:4], file=sys.stderr)
            self.kept.pop(message[1], None)  # it will never be taken: do not send it again
        elif kind == COMMAND:
            await self.command(gateway, *message[1:4])
        self.work.set()

    async def command(self, gateway, id, name, params):
        if id not in self.answers:
            try:
                if name not in self.handlers:
                    raise ValueError(f"{name} is not known here")
                result = [RESULT, id, True, self.handlers[name](params)]
            except Exception as error:  # whatever it is, whoever asked is told
                result = [RESULT, id, False, str(error) or type(error).__name__]
            print("command:", name, params, "->", result[3], file=sys.stderr)
            self.answers[id] = cbor2.dumps(result)
            while len(self.answers) > REMEMBER:
                self.answers.popitem(last=False)
        await gateway.send(self.answers[id])

    def identify(self, params):
        return {"model": "resend.py", "batches": self.seq}

    def set_interval(self, params):
        seconds = params.get("seconds") if isinstance(params, dict) else None
        if not isinstance(seconds, (int, float)) or not 0.01 <= seconds <= 3600:
            raise ValueError('"seconds" must be a number from 0.01 to 3600')
        before, self.interval = self.interval, seconds
        return {"seconds": seconds, "before": before}

    def settle(self, acked):
        while self.kept and next(iter(self.kept)) <= acked:
            self.kept.popitem(last=False)


async def main(url, device, token, count, interval=1.0):
    device = Device(url, device, token, float(interval))
    running = asyncio.create_task(device.run())
    for step in range(int(count)):
        device.measure("temperature", "Cel", round(21 + 4 * math.sin(step / 10), 2))
        await asyncio.sleep(device.interval)
        if running.done():
            running.result()
    while device.kept:
        if running.done():
            running.result()
        await asyncio.sleep(0.05)
    running.cancel()
    print(f"{count} batches acknowledged")


if __name__ == "__main__":
    if len(sys.argv) < 5:
        raise SystemExit(__doc__)
    asyncio.run(main(*sys.argv[1:]))
