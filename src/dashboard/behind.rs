//! Who is at the other end of a connection that came through a proxy which says so before all else.
//! What one says in each request is for `people` to judge.

use std::net::SocketAddr;

use tokio::net::TcpStream;

use super::commands::Peer;
use crate::config::{Proxies, ProxyHeader};
use crate::host::proxied;

/// Reads the header of a proxy from the front of `stream`. `None`, and the connection is to be
/// dropped: a proxy that should have sent one did not.
pub(super) async fn introduced(
    stream: &mut TcpStream,
    peer: SocketAddr,
    proxies: &Proxies,
) -> Option<Peer> {
    if !proxies.tell_by(ProxyHeader::ProxyProtocol, peer.ip()) {
        return Some(Peer(peer));
    }
    match proxied::read_header(stream).await {
        Ok(source) => Some(Peer(source.unwrap_or(peer))),
        Err(error) => {
            tracing::debug!(
                %peer, %error,
                "dropped a connection to the dashboard: dashboard.proxy_header says how a proxy \
                 of dashboard.trusted_proxies names its clients"
            );
            None
        }
    }
}
