//! `check`, `device` and `status` as an operator or a script meets them.

use std::fs::Permissions;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;

use crate::{stderr, stdout, tidegate, written};

#[test]
fn a_valid_configuration_is_said_to_be_so_in_one_line() {
    let (folder, file) = written("[gateway]\nid = \"gw-1\"\n");
    let output = tidegate(&["check"], &file);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert_eq!(stdout(&output), format!("{}: valid\n", file.display()));
    assert!(
        stderr(&output).contains("warning: ") && stderr(&output).contains("tidegate device add")
    );

    std::fs::write(folder.path().join("devices.toml"), "").unwrap();
    let output = tidegate(&["check", "--json"], &file);
    let json: serde_json::Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!(json["valid"], true);
    assert_eq!(json["warnings"], serde_json::json!([]));
    assert_eq!(stderr(&output), "");
}

#[test]
fn tokens_in_the_clear_are_warned_of() {
    let (_folder, file) = written("[devices]\nlisten = \"0.0.0.0:7070\"\n");
    let output = tidegate(&["check"], &file);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(stderr(&output).contains("in the clear"), "{output:?}");
}

#[test]
fn secrets_that_every_user_may_read_are_warned_of_and_a_group_may() {
    let (folder, file) = written("[mqtt]\nusername = \"gw\"\npassword_file = \"password\"\n");
    let (password, registry) = (folder.path().join("password"), folder.path().join("devices.toml"));
    std::fs::write(&password, "secret\n").unwrap();
    std::fs::write(&registry, "").unwrap();
    let warned = |secret: u32, devices: u32| {
        std::fs::set_permissions(&password, Permissions::from_mode(secret)).unwrap();
        std::fs::set_permissions(&registry, Permissions::from_mode(devices)).unwrap();
        let output = tidegate(&["check"], &file);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        stderr(&output).to_owned()
    };
    assert_eq!(warned(0o640, 0o644), "", "hashes are no secret");
    let told = warned(0o644, 0o600);
    assert!(told.contains("mqtt.password_file: ") && told.contains("mode is 644"), "{told}");
    assert!(told.trim_end().ends_with(&format!("chmod o= {}", password.display())), "{told}");
    let told = warned(0o600, 0o646);
    assert!(told.contains("devices.registry: ") && told.contains("can be changed by"), "{told}");
}

#[test]
fn what_changes_while_the_gateway_runs_cannot_be_a_credential() {
    for (text, key) in [
        ("[devices]\nregistry = \"credential:devices\"\n", "devices.registry"),
        ("[gateway]\ndata_dir = \"credential:data\"\n", "gateway.data_dir"),
    ] {
        let (_folder, file) = written(text);
        let output = tidegate(&["check"], &file);
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        let told = format!(":2: {key}: changes while the gateway runs");
        assert!(stderr(&output).contains(&told), "{output:?}");
    }
    let (_folder, file) = written("[mqtt]\nkey = \"credential:../key\"\n");
    let output = tidegate(&["check"], &file);
    assert!(stderr(&output).contains("cannot be the name of a credential"), "{output:?}");
}

#[test]
fn a_device_is_added_listed_rotated_and_removed() {
    let (folder, file) = written("");
    let registry = || std::fs::read_to_string(folder.path().join("devices.toml")).unwrap();

    let added = tidegate(
        &[
            "device",
            "add",
            "kiln-3",
            "--readings",
            "temp*",
            "--readings",
            "rpm",
            "--commands",
            "stop",
        ],
        &file,
    );
    assert_eq!(added.status.code(), Some(0), "{added:?}");
    let token = stdout(&added).strip_suffix('\n').unwrap().to_owned();
    assert!(token.starts_with("tg_") && token.len() == 46, "{token}");
    assert!(!registry().contains(&token));

    assert_eq!(tidegate(&["device", "add", "a"], &file).status.code(), Some(0));
    let again = tidegate(&["device", "add", "kiln-3"], &file);
    assert_eq!(again.status.code(), Some(1));
    assert!(stderr(&again).contains("kiln-3 is registered already"), "{again:?}");
    assert_eq!(stdout(&again), "");

    let list = tidegate(&["device", "list"], &file);
    let lines: Vec<_> = stdout(&list).lines().collect();
    assert!(
        lines[0].starts_with("ID") && lines[1].starts_with("a ") && lines[2].starts_with("kiln-3 ")
    );
    assert!(lines[2].ends_with("temp*,rpm  stop      -"), "{lines:?}");

    let set = ["device", "set", "kiln-3", "--burst", "7", "--max-records", "9"];
    assert_eq!(tidegate(&set, &file).status.code(), Some(0));
    let list = tidegate(&["device", "list"], &file);
    assert!(stdout(&list).contains("burst 7, 9 records\n"), "{list:?}");
    for wrong in [&["--burst", "0"][..], &["--max-records", "1.5"], &["--burst", "x"], &[]] {
        let output = tidegate(&[&["device", "set", "kiln-3"], wrong].concat(), &file);
        assert!(!output.status.success(), "{wrong:?}");
    }

    let rotated = tidegate(&["device", "rotate", "kiln-3", "--overlap", "10m"], &file);
    assert!(stdout(&rotated).starts_with("tg_") && stdout(&rotated).trim_end() != token);
    let list = tidegate(&["device", "list", "--json"], &file);
    let json: serde_json::Value = serde_json::from_str(stdout(&list)).unwrap();
    assert_eq!(json[1]["id"], "kiln-3");
    assert_eq!(json[1]["readings"], serde_json::json!(["temp*", "rpm"]));
    assert_eq!(json[0]["commands"], serde_json::json!(["*"]));
    assert!(json[1]["previous_expires"].as_str().unwrap().ends_with('Z'));

    assert_eq!(tidegate(&["device", "remove", "kiln-3"], &file).status.code(), Some(0));
    assert!(!registry().contains("kiln-3"));
    for unknown in [["device", "remove", "kiln-3"], ["device", "rotate", "kiln-3"]] {
        let output = tidegate(&unknown, &file);
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("kiln-3 is not registered"), "{output:?}");
    }
}

#[test]
fn wrong_usage_is_2_and_changes_nothing() {
    let (folder, file) = written("");
    for wrong in [
        &["device", "add"][..],
        &["device", "add", "not an id"],
        &["device", "add", "a", "--readings", ""],
        &["device", "rotate", "a", "--overlap", "10"],
        &["fly"],
        &["check", "--verbose"],
    ] {
        assert_eq!(tidegate(wrong, &file).status.code(), Some(2), "{wrong:?}");
    }
    assert!(!folder.path().join("devices.toml").exists());
}

#[test]
fn a_broken_configuration_or_registry_is_78_for_device_commands() {
    let (folder, file) = written("[devices]\nwindow = 0\n");
    assert_eq!(tidegate(&["device", "list"], &file).status.code(), Some(78));
    std::fs::write(&file, "").unwrap();
    std::fs::write(folder.path().join("devices.toml"), "x").unwrap();
    for command in [&["device", "list"][..], &["device", "add", "a"]] {
        let output = tidegate(command, &file);
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        assert!(stderr(&output).contains("devices.toml:1: "), "{output:?}");
    }
}

#[test]
fn device_commands_need_no_key_that_only_the_daemon_may_read() {
    let (_folder, file) = written("[devices.tls]\ncert = \"none.crt\"\nkey = \"none.key\"\n");
    assert_eq!(tidegate(&["check"], &file).status.code(), Some(78));
    assert_eq!(tidegate(&["device", "add", "a"], &file).status.code(), Some(0));
}

/// Answers one request with `body`; gives the port and what was asked.
fn gateway(status: &str, body: &str) -> (u16, std::thread::JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            request.push(byte[0]);
        }
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(request).unwrap()
    });
    (port, thread)
}

const STATUS: &str = r#"{"gateway":"gw-1","version":"9.9.9","uptime_s":5.5,
    "uplink":{"state":"connecting","since":0.0,"last_error":null},
    "spool":{"batches":0,"readings":0,"bytes":0,"max_bytes":1024,"oldest_age_s":null,
             "lost_readings":0,"full_in_s":null,"drained_in_s":null},
    "devices":{"connected":0,"known":0}}"#;

#[test]
fn status_asks_where_the_configuration_or_the_url_says() {
    let (port, asked) = gateway("200 OK", STATUS);
    let (_folder, file) = written(&format!("[dashboard]\nlisten = \"127.0.0.1:{port}\"\n"));
    let output = tidegate(&["status"], &file);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    assert!(
        stdout(&output)
            .starts_with("gateway  gw-1 (tidegate 9.9.9), up 5 s\nuplink   connecting\n")
    );
    let request = asked.join().unwrap().to_lowercase();
    assert!(request.starts_with("get /api/v1/status http/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("host: 127.0.0.1:{port}\r\n")), "{request}");

    let (port, _asked) = gateway("200 OK", STATUS);
    let url = format!("http://127.0.0.1:{port}");
    let output = tidegate(&["status", "--json", "--url", &url], &file);
    let json: serde_json::Value = serde_json::from_str(stdout(&output)).unwrap();
    assert_eq!(json["devices"]["known"], 0);
}

#[test]
fn status_says_why_there_is_none() {
    let (port, _asked) = gateway("503 Service Unavailable", "the spool is not open\n");
    let (_folder, file) = written("");
    let output = tidegate(&["status", "--url", &format!("http://127.0.0.1:{port}")], &file);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("503") && stderr(&output).contains("the spool is not open"));

    // Bound and dropped, so nobody listens there.
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let output = tidegate(&["status", "--url", &format!("http://127.0.0.1:{free}")], &file);
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("no gateway can be reached"), "{output:?}");
    assert_eq!(stdout(&output), "");
}

#[test]
fn the_version_is_that_of_the_package() {
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_tidegate")).arg("--version").output();
    assert_eq!(stdout(&output.unwrap()), format!("tidegate {}\n", env!("CARGO_PKG_VERSION")));
}
