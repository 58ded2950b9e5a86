"""A real gateway, a real broker and devices for tests in Python. Everything listens on 127.0.0.1."""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

DEADLINE = 60.0
TIDEGATE = os.environ["TIDEGATE_BIN"]


def eventually(found, what, deadline=DEADLINE):
    """Waits until `found` answers something, and answers that."""
    end = time.monotonic() + deadline
    while True:
        answer = found()
        if answer:
            return answer
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline} s: {what}")
        time.sleep(0.05)


def free_port():
    """A port that is free now, for a program that cannot be asked which it took."""
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Process:
    """A child that ends with the test; what it says is in a file."""

    def __init__(self, command, log, **options):
        self.log = Path(log)
        self.output = self.log.open("ab")
        self.child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=self.output, stderr=self.output, **options
        )

    def said(self):
        return self.log.read_text(errors="replace")

    def alive(self):
        if self.child.poll() is not None:
            raise AssertionError(f"ended with {self.child.returncode}:\n{self.said()[-3000:]}")
        return True

    def stop(self, how=signal.SIGTERM):
        if self.child.poll() is None:
            self.child.send_signal(how)
            try:
                self.child.wait(DEADLINE)
            except subprocess.TimeoutExpired:
                self.child.kill()
                self.child.wait()
        self.output.close()


class Broker:
    """A mosquitto that keeps nothing over a restart."""

    def __init__(self, folder):
        self.folder, self.port = Path(folder), free_port()
        self.start()

    def start(self):
        file = self.folder / "mosquitto.conf"
        file.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
            "max_queued_messages 100000\n"
        )
        self.process = Process(["mosquitto", "-c", file], self.folder / "mosquitto.log")
        eventually(lambda: self.process.alive() and reachable(self.port), "mosquitto listens")

    def stop(self):
        self.process.stop()


def reachable(port):
    import socket

    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
        return True
    except OSError:
        return False


class Gateway:
    """`tidegate run` with a registry of `devices`; `settings` is more TOML for [mqtt]."""

    def __init__(self, folder, broker_port, devices, settings="", gateway_id="gw-1"):
        self.folder = Path(folder)
        self.file = self.folder / "tidegate.toml"
        self.file.write_text(
            f'[gateway]\nid = {json.dumps(gateway_id)}\ndata_dir = "data"\n'
            '[devices]\nlisten = "127.0.0.1:0"\n'
            f'[mqtt]\nurl = "mqtt://127.0.0.1:{broker_port}"\nmax_backoff = "1s"\n{settings}\n'
            '[dashboard]\nlisten = "127.0.0.1:0"\n'
        )
        self.tokens = {device: self.tidegate("device", "add", device) for device in devices}
        self.process = Process(
            [TIDEGATE, "run", "--config", self.file], self.folder / "tidegate.log"
        )
        listening = re.compile(r"listening.*\bdevices=(\S+).*\bdashboard=(\S+)")
        plain = lambda: re.sub(r"\x1b\[[0-9;]*m", "", self.process.said())
        found = eventually(
            lambda: self.process.alive() and listening.search(plain()), "the gateway listens"
        )
        self.devices, self.dashboard = found.groups()

    def tidegate(self, *arguments):
        command = [TIDEGATE, *arguments, "--config", str(self.file)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE)
        if done.returncode != 0:
            raise AssertionError(f"{command}: {done.stderr}")
        return done.stdout.strip()

    def get(self, path):
        with urllib.request.urlopen(f"http://{self.dashboard}{path}", timeout=DEADLINE) as answer:
            return answer.read().decode()

    def stop(self):
        self.process.stop()


class Device:
    """One device; a batch is settled when `send` comes back."""

    def __init__(self, gateway, device, **hello):
        self.gateway, self.device, self.hello = gateway, device, hello
        self.loop = asyncio.new_event_loop()
        self.seq = 0
        self.socket = None

    def connect(self):
        import cbor2
        import websockets

        async def connect():
            self.socket = await websockets.connect(
                f"ws://{self.gateway.devices}/v1/devices/{self.device}",
                subprotocols=["tidegate.v1"],
                additional_headers={
                    "Authorization": f"Bearer {self.gateway.tokens[self.device]}"
                },
                compression=None,
            )
            await self.socket.send(cbor2.dumps([0, self.hello]))
            assert cbor2.loads(await self.socket.recv())[0] == 16

        self.run(connect())
        return self

    def send(self, *records):
        import cbor2

        async def send():
            self.seq += 1
            await self.socket.send(cbor2.dumps([1, self.seq, list(records)]))
            while True:
                message = cbor2.loads(await self.socket.recv())
                if message[0] == 18:
                    raise AssertionError(f"refused: {message}")
                if message[0] == 17 and message[1] >= self.seq:
                    return

        self.run(send())

    def run(self, what):
        return self.loop.run_until_complete(asyncio.wait_for(what, DEADLINE))

    def close(self):
        if self.socket is not None:
            self.run(self.socket.close())
        self.loop.close()


class Folder:
    """A temporary folder that `unittest` can clean up."""

    def __init__(self):
        self.path = tempfile.mkdtemp(prefix="tidegate-test-")

    def remove(self):
        shutil.rmtree(self.path, ignore_errors=True)
