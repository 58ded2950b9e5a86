//! Routes, refusals and the headers every answer carries.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, get, post};
use axum::{Extension, Router};
use serde::Serialize;

use super::assets::{self, ASSETS};
use super::hub::Hub;
use super::origin::{self, Origins};
use super::people::{Needs, People};
use super::{api, commands, history, log, openapi, render, signin, stream};
use crate::config::users::Role;

/// What the page may do: load its own files and talk to its own gateway, nothing else.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; \
    frame-ancestors 'none'";

const HEADERS: [(HeaderName, &str); 6] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// An answer that is not what was asked for: `{"error": "…"}`, with `"needs": "ROLE"` where one is
/// missing.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    error: String,
    needs: Option<Role>,
    retry_after: Option<u64>,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        let retry_after = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(5);
        Self { status, error: error.into(), needs: None, retry_after }
    }

    pub(super) fn foreign_origin() -> Self {
        Self::new(StatusCode::FORBIDDEN, "pages of another origin may not do this")
    }

    /// With the role that it would take.
    pub(super) fn needing(self, role: Role) -> Self {
        Self { needs: Some(role), ..self }
    }

    /// With the seconds to wait before trying again.
    pub(super) fn after(self, seconds: u64) -> Self {
        Self { retry_after: Some(seconds), ..self }
    }

    pub(super) fn status(&self) -> StatusCode {
        self.status
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response<Body> {
        #[derive(Serialize)]
        struct Document {
            error: String,
            #[serde(skip_serializing_if = "Option::is_none")]
            needs: Option<&'static str>,
        }
        let needs = self.needs.map(Role::as_str);
        let mut response = json(&Document { error: self.error, needs });
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// A document as JSON, never from a cache.
pub(super) fn json<T: Serialize>(document: &T) -> Response<Body> {
    body("application/json", render::text(document).into())
}

/// A body that no cache keeps.
pub(super) fn body(content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// Something to ask for, and what it needs of who asks.
pub(super) struct Route {
    pub(super) path: &'static str,
    pub(super) needs: Needs,
    answer: MethodRouter<Arc<Hub>>,
}

/// What there is to ask for besides the page, which tells nothing by itself.
pub(super) fn routes() -> Vec<Route> {
    use Needs::Nothing;
    const VIEWER: Needs = Needs::Role(Role::Viewer);
    const OPERATOR: Needs = Needs::Role(Role::Operator);
    const ADMIN: Needs = Needs::Role(Role::Admin);
    let session = get(signin::who).post(signin::sign_in).delete(signin::sign_out);
    let routes = [
        ("/healthz", Nothing, get(api::healthz)),
        ("/readyz", Nothing, get(api::readyz)),
        ("/metrics", VIEWER, get(api::metrics)),
        ("/api/v1/session", Nothing, session),
        ("/api/v1/status", VIEWER, get(api::status)),
        ("/api/v1/gateway", OPERATOR, get(api::gateway)),
        ("/api/v1/log", OPERATOR, get(log::list)),
        ("/api/v1/audit", ADMIN, get(signin::audit)),
        ("/api/v1/openapi.json", Nothing, get(openapi::document)),
        ("/api/v1/devices", VIEWER, get(api::devices)),
        ("/api/v1/devices/{device}", VIEWER, get(api::device)),
        ("/api/v1/devices/{device}/history", VIEWER, get(history::query::history)),
        ("/api/v1/devices/{device}/commands", OPERATOR, post(commands::ask)),
        ("/api/v1/commands", VIEWER, get(commands::list)),
        ("/api/v1/commands/{id}", VIEWER, get(commands::one)),
        ("/api/v1/stream", VIEWER, get(stream::websocket)),
        ("/api/v1/events", VIEWER, get(stream::events)),
    ];
    routes.into_iter().map(|(path, needs, answer)| Route { path, needs, answer }).collect()
}

/// All there is to ask for.
pub(super) fn router(hub: Arc<Hub>, people: Arc<People>) -> Router {
    let mut router = Router::new();
    for Route { path, needs, answer } in routes() {
        let admitted = middleware::from_fn_with_state((Arc::clone(&people), needs), admit);
        router = router.route(path, answer.route_layer(admitted));
    }
    for asset in ASSETS {
        let answer = move |headers: HeaderMap| async move { asset.answer(&headers) };
        router = router.route(asset.path, get(answer));
    }
    if let Some(why) = assets::missing() {
        router = router.route("/", get(|| async { body("text/plain; charset=utf-8", why.into()) }));
    }
    router
        .fallback(|request: Request| async move {
            let path = request.uri().path().chars().take(200).collect::<String>();
            Refusal::new(StatusCode::NOT_FOUND, format!("there is nothing at {path}"))
        })
        .method_not_allowed_fallback(|request: Request| async move {
            let error = format!("{} is not possible here", request.method());
            Refusal::new(StatusCode::METHOD_NOT_ALLOWED, error)
        })
        .layer(middleware::from_fn_with_state((Arc::clone(&hub), Arc::clone(&people)), guard))
        .layer(Extension(people))
        .with_state(hub)
}

/// Stands before every route.
async fn guard(
    State((hub, people)): State<(Arc<Hub>, Arc<People>)>,
    request: Request,
    next: Next,
) -> Response<Body> {
    // Probes tell nothing that needs guarding, and load balancers send Host headers of their own.
    let probe = matches!(request.uri().path(), "/healthz" | "/readyz");
    let origins: &Origins = &hub.context().origins;
    let reader = origins.reader(&request);
    let host = origin::check_host(&request, origins);
    let mut response = match host.and_then(|()| people.check_way(&request)) {
        Err(refusal) if !probe => refusal.into_response(),
        _ if reader.as_ref().is_some_and(origin::Reader::only_asks) => origin::preflight(),
        _ => next.run(request).await,
    };
    let headers = response.headers_mut();
    if let Some(reader) = reader {
        reader.mark(headers);
    }
    for (name, value) in HEADERS {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

/// Stands before each route: finds out who asks, and whether they may.
async fn admit(
    State((people, needs)): State<(Arc<People>, Needs)>,
    mut request: Request,
    next: Next,
) -> Response<Body> {
    let caller = people.caller(&request);
    if let Err(refusal) = people.check(&caller, needs, &request) {
        let what = format!("{} {}", request.method(), request.uri().path());
        people.note_refusal(&caller, what, refusal.status());
        return refusal.into_response();
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}
