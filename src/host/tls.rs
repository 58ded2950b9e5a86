//! Certificates for the listeners.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig, crypto};

use crate::config::Tls;

/// Why a listener's certificates cannot be used. Names the file.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file cannot be read, or is not PEM.
    #[error("{}: {}", path.display(), describe(source))]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: pem::Error,
    },
    /// The file holds no certificate.
    #[error("{}: holds no certificate in PEM form", path.display())]
    Empty {
        /// Which.
        path: PathBuf,
    },
    /// The certificate and its key do not fit each other or are of an unknown kind.
    #[error("{} with {}: {source}", cert.display(), key.display())]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// A certificate authority's certificate cannot be used.
    #[error("{}: {source}", path.display())]
    Authority {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// The certificate authorities make no verifier.
    #[error("{}: {source}", path.display())]
    Verifier {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: VerifierBuilderError,
    },
}

/// Loads what a listener needs for TLS 1.2 and 1.3. With `client_ca` a client is asked for a
/// certificate and one that is not signed by it is refused; a client that shows none gets
/// through, for the caller to judge.
///
/// # Errors
/// When a file cannot be read or used.
pub fn server_config(tls: &Tls) -> Result<Arc<ServerConfig>, TlsError> {
    let chain = certificates(&tls.cert)?;
    let key = PrivateKeyDer::from_pem_file(&tls.key)
        .map_err(|source| TlsError::File { path: tls.key.clone(), source })?;
    let pair = |source| TlsError::Pair { cert: tls.cert.clone(), key: tls.key.clone(), source };
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(pair)?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots
                    .add(certificate)
                    .map_err(|source| TlsError::Authority { path: path.clone(), source })?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|source| TlsError::Verifier { path: path.clone(), source })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(pair)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let file = |source| TlsError::File { path: path.to_owned(), source };
    let chain = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(file)?;
    if chain.is_empty() { Err(TlsError::Empty { path: path.to_owned() }) } else { Ok(chain) }
}

fn describe(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => format!("cannot be read ({error})"),
        pem::Error::NoItemsFound => "holds no private key in PEM form".to_owned(),
        error => format!("is not valid PEM ({error:?})"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls(folder: &Path, cert: &str, key: &str) -> Tls {
        let (cert_path, key_path) = (folder.join("cert.pem"), folder.join("key.pem"));
        std::fs::write(&cert_path, cert).unwrap();
        std::fs::write(&key_path, key).unwrap();
        Tls { cert: cert_path, key: key_path, client_ca: None }
    }

    #[test]
    fn an_error_names_the_file_and_what_is_wrong_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let certificate = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        let refused = |tls: &Tls| server_config(tls).unwrap_err().to_string();

        let text = refused(&tls(folder.path(), "", ""));
        assert!(text.ends_with("cert.pem: holds no certificate in PEM form"), "{text}");

        let text = refused(&tls(folder.path(), certificate, ""));
        assert!(text.ends_with("key.pem: holds no private key in PEM form"), "{text}");

        let mut missing = tls(folder.path(), certificate, "");
        missing.cert = folder.path().join("absent.pem");
        let text = refused(&missing);
        assert!(text.contains("absent.pem: cannot be read (No such file"), "{text}");

        let key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        let text = refused(&tls(folder.path(), certificate, key));
        assert!(text.contains("cert.pem with ") && text.contains("key.pem: "), "{text}");
    }
}
