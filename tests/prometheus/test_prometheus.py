"""The example configuration, the alerts and the Grafana dashboard against a real Prometheus that
scrapes a real gateway.

    TIDEGATE_BIN=target/debug/tidegate python -m unittest discover -s tests/prometheus
"""

import json
import re
import subprocess
import sys
import unittest
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent.parent
sys.path.insert(0, str(ROOT / "tests" / "support"))
from gateway import (  # noqa: E402
    DEADLINE,
    TIDEGATE,
    Broker,
    Folder,
    Gateway,
    Process,
    eventually,
    free_port,
    reachable,
)

RULES = ROOT / "config" / "prometheus" / "alerts.yml"
SCRAPE = ROOT / "config" / "prometheus" / "scrape.yml"
UNIT_TESTS = Path(__file__).parent / "alerts.test.yml"
DASHBOARD = json.loads((ROOT / "config" / "grafana" / "tidegate.json").read_text())
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"


def rules():
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def promtool(*arguments):
    done = subprocess.run(["promtool", *map(str, arguments)], capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


class Documents(unittest.TestCase):
    def test_promtool_takes_the_rules_and_the_example(self):
        for arguments in (["check", "rules", RULES], ["check", "config", SCRAPE]):
            status, said = promtool(*arguments)
            self.assertEqual(status, 0, said)
            self.assertNotRegex(said, "(?i)warn|duplicate")

    def test_every_alert_fires_when_it_should_and_only_then(self):
        status, said = promtool("test", "rules", UNIT_TESTS)
        self.assertEqual(status, 0, said)
        tests = yaml.safe_load(UNIT_TESTS.read_text())["tests"]
        self.assertEqual([test["name"] for test in tests], [rule["alert"] for rule in rules()])
        for test in tests:
            expected = [bool(check["exp_samples"]) for check in test["promql_expr_test"]]
            self.assertIn(True, expected, test["name"])
            self.assertIn(False, expected, test["name"])

    def test_every_alert_says_what_is_wrong_and_what_to_do(self):
        for rule in rules():
            self.assertIn(rule["labels"]["severity"], ("critical", "warning"))
            self.assertIn("$labels.instance", rule["annotations"]["summary"], rule["alert"])
            self.assertGreater(len(rule["annotations"]["description"]), 80, rule["alert"])

    def test_the_dashboard_can_be_imported(self):
        self.assertGreaterEqual(DASHBOARD["schemaVersion"], 39)
        variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
        self.assertEqual(variables["datasource"]["type"], "datasource")
        self.assertEqual(
            variables["instance"]["query"]["query"], "label_values(tidegate_uplink_up, instance)"
        )
        panels = DASHBOARD["panels"]
        self.assertEqual(len({panel["id"] for panel in panels}), len(panels))
        rows = [panel["title"] for panel in panels if panel["type"] == "row"]
        self.assertEqual(
            rows,
            [
                "Overview",
                "Buffer and forecast",
                "Latency",
                "Commands",
                "Refusals",
                "Flash wear",
                "Process",
            ],
        )
        taken = set()
        for panel in panels:
            at = panel["gridPos"]
            places = {
                (x, y)
                for x in range(at["x"], at["x"] + at["w"])
                for y in range(at["y"], at["y"] + at["h"])
            }
            self.assertLessEqual(at["x"] + at["w"], 24, panel["title"])
            self.assertFalse(taken & places, f"{panel['title']} lies over another panel")
            taken |= places
        for title, target in expressions():
            self.assertEqual(target["datasource"]["uid"], "${datasource}", title)
            self.assertIn('instance=~"$instance"', target["expr"], title)


def expressions():
    """Every expression of the dashboard, with the title of its panel."""
    return [
        (panel["title"], target) for panel in DASHBOARD["panels"] for target in panel.get("targets", [])
    ]


def filled(expression):
    """What Grafana sends."""
    for variable, value in {
        '"$instance"': '".*"',
        "$__rate_interval": "15s",
        "$__range": "1m",
    }.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression, expression
    return expression


class Watched(unittest.TestCase):
    """One Prometheus, one gateway and its devices for all of these, in order."""

    @classmethod
    def setUpClass(cls):
        folder = Folder()
        cls.addClassCleanup(folder.remove)
        cls.folder = Path(folder.path)
        cls.broker = Broker(cls.folder)
        cls.addClassCleanup(cls.broker.stop)
        names = [f"sim-{n}" for n in range(1, 4)]
        cls.gateway = Gateway(cls.folder, cls.broker.port, names)
        cls.addClassCleanup(cls.gateway.stop)
        tokens = cls.folder / "tokens"
        tokens.write_text("".join(f"{n} {t}\n" for n, t in cls.gateway.tokens.items()))
        devices = Process(
            [TIDEGATE, "simulate", "--url", f"ws://{cls.gateway.devices}", "--tokens", tokens]
            + ["--rate", "20", "--batch", "2", "--malformed", "0.2"],
            cls.folder / "simulate.log",
        )
        cls.addClassCleanup(devices.stop)
        cls.start_prometheus()

    @classmethod
    def start_prometheus(cls):
        # The example, with this gateway's address, and quick.
        example = SCRAPE.read_text()
        for old, new in {
            "127.0.0.1:8080": cls.gateway.dashboard,
            "_interval: 15s": "_interval: 1s",
            "  - alerts.yml": "  - alerts.yml\n  - forced.json",
        }.items():
            assert old in example, old
            example = example.replace(old, new)
        (cls.folder / "prometheus.yml").write_text(example)
        quick = re.sub(r"(?m)^( +for): .*$", r"\1: 1s", RULES.read_text())
        (cls.folder / "alerts.yml").write_text(quick)
        # JSON is YAML.
        (cls.folder / "forced.json").write_text(json.dumps(forced()))
        port = free_port()
        cls.url = f"http://127.0.0.1:{port}"
        cls.prometheus = Process(
            [
                "prometheus",
                f"--config.file={cls.folder}/prometheus.yml",
                f"--storage.tsdb.path={cls.folder}/tsdb",
                f"--web.listen-address=127.0.0.1:{port}",
            ],
            cls.folder / "prometheus.log",
        )
        cls.addClassCleanup(cls.prometheus.stop)
        eventually(lambda: cls.prometheus.alive() and cls.ready(port), "Prometheus is ready")

    @classmethod
    def ready(cls, port):
        if not reachable(port):
            return False
        try:
            urllib.request.urlopen(f"{cls.url}/-/ready", timeout=DEADLINE).close()
            return True
        except urllib.error.HTTPError:
            return False

    @classmethod
    def ask(cls, path, **parameters):
        url = f"{cls.url}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        try:
            with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
                said = json.load(answer)
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{parameters}: {error.read().decode()}") from error
        assert said["status"] == "success" and not said.get("warnings"), (parameters, said)
        return said["data"]

    def query(self, expression):
        return self.ask("query", query=expression)["result"]

    def value(self, expression):
        """The greatest of what the expression gives; nothing for NaN alone."""
        values = [float(series["value"][1]) for series in self.query(expression)]
        return max((value for value in values if value == value), default=None)

    def waits_for(self, expression, holds):
        def looks():
            value = self.value(expression)
            return value is not None and holds(value)

        eventually(looks, f"{expression} (now {self.query(expression)})")

    def test_1_the_gateway_is_scraped_as_openmetrics_without_a_complaint(self):
        def up():
            targets = self.ask("targets")["activeTargets"]
            return [t for t in targets if (t["health"], t["lastError"]) == ("up", "")]

        # A machine under load may miss a scrape: there is one each second.
        (target,) = eventually(up, "the target is up")
        self.assertEqual(target["labels"]["instance"], "gw-1")
        request = urllib.request.Request(
            f"http://{self.gateway.dashboard}/metrics", headers={"Accept": OPENMETRICS}
        )
        with urllib.request.urlopen(request, timeout=DEADLINE) as answer:
            self.assertIn("application/openmetrics-text", answer.headers["Content-Type"])
            text = answer.read().decode()
        # What Prometheus keeps is what the gateway says, sample by sample.
        samples = sum(1 for line in text.splitlines() if line and not line.startswith("#"))
        self.waits_for("scrape_samples_scraped", lambda count: count == samples)
        self.waits_for("scrape_samples_post_metric_relabeling", lambda count: count == samples)

    def test_2_promtool_finds_nothing_wrong_with_the_older_text_either(self):
        done = subprocess.run(
            ["promtool", "check", "metrics"],
            input=self.gateway.get("/metrics"),
            capture_output=True,
            text=True,
        )
        # Advice on names is no fault; what cannot be read is.
        self.assertNotEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertNotIn("error while linting", done.stdout + done.stderr)

    def test_3_every_panel_has_data(self):
        self.waits_for("min(count_over_time(tidegate_readings_received_total[1m]))", lambda n: n > 4)
        self.assertGreater(len(expressions()), 40)
        for title, target in expressions():
            found = self.query(filled(target["expr"]))
            self.assertTrue(found, f"{title}: nothing for {target['expr']}")
        for title, expression, holds in [
            ("Readings in", None, lambda rate: rate > 1),
            ("Readings out", None, lambda rate: rate > 1),
            ("Devices connected", None, lambda count: count == 3),
            ("Acknowledged by the broker", None, lambda seconds: 0 < seconds < 30),
            ("Batches refused", None, lambda count: count > 0),
            ("Running for", None, lambda seconds: 0 < seconds < 3600),
            ("Memory", None, lambda size: size > 1e6),
            ("Processor", None, lambda share: 0 < share < 4),
        ]:
            expression = next(t["expr"] for panel, t in expressions() if panel == title)
            self.waits_for(filled(expression), holds)

    def test_4_every_metric_that_is_named_exists(self):
        named = set(re.findall(r"\btidegate_[a-z_]+", RULES.read_text() + json.dumps(DASHBOARD)))
        found = set(self.ask("label/__name__/values"))
        self.assertEqual(named - found, set())

    def test_5_every_alert_is_evaluated_and_quiet_while_all_is_well(self):
        def evaluated():
            groups = self.ask("rules")["groups"]
            all_of_them = [rule for group in groups for rule in group["rules"]]
            return all(rule["health"] != "unknown" for rule in all_of_them) and all_of_them

        found = eventually(evaluated, "all rules are evaluated")
        self.assertEqual(len(found), 2 * len(rules()))
        for rule in found:
            self.assertEqual((rule["health"], rule.get("lastError", "")), ("ok", ""), rule["name"])
        # The devices send malformed packs on purpose.
        well = {rule["alert"] for rule in rules()} - {"TidegateBatchesRejected"}

        def quiet():
            loud = {series["metric"]["alertname"] for series in self.query("ALERTS")}
            return not loud & well

        eventually(quiet, "no alert without a cause")

    def test_6_what_an_alert_says_has_no_holes(self):
        def active():
            alerts = [a for a in self.ask("alerts")["alerts"] if "forced" in a["labels"]]
            return len(alerts) == len(rules()) and alerts

        for alert in eventually(active, "all forced alerts"):
            for text in alert["annotations"].values():
                self.assertNotRegex(text, r"error|<no value>|%!|\{\{", alert["labels"]["alertname"])
            self.assertIn("gw-1", alert["annotations"]["summary"])

    def test_7_an_outage_is_told(self):
        self.broker.stop()
        self.waits_for('ALERTS{alertname="TidegateUplinkDown",alertstate="firing"}', bool)
        self.waits_for("tidegate_spool_batches", lambda batches: batches > 0)
        spooled = [t["expr"] for panel, t in expressions() if 'path="spooled"' in t["expr"]]
        self.waits_for(filled(spooled[0]), lambda seconds: 0 < seconds < 30)
        self.broker.start()
        self.waits_for('absent(ALERTS{alertname="TidegateUplinkDown"})', bool)
        self.waits_for("tidegate_spool_batches", lambda batches: batches == 0)

    def test_8_prometheus_has_complained_about_nothing(self):
        complaints = [
            line
            for line in self.prometheus.said().splitlines()
            if re.search(r"level=(warn|error)", line)
        ]
        self.assertEqual(complaints, [])

    def test_9_a_gateway_that_stops_is_told(self):
        self.gateway.stop()
        self.waits_for('ALERTS{alertname="TidegateDown",alertstate="firing"}', bool)


def forced():
    """The alerts once more, each made true, so that what they say can be read."""
    always = "vector(5)"
    for label, value in {"instance": "gw-1", "reason": "corrupt", "code": "1"}.items():
        always = f'label_replace({always}, "{label}", "{value}", "", "")'
    alerts = [
        {
            "alert": rule["alert"] + "Forced",
            "expr": always,
            "labels": {"forced": "yes"},
            "annotations": rule["annotations"],
        }
        for rule in rules()
    ]
    return {"groups": [{"name": "forced", "rules": alerts}]}


if __name__ == "__main__":
    unittest.main()
