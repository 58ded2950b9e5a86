//! From a host name to a TCP connection, under a deadline.

use std::io;

use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name has no address, or nobody could be asked.
    #[error("cannot find the address of {host}: {source}")]
    Name {
        /// The name.
        host: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// The address does not take connections.
    #[error("cannot reach {address}: {source}")]
    Tcp {
        /// The last one that was tried.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// Nobody answered in time.
    #[error("no answer in time while waiting for {0}")]
    Timeout(&'static str),
}

/// Connects to `host` (a name, or an address without brackets). Tries its addresses in turn; each gets
/// its share of the time that is left, so one that never answers does not use it all up. Small writes
/// are sent at once (`TCP_NODELAY`).
///
/// # Errors
/// When no address is found, or none of them takes the connection before `deadline`.
pub async fn tcp(host: &str, port: u16, deadline: Instant) -> Result<TcpStream, ConnectError> {
    let name_error = |source| ConnectError::Name { host: host.to_owned(), source };
    let found = timeout_at(deadline, tokio::net::lookup_host((host, port))).await;
    let found = found.map_err(|_| ConnectError::Timeout("the address of the host"))?;
    let addresses: Vec<_> = found.map_err(name_error)?.collect();
    let mut failure = name_error(io::Error::from(io::ErrorKind::NotFound));
    for (index, address) in addresses.iter().enumerate() {
        let now = Instant::now();
        let share = deadline.saturating_duration_since(now)
            / u32::try_from(addresses.len() - index).unwrap_or(u32::MAX);
        let attempt = timeout_at(now + share, TcpStream::connect(address)).await;
        let refused = |source| ConnectError::Tcp { address: address.to_string(), source };
        failure = match attempt.map(|result| {
            result.and_then(|stream| {
                stream.set_nodelay(true)?;
                Ok(stream)
            })
        }) {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(source)) => refused(source),
            Err(_) => ConnectError::Timeout("the host to accept the TCP connection"),
        };
    }
    Err(failure)
}
