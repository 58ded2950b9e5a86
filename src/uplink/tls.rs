//! TLS to the broker: whom to believe, and who we are.
//!
//! The files are read again for every connection, so a renewed certificate needs no restart.

use std::sync::Arc;

use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use crate::config::Mqtt;
use crate::host::tls;

/// Why TLS cannot be set up. Names the setting and the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The broker's authority cannot be used.
    #[error("mqtt.ca: {0}")]
    Authority(tls::TlsError),
    /// Nobody is trusted.
    #[error("mqtt.ca is not set, and {0}")]
    NoAuthority(tls::TlsError),
    /// The gateway's own certificate or its key cannot be used.
    #[error("mqtt.cert and mqtt.key: {0}")]
    Identity(tls::TlsError),
    /// `mqtt.cert` without `mqtt.key` or the other way round.
    #[error("mqtt.cert and mqtt.key belong together: set both or neither")]
    HalfAPair,
    /// The host cannot be in a certificate.
    #[error("{0:?} is neither a host name nor an address that a certificate can be for")]
    Host(String),
}

/// The name that the broker's certificate must be for; also sent to it (SNI).
pub(super) fn server_name(host: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Host(host.to_owned()))
}

/// Reads the files that `settings` name. Blocks; for a blocking thread.
pub(super) fn client_config(settings: &Mqtt) -> Result<Arc<ClientConfig>, TlsError> {
    let authorities = match &settings.ca {
        Some(path) => tls::authorities(path).map_err(TlsError::Authority)?,
        None => tls::system_authorities().map_err(TlsError::NoAuthority)?,
    };
    let identity = match (&settings.cert, &settings.key) {
        (None, None) => None,
        (Some(cert), Some(key)) => Some((cert.as_path(), key.as_path())),
        _ => return Err(TlsError::HalfAPair),
    };
    tls::client_config(authorities, identity).map_err(TlsError::Identity)
}
