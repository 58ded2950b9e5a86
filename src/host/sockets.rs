//! Listening sockets that the service manager made and passes on (socket activation,
//! `sd_listen_fds(3)`): they stay open while the gateway restarts, so whoever connects meanwhile waits
//! instead of being refused.

use std::io;
use std::net::{SocketAddr, TcpListener};

use listenfd::ListenFd;

/// The name that the device listener's socket goes by (`FileDescriptorName=` in its unit).
pub const DEVICES: &str = "devices";
/// The name that the dashboard's socket goes by.
pub const DASHBOARD: &str = "dashboard";

/// The sockets that were passed and are not taken yet.
#[derive(Debug, Default)]
pub struct Sockets {
    passed: Vec<(String, TcpListener)>,
}

/// Why a socket that was passed cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Not what the protocol says, or no TCP sockets.
    #[error("the sockets that the service manager passes cannot be used: {0}")]
    Unusable(#[from] io::Error),
    /// The unit says another address than the configuration.
    #[error(
        "{setting} is {wanted}, and the socket unit of that name ({name}) listens on {found}: make them \
         the same (systemctl edit the .socket, or the configuration), or disable the socket unit"
    )]
    Elsewhere {
        /// The key of the configuration.
        setting: &'static str,
        /// Its value.
        wanted: SocketAddr,
        /// The name that the unit gives its socket.
        name: String,
        /// The unit's address.
        found: SocketAddr,
    },
}

impl Sockets {
    /// Takes over what was passed to this process; nothing, in most cases. Changes the environment, so
    /// it is to be called once and before there are threads.
    ///
    /// # Errors
    /// When something else than listening TCP sockets was passed.
    pub fn passed() -> Result<Self, SocketError> {
        // It heeds LISTEN_PID, which the next one takes for optional.
        let names: Vec<String> =
            sd_notify::listen_fds_with_names()?.map(|(_, name)| name).collect();
        if names.is_empty() {
            return Ok(Self::default());
        }
        let mut sockets = ListenFd::from_env();
        let mut passed = Vec::with_capacity(names.len());
        for (index, name) in names.into_iter().enumerate() {
            if let Some(socket) = sockets.take_tcp_listener(index)? {
                // What accept would wait for is waited for elsewhere.
                socket.set_nonblocking(true)?;
                passed.push((name, socket));
            }
        }
        Ok(Self { passed })
    }

    /// The socket of that name, whose address must be what the configuration says: by that it was
    /// judged whether tokens, users and TLS are needed.
    ///
    /// # Errors
    /// When it is another.
    pub fn take(
        &mut self,
        name: &str,
        setting: &'static str,
        wanted: SocketAddr,
    ) -> Result<Option<TcpListener>, SocketError> {
        let Some(index) = self.passed.iter().position(|(known, _)| known == name) else {
            return Ok(None);
        };
        let (name, socket) = self.passed.swap_remove(index);
        let found = socket.local_addr()?;
        let port = wanted.port() == 0 || wanted.port() == found.port();
        if wanted.ip() != found.ip() || !port {
            return Err(SocketError::Elsewhere { setting, wanted, name, found });
        }
        Ok(Some(socket))
    }

    /// The names and addresses of those that nobody took.
    pub fn left(&self) -> impl Iterator<Item = (&str, Option<SocketAddr>)> {
        self.passed.iter().map(|(name, socket)| (name.as_str(), socket.local_addr().ok()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str) -> (Sockets, SocketAddr) {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap();
        (Sockets { passed: vec![(name.to_owned(), socket)] }, address)
    }

    #[test]
    fn a_socket_is_taken_once_by_its_name() {
        let (mut sockets, address) = one(DEVICES);
        assert!(sockets.take(DASHBOARD, "dashboard.listen", address).unwrap().is_none());
        assert_eq!(sockets.left().collect::<Vec<_>>(), [(DEVICES, Some(address))]);
        let taken = sockets.take(DEVICES, "devices.listen", address).unwrap().unwrap();
        assert_eq!(taken.local_addr().unwrap(), address);
        assert!(sockets.take(DEVICES, "devices.listen", address).unwrap().is_none());
        assert_eq!(sockets.left().count(), 0);
    }

    #[test]
    fn the_address_must_be_the_one_that_was_judged() {
        let (mut sockets, address) = one(DEVICES);
        let wanted = SocketAddr::new([0, 0, 0, 0].into(), address.port());
        let error = sockets.take(DEVICES, "devices.listen", wanted).unwrap_err().to_string();
        for part in [&wanted.to_string(), &address.to_string(), "devices.listen"] {
            assert!(error.contains(part), "{error}");
        }
        let (mut sockets, address) = one(DEVICES);
        let any = SocketAddr::new(address.ip(), 0);
        assert!(sockets.take(DEVICES, "devices.listen", any).unwrap().is_some());
        let (mut sockets, address) = one(DEVICES);
        let other = SocketAddr::new(address.ip(), address.port() ^ 1);
        assert!(sockets.take(DEVICES, "devices.listen", other).is_err());
    }

    #[test]
    fn most_processes_are_passed_nothing() {
        assert_eq!(Sockets::passed().unwrap().left().count(), 0);
    }
}
