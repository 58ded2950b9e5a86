//! Reads what a proxy sends ahead of its client's bytes.

use std::io;
use std::net::SocketAddr;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::core::proxy::{BadProxy, FIXED, Preamble};

/// Takes a header of the PROXY protocol, version 2, from the front of `stream` and not a byte more.
/// `None`: the proxy itself is the client. It waits for as long as the header takes to come, so
/// callers set a deadline.
///
/// # Errors
/// Of the kind [`io::ErrorKind::InvalidData`] and with a [`BadProxy`] inside when something else
/// comes; else those of the stream.
pub async fn read_header(stream: &mut TcpStream) -> io::Result<Option<SocketAddr>> {
    let invalid = |bad: BadProxy| io::Error::new(io::ErrorKind::InvalidData, bad);
    let mut fixed = [0; FIXED];
    stream.read_exact(&mut fixed).await?;
    let preamble = Preamble::parse(fixed).map_err(invalid)?;
    let mut variable = vec![0; preamble.length];
    stream.read_exact(&mut variable).await?;
    preamble.client(&variable).map_err(invalid)
}

/// The [`BadProxy`] inside an error of [`read_header`].
#[must_use]
pub fn fault(error: &io::Error) -> Option<BadProxy> {
    error.get_ref()?.downcast_ref().copied()
}
