//! Client certificates that were withdrawn (RFC 5280 section 5), to end what they have opened. That
//! they open nothing new is rustls' part.

use std::collections::HashSet;

use sha2::{Digest, Sha256};
use tokio_rustls::rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::revocation_list::{CertificateRevocationList, RevokedCertificate};

/// Which certificate: a hash over its issuer and its serial number, which are unique together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CertificateId([u8; 32]);

/// The certificates on some lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Revoked(HashSet<CertificateId>);

impl CertificateId {
    /// That of `certificate`; `None` if it cannot be read.
    #[must_use]
    pub fn of(certificate: &CertificateDer<'_>) -> Option<Self> {
        let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
        Some(Self::new(certificate.issuer().as_raw(), certificate.raw_serial()))
    }

    fn new(issuer: &[u8], serial: &[u8]) -> Self {
        // The issuer is DER and so says itself where it ends.
        Self(Sha256::new().chain_update(issuer).chain_update(serial).finalize().into())
    }
}

impl Revoked {
    /// Those on `lists`; one that cannot be read lists nobody.
    #[must_use]
    pub fn on(lists: &[CertificateRevocationListDer<'_>]) -> Self {
        let mut all = HashSet::new();
        for list in lists {
            let Ok((_, list)) = CertificateRevocationList::from_der(list) else { continue };
            let issuer = list.issuer().as_raw();
            let serials = list.iter_revoked_certificates().map(RevokedCertificate::raw_serial);
            all.extend(serials.map(|serial| CertificateId::new(issuer, serial)));
        }
        Self(all)
    }

    /// Whether `certificate` is among them.
    #[must_use]
    pub fn lists(&self, certificate: &CertificateId) -> bool {
        self.0.contains(certificate)
    }
}
