//! TLS for `wss://`: the client's side of rustls, read from PEM files.

use std::path::Path;
use std::sync::Arc;

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};

/// Why no TLS configuration came of the files.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file that cannot be read, or holds no PEM of the kind asked for.
    #[error("{file}: {problem}")]
    File {
        /// Which.
        file: String,
        /// What is wrong with it.
        problem: String,
    },
    /// No `ca` was given, and the system has none either.
    #[error("this system has no trusted certificate authorities: name the gateway's own")]
    NoRoots,
    /// rustls refuses the combination.
    #[error("these TLS files do not go together: {0}")]
    Rustls(#[from] tokio_rustls::rustls::Error),
}

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
    let mut roots = RootCertStore::empty();
    if let Some(ca) = ca {
        for certificate in certificates(ca)? {
            roots.add(certificate)?;
        }
    } else {
        let found = rustls_native_certs::load_native_certs();
        if roots.add_parsable_certificates(found.certs).0 == 0 {
            return Err(TlsError::NoRoots);
        }
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some((chain, key)) => {
            let key_der = PrivateKeyDer::from_pem_file(key).map_err(|error| fault(key, &error))?;
            builder.with_client_auth_cert(certificates(chain)?, key_der)?
        }
    };
    Ok(Arc::new(config))
}

fn certificates(file: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = CertificateDer::pem_file_iter(file)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| fault(file, &error))?;
    if found.is_empty() {
        return Err(fault(file, &"it holds no certificate in PEM form"));
    }
    Ok(found)
}

fn fault(file: &Path, problem: &dyn std::fmt::Display) -> TlsError {
    TlsError::File { file: file.display().to_string(), problem: problem.to_string() }
}
