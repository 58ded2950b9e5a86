//! The program as an operator meets it: command line, exit codes, signals, reload.

use std::time::Duration;

use rustix::process::Signal;

use crate::harness::{Broker, Gateway, Setup, free_port, until};

/// A gateway with tokens that is running, and the broker it needs.
async fn start() -> (Broker, Gateway) {
    let broker = Broker::start("").await;
    let gateway = Setup::new(broker.port).with_tokens().start().await;
    (broker, gateway)
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Waits until a device with this token is let in (`true`) or refused with 401 (`false`). Within
/// 2 s by the documentation; the machine may be busy.
async fn until_accepted(gateway: &Gateway, id: &str, token: &str, accepted: bool) {
    let connector = gateway.device(id).token(token);
    until(&format!("{id} accepted: {accepted}"), async || match connector.connect().await {
        Ok(_) => accepted,
        Err(refusal) => !accepted && refusal.status == 401,
    })
    .await;
}

#[test]
fn check_passes_a_good_configuration() {
    let gateway = Setup::new(free_port()).prepare();
    let output = gateway.command(&["check"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

#[test]
fn check_names_every_fault_at_once_with_its_line_and_exits_78() {
    let gateway = Setup::new(free_port()).prepare();
    let config = "[gateway]\nid = \"gw-1\"\n\n[devices]\nlisten = \"nowhere\"\nwindow = 0\n\
                  max_fram = \"64KiB\"\nheartbeat_interval = \"30 parsecs\"\n\n[mqtt]\n\
                  url = \"http://127.0.0.1\"\nversion = 3\n\n[spool]\nwhen_full = \"panic\"\n";
    std::fs::write(gateway.config(), config).unwrap();
    for command in ["check", "run"] {
        let output = gateway.command(&[command]);
        assert_eq!(output.status.code(), Some(78), "{command}: {output:?}");
        let faults = text(&output.stdout).to_owned() + text(&output.stderr);
        for (line, key) in [
            (5, "listen"),
            (6, "window"),
            (7, "max_fram"),
            (8, "heartbeat_interval"),
            (11, "url"),
            (12, "version"),
            (15, "when_full"),
        ] {
            let named = |text: &str| text.contains(key) && text.contains(&line.to_string());
            assert!(faults.lines().any(named), "{command}: {key} in line {line}:\n{faults}");
        }
        assert!(faults.contains("drop-oldest") && faults.contains("block"), "what is allowed");
    }
}

#[test]
fn a_configuration_that_is_not_toml_or_not_there_is_78() {
    let gateway = Setup::new(free_port()).prepare();
    std::fs::write(gateway.config(), "[gateway\nid = 1\n").unwrap();
    assert_eq!(gateway.command(&["check"]).status.code(), Some(78));
    std::fs::remove_file(gateway.config()).unwrap();
    let output = gateway.command(&["check"]);
    assert_eq!(output.status.code(), Some(78));
    assert!(text(&output.stderr).contains("tidegate.toml"), "{output:?}");
}

#[test]
fn credentials_are_not_optional_beyond_loopback() {
    let gateway = Setup::new(free_port()).set("devices.listen", "0.0.0.0:7070").prepare();
    let output = gateway.command(&["check"]);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
}

#[test]
fn wrong_usage_is_2() {
    let gateway = Setup::new(free_port()).prepare();
    for wrong in [vec!["fly"], vec!["device", "add"], vec!["run", "--confg", "x"]] {
        assert_eq!(gateway.command(&wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn device_add_prints_the_token_alone_and_only_its_hash_is_kept() {
    let gateway = Setup::new(free_port()).with_tokens().prepare();
    let output = gateway.command(&["device", "add", "kiln-3", "--readings", "temp*"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let token = text(&output.stdout).strip_suffix('\n').unwrap();
    assert!(token.len() >= 20 && !token.contains(char::is_whitespace), "{token:?}");
    let registry = std::fs::read_to_string(gateway.dir().join("devices.toml")).unwrap();
    assert!(registry.contains("kiln-3") && !registry.contains(token));
    let again = gateway.command(&["device", "add", "kiln-3"]);
    assert_eq!(again.status.code(), Some(1), "it exists: {again:?}");
    assert!(again.stdout.is_empty());
    let bad = gateway.command(&["device", "add", "not an id"]);
    assert_ne!(bad.status.code(), Some(0), "{bad:?}");
    let list = gateway.command(&["device", "list"]);
    assert!(text(&list.stdout).contains("kiln-3") && !text(&list.stdout).contains(token));
    assert_eq!(gateway.command(&["device", "remove", "kiln-4"]).status.code(), Some(1));
}

#[tokio::test]
async fn a_device_that_is_added_while_it_runs_is_let_in() {
    let (_broker, gateway) = start().await;
    let token = gateway.add("kiln-3", &[]);
    until_accepted(&gateway, "kiln-3", &token, true).await;
}

#[tokio::test]
async fn a_device_that_is_removed_while_connected_is_closed_with_4003() {
    let (_broker, gateway) = start().await;
    let (token, other) = (gateway.add("kiln-3", &[]), gateway.add("kiln-4", &[]));
    until_accepted(&gateway, "kiln-3", &token, true).await;
    until_accepted(&gateway, "kiln-4", &other, true).await;
    let (mut device, _) = gateway.device("kiln-3").token(&token).open(None).await;
    let (mut stays, _) = gateway.device("kiln-4").token(&other).open(None).await;
    assert!(gateway.command(&["device", "remove", "kiln-3"]).status.success());
    assert_eq!(device.closed().await, 4003);
    until_accepted(&gateway, "kiln-3", &token, false).await;
    stays.reading(1, 1.0).await;
    stays.acked(1).await;
}

#[tokio::test]
async fn sighup_reads_the_registry_at_once() {
    let (_broker, gateway) = start().await;
    let token = gateway.add("kiln-3", &[]);
    gateway.signal(Signal::HUP);
    until_accepted(&gateway, "kiln-3", &token, true).await;
    let (mut device, _) = gateway.device("kiln-3").token(&token).open(None).await;
    assert!(gateway.command(&["device", "remove", "kiln-3"]).status.success());
    gateway.signal(Signal::HUP);
    assert_eq!(device.closed().await, 4003);
}

#[tokio::test]
async fn a_healthy_day_has_no_warning_in_the_log() {
    let broker = Broker::start("").await;
    let mut gateway = Setup::new(broker.port).start().await;
    gateway.until_uplink("connected").await;
    let (mut device, _) = gateway.device("kiln-3").open(Some(7)).await;
    device.reading(1, 21.5).await;
    device.acked(1).await;
    gateway.signal(Signal::HUP);
    until("it is reloaded", async || gateway.log().contains("reloaded")).await;
    gateway.stop().await;
    let log = gateway.log();
    assert!(log.contains("stopped"), "{log}");
    assert!(!log.contains("WARN") && !log.contains("ERROR"), "{log}");
}

#[tokio::test]
async fn a_rotated_token_replaces_the_old_one_at_once_or_after_the_overlap() {
    let (_broker, gateway) = start().await;
    let first = gateway.add("kiln-3", &[]);
    until_accepted(&gateway, "kiln-3", &first, true).await;
    let overlap = gateway.command(&["device", "rotate", "kiln-3", "--overlap", "1h"]);
    let second = text(&overlap.stdout).trim_end().to_owned();
    until_accepted(&gateway, "kiln-3", &second, true).await;
    until_accepted(&gateway, "kiln-3", &first, true).await;
    let (mut device, _) = gateway.device("kiln-3").token(&first).open(None).await;
    let rotated = gateway.command(&["device", "rotate", "kiln-3"]);
    let third = text(&rotated.stdout).trim_end().to_owned();
    assert_eq!(device.closed().await, 4003);
    until_accepted(&gateway, "kiln-3", &third, true).await;
    until_accepted(&gateway, "kiln-3", &first, false).await;
}

#[tokio::test]
async fn a_registry_that_cannot_be_read_leaves_the_last_one_in_force() {
    let (_broker, gateway) = start().await;
    let token = gateway.add("kiln-3", &[]);
    until_accepted(&gateway, "kiln-3", &token, true).await;
    let (mut device, _) = gateway.device("kiln-3").token(&token).open(None).await;
    std::fs::write(gateway.dir().join("devices.toml"), "[[[ not toml").unwrap();
    gateway.signal(Signal::HUP);
    until("it is logged", async || gateway.log().contains("devices.toml")).await;
    device.reading(1, 1.0).await;
    device.acked(1).await;
    until_accepted(&gateway, "kiln-3", &token, true).await;
}

#[tokio::test]
async fn sigint_stops_as_sigterm_does() {
    let (_broker, mut gateway) = start().await;
    gateway.signal(Signal::INT);
    assert_eq!(gateway.ended().await.code(), Some(0));
}

#[tokio::test]
async fn a_stop_does_not_wait_for_a_broker_that_is_silent() {
    let mut broker = Broker::start("").await;
    let mut gateway = Setup::new(broker.port).start().await;
    broker.kill();
    let (mut device, _) = gateway.device("kiln-3").open(Some(7)).await;
    device.reading(1, 1.0).await;
    device.acked(1).await;
    let started = std::time::Instant::now();
    gateway.stop().await;
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    gateway.start().await;
    assert_eq!(gateway.metric("tidegate_spool_batches").await, 1);
    assert_eq!(gateway.device("kiln-3").open(Some(7)).await.1.acked, 1);
}

#[tokio::test]
async fn a_second_gateway_on_one_data_folder_refuses_and_says_so() {
    let broker = Broker::start("").await;
    let first = Setup::new(broker.port).start().await;
    let data = first.dir().join("data").to_str().unwrap().to_owned();
    let mut second = Setup::new(broker.port).set("gateway.data_dir", data.clone()).prepare();
    second.spawn();
    assert_eq!(second.ended().await.code(), Some(1));
    assert!(second.log().contains(&data), "which folder: {}", second.log());
    let (mut device, _) = first.device("kiln-3").open(None).await;
    device.reading(1, 1.0).await;
    device.acked(1).await;
}

#[tokio::test]
async fn a_port_in_use_ends_the_start_with_1_and_its_name() {
    let broker = Broker::start("").await;
    let first = Setup::new(broker.port).start().await;
    for (key, port) in [("devices.listen", first.devices), ("dashboard.listen", first.dashboard)] {
        let taken = format!("127.0.0.1:{port}");
        let mut second = Setup::new(broker.port).set(key, taken.clone()).prepare();
        second.spawn();
        assert_eq!(second.ended().await.code(), Some(1), "{key}");
        assert!(second.log().contains(&taken), "{key}: {}", second.log());
    }
}

#[tokio::test]
async fn status_tells_a_script_what_the_page_tells_a_person() {
    let (_broker, gateway) = start().await;
    gateway.until_uplink("connected").await;
    let output = gateway.command(&["status"]);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(text(&output.stdout).contains("connected"), "{output:?}");
    let output = gateway.command(&["status", "--json"]);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["uplink"]["state"], "connected");
}

#[test]
fn status_of_a_gateway_that_does_not_run_is_1() {
    let gateway = Setup::new(free_port()).prepare();
    let output = gateway.command(&["status"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(output.stdout.is_empty() && !output.stderr.is_empty());
}

#[test]
fn help_and_version_are_on_stdout() {
    let gateway = Setup::new(free_port()).prepare();
    for argument in ["--help", "--version"] {
        let output = std::process::Command::new(crate::harness::program())
            .arg(argument)
            .current_dir(gateway.dir())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0));
        assert!(text(&output.stdout).contains("tidegate") && output.stderr.is_empty());
    }
}
