//! The demo's commands: asked for over HTTP, as by any program, and told with what became of them.

use std::pin::Pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::{Value, json};

use crate::cli::http;
use crate::core::command::State;

/// The device whose output the key switches, and the output.
const PUMP: &str = "pump-1";
const MOTOR: &str = "motor";
/// How long the gateway is asked to wait for a result: the demo's devices lose their network for
/// some seconds now and then. Shorter than the ttl that holds where a request names none.
const WAIT: Duration = Duration::from_secs(30);
/// What the answer may take beyond that.
const GRACE: Duration = Duration::from_secs(5);

/// Those that were asked for.
pub(super) struct Commands {
    gateway: Rc<http::Gateway>,
    under_way: FuturesUnordered<Pin<Box<dyn Future<Output = Outcome>>>>,
    motor_on: bool,
    sent: u64,
    done: u64,
}

struct Outcome {
    text: String,
    done: bool,
}

impl Commands {
    /// None yet.
    pub(super) fn new(gateway: Rc<http::Gateway>) -> Self {
        Self { gateway, under_way: FuturesUnordered::new(), motor_on: true, sent: 0, done: 0 }
    }

    /// Asks `device` who it is.
    pub(super) fn identify(&mut self, device: &str) {
        self.ask(device, "identify", &Value::Null);
    }

    /// Switches the pump's motor off, or on again.
    pub(super) fn switch_pump(&mut self) {
        self.motor_on = !self.motor_on;
        let params = json!({ "output": MOTOR, "on": self.motor_on });
        self.ask(PUMP, "set-output", &params);
    }

    fn ask(&mut self, device: &str, name: &str, params: &Value) {
        self.sent += 1;
        let gateway = Rc::clone(&self.gateway);
        let path = format!("/api/v1/devices/{device}/commands?wait={}", WAIT.as_secs());
        let what = match params {
            Value::Null => format!("{device}: {name}"),
            params => format!("{device}: {name} {params}"),
        };
        let body = json!({ "name": name, "params": params }).to_string().into_bytes();
        self.under_way.push(Box::pin(async move {
            let asked = Instant::now();
            let answer = tokio::time::timeout(WAIT + GRACE, gateway.ask(&path, body)).await;
            let answer = answer.context("the gateway does not answer").and_then(|answer| answer);
            outcome(&what, answer, asked.elapsed())
        }));
    }

    /// Waits until one has come to its end, and tells of it; never, while there is none. Cancel
    /// safe.
    pub(super) async fn next(&mut self) -> String {
        let Some(Outcome { text, done }) = self.under_way.next().await else {
            return std::future::pending().await;
        };
        self.done += u64::from(done);
        text
    }

    /// How many wait for their result.
    pub(super) fn waiting(&self) -> usize {
        self.under_way.len()
    }

    /// How many were asked for.
    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    /// How many were done.
    pub(super) fn done(&self) -> u64 {
        self.done
    }
}

/// A line about the end of a command.
fn outcome(what: &str, answer: anyhow::Result<http::Answer>, took: Duration) -> Outcome {
    let (status, body) = match answer {
        Ok(answer) => answer,
        Err(error) => return Outcome { text: format!("{what}: {error:#}"), done: false },
    };
    let record = serde_json::from_slice::<Value>(&body).ok();
    let Some(record) = record.filter(|_| status.is_success()) else {
        let said = http::said(&body);
        return Outcome { text: format!("{what}: refused with {status}: {said}"), done: false };
    };
    let state = record.get("state").and_then(Value::as_str).unwrap_or_default();
    let took = took.as_secs_f64() * 1e3;
    let words = record.get("error").and_then(Value::as_str);
    let result = match (words, record.get("value")) {
        (Some(error), _) => format!(", {error}"),
        (None, Some(value)) if !value.is_null() => format!(", {value}"),
        _ => String::new(),
    };
    let text = format!("{what}: {state} after {took:.0} ms{result}");
    Outcome { text, done: state == State::Done.as_str() }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one request with each of `answers` and returns what was asked.
    async fn serve(listener: TcpListener, answers: &[(&str, &str)]) -> Vec<String> {
        let mut asked = Vec::new();
        for (status, body) in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = String::new();
            while !request.ends_with('}') {
                let mut bytes = [0; 1024];
                let count = stream.read(&mut bytes).await.unwrap();
                assert!(count > 0, "{request}");
                request.push_str(std::str::from_utf8(&bytes[..count]).unwrap());
            }
            asked.push(request);
            let length = body.len();
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {length}\r\n\r\n{body}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        asked
    }

    #[tokio::test]
    async fn commands_are_asked_for_counted_and_told_of() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let mut commands = Commands::new(Rc::new(http::Gateway::at(&url).unwrap()));
        let answers = [
            ("202 Accepted", r#"{"state":"done","value":{"model":"m"},"error":null}"#),
            ("202 Accepted", r#"{"state":"failed","value":null,"error":"it is stuck"}"#),
            ("503 Service Unavailable", r#"{"error":"ledger full"}"#),
        ];
        let serving = serve(listener, &answers);
        let asking = async {
            let mut told = Vec::new();
            commands.identify("pump-1");
            told.push(commands.next().await);
            commands.switch_pump();
            told.push(commands.next().await);
            commands.switch_pump();
            assert_eq!(commands.waiting(), 1);
            told.push(commands.next().await);
            told
        };
        let (asked, told) = tokio::join!(serving, asking);
        assert!(asked[0].starts_with("POST /api/v1/devices/pump-1/commands?wait="), "{asked:?}");
        assert!(asked[1].contains(r#""on":false"#) && asked[2].contains(r#""on":true"#));
        assert!(told[0].starts_with("pump-1: identify: done after "), "{told:?}");
        assert!(told[0].ends_with(r#" ms, {"model":"m"}"#), "{told:?}");
        assert!(told[1].contains("failed after ") && told[1].ends_with(", it is stuck"));
        assert!(told[2].contains("refused with 503") && told[2].ends_with("ledger full"));
        assert_eq!((commands.sent(), commands.done(), commands.waiting()), (3, 1, 0));
    }
}
