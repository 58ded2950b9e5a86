//! Users, roles, sessions and API tokens over real sockets.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use serde_json::{Value as Json, json};
use tempfile::TempDir;
use tidegate::config::users::edit::Editor;
use tidegate::config::users::password::Password;
use tidegate::config::{self, users::Role};
use tidegate::core::command::Reply;
use tidegate::dashboard::Fleet;
use tidegate::host::audit::Audit;
use tidegate::ports::{CommandAccess, CommandRequest};
use tokio::sync::mpsc;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{self, Message};

use super::commands;
use super::support::*;

const PATIENCE: Duration = Duration::from_secs(30);
const PASSWORD: &str = "correct horse";
/// Every route with what it needs, written by hand: what `src/dashboard/http.rs` says must not
/// change unnoticed.
const ROUTES: [(&str, &str, Option<Role>); 19] = [
    ("GET", "/healthz", None),
    ("GET", "/readyz", None),
    ("GET", "/api/v1/session", None),
    ("POST", "/api/v1/session", None),
    ("DELETE", "/api/v1/session", None),
    ("GET", "/api/v1/openapi.json", None),
    ("GET", "/metrics", Some(Role::Viewer)),
    ("GET", "/api/v1/status", Some(Role::Viewer)),
    ("GET", "/api/v1/gateway", Some(Role::Operator)),
    ("GET", "/api/v1/log", Some(Role::Operator)),
    ("GET", "/api/v1/audit", Some(Role::Admin)),
    ("GET", "/api/v1/devices", Some(Role::Viewer)),
    ("GET", "/api/v1/devices/{device}", Some(Role::Viewer)),
    ("GET", "/api/v1/devices/{device}/history", Some(Role::Viewer)),
    ("POST", "/api/v1/devices/{device}/commands", Some(Role::Operator)),
    ("GET", "/api/v1/commands", Some(Role::Viewer)),
    ("GET", "/api/v1/commands/{id}", Some(Role::Viewer)),
    ("GET", "/api/v1/stream", Some(Role::Viewer)),
    ("GET", "/api/v1/events", Some(Role::Viewer)),
];

/// A dashboard with the users `viewer`, `operator` and `admin`.
struct House {
    gateway: Gateway,
    requests: mpsc::Receiver<CommandRequest>,
    folder: TempDir,
}

impl House {
    fn new() -> Self {
        Self::with(|_| {})
    }

    fn with(change: impl FnOnce(&mut config::Dashboard)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let users = users_of(&folder);
        // One hash for all: it takes its time.
        let password = Password::new(PASSWORD).unwrap();
        edit(&users, |editor| {
            for role in Role::ALL {
                editor.add(role.as_str(), role, &password).unwrap();
            }
        });
        let mut settings = dashboard();
        settings.users = Some(users);
        change(&mut settings);
        let mut context = context(Fleet::new());
        context.audit = Arc::new(Audit::open(folder.path()).unwrap());
        let (access, requests) = CommandAccess::new(1024);
        context.commands = access;
        Self { gateway: Gateway::served(&settings, context), requests, folder }
    }

    fn users(&self) -> PathBuf {
        users_of(&self.folder)
    }

    fn ask(&self, method: &str, path: &str, lines: &str, body: &str) -> Answer {
        let host = if lines.contains("Host:") { "" } else { "Host: localhost\r\n" };
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\n{host}{lines}Content-Length: {length}\r\nConnection: \
             close\r\n\r\n{body}"
        );
        raw(self.gateway.address(), &head)
    }

    fn try_sign_in(&self, user: &str, password: &str, lines: &str) -> Answer {
        let body = json!({ "user": user, "password": password }).to_string();
        let lines = format!("Content-Type: application/json\r\n{lines}");
        self.ask("POST", "/api/v1/session", &lines, &body)
    }

    /// The header line with the session's cookie.
    fn sign_in(&self, user: &str) -> String {
        let answer = self.try_sign_in(user, PASSWORD, "");
        assert_eq!(answer.status, 200, "{answer:?}");
        let cookie = answer.header("set-cookie").unwrap().split(';').next().unwrap();
        format!("Cookie: {cookie}\r\n")
    }

    fn status(&self, credentials: &str) -> u16 {
        self.ask("GET", "/api/v1/status", credentials, "").status
    }

    fn wait_for(&self, what: &str, mut fits: impl FnMut(&Self) -> bool) {
        let start = Instant::now();
        while !fits(self) {
            assert!(start.elapsed() < PATIENCE, "{what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// The entries of the audit log once `count` of them fit.
    fn audited(&self, count: usize, fits: impl Fn(&Json) -> bool) -> Vec<Json> {
        let start = Instant::now();
        loop {
            let text = std::fs::read_to_string(self.folder.path().join("audit.log"));
            let text = text.unwrap_or_default();
            let lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
            let found: Vec<Json> = lines.filter(&fits).collect();
            if found.len() >= count {
                return found;
            }
            assert!(start.elapsed() < PATIENCE, "{text}");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

fn users_of(folder: &TempDir) -> PathBuf {
    folder.path().join("users.toml")
}

fn edit<T>(users: &Path, change: impl FnOnce(&mut Editor) -> T) -> T {
    let mut editor = Editor::open(users).unwrap();
    let done = change(&mut editor);
    editor.save().unwrap();
    done
}

fn token(house: &House, name: &str, role: Role) -> String {
    let token = edit(&house.users(), |e| e.add_token(name, role, 1.0, None).unwrap());
    let line = format!("Authorization: Bearer {token}\r\n");
    house.wait_for("the token is known", |house| house.status(&line) != 401);
    line
}

async fn feed(house: &House, path: &str, lines: &str) -> Result<Feeding, u16> {
    let mut request =
        format!("ws://{}{path}", house.gateway.address()).into_client_request().unwrap();
    for line in lines.lines() {
        let (name, value) = line.split_once(": ").unwrap();
        let name: tungstenite::http::HeaderName = name.parse().unwrap();
        request.headers_mut().insert(name, value.parse().unwrap());
    }
    match tokio_tungstenite::connect_async(request).await {
        Ok((socket, _)) => Ok(Feeding { socket }),
        Err(tungstenite::Error::Http(answer)) => Err(answer.status().as_u16()),
        Err(other) => panic!("{other}"),
    }
}

/// Waits until the gateway closes the feed; the code of its Close frame.
async fn closed(feed: &mut Feeding) -> u16 {
    let closed = async {
        loop {
            match feed.socket.next().await {
                Some(Ok(Message::Close(Some(frame)))) => return frame.code.into(),
                Some(Ok(_)) => {}
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, closed).await.expect("a Close frame in time")
}

#[test]
fn every_route_needs_the_role_that_is_written_here() {
    let house = House::new();
    let described = house.gateway.get("/api/v1/openapi.json").json();
    let mut all = Vec::new();
    for (path, item) in described["paths"].as_object().unwrap() {
        let methods = item.as_object().unwrap().keys().filter(|method| *method != "parameters");
        all.extend(methods.map(|method| (method.to_uppercase(), path.clone())));
    }
    all.retain(|(_, path)| !["/", "/{file}", "/assets/{file}"].contains(&path.as_str()));
    all.sort();
    let mut listed: Vec<_> =
        ROUTES.iter().map(|(method, path, _)| ((*method).to_owned(), (*path).to_owned())).collect();
    listed.sort();
    assert_eq!(all, listed, "a route is not in the table of this test, or is gone");

    let known: Vec<_> = Role::ALL.map(|role| (role, house.sign_in(role.as_str()))).into();
    for (method, path, needs) in ROUTES {
        if path == "/api/v1/session" {
            continue;
        }
        // What is wrong with the request tells that it was let in.
        let asked = path.replace("{device}", "-").replace("{id}", "x");
        let asked = if path.ends_with("events") { format!("{asked}?log=x") } else { asked };
        let json = "Content-Type: application/json\r\n";
        let stranger = house.ask(method, &asked, json, "");
        let Some(needed) = needs else {
            assert_ne!(stranger.status, 401, "{path}");
            continue;
        };
        assert_eq!(stranger.status, 401, "{path}");
        assert_eq!(stranger.json()["needs"], needed.as_str(), "{path}");
        assert_eq!(stranger.header("www-authenticate"), Some("Bearer"));
        for (role, cookie) in &known {
            let answer = house.ask(method, &asked, &format!("{json}{cookie}"), "");
            if *role >= needed {
                assert!(![401, 403].contains(&answer.status), "{path} {role}: {answer:?}");
            } else {
                assert_eq!(answer.status, 403, "{path} {role}");
                assert_eq!(answer.json()["needs"], needed.as_str());
                assert!(answer.text().contains(role.as_str()), "{answer:?}");
            }
        }
    }
}

#[test]
fn the_page_itself_is_for_everyone() {
    let house = House::new();
    assert_eq!(house.gateway.get("/").status, 200);
    assert_eq!(house.gateway.get("/nothing-there").status, 404);
}

#[test]
fn signing_in_sets_a_cookie_that_scripts_and_other_sites_do_not_get() {
    let house = House::new();
    assert_eq!(house.gateway.get("/api/v1/session").json(), json!({ "login": true }));
    let answer = house.try_sign_in("operator", PASSWORD, "");
    let cookie = answer.header("set-cookie").unwrap().to_owned();
    let (id, attributes) = cookie.split_once("; ").unwrap();
    assert_eq!(attributes, "Path=/; Max-Age=604800; HttpOnly; SameSite=Strict");
    assert_eq!(id.strip_prefix("tidegate=").unwrap().len(), 43);
    let document = answer.json();
    assert_eq!(keys(&document), ["expires", "role", "user"]);
    assert_eq!((&document["user"], &document["role"]), (&json!("operator"), &json!("operator")));
    let ends = document["expires"].as_f64().unwrap();
    let unix = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    assert!((ends - unix.as_secs_f64() - 12.0 * 3600.0).abs() < 60.0, "{ends}");

    let line = format!("Cookie: other=1; {id}\r\n");
    let who = house.ask("GET", "/api/v1/session", &line, "").json();
    assert_eq!((&who["user"], &who["role"]), (&json!("operator"), &json!("operator")));
    assert_eq!(house.status(&line), 200);

    let answer = house.ask("DELETE", "/api/v1/session", &line, "");
    assert_eq!(answer.status, 204);
    assert!(answer.header("set-cookie").unwrap().starts_with("tidegate=; Path=/; Max-Age=0;"));
    assert_eq!(house.status(&line), 401);
    assert_eq!(house.ask("GET", "/api/v1/session", &line, "").json(), json!({ "login": true }));
    assert_eq!(house.ask("DELETE", "/api/v1/session", &line, "").status, 204);
    house.audited(1, |entry| entry["event"] == "logout" && entry["who"] == "operator");
}

#[test]
fn signing_in_again_ends_the_session_of_before() {
    let house = House::new();
    let first = house.sign_in("viewer");
    assert_eq!(house.try_sign_in("viewer", PASSWORD, &first).status, 200);
    assert_eq!(house.status(&first), 401);
}

#[test]
fn behind_a_trusted_proxy_with_tls_the_cookie_is_secure_and_bound_to_the_host() {
    let house = House::with(|settings| {
        settings.proxies.trusted = vec!["127.0.0.1/32".parse().unwrap()];
    });
    let proxied = "X-Forwarded-Proto: https\r\nX-Forwarded-For: 192.0.2.7\r\n";
    let answer = house.try_sign_in("viewer", PASSWORD, proxied);
    let cookie = answer.header("set-cookie").unwrap();
    assert!(cookie.starts_with("__Host-tidegate=") && cookie.ends_with("; Secure"), "{cookie}");
    let line = format!("Cookie: {}\r\n", cookie.split(';').next().unwrap());
    assert_eq!(house.status(&format!("{line}{proxied}")), 200);
    assert_eq!(house.status(&line), 401);
    house.audited(1, |entry| entry["event"] == "login" && entry["from"] == "192.0.2.7");
}

#[test]
fn without_users_there_is_no_login_and_nothing_is_asked_for() {
    let gateway = Gateway::start();
    assert_eq!(gateway.get("/api/v1/session").json(), json!({ "login": false }));
    let head = "POST /api/v1/session HTTP/1.1\r\nHost: localhost\r\nContent-Length: 0\r\n";
    assert_eq!(request(gateway.address(), head).status, 409);
    assert_eq!(gateway.get("/api/v1/log").status, 200);
    assert_eq!(gateway.get("/api/v1/audit").json(), json!({ "entries": [] }));
}

#[test]
fn what_other_sites_can_send_changes_nothing() {
    let house = House::new();
    let cookie = house.sign_in("operator");
    let json = "Content-Type: application/json\r\n";
    let body = json!({ "user": "operator", "password": PASSWORD }).to_string();
    for (method, path, _) in ROUTES.iter().filter(|(method, ..)| *method != "GET") {
        let path = path.replace("{device}", "a");
        for origin in
            ["http://evil.example", "null", "http://localhost.evil.example", "http://localhost:1"]
        {
            let lines = format!("{json}{cookie}Origin: {origin}\r\n");
            let answer = house.ask(method, &path, &lines, &body);
            assert_eq!(answer.status, 403, "{method} {path} {origin}");
        }
        if *method == "POST" {
            for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"] {
                let lines = format!("{cookie}Content-Type: {kind}\r\n");
                let answer = house.ask(method, &path, &lines, &body);
                assert_eq!(answer.status, 415, "{method} {path} {kind}");
            }
        }
    }
    // The session is what it was, and one of one's own origin goes on.
    assert_eq!(house.status(&cookie), 200);
    let own = format!("{json}{cookie}Origin: http://localhost\r\n");
    assert_eq!(house.ask("POST", "/api/v1/session", &own, &body).status, 200);
    let denied = house.audited(1, |entry| entry["event"] == "denied");
    assert_eq!(denied[0]["who"], "operator");
    assert_eq!(denied[0]["what"], "POST /api/v1/session");
}

#[tokio::test]
async fn the_feed_is_for_viewers_of_this_origin_only() {
    let house = House::new();
    let cookie = house.sign_in("viewer");
    let foreign = format!("{cookie}Origin: http://evil.example");
    assert_eq!(feed(&house, "/api/v1/stream", &foreign).await.err(), Some(403));
    assert_eq!(feed(&house, "/api/v1/stream", "").await.err(), Some(401));
    let own = format!("{cookie}Origin: http://{}", house.gateway.address());
    let mut feed = feed(&house, "/api/v1/stream", &own).await.unwrap();
    assert_eq!(feed.next().await["type"], "snapshot");
}

#[tokio::test]
async fn the_feed_brings_the_log_to_operators_only() {
    let house = House::new();
    let (viewer, operator) = (house.sign_in("viewer"), house.sign_in("operator"));
    let mut little = feed(&house, "/api/v1/stream?log=debug", &viewer).await.unwrap();
    let mut all = feed(&house, "/api/v1/stream?log=debug", &operator).await.unwrap();
    assert_eq!(little.next().await["type"], "snapshot");
    assert_eq!(all.next().await["type"], "snapshot");
    note(&house.gateway.log, log::Level::Error, "secret matter", None);
    while all.next().await["type"] != "log" {}
    house.gateway.up("kiln-3");
    // Whatever comes before the device is no log.
    loop {
        let message = little.next().await;
        assert_ne!(message["type"], "log");
        if message["type"] == "device" {
            break;
        }
    }
}

#[tokio::test]
async fn a_feed_ends_with_its_session() {
    let house = House::new();
    let [viewer, operator, admin] = Role::ALL.map(|role| house.sign_in(role.as_str()));
    let mut feeds = Vec::new();
    for cookie in [&viewer, &operator, &admin] {
        let mut feed = feed(&house, "/api/v1/stream", cookie).await.unwrap();
        assert_eq!(feed.next().await["type"], "snapshot");
        feeds.push(feed);
    }
    assert_eq!(house.ask("DELETE", "/api/v1/session", &viewer, "").status, 204);
    assert_eq!(closed(&mut feeds[0]).await, 1008);
    // Another password, and a user that is gone, are noticed from the file alone.
    let other = Password::new("another password").unwrap();
    edit(&house.users(), |editor| {
        editor.change_password("operator", &other).unwrap();
        editor.remove("admin").unwrap();
    });
    assert_eq!(closed(&mut feeds[1]).await, 1008);
    assert_eq!(closed(&mut feeds[2]).await, 1008);
    for cookie in [&viewer, &operator, &admin] {
        assert_eq!(house.status(cookie), 401);
    }
    assert_eq!(house.try_sign_in("operator", PASSWORD, "").status, 401);
    assert_eq!(house.try_sign_in("operator", "another password", "").status, 200);
    assert_eq!(house.try_sign_in("admin", PASSWORD, "").status, 401);
}

#[tokio::test]
async fn a_feed_of_a_token_ends_when_the_token_is_removed() {
    let house = House::new();
    let token = token(&house, "scada", Role::Viewer);
    let mut feed = feed(&house, "/api/v1/stream", &token).await.unwrap();
    assert_eq!(feed.next().await["type"], "snapshot");
    edit(&house.users(), |editor| editor.remove("scada").unwrap());
    assert_eq!(closed(&mut feed).await, 1008);
    assert_eq!(house.status(&token), 401);
}

#[test]
fn a_session_ends_without_use() {
    let house = House::with(|settings| settings.session_idle = Duration::from_secs(1));
    let cookie = house.sign_in("viewer");
    house.audited(1, |entry| entry["event"] == "session" && entry["who"] == "viewer");
    assert_eq!(house.status(&cookie), 401);
}

#[test]
fn a_role_that_changes_and_a_broken_file_are_dealt_with() {
    let house = House::new();
    let cookie = house.sign_in("viewer");
    let text = std::fs::read_to_string(house.users()).unwrap();
    // In one go: the gateway looks at the file whenever it likes.
    let put = |text: &str| {
        let new = house.users().with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, house.users()).unwrap();
    };
    put("[users.viewer\n");
    house.gateway.handle.reload_users();
    let broken = text.replace("\"viewer\"", "\"operator\"");
    assert_eq!(house.status(&cookie), 200);
    put(&broken);
    house.gateway.handle.reload_users();
    house.wait_for("the session has ended", |house| house.status(&cookie) == 401);
    let answer = house.try_sign_in("viewer", PASSWORD, "");
    assert_eq!(answer.json()["role"], "operator");
}

#[test]
fn guessing_gets_slower_for_that_user_from_that_address_only() {
    let house = House::with(|settings| {
        settings.proxies.trusted = vec!["127.0.0.1/32".parse().unwrap()];
    });
    let from = |address: &str| format!("X-Forwarded-For: {address}\r\n");
    let attacker = from("203.0.113.9");
    let wrong = house.try_sign_in("admin", "wrong horse", &attacker);
    let unknown = house.try_sign_in("nobody", "wrong horse", &attacker);
    assert_eq!((wrong.status, unknown.status), (401, 401));
    assert_eq!(wrong.body, unknown.body);
    let start = Instant::now();
    let mut answer = wrong;
    while answer.status == 401 {
        assert!(start.elapsed() < PATIENCE);
        answer = house.try_sign_in("admin", "wrong horse", &attacker);
    }
    assert_eq!(answer.status, 429);
    let wait: u64 = answer.header("retry-after").unwrap().parse().unwrap();
    assert!((1..=2).contains(&wait), "{wait}");
    // The right password from there waits as well; from elsewhere it is right at once.
    assert_eq!(house.try_sign_in("admin", PASSWORD, &attacker).status, 429);
    assert_eq!(house.try_sign_in("admin", PASSWORD, &from("198.51.100.1")).status, 200);
    std::thread::sleep(Duration::from_secs(wait));
    house.wait_for("the wait is over", |house| {
        house.try_sign_in("admin", PASSWORD, &attacker).status == 200
    });
    let metrics = house.gateway.metrics.text();
    assert!(metrics.contains("tidegate_logins_total{outcome=\"ok\"} 2"), "{metrics}");
    assert!(!metrics.contains("tidegate_logins_total{outcome=\"wrong\"} 0"), "{metrics}");
    assert!(!metrics.contains("tidegate_logins_total{outcome=\"slowed\"} 0"), "{metrics}");
    let failed = house.audited(2, |e| e["event"] == "login" && e["outcome"] == "wrong");
    assert_eq!((&failed[0]["who"], &failed[0]["from"]), (&json!("admin"), &json!("203.0.113.9")));
    // What was typed for a name may have been a password.
    assert_eq!(failed[1]["who"], "an unknown user");
}

#[test]
fn many_sign_ins_at_once_are_hashed_in_turn_and_the_rest_is_sent_away() {
    let house = House::new();
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..40)
            .map(|number| {
                let house = &house;
                scope.spawn(move || {
                    house.try_sign_in(&format!("u{number}"), "wrong horse", "").status
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(statuses.iter().all(|status| [401, 429, 503].contains(status)), "{statuses:?}");
    assert!(statuses.contains(&401));
    assert_eq!(house.gateway.get("/healthz").status, 200);
}

#[test]
fn malformed_sign_ins_are_refused_without_repeating_them() {
    let house = House::new();
    let json = "Content-Type: application/json\r\n";
    for body in ["", "{}", "{\"user\":\"a\"}", "{\"user\":1,\"password\":\"hunter22\"}", "[]"] {
        let answer = house.ask("POST", "/api/v1/session", json, body);
        assert_eq!(answer.status, 400, "{body}");
        assert!(!answer.text().contains("hunter22"));
    }
    let long = json!({ "user": "viewer", "password": "x".repeat(9000) }).to_string();
    assert_eq!(house.ask("POST", "/api/v1/session", json, &long).status, 413);
    assert_eq!(house.try_sign_in("viewer", &"x".repeat(1025), "").status, 401);
}

#[test]
fn a_command_names_who_asked_in_the_ledger_and_in_the_audit_log() {
    let mut house = House::new();
    let program = token(&house, "scada", Role::Operator);
    for (credentials, name) in [(house.sign_in("operator"), "operator"), (program, "scada")] {
        let lines = format!("Content-Type: application/json\r\n{credentials}");
        let address = house.gateway.address();
        let body = r#"{"name":"set","params":{"secret":1}}"#;
        let head = format!(
            "POST /api/v1/devices/kiln-3/commands HTTP/1.1\r\nHost: localhost\r\n{lines}\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        );
        let posting = std::thread::spawn(move || raw(address, &head));
        let start = Instant::now();
        let asked = loop {
            match house.requests.try_recv() {
                Ok(asked) => break asked,
                Err(_) => assert!(start.elapsed() < PATIENCE),
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        assert_eq!(asked.requester.name, name);
        let record = Arc::new(commands::accepted(7, &asked));
        assert!(asked.reply.send(Reply::Kept { record, repeated: false }).is_ok());
        let answer = posting.join().unwrap();
        assert_eq!(answer.status, 202, "{answer:?}");
        let entries = house.audited(1, |e| e["event"] == "command" && e["who"] == name);
        assert_eq!(entries[0]["what"], "set to kiln-3, id drawn-7");
        assert_eq!(
            (&entries[0]["role"], &entries[0]["outcome"]),
            (&json!("operator"), &json!("queued"))
        );
        assert_eq!(entries[0]["from"], "127.0.0.1");
    }
    let admin = house.sign_in("admin");
    let entries = house.ask("GET", "/api/v1/audit?limit=2", &admin, "").json();
    let entries = entries["entries"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    assert!(entries[0]["time"].as_f64() <= entries[1]["time"].as_f64());
    assert!(
        !std::fs::read_to_string(house.folder.path().join("audit.log")).unwrap().contains("secret")
    );
}
