# pip install websockets cbor2; python device.py ws://127.0.0.1:7070 kiln-3 TOKEN 10
import sys, time, cbor2
from websockets.sync.client import connect

url, device, token, count = sys.argv[1:5]
with connect(f"{url}/v1/devices/{device}", subprotocols=["tidegate.v1"],
             additional_headers={"Authorization": f"Bearer {token}"}) as gateway:
    gateway.send(cbor2.dumps([0, {}]))                                    # HELLO
    print("WELCOME", cbor2.loads(gateway.recv())[1])
    for seq in range(1, int(count) + 1):
        reading = {0: "temperature", 1: "Cel", 2: 20.0 + seq % 5}         # name, unit, value
        gateway.send(cbor2.dumps([1, seq, [reading]]))                    # READINGS
        while (answer := cbor2.loads(gateway.recv()))[0] == 19:           # COMMAND
            gateway.send(cbor2.dumps([2, answer[1], False, "takes no commands"]))  # RESULT
        print("ACK", answer)                                              # [17, seq]: it is safe
        time.sleep(1)
