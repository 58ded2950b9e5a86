//! Certificates and keys: the one place that reads PEM files and makes TLS configurations of them,
//! for the listeners and for the connections out.
//!
//! TLS is 1.2 and 1.3 by rustls, with ring's cryptography. Every function here reads files and so
//! blocks.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
};
use tokio_rustls::rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, ServerConfig};

use super::revoked::Revoked;
use crate::config::Tls;
use crate::ports::lock;

/// Why certificates cannot be used. Names the file.
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
    /// The file holds no revocation list.
    #[error("{}: holds no X509 CRL in PEM form", path.display())]
    NoList {
        /// Which.
        path: PathBuf,
    },
    /// The certificate and its key do not fit each other or are of an unknown kind.
    #[error("{} with {}: cannot be used together: {source}", cert.display(), key.display())]
    Pair {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// A certificate authority's certificate cannot be used.
    #[error("{}: cannot be used as an authority: {source}", path.display())]
    Authority {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: rustls::Error,
    },
    /// The certificate authorities make no verifier.
    #[error("{}: cannot be used to check client certificates: {source}", path.display())]
    Verifier {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        source: VerifierBuilderError,
    },
    /// The system trusts nobody.
    #[error(
        "this system has no root certificates ({0}): install ca-certificates, or name a file with \
         the authority's certificate"
    )]
    NoRoots(String),
    /// rustls does not accept the combination.
    #[error("TLS: {0}")]
    Rustls(#[from] rustls::Error),
}

/// A listener's certificate, which can be exchanged while running. Connections that are open keep
/// the one they began with. Clones share it.
#[derive(Debug, Clone)]
pub struct TlsSlot {
    settings: Tls,
    current: Arc<Mutex<Arc<ServerConfig>>>,
    revoked: watch::Sender<Arc<Revoked>>,
}

impl TlsSlot {
    /// Reads the files that `settings` name. With `client_ca`, a client must show a certificate
    /// that it has signed.
    ///
    /// # Errors
    /// When a file cannot be read or used.
    pub fn load(settings: &Tls) -> Result<Self, TlsError> {
        let (config, revoked) = server_config(settings)?;
        let current = Arc::new(Mutex::new(Arc::new(config)));
        let revoked = watch::Sender::new(Arc::new(revoked));
        Ok(Self { settings: settings.clone(), current, revoked })
    }

    /// Reads the files again, for connections from now on.
    ///
    /// # Errors
    /// When a file cannot be read or used; the certificate stays as it was.
    pub fn reload(&self) -> Result<(), TlsError> {
        let (config, revoked) = server_config(&self.settings)?;
        *lock(&self.current) = Arc::new(config);
        self.revoked.send_if_modified(|current| {
            let changed = **current != revoked;
            *current = Arc::new(revoked);
            changed
        });
        Ok(())
    }

    /// The client certificates that were withdrawn, as the list says, now and whenever it changes.
    #[must_use]
    pub fn revoked(&self) -> watch::Receiver<Arc<Revoked>> {
        self.revoked.subscribe()
    }

    /// What the next connection gets.
    #[must_use]
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&lock(&self.current)))
    }
}

/// The client's side: trusts `authorities` and shows the certificate and key of `identity`, two PEM
/// files, if the server asks for one.
///
/// # Errors
/// When a file cannot be read or used.
pub fn client_config(
    authorities: RootCertStore,
    identity: Option<(&Path, &Path)>,
) -> Result<Arc<ClientConfig>, TlsError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(authorities);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => builder
            .with_client_auth_cert(certificates(cert)?, private_key(key)?)
            .map_err(|source| pair(cert, key, source))?,
    };
    Ok(Arc::new(config))
}

/// Whom to believe: the authorities in the PEM file `path` and nobody else.
///
/// # Errors
/// When the file cannot be read or used.
pub fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots
            .add(certificate)
            .map_err(|source| TlsError::Authority { path: path.to_owned(), source })?;
    }
    Ok(roots)
}

/// Whom the system believes. Its own list and not one built into the binary: an operator can add a
/// company's authority with the system's tools, and a withdrawn one goes with the system's updates.
///
/// # Errors
/// When there is none.
pub fn system_authorities() -> Result<RootCertStore, TlsError> {
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

/// The certificates in a PEM file, in their order; at least one.
///
/// # Errors
/// When the file cannot be read or holds none.
pub fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let chain = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| TlsError::File { path: path.to_owned(), source })?;
    if chain.is_empty() { Err(TlsError::Empty { path: path.to_owned() }) } else { Ok(chain) }
}

/// The revocation lists in a PEM file; at least one.
fn revocations(path: &Path) -> Result<Vec<CertificateRevocationListDer<'static>>, TlsError> {
    let lists = CertificateRevocationListDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| TlsError::File { path: path.to_owned(), source })?;
    if lists.is_empty() { Err(TlsError::NoList { path: path.to_owned() }) } else { Ok(lists) }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path)
        .map_err(|source| TlsError::File { path: path.to_owned(), source })
}

fn pair(cert: &Path, key: &Path, source: rustls::Error) -> TlsError {
    TlsError::Pair { cert: cert.to_owned(), key: key.to_owned(), source }
}

fn server_config(tls: &Tls) -> Result<(ServerConfig, Revoked), TlsError> {
    let mut withdrawn = Revoked::default();
    let chain = certificates(&tls.cert)?;
    let key = private_key(&tls.key)?;
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()?;
    let builder = match &tls.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let roots = Arc::new(authorities(path)?);
            let mut verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            if let Some(path) = &tls.crl {
                // An authority above may have no list of its own, and one that nobody renewed in
                // time must not shut out every device: then those on it stay out.
                let lists = revocations(path)?;
                withdrawn = Revoked::on(&lists);
                verifier = verifier
                    .with_crls(lists)
                    .only_check_end_entity_revocation()
                    .allow_unknown_revocation_status();
            }
            let verifier = verifier
                .build()
                .map_err(|source| TlsError::Verifier { path: path.clone(), source })?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config =
        builder.with_single_cert(chain, key).map_err(|source| pair(&tls.cert, &tls.key, source))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Devices that all come back at once resume instead of signing again. Tickets keep nothing in
    // memory, and their key goes with this configuration, so a reload ends them.
    config.ticketer = ring::Ticketer::new()?;
    config.send_tls13_tickets = 1;
    Ok((config, withdrawn))
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
    use rcgen::KeyPair;

    use super::*;

    fn tls(folder: &Path, cert: &str, key: &str) -> Tls {
        let (cert_path, key_path) = (folder.join("cert.pem"), folder.join("key.pem"));
        std::fs::write(&cert_path, cert).unwrap();
        std::fs::write(&key_path, key).unwrap();
        Tls { cert: cert_path, key: key_path, client_ca: None, crl: None }
    }

    #[test]
    fn an_error_names_the_file_and_what_is_wrong_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let issued = rcgen::generate_simple_self_signed(vec!["gateway".to_owned()]).unwrap();
        let certificate = issued.cert.pem();
        let refused = |tls: &Tls| TlsSlot::load(tls).unwrap_err().to_string();

        let text = refused(&tls(folder.path(), "nothing here", ""));
        assert!(text.ends_with("cert.pem: holds no certificate in PEM form"), "{text}");

        let text = refused(&tls(folder.path(), &certificate, ""));
        assert!(text.ends_with("key.pem: holds no private key in PEM form"), "{text}");

        let mut missing = tls(folder.path(), &certificate, "");
        missing.cert = folder.path().join("absent.pem");
        let text = refused(&missing);
        assert!(text.contains("absent.pem: cannot be read (No such file"), "{text}");

        let other = KeyPair::generate().unwrap().serialize_pem();
        let text = refused(&tls(folder.path(), &certificate, &other));
        assert!(text.contains("cert.pem with "), "{text}");
        assert!(text.contains("key.pem: cannot be used together"), "{text}");

        let mut settings = tls(folder.path(), &certificate, &issued.key_pair.serialize_pem());
        settings.client_ca = Some(folder.path().join("key.pem"));
        let text = refused(&settings);
        assert!(text.ends_with("key.pem: holds no certificate in PEM form"), "{text}");
    }

    #[test]
    fn a_failed_reload_leaves_the_certificate_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let issued = rcgen::generate_simple_self_signed(vec!["gateway".to_owned()]).unwrap();
        let settings = tls(folder.path(), &issued.cert.pem(), &issued.key_pair.serialize_pem());
        let slot = TlsSlot::load(&settings).unwrap();
        let before = Arc::clone(&lock(&slot.current));
        std::fs::write(&settings.cert, "").unwrap();
        assert!(slot.reload().is_err());
        assert!(Arc::ptr_eq(&before, &lock(&slot.current)));
        std::fs::write(&settings.cert, issued.cert.pem()).unwrap();
        slot.reload().unwrap();
        assert!(!Arc::ptr_eq(&before, &lock(&slot.current)));
    }
}
