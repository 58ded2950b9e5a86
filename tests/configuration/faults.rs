//! What `check` says about files that are wrong.

use crate::{stderr, stdout, tidegate, written};

/// What `check` prints, with the folder cut off.
fn faults(text: &str) -> Vec<String> {
    let (folder, file) = written(text);
    let output = tidegate(&["check"], &file);
    assert_eq!(output.status.code(), Some(78), "{output:?}");
    assert_eq!(stdout(&output), "");
    let folder = format!("{}/", folder.path().display());
    stderr(&output).lines().map(|line| line.replace(&folder, "")).collect()
}

#[test]
fn every_fault_is_shown_at_once_with_its_line_and_what_is_allowed() {
    let text = r#"
[gateway]
id = "a/b"
grace = 10

[devices]
listen = "nowhere"
auth = "tokens"
allowed_origins = ["https://a.example", "a.example"]
heartbeat_interval = "30 parsecs"
window = 0
max_fram = "64KiB"
max_frame = "64KB"
max_records = "many"
rate = { batches_per_second = 0, burst = 400 }
tls = "yes"

[mqtt]
url = "mqtt://user:secret@broker"
version = 3
prefix = "tidegate/+"
max_inflight = 70000
window = 64

[spool]
max_bytes = -1
when_full = "panic"
drain = "in_order"

[log]
level = "verbose"

[telemetry]
"#;
    let expected = r#"
tidegate.toml:3: gateway.id: "a/b" holds '/', which means something in topics; allowed: 1 to 64 characters without + # / and control characters
tidegate.toml:4: gateway.grace: has no unit; write ms, s, m, h or d; allowed: 100ms to 10m
tidegate.toml:7: devices.listen: "nowhere" is not an IP address and port; allowed: an IP address and port, "127.0.0.1:7070" or "[::1]:7070"
tidegate.toml:8: devices.auth: "tokens" is not one of them; did you mean "token"?; allowed: "token", "mtls", "none"
tidegate.toml:9: devices.allowed_origins: "a.example" does not begin with https:// or http://; allowed: a list of: https://HOST[:PORT] or http://HOST[:PORT], without a path
tidegate.toml:10: devices.heartbeat_interval: "30 parsecs" is not a time; write a number and ms, s, m, h or d; allowed: 100ms to 1h
tidegate.toml:11: devices.window: 0 is out of range; allowed: 1 to 4096
tidegate.toml:12: devices.max_fram: unknown key; did you mean "max_frame"?; allowed: listen, auth, registry, allowed_origins, max_connections, max_connections_per_address, max_handshakes_per_second, max_handshakes_per_second_per_address, trusted_proxies, proxy_header, hello_timeout, heartbeat_interval, heartbeat_timeout, write_timeout, window, max_frame, max_records, max_unsettled, rate, tls
tidegate.toml:13: devices.max_frame: "64KB" is not a size; write bytes or KiB, MiB, GiB; allowed: 256 to 16MiB
tidegate.toml:14: devices.max_records: is a string; allowed: 1 to 65536
tidegate.toml:15: devices.rate.batches_per_second: 0 is out of range; allowed: 0.001 to 1000000
tidegate.toml:16: devices.tls: is a string; allowed: a table with cert, key, client_ca, crl
tidegate.toml:19: mqtt.url: holds a user name; write mqtt.username and mqtt.password_file; allowed: mqtt://HOST[:PORT] (default port 1883) or mqtts://HOST[:PORT] (8883)
tidegate.toml:20: mqtt.version: 3 is not one of them; allowed: 4, 5
tidegate.toml:21: mqtt.prefix: "tidegate/+" holds '+', which is for subscriptions; allowed: 1 to 512 characters, levels between single / without + #, {gateway} as placeholder
tidegate.toml:22: mqtt.max_inflight: 70000 is out of range; allowed: 1 to 65535
tidegate.toml:23: mqtt.window: unknown key; did you mean devices.window?; allowed: url, version, prefix, payload, homeassistant, homeassistant_prefix, client_id, username, password_file, ca, cert, key, max_inflight, ack_timeout, max_backoff, keep_alive, session_expiry
tidegate.toml:26: spool.max_bytes: -1 is out of range; allowed: 1MiB to 16384GiB
tidegate.toml:27: spool.when_full: "panic" is not one of them; allowed: "drop-oldest", "block"
tidegate.toml:28: spool.drain: "in_order" is not one of them; did you mean "in-order"?; allowed: "in-order", "live-first"
tidegate.toml:31: log.level: "verbose" is not a level; allowed: error, warn, info, debug, trace or off; after a comma MODULE=LEVEL for one module, as in "info,tidegate::uplink=debug"
tidegate.toml:33: telemetry: unknown key; allowed: gateway, devices, mqtt, spool, commands, dashboard, history, push, log
"#;
    let found = faults(text);
    assert_eq!(found, expected.trim().lines().collect::<Vec<_>>(), "{}", found.join("\n"));
}

#[test]
fn what_keys_mean_together_is_checked() {
    let text = r#"
[devices]
listen = "0.0.0.0:8080"
auth = "none"
max_frame = "1MiB"
max_unsettled = "64KiB"
[devices.tls]
[mqtt]
ca = "ca.crt"
cert = "me.crt"
password_file = "password"
[dashboard]
listen = "127.0.0.1:8080"
users = "users.toml"
[dashboard.tls]
key = "server.key"
"#;
    let expected = r#"
tidegate.toml:4: devices.auth: "none" lets anyone who reaches 0.0.0.0:8080 in; allowed: "token" or "mtls", or "none" with devices.listen on loopback
tidegate.toml:6: devices.max_unsettled: is less than devices.max_frame, so one large message would not fit; allowed: at least devices.max_frame
tidegate.toml:7: devices.tls: needs cert and key; allowed: cert and key, or no such table
tidegate.toml:9: mqtt.ca: has no effect without TLS; allowed: with a mqtts:// url
tidegate.toml:9: mqtt.ca: FILE/ca.crt cannot be read: No such file or directory (os error 2); allowed: a readable file
tidegate.toml:10: mqtt.cert: has no effect without TLS; allowed: with a mqtts:// url
tidegate.toml:10: mqtt.cert: needs mqtt.key beside it
tidegate.toml:11: mqtt.password_file: needs mqtt.username beside it
tidegate.toml:11: mqtt.password_file: FILE/password cannot be read: No such file or directory (os error 2); allowed: a readable file
tidegate.toml:13: dashboard.listen: 127.0.0.1:8080 is taken by devices.listen (0.0.0.0:8080); allowed: another address or port
tidegate.toml:16: dashboard.tls.key: needs dashboard.tls.cert beside it
"#;
    let expected = expected.replace("FILE/", "");
    let found = faults(text);
    assert_eq!(found, expected.trim().lines().collect::<Vec<_>>(), "{}", found.join("\n"));
}

#[test]
fn a_dashboard_beyond_loopback_needs_users_and_a_way_that_is_not_in_the_clear() {
    let found = |text: &str| faults(&format!("[dashboard]\n{text}")).join("\n");
    let open = found("listen = \"0.0.0.0:8080\"\n");
    assert!(
        open.contains(
            "tidegate.toml:2: dashboard.listen: 0.0.0.0:8080 is not loopback, and without users"
        ),
        "{open}"
    );
    let users = "listen = \"0.0.0.0:8080\"\nusers = \"users.toml\"\n";
    let clear = found(users);
    assert!(clear.contains("without TLS passwords would cross the network"), "{clear}");
    // The fault that stands in for the others, so that there is one to show.
    let only = |text: &str| {
        let found = found(&format!("{text}session_idle = 1\n"));
        assert!(found.contains("dashboard.session_idle") && found.lines().count() == 1, "{found}");
    };
    only(&format!("{users}trusted_proxies = [\"10.0.0.5\"]\n"));
    only("users = \"users.toml\"\n");
    let name = found("users = \"users.toml\"\ntrusted_proxies = [\"proxy\"]\n");
    assert!(name.contains("\"proxy\" is neither; allowed: a list of: an IP address"), "{name}");
    let way = "trusted_proxies = [\"10.0.0.5\"]\nproxy_header = \"proxy-protocol\"\n";
    let clear = found(&format!("{users}{way}"));
    assert!(clear.contains("without TLS passwords would cross the network"), "{clear}");
    let idle = found("session_idle = \"2d\"\nsession_max = \"1d\"\n");
    assert!(idle.contains("dashboard.session_idle: is more than dashboard.session_max"), "{idle}");
}

#[test]
fn pushes_are_checked_together_with_their_files() {
    let text = r#"
[[push]]
[[push]]
url = "http://me:s3cret@host/write"
[[push]]
url = "http://host/write?db=x&p=s3cret"
[[push]]
url = "http://127.0.0.1:8428/write"
auth = "bearer"
ca = "ca.crt"
[[push]]
url = "https://127.0.0.1/write"
token_file = "none.token"
[[push]]
name = "n"
url = "https://a/write"
token_file = "empty"
devices = ["a b"]
[[push]]
name = "n"
url = "https://b/write"
token_file = "two"
gzip = "yes"
[[push]]
url = "https://c/write"
token_file = "two"
auth = "basic"
"#;
    let expected = r#"
tidegate.toml:2: push.url: is missing: where are the readings to go?; allowed: url = "http://127.0.0.1:8428/write", say
tidegate.toml:4: push.url: holds a user name or password; put USER:PASSWORD into a file of its own, name it in token_file and write auth = "basic"; allowed: URL
tidegate.toml:6: push.url: holds credentials (p=…); put them into a file of its own and name it in token_file: the token alone, or USER:PASSWORD with auth = "basic"; allowed: URL
tidegate.toml:9: push.auth: has no effect without push.token_file; allowed: with token_file
tidegate.toml:10: push.ca: has no effect without TLS; allowed: with a https:// url
tidegate.toml:10: push.ca: ca.crt cannot be read: No such file or directory (os error 2); allowed: a readable file
tidegate.toml:12: push.url: two pushes are called "127.0.0.1"; allowed: a push.name of its own for each (default: the host)
tidegate.toml:13: push.token_file: none.token cannot be read: No such file or directory (os error 2); allowed: a readable file
tidegate.toml:17: push.token_file: empty is empty
tidegate.toml:18: push.devices: the pattern "a b" holds a blank or a control character, which no name has; allowed: a list of: names, with * for any run of characters and ? for one
tidegate.toml:20: push.name: two pushes are called "n"; allowed: a push.name of its own for each (default: the host)
tidegate.toml:22: push.token_file: two holds more than a token; allowed: one line without blanks: the token alone
tidegate.toml:23: push.gzip: is a string; allowed: true or false
tidegate.toml:26: push.token_file: two holds no colon; allowed: USER:PASSWORD, as auth is "basic"
"#;
    let url = "http://HOST[:PORT]/PATH or https://HOST[:PORT]/PATH, with ?QUERY where the store wants one";
    let expected = expected.replace("allowed: URL", &format!("allowed: {url}"));
    let (folder, file) = written(text);
    std::fs::write(folder.path().join("empty"), "\n").unwrap();
    std::fs::write(folder.path().join("two"), "one two\n").unwrap();
    let output = tidegate(&["check"], &file);
    let said = stderr(&output).replace(&format!("{}/", folder.path().display()), "");
    assert_eq!(
        said.lines().collect::<Vec<_>>(),
        expected.trim().lines().collect::<Vec<_>>(),
        "{said}"
    );
    assert!(!said.contains("s3cret"));
}

#[test]
fn a_secret_in_the_clear_is_warned_of_and_a_push_over_tls_is_not() {
    for (url, warned) in
        [("http://host/write", true), ("https://host/write", false), ("http://[::1]/write", false)]
    {
        let (folder, file) =
            written(&format!("[[push]]\nurl = \"{url}\"\ntoken_file = \"token\"\n"));
        std::fs::write(folder.path().join("token"), "t0ken\n").unwrap();
        let output = tidegate(&["check"], &file);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let said = format!("{}{}", stdout(&output), stderr(&output));
        assert_eq!(said.contains("in the clear"), warned, "{url}: {said}");
    }
}

#[test]
fn mtls_needs_an_authority_and_the_dashboard_needs_loopback() {
    let found = faults("[devices]\nauth = \"mtls\"\n[dashboard]\nlisten = \"[::]:8080\"\n");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].starts_with("tidegate.toml:2: devices.auth: \"mtls\" needs devices.tls.client_ca")
    );
    assert!(found[1].starts_with("tidegate.toml:4: dashboard.listen: [::]:8080 is not loopback"));
}

#[test]
fn a_fault_does_not_make_others_out_of_thin_air() {
    let found = faults("[mqtt]\nurl = \"mqtts//broker\"\nca = \"/dev/null\"\n");
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].starts_with("tidegate.toml:2: mqtt.url: "));
    assert!(found[1].starts_with("tidegate.toml:3: mqtt.ca: /dev/null holds no certificate"));
}

#[test]
fn all_syntax_errors_are_shown_with_line_and_column() {
    let found =
        faults("[gateway]\nid = gw 1\n[devices\nwindow = 3\n[mqtt]\nversion = 5\nversion = 4\n");
    for (line, start) in [
        (2, "tidegate.toml:2: not TOML: "),
        (3, "tidegate.toml:3: not TOML: "),
        (7, "tidegate.toml:7: not TOML: "),
    ] {
        assert!(found.iter().any(|fault| fault.starts_with(start)), "line {line}: {found:?}");
    }
    assert!(found[0].contains("(column "), "{found:?}");
}

#[test]
fn faults_of_the_registry_are_among_them() {
    let (folder, file) = written("[devices]\nwindow = 0\n");
    std::fs::write(folder.path().join("devices.toml"), "[devices.a]\ntokn = 1\n").unwrap();
    let output = tidegate(&["check"], &file);
    assert_eq!(output.status.code(), Some(78));
    let lines: Vec<_> = stderr(&output).lines().collect();
    assert!(lines[0].contains("tidegate.toml:2: devices.window: "), "{lines:?}");
    assert!(
        lines[1].contains("devices.toml:2: devices.a.tokn: unknown key; did you mean \"token\"?")
    );
}

#[test]
fn faults_come_as_json_too() {
    let (_folder, file) = written("[devices]\n  window = 0\n");
    let output = tidegate(&["check", "--json"], &file);
    assert_eq!(output.status.code(), Some(78));
    let json: serde_json::Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!(json["valid"], false);
    let fault = &json["faults"][0];
    assert_eq!((fault["line"].as_u64(), fault["column"].as_u64()), (Some(2), Some(12)));
    assert_eq!(fault["key"], "devices.window");
    assert_eq!(fault["problem"], "0 is out of range");
    assert_eq!(fault["allowed"], "1 to 4096");
}

#[test]
fn a_file_that_is_not_there_or_not_text_is_named() {
    let (folder, file) = written("");
    let missing = tidegate(&["check"], &folder.path().join("none.toml"));
    assert_eq!(missing.status.code(), Some(78));
    assert!(stderr(&missing).contains("none.toml: cannot be read: No such file"), "{missing:?}");
    std::fs::write(&file, [0xff, 0xfe]).unwrap();
    let binary = tidegate(&["check"], &file);
    assert_eq!(binary.status.code(), Some(78));
    assert!(stderr(&binary).contains("tidegate.toml: cannot be read: "), "{binary:?}");
}

#[test]
fn home_assistant_cannot_have_cbor() {
    let found = faults("[mqtt]\nhomeassistant = true\npayload = \"senml-cbor\"\n");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(
        found[0].starts_with("tidegate.toml:2: mqtt.homeassistant: Home Assistant reads no CBOR")
    );
    let found = faults("[mqtt]\nhomeassistant = \"yes\"\n");
    assert!(found[0].ends_with("allowed: true or false"), "{found:?}");
}
