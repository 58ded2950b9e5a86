"""What Home Assistant finds at a real broker, read as Home Assistant reads it.

    TIDEGATE_BIN=target/debug/tidegate python -m unittest discover -s tests/homeassistant

The templates are rendered by Jinja2 over the payloads that the gateway has published, in the
sandbox that Home Assistant uses; what it does with the result follows its MQTT sensor and binary
sensor.
"""

import json
import re
import sys
import threading
import unittest
from pathlib import Path

import jinja2.sandbox
import paho.mqtt.client as mqtt

sys.path.insert(0, str(Path(__file__).parent.parent / "support"))
from gateway import DEADLINE, Broker, Device, Folder, Gateway, eventually  # noqa: E402

UNKNOWN = "unknown"


class Entity:
    """An entity as far as its state goes."""

    def __init__(self, component, config):
        self.component, self.config = component, config
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined)
        self.template = environment.from_string(config["value_template"])
        self.numeric = "state_class" in config or "unit_of_measurement" in config
        self.native = None
        self.shown_times = 1.0

    @property
    def state(self):
        if self.native is None:
            return UNKNOWN
        # A user may have chosen another unit.
        return str(float(self.native) * self.shown_times) if self.numeric else self.native

    def receive(self, payload):
        given = {"value": payload, "this": {"state": self.state}}
        try:
            given["value_json"] = json.loads(payload)
        except ValueError:
            pass
        rendered = self.template.render(given).strip()
        if self.component == "binary_sensor":
            if rendered != "":
                states = {self.config["payload_on"]: "on", self.config["payload_off"]: "off"}
                self.native = states[rendered]
        elif rendered == "None":
            self.native = None
        elif self.numeric:
            if rendered != "":
                self.native = str(float(rendered))
        else:
            assert len(rendered) <= 255
            self.native = rendered


class HomeAssistant:
    """Subscribes to discovery and to everything that entities name."""

    def __init__(self, port, prefix="homeassistant"):
        self.lock = threading.Lock()
        self.configs, self.cleared, self.arrived = {}, [], []
        self.retained = {}
        self.prefix = prefix
        self.client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self.client.on_message = self.message
        self.client.on_connect = lambda client, *_: client.subscribe([("#", 1)])
        # Readings are not retained: those of before would be missed.
        subscribed = threading.Event()
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        assert subscribed.wait(DEADLINE), "the broker answers no SUBSCRIBE"

    def message(self, _client, _data, message):
        topic, payload = message.topic, message.payload.decode()
        with self.lock:
            found = re.fullmatch(
                rf"{self.prefix}/(sensor|binary_sensor)/([A-Za-z0-9_-]+)/([A-Za-z0-9_-]+)/config",
                topic,
            )
            if topic.startswith(self.prefix + "/"):
                assert found, f"Home Assistant would not read {topic}"
                if payload == "":
                    self.configs.pop(topic, None)
                    self.cleared.append(topic)
                else:
                    self.configs[topic] = json.loads(payload)
                    self.retained[topic] = message.retain
            else:
                self.arrived.append((topic, payload))

    def config(self, unique_id, deadline=DEADLINE):
        def find():
            with self.lock:
                found = [
                    (topic.split("/")[1], config)
                    for topic, config in self.configs.items()
                    if config["unique_id"] == unique_id
                ]
            assert len(found) <= 1, f"two entities have the id {unique_id}"
            return found and found[0]

        return eventually(find, f"{unique_id} is announced", deadline)

    def entity(self, unique_id):
        return Entity(*self.config(unique_id))

    def payloads(self, topic, count):
        def enough():
            with self.lock:
                found = [payload for where, payload in self.arrived if where == topic]
            return found if len(found) >= count else None

        return eventually(enough, f"{count} messages on {topic}")

    def states(self, unique_id, count, initial=None):
        """The entity's state after each of the first `count` messages of its topic."""
        entity = self.entity(unique_id)
        entity.native = initial
        states = []
        for payload in self.payloads(entity.config["state_topic"], count)[:count]:
            entity.receive(payload)
            states.append(entity.state)
        return states

    def stop(self):
        self.client.disconnect()
        self.client.loop_stop()


class Discovery(unittest.TestCase):
    def folder(self):
        folder = Folder()
        self.addCleanup(folder.remove)
        return folder.path

    def house(self, devices, settings="", gateway_id="gw-1"):
        folder = self.folder()
        broker = Broker(folder)
        self.addCleanup(broker.stop)
        settings = f"homeassistant = true\n{settings}"
        gateway = Gateway(folder, broker.port, devices, settings, gateway_id)
        self.addCleanup(gateway.stop)
        home = HomeAssistant(broker.port)
        self.addCleanup(home.stop)
        return broker, gateway, home

    def device(self, gateway, name, **hello):
        device = Device(gateway, name, **hello).connect()
        self.addCleanup(device.close)
        return device

    def everything(self, payload):
        _, gateway, home = self.house(["kiln-3"], f'payload = "{payload}"')
        kiln = self.device(gateway, "kiln-3", model="K-9", firmware="1.2")
        kiln.send(
            {0: "temperature", 1: "Cel", 2: 20.5, 6: -2},
            {0: "temperature", 1: "Cel", 2: 21.5, 6: -1},
            {0: "open", 4: True},
            {0: "mode", 3: "auto"},
            {0: "flow/total.1", 1: "m3/s", 5: 12.5},
            {0: "blob", 8: b"x"},
        )
        kiln.send({0: "humidity", 1: "%RH", 2: 0})
        kiln.send({0: "open", 4: False}, {0: "mode", 3: "x" * 300})
        kiln.send({0: "temperature", 1: "Cel", 2: -7})
        return home, "tidegate/gw-1/kiln-3/"

    def test_states_follow_json_batches_and_outlast_those_that_lack_the_reading(self):
        for payload in ("json", "senml-json"):
            with self.subTest(payload=payload):
                home, kiln = self.everything(payload)
                self.assertEqual(
                    home.states(kiln + "temperature", 4), ["21.5", "21.5", "21.5", "-7.0"]
                )
                self.assertEqual(home.states(kiln + "humidity", 4), [UNKNOWN, "0.0", "0.0", "0.0"])
                self.assertEqual(home.states(kiln + "open", 4), ["on", "on", "off", "off"])
                self.assertEqual(
                    home.states(kiln + "mode", 4), ["auto", "auto", "x" * 255, "x" * 255]
                )
                self.assertEqual(home.states(kiln + "flow/total.1", 4), ["12.5"] * 4)
                with home.lock:
                    ids = [config["unique_id"] for config in home.configs.values()]
                self.assertNotIn(kiln + "blob", ids)

    def test_a_unit_that_the_user_chose_is_not_converted_again_with_each_batch(self):
        home, kiln = self.everything("json")
        entity = home.entity(kiln + "temperature")
        entity.shown_times = 1.8
        for payload in home.payloads(entity.config["state_topic"], 3)[:3]:
            entity.receive(payload)
            self.assertEqual(entity.native, "21.5")

    def test_bare_values_have_a_topic_each(self):
        home, kiln = self.everything("value")
        self.assertEqual(home.states(kiln + "temperature", 3), ["20.5", "21.5", "-7.0"])
        self.assertEqual(home.states(kiln + "open", 2), ["on", "off"])
        self.assertEqual(home.states(kiln + "mode", 2), ["auto", "x" * 255])
        self.assertEqual(home.states(kiln + "flow/total.1", 1), ["12.5"])

    def test_an_entity_says_what_it_is_and_when_it_is_there(self):
        home, kiln = self.everything("json")
        component, config = home.config(kiln + "temperature")
        self.assertEqual(component, "sensor")
        for key, value in {
            "name": "temperature",
            "unit_of_measurement": "°C",
            "device_class": "temperature",
            "state_class": "measurement",
            "availability_mode": "all",
        }.items():
            self.assertEqual(config[key], value)
        self.assertEqual(
            config["device"],
            {
                "identifiers": ["tidegate/gw-1/kiln-3"],
                "name": "kiln-3",
                "model": "K-9",
                "sw_version": "1.2",
                "via_device": "tidegate/gw-1",
            },
        )
        self.assertEqual(home.config(kiln + "open")[0], "binary_sensor")
        # Each topic that says whether it is there says so now.
        for topic in config["availability"]:
            said = home.payloads(topic["topic"], 1)[-1]
            template = jinja2.Template(topic["value_template"])
            self.assertEqual(template.render(value_json=json.loads(said)), "online")
        # And so do the two entities that are about connections.
        self.assertEqual(home.states(kiln + "_connection", 1), ["on"])
        self.assertEqual(home.states("tidegate/gw-1/_connection", 1), ["on"])
        _, gateway = home.config("tidegate/gw-1/_connection")
        self.assertEqual(gateway["device"]["identifiers"], [config["device"]["via_device"]])

    def test_configurations_are_retained_and_come_back_to_a_broker_that_lost_them(self):
        broker, gateway, first = self.house(["kiln-3", "pump_1"])
        for name in ("kiln-3", "pump_1"):
            device = self.device(gateway, name)
            device.send({0: "temperature", 1: "Cel", 2: 1}, {0: "supply_voltage", 1: "V", 2: 3})
        identities = [
            f"tidegate/gw-1/{device}/{name}"
            for device in ("kiln-3", "pump_1")
            for name in ("temperature", "supply_voltage", "_connection")
        ] + ["tidegate/gw-1/_connection"]
        for identity in identities:
            first.config(identity)
        # Whoever comes later finds all of it.
        later = HomeAssistant(broker.port)
        self.addCleanup(later.stop)
        for identity in identities:
            later.config(identity)
        self.assertTrue(all(later.retained.values()), later.retained)
        broker.stop()
        broker.start()
        afterwards = HomeAssistant(broker.port)
        self.addCleanup(afterwards.stop)
        for identity in identities:
            afterwards.config(identity)
        self.assertEqual(later.configs, afterwards.configs)

    def test_names_with_odd_characters_stay_apart(self):
        names = ["t", "t/1", "t.1", "t:1", "t-1", "t_1", "t_2f1", "T", "t_2e1", "a" * 64]
        devices = ["d_1", "d-1", "D-1", "d__1", "7"]
        _, gateway, home = self.house(devices, gateway_id="Halle 3 ü_a'{{x}}")
        for name in devices:
            device = self.device(gateway, name, model='M "1"', firmware="{{ 1 }}")
            device.send(*({0: reading, 1: "V", 2: index} for index, reading in enumerate(names)))
        for device in devices:
            for index, reading in enumerate(names):
                identity = f"tidegate/Halle 3 ü_a'{{{{x}}}}/{device}/{reading}"
                self.assertEqual(home.states(identity, 1), [f"{index}.0"])

    def test_a_device_that_is_removed_is_gone_and_others_stay(self):
        _, gateway, home = self.house(["kiln-3", "pump-1"])
        for name in ("kiln-3", "pump-1"):
            device = self.device(gateway, name)
            device.send({0: "temperature", 1: "Cel", 2: 1}, {0: "open", 4: True})
        for identity in ("kiln-3/temperature", "kiln-3/open", "pump-1/open"):
            home.config(f"tidegate/gw-1/{identity}")
        gateway.tidegate("device", "remove", "kiln-3")

        def gone():
            with home.lock:
                return not any("kiln-3" in topic for topic in home.configs)

        eventually(gone, "the entities of kiln-3 are cleared")
        self.assertEqual(len(home.cleared), 3, home.cleared)
        home.config("tidegate/gw-1/pump-1/open")

    def test_a_reading_that_becomes_a_boolean_moves(self):
        _, gateway, home = self.house(["kiln-3"])
        kiln = self.device(gateway, "kiln-3")
        kiln.send({0: "open", 2: 1})
        self.assertEqual(home.config("tidegate/gw-1/kiln-3/open")[0], "sensor")
        kiln.send({0: "open", 4: True})

        def moved():
            with home.lock:
                topics = [topic for topic in home.configs if topic.endswith("/open/config")]
            return topics == ["homeassistant/binary_sensor/gw-1__kiln-3/open/config"]

        eventually(moved, "the sensor is a binary sensor")

    def test_nothing_is_announced_unless_it_is_wanted(self):
        folder = self.folder()
        broker = Broker(folder)
        self.addCleanup(broker.stop)
        gateway = Gateway(folder, broker.port, ["kiln-3"])
        self.addCleanup(gateway.stop)
        home = HomeAssistant(broker.port)
        self.addCleanup(home.stop)
        kiln = self.device(gateway, "kiln-3")
        for _ in range(3):
            kiln.send({0: "temperature", 1: "Cel", 2: 1})
        home.payloads("tidegate/gw-1/devices/kiln-3/readings", 3)
        # Goodbye comes behind everything else.
        gateway.stop()
        home.payloads("tidegate/gw-1/status", 2)
        self.assertEqual(home.configs, {})

    def test_cbor_is_refused_with_a_reason(self):
        folder = Path(self.folder())
        with self.assertRaises(AssertionError) as refused:
            Gateway(folder, 1, ["a"], 'homeassistant = true\npayload = "senml-cbor"')
        self.assertIn("Home Assistant reads no CBOR", str(refused.exception))


if __name__ == "__main__":
    unittest.main()
