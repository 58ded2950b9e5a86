//! Asking for commands over HTTP and with `tidegate send`, and looking into the ledger.

use std::process::Output;

use serde_json::Value as Json;

use super::http::{self, Response};
use super::{Gateway, until};

impl Gateway {
    /// `POST` of `body` with these further header lines.
    pub(crate) async fn post(&self, path: &str, headers: &[&str], body: &str) -> Response {
        let more: String = headers.iter().flat_map(|header| [*header, "\r\n"]).collect();
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nConnection: close\r\n\
             Content-Type: application/json\r\n{more}Content-Length: {length}\r\n\r\n{body}",
            self.dashboard
        );
        http::raw(self.dashboard, &request).await
    }

    /// Asks `device` over HTTP, whatever the answer.
    pub(crate) async fn try_ask(&self, device: &str, request: &Json) -> Response {
        self.post(&commands_path(device), &[], &request.to_string()).await
    }

    /// Asks `device` over HTTP and gives the command.
    pub(crate) async fn ask(&self, device: &str, request: &Json) -> Json {
        let answer = self.try_ask(device, request).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.json()
    }

    /// As [`Self::ask`]; holds until the result is there.
    pub(crate) async fn ask_and_wait(&self, device: &str, request: &Json) -> Json {
        let path = format!("{}?wait=35", commands_path(device));
        let answer = self.post(&path, &[], &request.to_string()).await;
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.json()
    }

    /// The commands in the ledger that `query` selects.
    pub(crate) async fn commands(&self, query: &str) -> Vec<Json> {
        let answer = self.get(&format!("/api/v1/commands{query}")).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json().as_array().unwrap().clone()
    }

    /// One of them; null where there is none.
    pub(crate) async fn record(&self, device: &str, id: &str) -> Json {
        let answer = self.get(&format!("/api/v1/commands/{id}?device={device}")).await;
        if answer.status == 200 { answer.json() } else { Json::Null }
    }

    /// Waits until it is in `state` and gives it.
    pub(crate) async fn until_state(&self, device: &str, id: &str, state: &str) -> Json {
        let mut record = Json::Null;
        until(&format!("{device}'s {id} is {state}"), async || {
            record = self.record(device, id).await;
            record["state"] == state
        })
        .await;
        record
    }

    /// Runs `tidegate send` with this configuration, beside the test.
    pub(crate) async fn send(&self, arguments: &[&str]) -> Output {
        let mut command = self.binary();
        command.arg("send").args(arguments).arg("--config").arg(self.config());
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }
}

/// Where requests for `device` are posted.
pub(crate) fn commands_path(device: &str) -> String {
    format!("/api/v1/devices/{device}/commands")
}

/// The states that a command has been in.
pub(crate) fn states(record: &Json) -> Vec<&str> {
    let history = record["history"].as_array().unwrap_or_else(|| panic!("no history: {record}"));
    history.iter().map(|entry| entry["state"].as_str().unwrap()).collect()
}
