//! Commands over HTTP, with an engine of the test's own behind it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value as Json, json};
use tidegate::core::command::{Entry, Record, Refusal, Reply, Response, State};
use tidegate::dashboard::Fleet;
use tidegate::ports::{CommandAccess, CommandBook, CommandRequest};
use tokio::sync::mpsc;

use super::support::*;

/// A dashboard, and the engine's end of it.
struct Desk {
    gateway: Gateway,
    book: Arc<CommandBook>,
    requests: mpsc::Receiver<CommandRequest>,
}

impl Desk {
    fn start() -> Self {
        let mut context = context(Fleet::new());
        let (access, requests) = CommandAccess::new(1024);
        let book = Arc::clone(&access.book);
        context.commands = access;
        let gateway = Gateway::of(context);
        Self { gateway, book, requests }
    }

    /// Posts in a thread of its own, as the engine has to answer meanwhile.
    fn post(&self, path: &str, lines: &str, body: &str) -> std::thread::JoinHandle<Answer> {
        let address = self.gateway.address();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n{lines}\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        std::thread::spawn(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            // What is refused early is not read to its end.
            let _ = stream.write_all(request.as_bytes());
            let mut bytes = Vec::new();
            let _ = stream.read_to_end(&mut bytes);
            let text = String::from_utf8(bytes).unwrap();
            let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{text}"));
            let status = head.split(' ').nth(1).unwrap().parse().unwrap();
            Answer { status, head: head.into(), body: body.into() }
        })
    }

    /// Posts what the engine must never see.
    fn refused(&mut self, path: &str, lines: &str, body: &str) -> Answer {
        let answer = self.post(path, lines, body).join().unwrap();
        assert!(self.requests.try_recv().is_err(), "{path} {body}");
        answer
    }

    /// The next request, as the engine gets it.
    fn asked(&mut self) -> CommandRequest {
        let start = Instant::now();
        loop {
            if let Ok(request) = self.requests.try_recv() {
                return request;
            }
            assert!(start.elapsed() < DEADLINE, "no request");
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    fn put(&self, record: &Record) {
        self.book.put(Arc::new(record.clone()));
    }
}

/// What the engine makes of a request.
pub(super) fn accepted(number: u64, asked: &CommandRequest) -> Record {
    Record {
        id: asked.request.id.clone().unwrap_or_else(|| format!("drawn-{number}")),
        device: asked.device.clone(),
        name: asked.request.name.clone(),
        params: asked.request.params.clone(),
        requester: asked.requester.clone(),
        redeliver: asked.request.redeliver,
        ..record(number, "any", "any")
    }
}

fn record(number: u64, device: &str, command: &str) -> Record {
    Record {
        number,
        version: 1,
        id: command.into(),
        device: id(device),
        name: "identify".into(),
        params: ciborium::Value::Null,
        ttl: 60,
        redeliver: true,
        requester: tidegate::core::command::Requester {
            via: tidegate::core::command::Way::Mqtt,
            name: String::new(),
            response: None,
        },
        accepted: 1_763_800_000.0,
        expires: 1_763_800_060.0,
        sent: 0,
        history: vec![entry(State::Queued)],
        value: ciborium::Value::Null,
        error: None,
        finish: None,
        published: false,
    }
}

fn entry(state: State) -> Entry {
    Entry { state, time: 1_763_800_000.5, late: false, note: None }
}

fn enter(record: &mut Record, state: State) {
    record.version += 1;
    record.history.push(entry(state));
}

/// Commands that differ in what their JSON has.
pub(crate) fn of_every_kind() -> Vec<Arc<Record>> {
    let queued = record(1, "kiln-3", "p-1");
    let mut done = record(2, "kiln-3", "p-2");
    done.requester.response =
        Some(Response { topic: "answers".into(), correlation: Some(vec![0xff, 1]) });
    done.params = ciborium::Value::Map(vec![("on".into(), true.into())]);
    enter(&mut done, State::Delivered);
    enter(&mut done, State::Done);
    done.value = ciborium::Value::Array(vec![1.into(), 2.5.into(), ciborium::Value::Null]);
    let mut late = record(3, "pump-1", "p-3");
    enter(&mut late, State::Expired);
    late.error = Some("no RESULT in time".into());
    let note = Some("the device was away".into());
    late.history.push(Entry { late: true, note, ..entry(State::Failed) });
    [queued, done, late].into_iter().map(Arc::new).collect()
}

const KILN: &str = "/api/v1/devices/kiln-3/commands";

#[test]
fn an_accepted_command_is_202_with_its_record_and_where_it_is() {
    let mut desk = Desk::start();
    let body = r#"{"name":"set-output","params":{"on":true},"id":"p:17","redeliver":false}"#;
    let answer = desk.post(KILN, "User-Agent: curl/8\r\n", body);
    let asked = desk.asked();
    assert_eq!((asked.device.as_str(), asked.request.name.as_str()), ("kiln-3", "set-output"));
    assert_eq!(
        (asked.requester.via.as_str(), asked.requester.name.as_str()),
        ("http", "127.0.0.1")
    );
    let record = accepted(1, &asked);
    let kept = Reply::Kept { record: Arc::new(record.clone()), repeated: false };
    asked.reply.send(kept).unwrap();
    let answer = answer.join().unwrap();
    assert_eq!(answer.status, 202);
    assert_eq!(answer.header("location"), Some("/api/v1/commands/p:17?device=kiln-3"));
    let json = answer.json();
    assert_eq!(
        keys(&json),
        [
            "accepted",
            "device",
            "error",
            "expires",
            "history",
            "id",
            "name",
            "params",
            "redeliver",
            "requester",
            "sent",
            "state",
            "time",
            "ttl",
            "value"
        ]
    );
    assert_eq!(
        (&json["state"], &json["params"], &json["redeliver"], &json["history"]),
        (
            &json!("queued"),
            &json!({"on": true}),
            &json!(false),
            &json!([{"state": "queued", "time": 1_763_800_000.5}])
        )
    );
    desk.put(&record);
    assert_eq!(desk.gateway.get("/api/v1/commands/p:17?device=kiln-3").json(), json);

    let answer = desk.post(KILN, "User-Agent: tidegate-cli/1.2.3\r\n", r#"{"name":"identify"}"#);
    let asked = desk.asked();
    assert_eq!(asked.requester.via.as_str(), "cli");
    drop(asked);
    assert_eq!(answer.join().unwrap().status, 503, "an engine that drops a request is stopping");
}

#[test]
fn waiting_ends_with_the_command_or_with_the_time() {
    let mut desk = Desk::start();
    for (state, wait) in [(State::Done, 30), (State::Failed, 30), (State::Expired, 30)] {
        let path = format!("{KILN}?wait={wait}");
        let answer = desk.post(&path, "", r#"{"name":"identify"}"#);
        let asked = desk.asked();
        let mut record = accepted(1, &asked);
        desk.put(&record);
        let kept = Reply::Kept { record: Arc::new(record.clone()), repeated: false };
        asked.reply.send(kept).unwrap();
        enter(&mut record, State::Delivered);
        desk.put(&record);
        enter(&mut record, state);
        record.error = Some("words".into());
        desk.put(&record);
        let answer = answer.join().unwrap();
        assert_eq!((answer.status, &answer.json()["state"]), (202, &json!(state.as_str())));
        assert_eq!(answer.json()["error"], "words");
    }
    let began = Instant::now();
    let answer = desk.post(&format!("{KILN}?wait=0.3"), "", r#"{"name":"identify","id":"slow"}"#);
    let asked = desk.asked();
    let mut record = accepted(9, &asked);
    let kept = Reply::Kept { record: Arc::new(record.clone()), repeated: false };
    enter(&mut record, State::Delivered);
    desk.put(&record);
    asked.reply.send(kept).unwrap();
    let answer = answer.join().unwrap();
    assert_eq!((answer.status, &answer.json()["state"]), (202, &json!("delivered")));
    assert!(began.elapsed() >= Duration::from_millis(300));

    // One that is over already is not waited for.
    let answer = desk.post(&format!("{KILN}?wait=600"), "", r#"{"name":"identify","id":"no"}"#);
    let asked = desk.asked();
    let mut record = accepted(10, &asked);
    record.history = vec![entry(State::Rejected)];
    asked.reply.send(Reply::Kept { record: Arc::new(record), repeated: false }).unwrap();
    assert_eq!(answer.join().unwrap().json()["state"], "rejected");
}

#[test]
fn what_is_no_request_is_refused_before_the_engine_sees_it() {
    let mut desk = Desk::start();
    for (body, words) in [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "not an object"),
        ("{}", "\"name\" is missing"),
        (r#"{"name":7}"#, "not a string"),
        (r#"{"name":"a b"}"#, "no blanks"),
        (r#"{"name":"a","ttl":0}"#, "1 to 604800"),
        (r#"{"name":"a","id":"a/b"}"#, "letters, digits"),
        (r#"{"name":"a","redeliver":"no"}"#, "not true or false"),
    ] {
        let answer = desk.refused(KILN, "", body);
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.error().contains(words), "{body}: {}", answer.error());
    }
    let long = format!(r#"{{"name":"a","params":"{}"}}"#, "x".repeat(1100));
    let answer = desk.refused(KILN, "", &long);
    assert_eq!(answer.status, 400);
    assert!(answer.error().contains("commands.max_size"), "{}", answer.error());
    for wait in ["-1", "601", "soon", "NaN", "inf"] {
        let answer = desk.refused(&format!("{KILN}?wait={wait}"), "", r#"{"name":"a"}"#);
        assert_eq!(answer.status, 400, "{wait}");
    }
    let answer = desk.refused("/api/v1/devices/a%20b/commands", "", r#"{"name":"a"}"#);
    assert_eq!(answer.status, 404);
    let origin = "Origin: http://evil.example\r\n";
    assert_eq!(desk.refused(KILN, origin, r#"{"name":"a"}"#).status, 403);
    assert_eq!(desk.gateway.get(KILN).status, 405);
}

#[test]
fn a_body_beyond_all_bounds_is_413_before_it_has_all_come() {
    let mut desk = Desk::start();
    let mut stream = TcpStream::connect(desk.gateway.address()).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let head = format!("POST {KILN} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(&[b'x'; 10_241]).unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.starts_with("HTTP/1.1 413 "), "{text}");
    assert!(text.contains("over 10240 bytes"), "{text}");
    assert!(desk.requests.try_recv().is_err());
}

#[test]
fn a_page_of_the_gateway_itself_may_ask() {
    let mut desk = Desk::start();
    let answer = desk.post(KILN, "Origin: http://localhost\r\n", r#"{"name":"identify"}"#);
    let asked = desk.asked();
    let record = accepted(1, &asked);
    asked.reply.send(Reply::Kept { record: Arc::new(record), repeated: true }).unwrap();
    assert_eq!(answer.join().unwrap().status, 202);
}

#[test]
fn what_the_engine_cannot_take_is_503_with_its_reason() {
    let mut desk = Desk::start();
    for (refusal, words) in [
        (Refusal::Full(1000), "ledger full"),
        (Refusal::Stalled("no space left on device".into()), "no space left on device"),
    ] {
        let answer = desk.post(KILN, "", r#"{"name":"identify"}"#);
        desk.asked().reply.send(Reply::Refused(refusal)).unwrap();
        let answer = answer.join().unwrap();
        assert_eq!(answer.status, 503);
        assert!(answer.error().contains(words), "{}", answer.error());
    }
    // The engine does not take them up: some wait, the others are told to come again.
    let waiting: Vec<_> = (0..80).map(|_| desk.post(KILN, "", r#"{"name":"identify"}"#)).collect();
    let start = Instant::now();
    while waiting.iter().filter(|answer| answer.is_finished()).count() < 16 {
        assert!(start.elapsed() < DEADLINE);
        std::thread::sleep(Duration::from_millis(5));
    }
    desk.requests.close();
    while desk.requests.try_recv().is_ok() {}
    let errors: Vec<_> = waiting.into_iter().map(|answer| answer.join().unwrap()).collect();
    assert!(errors.iter().all(|answer| answer.status == 503), "{errors:?}");
    let busy = errors.iter().filter(|answer| answer.error().contains("too many requests")).count();
    assert_eq!(busy, 16, "64 may wait");
    let answer = desk.post(KILN, "", r#"{"name":"identify"}"#).join().unwrap();
    assert_eq!((answer.status, answer.error()), (503, "the gateway is stopping".into()));
}

#[test]
fn the_ledger_is_listed_newest_first_as_far_as_it_is_wanted() {
    let desk = Desk::start();
    assert_eq!(desk.gateway.get("/api/v1/commands").json(), json!([]));
    for number in 1..=6 {
        let device = if number % 2 == 0 { "even" } else { "odd" };
        let mut record = record(number, device, &format!("c-{number}"));
        if number > 3 {
            enter(&mut record, State::Done);
        }
        desk.put(&record);
    }
    let mut same = record(7, "even", "c-1");
    let correlation = Some(vec![0xfb, 0xff]);
    same.requester.response = Some(Response { topic: "answers/me".into(), correlation });
    desk.put(&same);
    let ids = |query: &str| -> Vec<String> {
        let list = desk.gateway.get(&format!("/api/v1/commands{query}")).json();
        let list = list.as_array().unwrap().iter();
        list.map(|command| command["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(""), ["c-1", "c-6", "c-5", "c-4", "c-3", "c-2", "c-1"]);
    assert_eq!(ids("?limit=2"), ["c-1", "c-6"]);
    assert_eq!(ids("?device=odd"), ["c-5", "c-3", "c-1"]);
    assert_eq!(ids("?device=odd&state=done"), ["c-5"]);
    assert_eq!(ids("?state=queued&limit=1"), ["c-1"]);
    assert_eq!(ids("?device=other"), [""; 0]);
    for bad in ["?state=lost", "?limit=x", "?limit=-1"] {
        assert_eq!(desk.gateway.get(&format!("/api/v1/commands{bad}")).status, 400, "{bad}");
    }

    let one = |path: &str| desk.gateway.get(&format!("/api/v1/commands/{path}"));
    assert_eq!(one("c-1").json()["device"], "even", "the newest of that id");
    assert_eq!(one("c-1?device=odd").json()["device"], "odd");
    assert_eq!(
        one("c-1").json()["requester"],
        json!({"via": "mqtt", "name": "",
               "response": {"topic": "answers/me", "correlation": "-_8"}})
    );
    for absent in ["c-9", "c-9?device=odd", "c-6?device=odd", "%ff"] {
        assert_eq!(one(absent).status, 404, "{absent}");
    }
    assert!(one("c-9").error().contains("\"c-9\""));
    desk.book.remove(7);
    assert_eq!(one("c-1").json()["device"], "odd", "what is forgotten is not shown");
}

/// The next message about a command.
async fn told(feed: &mut Feeding) -> Json {
    loop {
        let message = feed.next().await;
        if message["type"] == "command" {
            return message;
        }
    }
}

#[tokio::test]
async fn the_feed_tells_of_every_change_to_those_who_follow_the_device() {
    let desk = Desk::start();
    desk.put(&record(0, "a", "before anyone watched"));
    let mut all = desk.gateway.watch("/api/v1/stream").await;
    let mut one = desk.gateway.watch("/api/v1/stream?device=b").await;
    let mut by_name = desk.gateway.watch("/api/v1/stream?device=b&name=x").await;
    for feed in [&mut all, &mut one, &mut by_name] {
        assert_eq!(feed.next().await["type"], "snapshot");
    }
    let mut first = record(1, "a", "c-1");
    desk.put(&first);
    let message = told(&mut all).await;
    assert_eq!((&message["device"], &message["state"]), (&json!("a"), &json!("queued")));
    assert_eq!((&message["id"], &message["name"]), (&json!("c-1"), &json!("identify")));
    enter(&mut first, State::Failed);
    first.error = Some("it is stuck".into());
    desk.put(&first);
    let message = told(&mut all).await;
    assert_eq!((&message["state"], &message["error"]), (&json!("failed"), &json!("it is stuck")));

    desk.put(&record(2, "b", "c-2"));
    for feed in [&mut all, &mut one, &mut by_name] {
        let message = told(feed).await;
        assert_eq!((&message["device"], &message["id"]), (&json!("b"), &json!("c-2")));
    }
}

#[tokio::test]
async fn a_viewer_that_is_behind_gets_each_commands_newest_state() {
    let desk = Desk::start();
    let mut slow = desk.gateway.watch("/api/v1/stream").await;
    let mut quick = desk.gateway.watch("/api/v1/stream").await;
    for feed in [&mut slow, &mut quick] {
        assert_eq!(feed.next().await["type"], "snapshot");
    }
    // Each round is about 400 KB: after a few, the slow viewer's connection is full.
    let (rounds, commands) = (60, 100);
    let words = |round: u32| format!("{round}-{}", "x".repeat(4000));
    let round_of = |message: &Json| -> u32 {
        message["error"].as_str().unwrap().split('-').next().unwrap().parse().unwrap()
    };
    for round in 1..=rounds {
        for number in 0..commands {
            let mut record = record(number, "a", &format!("c-{number}"));
            record.error = Some(words(round));
            desk.put(&record);
        }
        loop {
            let message = told(&mut quick).await;
            if message["id"] == "c-99" && round_of(&message) == round {
                break;
            }
        }
    }
    let mut received = 0;
    let mut newest = std::collections::HashSet::new();
    while newest.len() < 100 {
        let message = told(&mut slow).await;
        received += 1;
        if round_of(&message) == rounds {
            newest.insert(message["id"].as_str().unwrap().to_owned());
        }
    }
    assert!(received < 100 * rounds, "older states are skipped: {received} messages");
}
