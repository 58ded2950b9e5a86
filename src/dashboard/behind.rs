//! Who is at the other end of a connection that came through a proxy.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderValue, Response, StatusCode};
use axum::middleware::Next;
use axum::response::IntoResponse;
use axum::{Extension, Router, middleware};
use tokio::net::TcpStream;

use super::commands::Peer;
use super::http::Refusal;
use crate::config::{Proxies, ProxyHeader};
use crate::core::proxy;
use crate::host::proxied;

/// Answers every request of the connection with `router`, which gets to know the client as [`Peer`].
/// `None`, and the connection is to be dropped: a proxy did not tell where its client is.
pub(super) async fn introduce(
    stream: &mut TcpStream,
    peer: SocketAddr,
    proxies: Arc<Proxies>,
    router: Router,
) -> Option<Router> {
    if !proxies.list(peer.ip()) {
        return Some(router.layer(Extension(Peer(peer))));
    }
    match proxies.header {
        ProxyHeader::ProxyProtocol => match proxied::read_header(stream).await {
            Ok(source) => Some(router.layer(Extension(Peer(source.unwrap_or(peer))))),
            Err(error) => {
                tracing::debug!(
                    %peer, %error,
                    "dropped a connection to the dashboard: dashboard.proxy_header says how a \
                     proxy of dashboard.trusted_proxies names its clients"
                );
                None
            }
        },
        ProxyHeader::XForwardedFor => {
            Some(router.layer(middleware::from_fn(move |request: Request, next: Next| {
                forwarded(Arc::clone(&proxies), request, next)
            })))
        }
    }
}

async fn forwarded(proxies: Arc<Proxies>, mut request: Request, next: Next) -> Response<Body> {
    let lines = request.headers().get_all("x-forwarded-for").iter().map(HeaderValue::as_bytes);
    match proxy::forwarded(lines, |address| proxies.list(address)) {
        Ok(address) => {
            // The port is the proxy's own business.
            request.extensions_mut().insert(Peer(SocketAddr::new(address, 0)));
            next.run(request).await
        }
        Err(bad) => {
            let error = format!("{bad}: dashboard.proxy_header says how a proxy names its clients");
            Refusal::new(StatusCode::BAD_REQUEST, error).into_response()
        }
    }
}
