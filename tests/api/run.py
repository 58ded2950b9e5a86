"""Holds a running gateway against its own description of the HTTP API, with requests drawn by
schemathesis, valid and invalid: every answer has a status, a type, headers and a body that the
description allows, and none is a 5xx that it does not.

    python tests/api/run.py TIDEGATE [SECONDS]

Ends with a line `N passed, N failed` that counts requests.
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import urllib.request

HERE = pathlib.Path(__file__).parent
DEADLINE = 60

CONFIGURATION = """
[gateway]
id = "gw-api"
[devices]
listen = "127.0.0.1:0"
auth = "none"
[mqtt]
url = "mqtt://127.0.0.1:1"
[dashboard]
listen = "127.0.0.1:0"
[log]
level = "debug"
target = "stderr"
"""

# They have no end, so nothing that reads an answer whole can ask for them: tests/dashboard and
# tests/blackbox follow the feed.
WITHOUT_END = ["/api/v1/stream", "/api/v1/events"]


def until(what, look):
    """What `look` gives, once it gives something."""
    limit = time.monotonic() + DEADLINE
    while time.monotonic() < limit:
        found = look()
        if found:
            return found
        time.sleep(0.05)
    sys.exit(f"{what}: not within {DEADLINE} s")


def get(url):
    with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
        return json.load(answer)


def test(tidegate, seconds, folder, children):
    (folder / "tidegate.toml").write_text(CONFIGURATION)
    log = folder / "log"
    children.append(subprocess.Popen(
        [tidegate, "run", "--config", folder / "tidegate.toml"],
        stdin=subprocess.DEVNULL, stderr=log.open("wb")))
    listening = re.compile(r"listening .*devices=(\S+) dashboard=(\S+)")
    devices, dashboard = until("the gateway listens", lambda: listening.search(log.read_text())).groups()
    children.append(subprocess.Popen(
        [tidegate, "simulate", "--url", f"ws://{devices}", "--devices", "3"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
    api = f"http://{dashboard}/api/v1"
    until("devices send", lambda: [d for d in get(f"{api}/devices") if d["readings"]])

    report = folder / "report.json"
    exclude = [argument for path in WITHOUT_END for argument in ("--exclude-path", path)]
    status = subprocess.run(
        [pathlib.Path(sys.executable).with_name("schemathesis"), "--config-file",
         HERE / "schemathesis.toml", "--no-color", "run", f"{api}/openapi.json", "--checks", "all",
         "--max-time", str(seconds), *exclude, "--report", "json", "--report-json-path", report],
        cwd=folder, stdin=subprocess.DEVNULL).returncode

    for child in children:
        if child.poll() is not None:
            print(f"{child.args} has ended with {child.returncode}")
            status = 1
    told = json.loads(report.read_text())
    # A run that asked next to nothing has tested nothing.
    if told["operations"]["tested"] < 10 or told["test_cases"]["generated"] < 300:
        print("too little was asked:", told["operations"], told["test_cases"])
        status = 1
    cases = told["test_cases"]
    failed = cases["with_failures"] + cases["errored"]
    if failed and not status:
        status = 1
    print(f"{cases['generated'] - failed} passed, {max(failed, int(status != 0))} failed")
    return status


def main():
    tidegate = sys.argv[1]
    seconds = int("".join(sys.argv[2:]) or 45)
    children = []
    with tempfile.TemporaryDirectory() as folder:
        try:
            return test(tidegate, seconds, pathlib.Path(folder), children)
        finally:
            for child in reversed(children):
                child.terminate()
            for child in children:
                try:
                    child.wait(DEADLINE)
                except subprocess.TimeoutExpired:
                    child.kill()


sys.exit(main())
