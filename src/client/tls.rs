//! TLS for `wss://`: the client's side of rustls, read from PEM files.

use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls::ClientConfig;

use crate::host::tls;
pub use crate::host::tls::TlsError;

/// A configuration that trusts the certificate authorities in the PEM file `ca` and no others, or
/// without one those the system trusts, and that shows the certificate and key of `identity`, two
/// PEM files, if the gateway asks for one.
///
/// # Errors
/// When a file cannot be read or does not hold what it should, or key and certificate do not match.
pub fn config(
    ca: Option<&Path>,
    identity: Option<(&Path, &Path)>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let authorities = ca.map_or_else(tls::system_authorities, tls::authorities)?;
    tls::client_config(authorities, identity)
}
