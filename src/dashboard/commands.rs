//! Commands over HTTP: asking for one, and looking at what became of all of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use axum::body::{Body, to_bytes};
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde::Deserialize;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use super::http::{Refusal, json};
use super::hub::Hub;
use super::people::{Caller, People};
use crate::core::command::{self, Record, Refusal as NotKept, Reply, Requester, Way};
use crate::core::ids::DeviceId;
use crate::ports::{CommandBook, CommandRequest};

/// Seconds that `?wait=` may ask for at most.
const WAIT_MAX: f64 = 600.0;
/// What `User-Agent` of `tidegate send` begins with.
pub const CLI_AGENT: &str = "tidegate-cli/";

/// Who is at the other end of the connection.
#[derive(Debug, Clone, Copy)]
pub(super) struct Peer(pub(super) SocketAddr);

#[derive(Debug, Deserialize)]
pub(super) struct Wait {
    /// Seconds to wait for the result.
    wait: Option<f64>,
}

/// Asks a device to do something. 202 and the command once it is in the ledger; with `?wait=`, once
/// it has ended or the seconds are over.
pub(super) async fn ask(
    State(hub): State<Arc<Hub>>,
    device: Result<Path<String>, PathRejection>,
    query: Result<Query<Wait>, QueryRejection>,
    Extension(people): Extension<Arc<People>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response<Body>, Refusal> {
    let access = &hub.context().commands;
    let wait = wait(query)?;
    let device = device_id(&device.map_or_else(|_| String::new(), |Path(device)| device))?;
    let requester = requester(request.headers(), &caller);
    let limit = command::Request::max_body(access.max_size);
    let body = to_bytes(request.into_body(), limit).await.map_err(|_| {
        let error = format!("the request could not be read, or is over {limit} bytes");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, error)
    })?;
    let request = command::Request::parse(&body, access.max_size)
        .map_err(|bad| Refusal::new(StatusCode::BAD_REQUEST, bad.reason))?;
    let (reply, answer) = oneshot::channel();
    let what = format!("{} to {device}", request.name);
    let note = |what: String, outcome: String| {
        people.audit().note(caller.entry("command", Some(what), outcome));
    };
    let asked = CommandRequest { device, request, requester, reply };
    access.requests.try_send(asked).map_err(|error| match error {
        TrySendError::Full(_) => unavailable("too many requests at once; try again"),
        TrySendError::Closed(_) => unavailable("the gateway is stopping"),
    })?;
    let reply = answer.await.map_err(|_| unavailable("the gateway is stopping"))?;
    let mut record = match reply {
        Reply::Kept { record, .. } => {
            note(format!("{what}, id {}", record.id), record.state().as_str().to_owned());
            record
        }
        Reply::Refused(refusal @ (NotKept::Full(_) | NotKept::Stalled(_))) => {
            note(what, refusal.to_string());
            return Err(unavailable(&refusal.to_string()));
        }
    };
    if let Some(wait) = wait {
        record = ended(&access.book, record, wait).await;
    }
    let mut response = json(&record.to_json());
    *response.status_mut() = StatusCode::ACCEPTED;
    let location = format!("/api/v1/commands/{}?device={}", record.id, record.device);
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// The command as it is when it has ended, or after `wait`.
async fn ended(book: &CommandBook, mut record: Arc<Record>, wait: Duration) -> Arc<Record> {
    let deadline = Instant::now() + wait;
    let mut changes = book.watch();
    loop {
        // One that has gone from the ledger meanwhile stays as it was seen last.
        let newer = book.find(Some(&record.device), &record.id);
        if let Some(newer) = newer.filter(|newer| newer.number == record.number) {
            record = newer;
        }
        if record.state().is_final() {
            return record;
        }
        if !matches!(timeout_at(deadline, changes.changed()).await, Ok(Ok(()))) {
            return record;
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    device: Option<String>,
    state: Option<String>,
    /// 32 bits on every platform, as the description of the API says.
    limit: Option<u32>,
}

/// The commands in the ledger, newest first.
pub(super) async fn list(
    State(hub): State<Arc<Hub>>,
    query: Result<Query<Wanted>, QueryRejection>,
) -> Result<Response<Body>, Refusal> {
    let Query(wanted) = query.map_err(|rejection| bad(rejection.body_text()))?;
    let is_one = |state: &String| command::State::ALL.iter().any(|known| known.as_str() == state);
    if wanted.state.as_ref().is_some_and(|state| !is_one(state)) {
        let known: Vec<_> = command::State::ALL.iter().map(|state| state.as_str()).collect();
        return Err(bad(format!("state is one of {}", known.join(", "))));
    }
    let limit = wanted.limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let fits = |wanted: &Option<String>, is: &str| wanted.as_deref().is_none_or(|w| w == is);
    let all = hub.context().commands.book.all();
    let records: Vec<_> = all
        .iter()
        .filter(|record| fits(&wanted.device, record.device.as_str()))
        .filter(|record| fits(&wanted.state, record.state().as_str()))
        .take(limit)
        .map(|record| record.to_json())
        .collect();
    Ok(json(&records))
}

#[derive(Debug, Deserialize)]
pub(super) struct Whose {
    device: Option<String>,
}

/// One command. Ids are unique for a device; without `?device=` the newest of that id.
pub(super) async fn one(
    State(hub): State<Arc<Hub>>,
    id: Result<Path<String>, PathRejection>,
    query: Result<Query<Whose>, QueryRejection>,
) -> Result<Response<Body>, Refusal> {
    let Query(whose) = query.map_err(|rejection| bad(rejection.body_text()))?;
    let device = whose.device.as_deref().map(device_id).transpose()?;
    let id = id.map_or_else(|_| String::new(), |Path(id)| id);
    let found = hub.context().commands.book.find(device.as_ref(), &id);
    let record = found.ok_or_else(|| {
        let id: String = id.chars().take(80).collect();
        let error = format!("there is no command {id:?} in the ledger");
        Refusal::new(StatusCode::NOT_FOUND, error)
    })?;
    Ok(json(&record.to_json()))
}

fn wait(query: Result<Query<Wait>, QueryRejection>) -> Result<Option<Duration>, Refusal> {
    let Query(Wait { wait }) = query.map_err(|rejection| bad(rejection.body_text()))?;
    wait.map(|seconds| {
        let fits = (0.0..=WAIT_MAX).contains(&seconds);
        let wait = fits.then(|| Duration::from_secs_f64(seconds));
        wait.ok_or_else(|| bad(format!("wait is a number of seconds, 0 to {WAIT_MAX}")))
    })
    .transpose()
}

fn device_id(device: &str) -> Result<DeviceId, Refusal> {
    DeviceId::new(device).map_err(|error| Refusal::new(StatusCode::NOT_FOUND, error.to_string()))
}

fn requester(headers: &HeaderMap, caller: &Caller) -> Requester {
    let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok());
    let cli = agent.is_some_and(|agent| agent.starts_with(CLI_AGENT));
    let via = if cli { Way::Cli } else { Way::Http };
    let name = caller.who.name().map_or_else(|| caller.address.to_string(), str::to_owned);
    Requester { via, name, response: None }
}

fn bad(error: String) -> Refusal {
    Refusal::new(StatusCode::BAD_REQUEST, error)
}

fn unavailable(error: &str) -> Refusal {
    Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error)
}
