//! Signing in and out, who one is, and the audit log.

use std::sync::Arc;

use axum::Extension;
use axum::body::{Body, to_bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde::{Deserialize, Serialize};

use super::http::{Refusal, json};
use super::hub::Hub;
use super::people::{Caller, People, Turned, Who};
use crate::config::users::{Role, password};
use crate::metrics::Outcome;

/// Most bytes of a request to sign in.
const BODY_MAX: usize = 8 * 1024;
/// Entries of the audit log in an answer that does not say how many, and at most.
const USUAL: usize = 100;
const MOST: usize = 1000;

#[derive(Deserialize)]
struct Credentials {
    user: String,
    password: String,
}

/// Who is signed in.
#[derive(Serialize)]
struct Known<'a> {
    user: &'a str,
    role: &'static str,
    /// Unix time in seconds; null for a token that does not expire.
    expires: Option<f64>,
}

/// Who one is; if nobody, whether there is a login.
pub(super) async fn who(
    Extension(people): Extension<Arc<People>>,
    Extension(caller): Extension<Caller>,
) -> Response<Body> {
    #[derive(Serialize)]
    struct Login {
        login: bool,
    }
    let expires = match &caller.who {
        Who::Person(session) => Some(people.expires(session)),
        Who::Program(program) => program.expires(),
        Who::Anyone => return json(&Login { login: false }),
        Who::Stranger(_) => return json(&Login { login: true }),
    };
    known(&caller.who, expires)
}

fn known(who: &Who, expires: Option<f64>) -> Response<Body> {
    let user = who.name().unwrap_or_default();
    let role = who.role().map_or("", Role::as_str);
    json(&Known { user, role, expires })
}

/// Signs in: a cookie for the right user and password.
pub(super) async fn sign_in(
    State(hub): State<Arc<Hub>>,
    Extension(people): Extension<Arc<People>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Result<Response<Body>, Refusal> {
    if !people.has_login() {
        let error = "this gateway has no users, so there is nothing to sign in to";
        return Err(Refusal::new(StatusCode::CONFLICT, error));
    }
    let body = to_bytes(request.into_body(), BODY_MAX).await.map_err(|_| {
        let error = format!("the request could not be read, or is over {BODY_MAX} bytes");
        Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, error)
    })?;
    // What is wrong is not told in detail: the text may be repeated, and a password is in it.
    let Credentials { user, password } = serde_json::from_slice(&body).map_err(|_| {
        let error = "the request is {\"user\": \"…\", \"password\": \"…\"}";
        Refusal::new(StatusCode::BAD_REQUEST, error)
    })?;
    // No password is longer, and to hash one would take as long as its sender likes.
    let outcome = if password.len() > password::MAX {
        Err(Turned::Wrong)
    } else {
        people.sign_in(&user, password, &caller).await
    };
    let count = |outcome| hub.context().metrics.logins.get_or_create(&Outcome { outcome }).inc();
    let (id, session) = match outcome {
        Ok(opened) => opened,
        Err(turned) => {
            let (outcome, refusal) = refusal(turned);
            count(outcome);
            let mut entry = caller.entry("login", None, outcome.to_owned());
            entry.who = Some(if people.knows(&user) { user } else { "an unknown user".to_owned() });
            entry.role = None;
            people.audit().note_refusal(entry);
            return Err(refusal);
        }
    };
    count("ok");
    // The one before would be left without a way to end it.
    if let Who::Person(before) = &caller.who {
        people.sessions().close(before);
    }
    let expires = people.expires(&session);
    let caller = Caller { who: Who::Person(session), ..caller };
    people.audit().note(caller.entry("login", None, "ok".to_owned()));
    let mut response = known(&caller.who, Some(expires));
    set_cookie(&mut response, &caller, &id, people.sessions().max().as_secs());
    Ok(response)
}

fn refusal(turned: Turned) -> (&'static str, Refusal) {
    match turned {
        Turned::Wrong => {
            let error = "the user or the password is wrong";
            ("wrong", Refusal::new(StatusCode::UNAUTHORIZED, error))
        }
        Turned::Slowed(wait) => {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            let error = format!("too many wrong passwords from here; try again in {seconds} s");
            ("slowed", Refusal::new(StatusCode::TOO_MANY_REQUESTS, error).after(seconds))
        }
        Turned::Busy => {
            let error = "too many people sign in at once; try again";
            ("busy", Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error))
        }
    }
}

/// Signs out. Who is not signed in is that already.
pub(super) async fn sign_out(
    Extension(people): Extension<Arc<People>>,
    Extension(caller): Extension<Caller>,
) -> Response<Body> {
    if let Who::Person(session) = &caller.who {
        people.sessions().close(session);
        people.audit().note(caller.entry("logout", None, "ok".to_owned()));
    }
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if people.has_login() {
        set_cookie(&mut response, &caller, "", 0);
    }
    response
}

/// Not Secure where the browser came without TLS: to loopback, where some browsers would not keep
/// such a cookie, or to a trusted proxy that says so.
fn set_cookie(response: &mut Response<Body>, caller: &Caller, id: &str, seconds: u64) {
    let (name, secure) = (People::cookie(caller), if caller.secure { "; Secure" } else { "" });
    let cookie =
        format!("{name}={id}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Strict{secure}");
    let headers: &mut HeaderMap = response.headers_mut();
    // Letters, digits, '-' and '_'.
    if let Ok(cookie) = HeaderValue::from_str(&cookie) {
        headers.append(header::SET_COOKIE, cookie);
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Wanted {
    limit: Option<usize>,
}

/// The newest entries of the audit log, oldest first.
pub(super) async fn audit(
    Extension(people): Extension<Arc<People>>,
    query: Result<Query<Wanted>, QueryRejection>,
) -> Result<Response<Body>, Refusal> {
    #[derive(Serialize)]
    struct Document {
        entries: Vec<serde_json::Value>,
    }
    let bad = |error: String| Refusal::new(StatusCode::BAD_REQUEST, error);
    let Query(wanted) = query.map_err(|rejection| bad(rejection.body_text()))?;
    let limit = wanted.limit.unwrap_or(USUAL);
    if limit > MOST {
        return Err(bad(format!("limit is 0 to {MOST}; the rest is in audit.log")));
    }
    let audit = Arc::clone(people.audit());
    let entries = tokio::task::spawn_blocking(move || audit.newest(limit)).await;
    let entries =
        entries.unwrap_or_else(|error| Err(std::io::Error::other(error))).map_err(|error| {
            let error = format!("audit.log cannot be read: {error}");
            Refusal::new(StatusCode::SERVICE_UNAVAILABLE, error)
        })?;
    Ok(json(&Document { entries }))
}
