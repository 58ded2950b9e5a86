//! Secrets are nowhere but in the files that they came from: not in the log at its most talkative, in
//! answers, metrics, messages of the feed, the process's arguments and surroundings, or the data
//! folder. And nobody else may read that folder.

use std::cell::RefCell;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value as Json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::dashboard::{next, stream};
use crate::gateway::{change, entries};
use crate::harness::{Broker, Gateway, Setup, hello, until};

const PASSWORD: &str = "correct-horse-battery";
const PUSH_TOKEN: &str = "push-token-staple-9";
const PUSH_PASSWORD: &str = "push-password-stable-7";
const URL_PASSWORD: &str = "url-password-hoof-5";

/// What `GET` finds below `/api`, with a device and a command where there are places for them; the
/// gateway's own description says what there is.
async fn answers(gateway: &Gateway) -> String {
    let description = gateway.get("/api/v1/openapi.json").await.json();
    let paths = description["paths"].as_object().unwrap();
    let mut paths: Vec<String> = paths
        .iter()
        .filter(|(_, methods)| methods.get("get").is_some())
        // These do not end; what they bring is the feed's.
        .filter(|(path, _)| !path.ends_with("/stream") && !path.ends_with("/events"))
        .map(|(path, _)| path.replace("{device}", "kiln-3").replace("{id}", "gw-test-1"))
        .collect();
    paths.push("/api/v1/log?level=trace&limit=1000".to_owned());
    assert!(paths.len() > 6 && paths.iter().any(|path| path == "/metrics"), "{paths:?}");
    let mut all = String::new();
    for path in paths {
        let answer = gateway.get(&path).await;
        assert_ne!(answer.status, 500, "{path}");
        all.push_str(&answer.body);
    }
    all
}

/// All that others on the machine can see of the process without being root, and more.
fn process(gateway: &Gateway) -> String {
    let folder = PathBuf::from(format!("/proc/{}", gateway.pid()));
    ["cmdline", "environ", "status", "comm"]
        .map(|name| {
            let bytes = std::fs::read(folder.join(name)).unwrap();
            String::from_utf8_lossy(&bytes).replace('\0', " ")
        })
        .concat()
}

/// Everything below `folder`, as text.
fn contents(folder: &Path) -> String {
    let mut all = String::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        all.push_str(&path.to_string_lossy());
        if path.is_dir() {
            all.push_str(&contents(&path));
        } else if let Ok(bytes) = std::fs::read(&path) {
            all.push_str(&String::from_utf8_lossy(&bytes));
        }
    }
    all
}

fn is_nowhere(secret: &str, told: &str) {
    let at = told.find(secret).map(|at| {
        let from = (0..=at.saturating_sub(300)).rev().find(|i| told.is_char_boundary(*i));
        &told[from.unwrap_or(0)..at]
    });
    assert_eq!(at, None, "{secret} is told");
}

/// A store that refuses every request and says the credentials that it was shown.
async fn blabbing() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/write", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = vec![0; 64 * 1024];
                let Ok(length) = stream.read(&mut request).await else { return };
                let head = String::from_utf8_lossy(&request[..length]).into_owned();
                let shown = head.lines().find_map(|line| {
                    line.to_ascii_lowercase().starts_with("authorization").then(|| line.to_owned())
                });
                let shown = shown.unwrap_or_default();
                let read = if shown.contains("Basic ") { PUSH_PASSWORD } else { "" };
                let said = format!("blabbed: {shown} {read}");
                let answer = format!(
                    "HTTP/1.1 401 Unauthorized\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{said}",
                    said.len()
                );
                let _ = stream.write_all(answer.as_bytes()).await;
            });
        }
    });
    url
}

#[tokio::test]
async fn no_secret_shows_anywhere_at_any_level() {
    let (broker, store) = (Broker::start("").await, blabbing().await);
    let pushed = |name: &str, auth: &str| {
        format!(
            "name = \"{name}\"\nurl = \"{store}\"\nauth = \"{auth}\"\ntoken_file = \"{name}\"\n\
             interval = \"50ms\""
        )
    };
    let mut gateway = Setup::new(broker.port)
        .with_tokens()
        .set("mqtt.username", "gw")
        .set("mqtt.password_file", "password")
        .table("push", &pushed("bearer", "bearer"))
        .table("push", &pushed("basic", "basic"))
        .set("log.level", "trace")
        .prepare();
    for (file, secret) in [
        ("password", PASSWORD.to_owned()),
        ("bearer", PUSH_TOKEN.to_owned()),
        ("basic", format!("joe:{PUSH_PASSWORD}")),
    ] {
        std::fs::write(gateway.dir().join(file), secret + "\n").unwrap();
    }
    let (token, other) = (gateway.add("kiln-3", &[]), gateway.add("kiln-4", &[]));
    gateway.start().await;
    gateway.until_uplink("connected").await;
    let mut feed = stream(&gateway, "?log=debug").await;

    let mut device = gateway.device("kiln-3").token(&token).connect().await.unwrap();
    device.send(&hello(Some(7), &[])).await;
    let _ = device.next().await;
    device.reading(1, 21.5).await;
    device.acked(1).await;
    let offered = format!("tidegate.v1, bearer.{other}");
    let browser = gateway.device("kiln-4").protocols(&offered).connect().await.unwrap();
    let (wrong, wrong_offer) = ("tg_wrong-one", "tg_wrong-offer");
    assert!(gateway.device("kiln-3").token(wrong).connect().await.is_err());
    let offered = format!("tidegate.v1, bearer.{wrong_offer}");
    assert!(gateway.device("kiln-3").protocols(&offered).connect().await.is_err());
    // A token of the right device at the wrong one, and where no token belongs.
    assert!(gateway.device("kiln-4").token(&token).connect().await.is_err());
    let hidden = gateway.device("kiln-3").header("cookie", wrong).token(wrong_offer);
    assert!(hidden.connect().await.is_err());
    until("the store has said what it was shown", async || {
        gateway.log().matches("blabbed").count() >= 2
    })
    .await;

    // One that must be mended: what is wrong is told without the secret in it.
    let url = format!("mqtt://127.0.0.1:{}", broker.port);
    change(&gateway, &url, &format!("tcp://gw:{URL_PASSWORD}@127.0.0.1"));
    until("the fault is told", async || {
        let told = entries(&gateway, "?level=error").await;
        told.iter().any(|entry| entry["message"].as_str().unwrap().contains("mqtt.url"))
    })
    .await;
    let seen = RefCell::new(String::new());
    next(&mut feed, |message: &Json| {
        seen.borrow_mut().push_str(&message.to_string());
        message["message"].as_str().is_some_and(|text| text.contains("mqtt.url"))
    })
    .await;
    let mut told = answers(&gateway).await + &seen.into_inner() + &process(&gateway);
    let shown = gateway.get("/api/v1/gateway").await.json();
    let file = shown["configuration"]["mqtt"]["password_file"].as_str().unwrap();
    assert!(file.ends_with("password"), "{file}");
    assert_eq!(shown["configuration"]["mqtt"]["url"], url.as_str());
    drop((device, browser));
    gateway.stop().await;
    told.push_str(&gateway.log());
    told.push_str(&contents(&gateway.dir().join("data")));
    told.push_str(&std::fs::read_to_string(gateway.dir().join("devices.toml")).unwrap());

    let basic = STANDARD.encode(format!("joe:{PUSH_PASSWORD}"));
    for secret in [
        PASSWORD,
        PUSH_TOKEN,
        PUSH_PASSWORD,
        &basic,
        URL_PASSWORD,
        &token,
        &other,
        wrong,
        wrong_offer,
    ] {
        is_nowhere(secret, &told);
    }
    for told in [PASSWORD, URL_PASSWORD] {
        let check = gateway.command(&["check"]);
        is_nowhere(told, &format!("{check:?}"));
    }
}

#[tokio::test]
async fn credentials_of_systemd_are_used_and_their_text_is_told_nowhere() {
    let broker = Broker::start("").await;
    let issued = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let key = issued.key_pair.serialize_pem();
    let tls: toml::Table = "cert = \"cert.pem\"\nkey = \"credential:device-key\"".parse().unwrap();
    let mut gateway = Setup::new(broker.port)
        .set("mqtt.username", "gw")
        .set("mqtt.password_file", "credential:mqtt-password")
        .set("devices.tls", tls)
        .set("log.level", "trace")
        .prepare();
    std::fs::write(gateway.dir().join("cert.pem"), issued.cert.pem()).unwrap();

    let check = |gateway: &Gateway| {
        let output = gateway.command(&["check"]);
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, told) = check(&gateway);
    assert_eq!(code, Some(78));
    assert!(told.contains("no credentials were passed"), "{told}");
    assert!(told.contains("LoadCredential=mqtt-password:"), "{told}");

    let folder = gateway.dir().join("credentials");
    std::fs::create_dir(&folder).unwrap();
    gateway.env("CREDENTIALS_DIRECTORY", folder.clone());
    std::fs::write(folder.join("mqtt-password"), PASSWORD).unwrap();
    let (code, told) = check(&gateway);
    assert_eq!(code, Some(78));
    assert!(told.contains("credential \"device-key\" was not passed"), "{told}");
    assert!(!told.contains("mqtt-password"), "{told}");

    std::fs::write(folder.join("device-key"), &key).unwrap();
    gateway.start().await;
    gateway.until_uplink("connected").await;
    // Not TLS at all.
    assert!(gateway.device("kiln-3").attempt().await.is_err());
    let shown = gateway.get("/api/v1/gateway").await.json();
    let configuration = &shown["configuration"];
    assert_eq!(configuration["mqtt"]["password_file"], "credential:mqtt-password");
    assert_eq!(configuration["devices"]["tls"]["key"], "credential:device-key");
    let told = answers(&gateway).await + &process(&gateway);
    gateway.stop().await;
    let told = told + &gateway.log() + &contents(&gateway.dir().join("data"));
    is_nowhere(PASSWORD, &told);
    for line in key.lines().filter(|line| !line.starts_with("-----")) {
        is_nowhere(line, &told);
    }
}

#[tokio::test]
async fn nobody_else_may_read_what_the_gateway_writes() {
    // Without a broker, so that there is a spool.
    let mut gateway = Setup::new(crate::harness::free_port()).start().await;
    let (mut device, _) = gateway.device("kiln-3").open(Some(7)).await;
    device.reading(1, 21.5).await;
    device.acked(1).await;
    let asked = gateway.command(&["send", "kiln-9", "restart"]);
    drop(device);
    gateway.stop().await;
    let data = gateway.dir().join("data");
    let mut seen = Vec::new();
    let mut folders = vec![data.clone()];
    while let Some(folder) = folders.pop() {
        seen.push(folder.clone());
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { seen.push(path) }
        }
    }
    for path in &seen {
        let mode = std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode & 0o077, 0, "{}: {mode:03o}", path.display());
    }
    for part in ["lock", "spool/marks", "commands/lock"] {
        assert!(seen.contains(&data.join(part)), "{part} is in {seen:?}; {asked:?}");
    }
}
