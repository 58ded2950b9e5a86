//! TLS to the broker: whom to believe, and who we are.
//!
//! Without `mqtt.ca` the system's own roots decide (rustls-native-certs reads them), not a list built
//! into the binary: the operator can add a company's authority with the system's tools, and a
//! withdrawn one goes with the system's updates, without a new tidegate.
//!
//! The files are read again for every connection, so a renewed certificate needs no restart.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore};

use crate::config::Mqtt;

/// Why TLS cannot be set up. Names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read.
    #[error("cannot read {what} {}: {source}", path.display())]
    Read {
        /// What it is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A file holds something else than it should.
    #[error("{what} {}: {problem}", path.display())]
    Content {
        /// What it is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// `mqtt.cert` without `mqtt.key` or the other way round.
    #[error("mqtt.cert and mqtt.key belong together: set both or neither")]
    HalfAPair,
    /// No system roots.
    #[error("this system has no root certificates ({0}): install ca-certificates or set mqtt.ca")]
    NoRoots(String),
    /// The host cannot be in a certificate.
    #[error("{0:?} is neither a host name nor an address that a certificate can be for")]
    Host(String),
    /// rustls does not accept the combination.
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
}

/// The name that the broker's certificate must be for; also sent to it (SNI).
pub(super) fn server_name(host: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Host(host.to_owned()))
}

/// Reads the files that `settings` name. Blocks; for a blocking thread.
pub(super) fn client_config(settings: &Mqtt) -> Result<Arc<ClientConfig>, TlsError> {
    let roots = match &settings.ca {
        Some(path) => own_roots(path)?,
        None => system_roots()?,
    };
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let config = match (&settings.cert, &settings.key) {
        (None, None) => builder.with_no_client_auth(),
        (Some(cert), Some(key)) => {
            let chain = certificates("the certificate mqtt.cert", cert)?;
            let content = |problem: String| TlsError::Content {
                what: "the key mqtt.key",
                path: key.clone(),
                problem,
            };
            let bytes = read("the key mqtt.key", key)?;
            let private = PrivateKeyDer::from_pem_slice(&bytes)
                .map_err(|e| content(format!("holds no private key in PEM form ({e})")))?;
            builder.with_client_auth_cert(chain, private).map_err(|e| {
                content(format!("does not fit the certificate {}: {e}", cert.display()))
            })?
        }
        _ => return Err(TlsError::HalfAPair),
    };
    Ok(Arc::new(config))
}

fn own_roots(path: &Path) -> Result<RootCertStore, TlsError> {
    let what = "the certificate authority mqtt.ca";
    let mut roots = RootCertStore::empty();
    for certificate in certificates(what, path)? {
        roots.add(certificate).map_err(|e| TlsError::Content {
            what,
            path: path.to_owned(),
            problem: format!("cannot be used as an authority: {e}"),
        })?;
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        let reasons: Vec<String> = found.errors.iter().map(ToString::to_string).collect();
        let reason = if reasons.is_empty() { "none found".to_owned() } else { reasons.join("; ") };
        return Err(TlsError::NoRoots(reason));
    }
    Ok(roots)
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let bytes = read(what, path)?;
    let content = |problem: String| TlsError::Content { what, path: path.to_owned(), problem };
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(&bytes)
        .collect::<Result<_, _>>()
        .map_err(|e| content(format!("is not in PEM form ({e})")))?;
    if certificates.is_empty() {
        return Err(content("holds no certificate in PEM form".to_owned()));
    }
    Ok(certificates)
}

fn read(what: &'static str, path: &Path) -> Result<Vec<u8>, TlsError> {
    std::fs::read(path).map_err(|source| TlsError::Read { what, path: path.to_owned(), source })
}
