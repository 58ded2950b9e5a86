//! A private certificate authority for a site that has none: a folder with its certificate and key,
//! the certificates that it has signed, and the list of those that it has withdrawn.
//!
//! ```text
//! ca.crt  ca.key        the authority; the key stays on the machine that signs
//! server.crt  .key      for devices.tls and dashboard.tls
//! devices/ID.crt  .key  for a device: its CN and DNS name are the device's id
//! revoked.crl           for devices.tls.crl
//! ```
//!
//! Keys are ECDSA on P-256, which every device's TLS knows (RFC 8422 section 5.1.1). Nothing that
//! exists is overwritten, except by [`Authority::renew_server`] and [`Authority::revoke`].

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, DnType,
    ExtendedKeyUsagePurpose, Ia5String, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose,
    RevocationReason, RevokedCertParams, SanType, SerialNumber,
};
use time::OffsetDateTime;
use tokio_rustls::rustls::pki_types::CertificateRevocationListDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::revocation_list::CertificateRevocationList;

use super::tls::{self, TlsError};
use crate::config::guarded::{self, FileError, Turn};
use crate::core::ids::DeviceId;

/// Seconds by which certificates begin in the past, for clocks that are behind.
const EARLIER: u64 = 86_400;
/// Days that the authority is good for.
const AUTHORITY_DAYS: u32 = 7300;
/// Days that a list of withdrawn certificates is good for; each change makes a new one.
const LIST_DAYS: u32 = 3650;
/// 2026-01-01 in Unix seconds: a clock before it has not been set.
const CLOCK_SET: f64 = 1_767_225_600.0;
const DAY: u64 = 86_400;

/// Why a certificate was not made.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file could not be read, made or replaced.
    #[error(transparent)]
    File(#[from] FileError),
    /// The authority's certificate cannot be read.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// There is something already.
    #[error("{} exists already; {advice}", path.display())]
    Exists {
        /// Where.
        path: PathBuf,
        /// What to do.
        advice: &'static str,
    },
    /// There is half of a pair, or something else in its place.
    #[error("{} cannot be used as a private authority: {problem}", path.display())]
    Unusable {
        /// Which file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// Certificates begin and end at a time of day.
    #[error(
        "the clock says it is before 2026: set it first, or the certificates would be valid at the \
         wrong time"
    )]
    Clock,
    /// A name that cannot stand in a certificate.
    #[error("{0:?} can be neither a host name nor an address in a certificate")]
    Name(String),
    /// The library refused.
    #[error("a certificate cannot be made: {0}")]
    Signing(#[from] rcgen::Error),
}

/// The authority in its folder, locked for a change until it is dropped.
pub struct Authority {
    folder: PathBuf,
    certificate: Certificate,
    key: KeyPair,
    now: u64,
    _turn: Turn,
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// A certificate and its key, as files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// PEM.
    pub cert: PathBuf,
    /// PEM (PKCS #8), for the daemon or the device only.
    pub key: PathBuf,
}

impl Authority {
    /// Opens the authority of `folder`, or makes one there, called `name`. Returns it with whether
    /// it is new. `now` is Unix time in seconds.
    ///
    /// # Errors
    /// When the folder or what is in it cannot be used, or the clock has not been set.
    pub fn open_or_new(
        folder: &Path,
        name: &str,
        now: f64,
    ) -> Result<(Self, bool), AuthorityError> {
        if now < CLOCK_SET {
            return Err(AuthorityError::Clock);
        }
        // Whole seconds, and not negative.
        let now = Duration::from_secs_f64(now).as_secs();
        make_folder(folder)?;
        let turn = Turn::take(&folder.join("ca.crt"))?;
        let pair = pair(folder, "ca");
        let new = !pair.cert.exists() && !pair.key.exists();
        let (certificate, key) = if new {
            let key = KeyPair::generate()?;
            let certificate = of_authority(name, now).self_signed(&key)?;
            write_pair(&pair, &certificate.pem(), &key)?;
            (certificate, key)
        } else {
            signer(&pair, now)?
        };
        let folder = folder.to_owned();
        let authority = Self { folder, certificate, key, now, _turn: turn };
        if new {
            // Empty, so that a gateway can have it as devices.tls.crl from the first day on.
            authority.write_list(1, Vec::new())?;
        }
        Ok((authority, new))
    }

    /// Where its own certificate is, which whoever checks others needs.
    #[must_use]
    pub fn certificate(&self) -> PathBuf {
        pair(&self.folder, "ca").cert
    }

    /// Where the list of withdrawn certificates is.
    #[must_use]
    pub fn list(&self) -> PathBuf {
        self.folder.join("revoked.crl")
    }

    /// Whether there is a certificate for servers.
    #[must_use]
    pub fn has_server(&self) -> bool {
        pair(&self.folder, "server").cert.exists()
    }

    /// Makes the certificate for servers: good for `hosts`, names and addresses alike.
    ///
    /// # Errors
    /// When there is one, a host cannot stand in a certificate, or a file cannot be written.
    pub fn new_server(&self, hosts: &[String], days: u32) -> Result<Pair, AuthorityError> {
        let pair = pair(&self.folder, "server");
        refuse_to_overwrite(&pair, "--renew replaces it")?;
        self.renew_server(hosts, days)
    }

    /// As [`Self::new_server`], in the place of the one there is. A running gateway takes it up.
    ///
    /// # Errors
    /// When a host cannot stand in a certificate, or a file cannot be written.
    pub fn renew_server(&self, hosts: &[String], days: u32) -> Result<Pair, AuthorityError> {
        let names = hosts.iter().map(|host| subject(host)).collect::<Result<Vec<_>, _>>()?;
        let common = hosts.first().map_or("tidegate", String::as_str);
        self.issue(&pair(&self.folder, "server"), common, names, Purpose::Server, days)
    }

    /// Makes a certificate for `device`.
    ///
    /// # Errors
    /// When there is one, or a file cannot be written.
    pub fn new_device(&self, device: &DeviceId, days: u32) -> Result<Pair, AuthorityError> {
        let folder = self.folder.join("devices");
        make_folder(&folder)?;
        let pair = pair(&folder, device.as_str());
        refuse_to_overwrite(&pair, "revoke it first, then it is moved out of the way")?;
        let names = vec![subject(device.as_str())?];
        self.issue(&pair, device.as_str(), names, Purpose::Device, days)
    }

    /// Withdraws the certificate of `device`: puts it on the list, and renames its files so that a
    /// new one can be made. Returns where the list is.
    ///
    /// # Errors
    /// When there is no such certificate, or a file cannot be read or written.
    pub fn revoke(&self, device: &DeviceId) -> Result<PathBuf, AuthorityError> {
        let pair = pair(&self.folder.join("devices"), device.as_str());
        let serial = serial_of(&pair.cert)?;
        let list = self.list();
        let (number, mut revoked) = read_list(&list)?;
        revoked.push(RevokedCertParams {
            serial_number: SerialNumber::from_slice(&serial),
            revocation_time: moment(self.now),
            reason_code: Some(RevocationReason::Unspecified),
            invalidity_date: None,
        });
        self.write_list(number + 1, revoked)?;
        for path in [&pair.cert, &pair.key] {
            let aside = path.with_extension(match path.extension() {
                Some(kind) => format!("{}.revoked-{}", kind.to_string_lossy(), self.now),
                None => format!("revoked-{}", self.now),
            });
            std::fs::rename(path, &aside).map_err(|source| {
                let (action, path) = ("cannot be moved out of the way:", path.clone());
                FileError { action, path, source }
            })?;
        }
        Ok(list)
    }

    fn write_list(
        &self,
        number: u64,
        revoked_certs: Vec<RevokedCertParams>,
    ) -> Result<(), AuthorityError> {
        let params = CertificateRevocationListParams {
            this_update: moment(self.now),
            next_update: moment(self.now + u64::from(LIST_DAYS) * DAY),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs,
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let signed = params.signed_by(&self.certificate, &self.key)?.pem()?;
        Ok(guarded::replace(&self.list(), signed.as_bytes())?)
    }

    fn issue(
        &self,
        pair: &Pair,
        common: &str,
        names: Vec<SanType>,
        purpose: Purpose,
        days: u32,
    ) -> Result<Pair, AuthorityError> {
        let mut params = valid(self.now, days);
        params.distinguished_name.push(DnType::CommonName, common);
        params.subject_alt_names = names;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![match purpose {
            Purpose::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Purpose::Device => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        let certificate = params.signed_by(&key, &self.certificate, &self.key)?;
        write_pair(pair, &certificate.pem(), &key)?;
        Ok(pair.clone())
    }
}

#[derive(Debug, Clone, Copy)]
enum Purpose {
    Server,
    Device,
}

/// The authority of the files `pair`, able to sign. Only its name and its key matter for that, so
/// they are put together again rather than the whole certificate read.
fn signer(pair: &Pair, now: u64) -> Result<(Certificate, KeyPair), AuthorityError> {
    let unusable = |path: &Path| {
        let path = path.to_owned();
        move |problem: String| AuthorityError::Unusable { path, problem }
    };
    let chain = tls::certificates(&pair.cert)?;
    let found = chain.first().and_then(|der| X509Certificate::from_der(der).ok());
    let (_, found) =
        found.ok_or_else(|| unusable(&pair.cert)("not an X.509 certificate".into()))?;
    let name = found.subject().iter_common_name().find_map(|name| name.as_str().ok());
    let name = name.ok_or_else(|| unusable(&pair.cert)("it has no common name".into()))?;
    let text = std::fs::read_to_string(&pair.key)
        .map_err(|error| unusable(&pair.key)(format!("it cannot be read ({error})")))?;
    let key = KeyPair::from_pem(&text)
        .map_err(|error| unusable(&pair.key)(format!("not a private key ({error})")))?;
    if found.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
        let problem = format!("it is not the key of {}", pair.cert.display());
        return Err(unusable(&pair.key)(problem));
    }
    let made = of_authority(name, now).self_signed(&key)?;
    let same = X509Certificate::from_der(made.der())
        .is_ok_and(|(_, made)| made.subject().as_raw() == found.subject().as_raw());
    if !same {
        return Err(unusable(&pair.cert)("it was not made by `tidegate tls new`".into()));
    }
    Ok((made, key))
}

fn of_authority(name: &str, now: u64) -> CertificateParams {
    let mut params = valid(now, AUTHORITY_DAYS);
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

/// Valid for `days` from `now` on, without a name yet.
fn valid(now: u64, days: u32) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.not_before = moment(now.saturating_sub(EARLIER));
    params.not_after = moment(now + u64::from(days) * DAY);
    params
}

fn moment(unix: u64) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::from_secs(unix)
}

fn subject(name: &str) -> Result<SanType, AuthorityError> {
    if let Ok(address) = name.parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let fits = !name.is_empty()
        && name.len() <= 253
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.*".contains(&b));
    let dns = Ia5String::try_from(name).ok().filter(|_| fits);
    dns.map(SanType::DnsName).ok_or_else(|| AuthorityError::Name(name.to_owned()))
}

/// The certificates on the list of `path` with its number; none and 0 where there is no list yet.
fn read_list(path: &Path) -> Result<(u64, Vec<RevokedCertParams>), AuthorityError> {
    if !path.exists() {
        return Ok((0, Vec::new()));
    }
    let unusable = |problem: &str| AuthorityError::Unusable {
        path: path.to_owned(),
        problem: problem.to_owned(),
    };
    let der = CertificateRevocationListDer::from_pem_file(path)
        .map_err(|source| TlsError::File { path: path.to_owned(), source })?;
    let (_, list) = CertificateRevocationList::from_der(&der)
        .map_err(|_| unusable("not an X.509 revocation list"))?;
    let number = list.crl_number().and_then(|number| u64::try_from(number).ok()).unwrap_or(0);
    let revoked = list.iter_revoked_certificates().map(|entry| RevokedCertParams {
        serial_number: SerialNumber::from_slice(entry.raw_serial()),
        revocation_time: moment(entry.revocation_date.timestamp().try_into().unwrap_or(0)),
        reason_code: Some(RevocationReason::Unspecified),
        invalidity_date: None,
    });
    Ok((number, revoked.collect()))
}

fn serial_of(cert: &Path) -> Result<Vec<u8>, AuthorityError> {
    let chain = tls::certificates(cert)?;
    let found = chain.first().and_then(|der| X509Certificate::from_der(der).ok());
    let (_, found) = found.ok_or_else(|| AuthorityError::Unusable {
        path: cert.to_owned(),
        problem: "not an X.509 certificate".to_owned(),
    })?;
    Ok(found.raw_serial().to_vec())
}

fn pair(folder: &Path, name: &str) -> Pair {
    // Not `with_extension`: a device's id may hold a dot's worth of anything but a dot.
    let path = |kind: &str| folder.join(format!("{name}.{kind}"));
    Pair { cert: path("crt"), key: path("key") }
}

fn refuse_to_overwrite(pair: &Pair, advice: &'static str) -> Result<(), AuthorityError> {
    match [&pair.cert, &pair.key].into_iter().find(|path| path.exists()) {
        Some(path) => Err(AuthorityError::Exists { path: path.clone(), advice }),
        None => Ok(()),
    }
}

/// The key first: a certificate without its key would be taken for a finished pair.
fn write_pair(pair: &Pair, cert: &str, key: &KeyPair) -> Result<(), AuthorityError> {
    guarded::replace(&pair.key, key.serialize_pem().as_bytes())?;
    Ok(guarded::replace(&pair.cert, cert.as_bytes())?)
}

fn make_folder(folder: &Path) -> Result<(), AuthorityError> {
    std::fs::create_dir_all(folder).map_err(|source| {
        let (action, path) = ("cannot create the folder", folder.to_owned());
        FileError { action, path, source }.into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::tls::TlsSlot;

    const NOW: f64 = 1_795_000_000.0;

    fn open(folder: &Path) -> Authority {
        Authority::open_or_new(folder, "tidegate test", NOW).unwrap().0
    }

    fn id(text: &str) -> DeviceId {
        DeviceId::new(text).unwrap()
    }

    #[test]
    fn what_it_makes_serves_a_listener_that_checks_clients() {
        let folder = tempfile::tempdir().unwrap();
        let (authority, new) = Authority::open_or_new(folder.path(), "tidegate x", NOW).unwrap();
        assert!(new && !authority.has_server());
        let hosts = ["gw.local".to_owned(), "192.0.2.1".to_owned(), "::1".to_owned()];
        let server = authority.new_server(&hosts, 825).unwrap();
        authority.new_device(&id("kiln_3"), 10).unwrap();
        let crl = authority.revoke(&id("kiln_3")).unwrap();
        let tls = crate::config::Tls {
            cert: server.cert,
            key: server.key,
            client_ca: Some(authority.certificate()),
            crl: Some(crl),
        };
        TlsSlot::load(&tls).unwrap();
    }

    #[test]
    fn opened_again_it_signs_with_the_same_key_and_name() {
        let folder = tempfile::tempdir().unwrap();
        drop(open(folder.path()));
        let path = folder.path().join("ca.crt");
        let before = std::fs::read(&path).unwrap();
        let (authority, new) = Authority::open_or_new(folder.path(), "other", NOW + 1e6).unwrap();
        assert!(!new);
        assert_eq!(std::fs::read(&path).unwrap(), before, "the certificate stays");
        let device = authority.new_device(&id("a"), 10).unwrap();
        let (root, leaf) = (tls::certificates(&path).unwrap(), tls::certificates(&device.cert));
        let (_, root) = X509Certificate::from_der(&root[0]).unwrap();
        let leaf = leaf.unwrap();
        let (_, leaf) = X509Certificate::from_der(&leaf[0]).unwrap();
        assert_eq!(leaf.issuer().as_raw(), root.subject().as_raw());
    }

    #[test]
    fn nothing_is_overwritten_unless_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let authority = open(folder.path());
        let hosts = ["gw".to_owned()];
        let server = authority.new_server(&hosts, 10).unwrap();
        let before = std::fs::read(&server.cert).unwrap();
        let refused = authority.new_server(&hosts, 10).unwrap_err();
        assert!(refused.to_string().contains("exists already; --renew"), "{refused}");
        assert_eq!(std::fs::read(&server.cert).unwrap(), before);
        authority.renew_server(&hosts, 10).unwrap();
        assert_ne!(std::fs::read(&server.cert).unwrap(), before);
        authority.new_device(&id("a"), 10).unwrap();
        assert!(matches!(authority.new_device(&id("a"), 10), Err(AuthorityError::Exists { .. })));
    }

    #[test]
    fn the_list_grows_and_keeps_what_was_on_it() {
        let folder = tempfile::tempdir().unwrap();
        let authority = open(folder.path());
        for device in ["a", "b", "a"] {
            authority.new_device(&id(device), 10).unwrap();
            authority.revoke(&id(device)).unwrap();
            // Files that were moved aside within one second would meet otherwise.
            let aside = folder.path().join("devices");
            for entry in std::fs::read_dir(aside).unwrap() {
                std::fs::remove_file(entry.unwrap().path()).unwrap();
            }
        }
        let (number, revoked) = read_list(&folder.path().join("revoked.crl")).unwrap();
        assert_eq!((number, revoked.len()), (4, 3));
        assert!(authority.revoke(&id("c")).is_err(), "there is no such certificate");
    }

    #[test]
    fn what_is_not_its_own_is_refused_and_names_the_file() {
        let folder = tempfile::tempdir().unwrap();
        drop(open(folder.path()));
        let other = KeyPair::generate().unwrap().serialize_pem();
        std::fs::write(folder.path().join("ca.key"), other).unwrap();
        let refused = Authority::open_or_new(folder.path(), "x", NOW).unwrap_err().to_string();
        assert!(refused.contains("ca.key cannot be used"), "{refused}");
        assert!(refused.contains("it is not the key of"), "{refused}");
        let early = Authority::open_or_new(folder.path(), "x", 1000.0);
        assert!(matches!(early, Err(AuthorityError::Clock)));
        for bad in ["", "a b", "gw\u{fc}", "x/y"] {
            assert!(matches!(subject(bad), Err(AuthorityError::Name(_))), "{bad}");
        }
    }
}
