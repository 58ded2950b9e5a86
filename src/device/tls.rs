//! TLS on the listener, and what a client certificate says about its bearer.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};
use tokio_rustls::server::TlsStream;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::config::Tls;
use crate::core::ids::DeviceId;
use crate::ports::lock;

/// The listener's certificate, which can be exchanged while running. Connections that are open
/// keep the one they began with. Clones share it.
#[derive(Debug, Clone)]
pub struct TlsSlot {
    current: Arc<Mutex<Arc<ServerConfig>>>,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A file cannot be read or is not PEM.
    #[error("{path}: {what} cannot be read: {error}")]
    File {
        /// Which file.
        path: PathBuf,
        /// What should be in it.
        what: &'static str,
        /// What is wrong.
        error: rustls_pki_types::pem::Error,
    },
    /// A file holds no certificate.
    #[error("{0}: no certificate in it: a PEM file with BEGIN CERTIFICATE is needed")]
    Empty(PathBuf),
    /// The certificates of `client_ca` cannot be used.
    #[error("{path}: cannot be used to check client certificates: {error}")]
    ClientCa {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        error: String,
    },
    /// Certificate and key do not go together, or are of a kind that is not supported.
    #[error("{cert} and {key}: cannot be used together: {error}")]
    Pair {
        /// The chain.
        cert: PathBuf,
        /// Its key.
        key: PathBuf,
        /// What is wrong.
        error: tokio_rustls::rustls::Error,
    },
}

impl TlsSlot {
    /// Reads the files that `settings` name. With `client_ca`, a client must show a certificate
    /// that it has signed.
    ///
    /// # Errors
    /// When a file cannot be read or used.
    pub fn load(settings: &Tls) -> Result<Self, TlsError> {
        Ok(Self { current: Arc::new(Mutex::new(Arc::new(server_config(settings)?))) })
    }

    /// Reads the files again, for connections from now on.
    ///
    /// # Errors
    /// When a file cannot be read or used; the certificate stays as it was.
    pub fn reload(&self, settings: &Tls) -> Result<(), TlsError> {
        let fresh = Arc::new(server_config(settings)?);
        *lock(&self.current) = fresh;
        Ok(())
    }

    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&lock(&self.current)))
    }
}

/// Whether the client certificate of `stream`, checked against `client_ca`, is `device`'s: its
/// subject's CN or one of its DNS names is the id, letter by letter.
pub(crate) fn certifies(stream: &TlsStream<TcpStream>, device: &DeviceId) -> bool {
    let (_, connection) = stream.get_ref();
    let leaf = connection.peer_certificates().and_then(<[_]>::first);
    leaf.is_some_and(|leaf| names(leaf, device.as_str()))
}

fn names(certificate: &CertificateDer<'_>, id: &str) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    let subject = certificate.subject();
    let mut common = subject.iter_common_name().filter_map(|cn| cn.as_str().ok());
    let alternative = certificate.subject_alternative_name().ok().flatten();
    let mut dns = alternative
        .iter()
        .flat_map(|extension| &extension.value.general_names)
        .filter_map(|name| if let GeneralName::DNSName(name) = name { Some(*name) } else { None });
    common.any(|name| name == id) || dns.any(|name| name == id)
}

fn server_config(settings: &Tls) -> Result<ServerConfig, TlsError> {
    let chain = certificates(&settings.cert, "the certificate")?;
    let key = PrivateKeyDer::from_pem_file(&settings.key).map_err(|error| TlsError::File {
        path: settings.key.clone(),
        what: "the private key",
        error,
    })?;
    let pair =
        |error| TlsError::Pair { cert: settings.cert.clone(), key: settings.key.clone(), error };
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(pair)?;
    let builder = match &settings.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let unusable = |error: String| TlsError::ClientCa { path: path.clone(), error };
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path, "the client CA")? {
                roots.add(certificate).map_err(|error| unusable(error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|error| unusable(error.to_string()))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(pair)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Devices that all come back at once resume instead of signing again. Tickets keep nothing in
    // memory, and their key goes with this configuration, so a reload ends them.
    config.ticketer = ring::Ticketer::new().map_err(pair)?;
    config.send_tls13_tickets = 1;
    Ok(config)
}

fn certificates(path: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| TlsError::File { path: path.to_owned(), what, error })?;
    if certificates.is_empty() { Err(TlsError::Empty(path.to_owned())) } else { Ok(certificates) }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DnType, KeyPair};

    use super::*;

    fn certificate(cn: &str, names: &[&str]) -> CertificateDer<'static> {
        let names: Vec<String> = names.iter().map(ToString::to_string).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.distinguished_name.push(DnType::CommonName, cn);
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    #[test]
    fn a_certificate_names_a_device_by_its_cn_or_a_dns_name_only() {
        let both = certificate("kiln-3", &["kiln-4", "pump_7"]);
        for id in ["kiln-3", "kiln-4", "pump_7"] {
            assert!(names(&both, id), "{id}");
        }
        for id in ["kiln-33", "KILN-3", "kiln", ""] {
            assert!(!names(&both, id), "{id}");
        }
        assert!(!names(&CertificateDer::from(vec![0x30, 0x03, 1, 2, 3]), "kiln-3"));
    }

    #[test]
    fn faults_name_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("c.pem"), folder.path().join("k.pem"));
        let settings = Tls { cert: cert.clone(), key: key.clone(), client_ca: None };
        let fault = || TlsSlot::load(&settings).unwrap_err().to_string();
        assert!(fault().contains("c.pem"), "{}", fault());
        std::fs::write(&cert, "nothing here").unwrap();
        assert!(fault().contains("no certificate"), "{}", fault());
        let issued = rcgen::generate_simple_self_signed(vec!["gateway".to_owned()]).unwrap();
        std::fs::write(&cert, issued.cert.pem()).unwrap();
        assert!(fault().contains("k.pem: the private key"), "{}", fault());
        std::fs::write(&key, KeyPair::generate().unwrap().serialize_pem()).unwrap();
        assert!(fault().contains("cannot be used together"), "{}", fault());
        std::fs::write(&key, issued.key_pair.serialize_pem()).unwrap();
        let slot = TlsSlot::load(&settings).unwrap();
        std::fs::write(&cert, "").unwrap();
        let before = Arc::clone(&lock(&slot.current));
        assert!(slot.reload(&settings).is_err());
        assert!(Arc::ptr_eq(&before, &lock(&slot.current)), "a failed reload changes nothing");
    }
}
