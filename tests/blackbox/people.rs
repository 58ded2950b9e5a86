//! Users of the dashboard, with the real binary: from the command line to the audit log.

use std::io::Write;
use std::process::{Output, Stdio};
use std::time::Duration;

use futures_util::StreamExt;
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::harness::{
    Broker, FromGateway, Gateway, Response, Setup, Value, hello, raw, until, within,
};

const PASSWORD: &str = "correct horse";

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[allow(clippy::unwrap_used, reason = "a helper of tests")]
fn add_user(gateway: &Gateway, name: &str, role: &str) {
    let arguments = ["user", "add", name, "--role", role, "--password-file", "-"];
    let mut child = gateway
        .binary()
        .args(arguments)
        .arg("--config")
        .arg(gateway.config())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(format!("{PASSWORD}\n").as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", text(&output));
}

async fn ask(gateway: &Gateway, method: &str, path: &str, cookie: &str, body: &str) -> Response {
    let length = body.len();
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\nCookie: {cookie}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    raw(gateway.dashboard, &request).await
}

#[tokio::test]
async fn a_user_signs_in_commands_and_is_removed_and_all_of_it_is_audited() {
    let broker = Broker::start("").await;
    let mut gateway = Setup::new(broker.port).set("dashboard.users", "users.toml").prepare();
    let check = gateway.command(&["check"]);
    assert!(check.status.success() && text(&check).contains("nobody can sign in yet"));
    gateway.start().await;
    add_user(&gateway, "anna", "operator");
    add_user(&gateway, "chief", "admin");

    let body = json!({ "user": "anna", "password": PASSWORD }).to_string();
    let mut answer = None;
    until("anna can sign in", async || {
        let given = ask(&gateway, "POST", "/api/v1/session", "", &body).await;
        let status = given.status;
        answer = Some(given);
        if status != 200 {
            // Too many tries would fill what is noted of refusals, and so hide the one below.
            tokio::time::sleep(Duration::from_millis(250)).await;
        }
        status == 200
    })
    .await;
    let cookie = answer.unwrap().header("set-cookie").unwrap().to_owned();
    let cookie = cookie.split(';').next().unwrap();

    let mut device = gateway.device("kiln-3").connect().await.unwrap();
    device.send(&hello(Some(7), &[("commands", Value::Array(vec!["set".into()]))])).await;
    assert!(matches!(device.next().await, FromGateway::Welcome(_)));
    let path = "/api/v1/devices/kiln-3/commands";
    let answer = ask(&gateway, "POST", path, cookie, r#"{"name":"set"}"#).await;
    assert_eq!(answer.status, 202, "{answer:?}");
    assert_eq!(ask(&gateway, "GET", "/api/v1/audit", cookie, "").await.status, 403);
    let commands = ask(&gateway, "GET", "/api/v1/commands", cookie, "").await;
    assert!(commands.body.contains("\"anna\""), "{commands:?}");

    let mut request = format!("ws://127.0.0.1:{}/api/v1/stream", gateway.dashboard)
        .into_client_request()
        .unwrap();
    request.headers_mut().insert("cookie", cookie.parse().unwrap());
    let socket = TcpStream::connect(("127.0.0.1", gateway.dashboard)).await.unwrap();
    let feed = tokio_tungstenite::client_async(request, socket);
    let mut feed = within("the feed", feed).await.unwrap().0;
    let removed = gateway.command(&["user", "remove", "anna"]);
    assert!(removed.status.success(), "{}", text(&removed));
    let code = within("the end of the feed", async {
        loop {
            match feed.next().await {
                Some(Ok(Message::Close(Some(frame)))) => return u16::from(frame.code),
                Some(Ok(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    })
    .await;
    assert_eq!(code, 1008);
    assert_eq!(ask(&gateway, "GET", "/api/v1/status", cookie, "").await.status, 401);

    let body = json!({ "user": "chief", "password": PASSWORD }).to_string();
    let answer = ask(&gateway, "POST", "/api/v1/session", "", &body).await;
    let chief = answer.header("set-cookie").unwrap().split(';').next().unwrap().to_owned();
    until("everything is in the audit log", async || {
        let log = ask(&gateway, "GET", "/api/v1/audit", &chief, "").await.json();
        let entries = log["entries"].as_array().unwrap();
        let has = |event: &str, who: &str, what: &str| {
            entries.iter().any(|entry| {
                let member = |name: &str| entry[name].as_str().unwrap_or_default();
                member("event") == event
                    && member("who").contains(who)
                    && member("what").starts_with(what)
            })
        };
        has("user", "uid", "added anna, operator")
            && has("login", "anna", "")
            && has("command", "anna", "set to kiln-3")
            && has("denied", "anna", "GET /api/v1/audit")
            && has("user", "uid", "removed anna")
            && has("session", "anna", "")
            && has("login", "chief", "")
    })
    .await;
}

#[tokio::test]
async fn the_command_line_says_that_it_needs_a_token_and_works_with_one() {
    let broker = Broker::start("").await;
    let mut gateway = Setup::new(broker.port).set("dashboard.users", "users.toml").prepare();
    gateway.start().await;
    let refused = gateway.command(&["status"]);
    assert!(!refused.status.success() && text(&refused).contains("tidegate user token"));

    let made = gateway.command(&["user", "token", "cron", "--role", "viewer", "--expires", "1d"]);
    assert!(made.status.success(), "{}", text(&made));
    let token = String::from_utf8(made.stdout).unwrap();
    assert!(token.starts_with("tga_") && token.trim_end().len() == 47, "{token:?}");
    let file = gateway.config().with_file_name("token");
    std::fs::write(&file, &token).unwrap();
    let file = file.to_str().unwrap();
    until("the token works", async || {
        gateway.command(&["status", "--token-file", file]).status.success()
    })
    .await;
    gateway.env("TIDEGATE_TOKEN_FILE", file);
    assert!(gateway.command(&["status", "--json"]).status.success());
    let send = gateway.command(&["send", "kiln-3", "set"]);
    assert!(!send.status.success() && text(&send).contains("needs the role operator"));
    let away = gateway.command(&["status", "--url", "http://192.0.2.1:1"]);
    assert!(text(&away).contains("in the clear"), "{}", text(&away));

    let list = gateway.command(&["user", "list", "--json"]);
    let list: serde_json::Value = serde_json::from_slice(&list.stdout).unwrap();
    assert_eq!((&list[0]["name"], &list[0]["kind"]), (&json!("cron"), &json!("token")));
    let twice = gateway.command(&["user", "token", "cron", "--role", "admin"]);
    assert!(!twice.status.success() && text(&twice).contains("there is a user or token cron"));
}
