//! What the values of a configuration mean together, and whether the files they name will do.

mod push;

use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{
    CertificateDer, CertificateRevocationListDer, PrivateKeyDer,
};

use super::fault::{Faults, Source};
use super::places::{Places, credential};
use super::raw::{Values, without_number};
use super::registry::Registry;
use super::users::Users;
use super::{Auth, PayloadFormat, Proxies, ProxyHeader, Settings, Tls};

/// The checks; what is wrong goes to `faults`, what an operator should merely know to `warnings`.
pub(super) struct Check<'a> {
    pub(super) values: &'a Values,
    pub(super) source: &'a Source<'a>,
    pub(super) places: Places<'a>,
    pub(super) faults: &'a mut Faults,
    pub(super) warnings: Vec<String>,
}

impl Check<'_> {
    /// What keys mean together.
    pub(super) fn rules(&mut self, settings: &Settings) {
        self.devices(settings);
        self.mqtt(settings);
        self.dashboard(settings);
        self.pushes();
    }

    /// Whether the named files are there and hold what they should.
    pub(super) fn files(&mut self, settings: &Settings) {
        if let Some(tls) = &settings.devices.tls {
            self.server("devices.tls", tls);
        }
        if let Some(tls) = &settings.dashboard.tls {
            self.server("dashboard.tls", tls);
        }
        let mqtt = &settings.mqtt;
        if let Some(ca) = &mqtt.ca {
            self.certificates("mqtt.ca", ca);
        }
        if let (Some(cert), Some(key)) = (&mqtt.cert, &mqtt.key) {
            self.pair("mqtt.cert", cert, "mqtt.key", key);
        }
        if let Some(path) = &mqtt.password_file {
            self.secret("mqtt.password_file", path);
        }
        self.push_files();
        let data = &settings.gateway.data_dir;
        if std::fs::metadata(data).is_ok_and(|m| !m.is_dir()) {
            let problem = format!("{} is not a folder", data.display());
            self.fault("gateway.data_dir", problem, "a folder");
        }
        self.registry(settings);
        self.users(settings);
    }

    pub(super) fn fault(&mut self, key: &str, problem: impl Into<String>, allowed: &str) {
        let allowed = (!allowed.is_empty()).then(|| allowed.to_owned());
        let span = self.values.span(key);
        let place = span.clone().unwrap_or(0..0);
        let mut fault = self.source.fault(place, without_number(key), problem, allowed);
        if span.is_none() {
            (fault.line, fault.column) = (None, None);
        }
        self.faults.push(fault);
    }

    /// Who may name the clients of others should not be everybody.
    fn proxies(&mut self, key: &str, proxies: &Proxies) {
        if proxies.trusted.iter().any(|network| network.prefix_len() == 0) {
            self.warnings.push(format!(
                "{key} lists every address there is: anyone may claim to be anyone, and no limit \
                 by address holds"
            ));
        }
    }

    fn devices(&mut self, settings: &Settings) {
        let devices = &settings.devices;
        let loopback = devices.listen.ip().is_loopback();
        match devices.auth {
            Auth::None if !loopback => self.fault(
                "devices.auth",
                format!("\"none\" lets anyone who reaches {} in", devices.listen),
                "\"token\" or \"mtls\", or \"none\" with devices.listen on loopback",
            ),
            Auth::Mtls if !self.values.mentions("devices.tls.client_ca") => self.fault(
                "devices.auth",
                "\"mtls\" needs devices.tls.client_ca to check client certificates",
                "\"token\", or \"mtls\" with devices.tls.client_ca",
            ),
            Auth::Token if devices.tls.is_none() && !loopback => self.warnings.push(format!(
                "devices.listen is {} and there is no [devices.tls]: tokens and readings cross the \
                 network in the clear",
                devices.listen
            )),
            _ => {}
        }
        if devices.auth != Auth::Mtls && self.values.mentions("devices.tls.client_ca") {
            self.warnings
                .push("devices.tls.client_ca has no effect unless devices.auth is \"mtls\"".into());
        }
        if self.values.mentions("devices.tls.crl") && !self.values.mentions("devices.tls.client_ca")
        {
            self.fault(
                "devices.tls.crl",
                "needs client_ca beside it: it lists what that signed",
                "",
            );
        }
        self.table_of_two("devices.tls");
        self.proxies("devices.trusted_proxies", &devices.proxies);
        if devices.max_unsettled < devices.max_frame {
            self.fault(
                "devices.max_unsettled",
                "is less than devices.max_frame, so one large message would not fit",
                "at least devices.max_frame",
            );
        }
    }

    fn mqtt(&mut self, settings: &Settings) {
        let mqtt = &settings.mqtt;
        for key in ["mqtt.ca", "mqtt.cert", "mqtt.key"] {
            if self.values.mentions(key) && !mqtt.tls && !self.values.is_faulty("mqtt.url") {
                self.fault(key, "has no effect without TLS", "with a mqtts:// url");
            }
        }
        self.both("mqtt.cert", "mqtt.key");
        if mqtt.homeassistant && mqtt.payload == PayloadFormat::SenmlCbor {
            self.fault(
                "mqtt.homeassistant",
                "Home Assistant reads no CBOR, so it cannot have readings with mqtt.payload = \
                 \"senml-cbor\"",
                "false, or mqtt.payload \"json\", \"senml-json\" or \"value\"",
            );
        }
        if mqtt.password_file.is_some() && !self.values.mentions("mqtt.username") {
            self.fault("mqtt.password_file", "needs mqtt.username beside it", "");
        }
    }

    fn dashboard(&mut self, settings: &Settings) {
        self.proxies("dashboard.trusted_proxies", &settings.dashboard.proxies);
        let listen = settings.dashboard.listen;
        let loopback = listen.ip().is_loopback();
        let dashboard = &settings.dashboard;
        if !self.values.mentions("dashboard.users") {
            if !loopback {
                self.fault(
                    "dashboard.listen",
                    format!("{listen} is not loopback, and without users anyone who reaches it is in"),
                    "a loopback address such as 127.0.0.1:8080, or dashboard.users and dashboard.tls \
                     beside it",
                );
            }
        } else if !loopback && !self.values.has_table("dashboard.tls") {
            if dashboard.proxies.trusted.is_empty()
                || dashboard.proxies.header != ProxyHeader::XForwardedFor
            {
                self.fault(
                    "dashboard.listen",
                    format!("{listen} is not loopback, and without TLS passwords would cross the network in the clear"),
                    "a loopback address, or [dashboard.tls], or dashboard.trusted_proxies (with \
                      \"x-forwarded-for\") where a proxy in front does TLS",
                );
            } else {
                self.warnings.push(format!(
                    "dashboard.listen is {listen} and there is no [dashboard.tls]: passwords cross the \
                     way from the proxy in the clear; only dashboard.trusted_proxies are answered"
                ));
            }
        }
        if dashboard.session_idle > dashboard.session_max {
            self.fault(
                "dashboard.session_idle",
                "is more than dashboard.session_max",
                "at most dashboard.session_max",
            );
        }
        self.table_of_two("dashboard.tls");
        if collide(settings.devices.listen, listen) {
            self.fault(
                "dashboard.listen",
                format!("{listen} is taken by devices.listen ({})", settings.devices.listen),
                "another address or port",
            );
        }
    }

    /// A `tls` table needs a certificate and its key.
    fn table_of_two(&mut self, table: &str) {
        let (cert, key) = (format!("{table}.cert"), format!("{table}.key"));
        if self.values.has_table(table)
            && !self.values.mentions(&cert)
            && !self.values.mentions(&key)
        {
            self.fault(table, "needs cert and key", "cert and key, or no such table");
        } else {
            self.both(&cert, &key);
        }
    }

    fn both(&mut self, one: &str, other: &str) {
        for (there, missing) in [(one, other), (other, one)] {
            if self.values.mentions(there) && !self.values.mentions(missing) {
                self.fault(there, format!("needs {missing} beside it"), "");
            }
        }
    }

    fn registry(&mut self, settings: &Settings) {
        let path = &settings.devices.registry;
        match Registry::load(path) {
            Ok(None) if settings.devices.auth == Auth::Token => self.warnings.push(format!(
                "{} is not there, so no device can connect yet; `tidegate device add ID` makes it",
                path.display()
            )),
            // It holds hashes: whoever reads it gains nothing, whoever writes it is in.
            Ok(_) => self.open_to_others("devices.registry", path, 0o002, "changed"),
            Err(faults) => self.faults.extend(faults),
        }
    }

    fn users(&mut self, settings: &Settings) {
        let Some(path) = &settings.dashboard.users else { return };
        match Users::load(path) {
            Ok(users) if users.as_ref().is_none_or(Users::is_empty) => self.warnings.push(format!(
                "nobody can sign in yet: {} holds no user; `tidegate user add NAME --role admin` \
                 makes the first",
                path.display()
            )),
            Ok(_) => {}
            Err(faults) => self.faults.extend(faults),
        }
    }

    fn server(&mut self, table: &str, tls: &Tls) {
        self.pair(&format!("{table}.cert"), &tls.cert, &format!("{table}.key"), &tls.key);
        if let Some(ca) = &tls.client_ca {
            self.certificates(&format!("{table}.client_ca"), ca);
        }
        if let Some(crl) = &tls.crl {
            self.revocations(&format!("{table}.crl"), crl);
        }
    }

    fn revocations(&mut self, key: &str, path: &Path) {
        let found = CertificateRevocationListDer::pem_file_iter(path)
            .and_then(Iterator::collect::<Result<Vec<_>, _>>);
        match found {
            Ok(lists) if lists.is_empty() => {
                let problem = format!("{} holds no revocation list", path.display());
                self.fault(key, problem, "a PEM file with X509 CRL in it");
            }
            Ok(_) => {}
            Err(pem::Error::Io(e)) => self.unreadable(key, path, &e),
            Err(e) => {
                let problem = format!("{} is not valid PEM ({e:?})", path.display());
                self.fault(key, problem, "a PEM file with X509 CRL in it");
            }
        }
    }

    /// A certificate and the private key that it is for.
    fn pair(&mut self, cert_key: &str, cert: &Path, key_key: &str, key: &Path) {
        let chain = self.certificates(cert_key, cert);
        let private = match std::fs::read(key) {
            Ok(bytes) => PrivateKeyDer::from_pem_slice(&bytes).ok(),
            Err(e) => return self.unreadable(key_key, key, &e),
        };
        self.guarded(key_key, key);
        let Some(private) = private else {
            let problem = format!("{} holds no private key", key.display());
            return self.fault(key_key, problem, "a PEM file with an unencrypted private key");
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let Some(chain) = chain else { return };
        match rustls::sign::CertifiedKey::from_der(chain, private, &provider) {
            Ok(_) => {}
            Err(rustls::Error::InconsistentKeys(_)) => self.fault(
                key_key,
                format!("{} is not the key of {}", key.display(), cert.display()),
                "",
            ),
            Err(e) => self.fault(cert_key, format!("{} cannot be used: {e}", cert.display()), ""),
        }
    }

    pub(super) fn certificates(
        &mut self,
        key: &str,
        path: &Path,
    ) -> Option<Vec<CertificateDer<'static>>> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) => {
                self.unreadable(key, path, &e);
                return None;
            }
        };
        let chain = CertificateDer::pem_slice_iter(&bytes).collect::<Result<Vec<_>, _>>();
        let chain = chain.ok().filter(|chain| !chain.is_empty());
        if chain.is_none() {
            let problem = format!("{} holds no certificate", path.display());
            self.fault(key, problem, "a PEM file with BEGIN CERTIFICATE");
        }
        chain
    }

    /// A file with a secret alone in it; the answer is its text without the line break at the end.
    pub(super) fn secret(&mut self, key: &str, path: &Path) -> Option<String> {
        match std::fs::read_to_string(path) {
            Ok(text) => {
                self.guarded(key, path);
                let secret = text.trim_end_matches(['\r', '\n']);
                if !secret.is_empty() {
                    return Some(secret.to_owned());
                }
                self.fault(key, format!("{} is empty", path.display()), "");
            }
            Err(e) => self.unreadable(key, path, &e),
        }
        None
    }

    /// A secret that everybody on the machine may read or replace is none; its group may be let in
    /// on purpose.
    fn guarded(&mut self, key: &str, path: &Path) {
        self.open_to_others(key, path, 0o006, "read or replaced");
    }

    fn open_to_others(&mut self, key: &str, path: &Path, bits: u32, what: &str) {
        let Ok(meta) = std::fs::metadata(path) else { return };
        let mode = meta.permissions().mode() & 0o777;
        if mode & bits != 0 {
            let path = path.display();
            self.warnings.push(format!(
                "{}: {path} can be {what} by every user of this machine (its mode is {mode:03o}): \
                 chmod o= {path}",
                without_number(key)
            ));
        }
    }

    fn unreadable(&mut self, key: &str, path: &Path, error: &std::io::Error) {
        let set = self.values.text(key).unwrap_or_default();
        if let Some(name) = credential(&set) {
            let problem = if !self.places.has_credentials() {
                format!(
                    "is credential {name:?}, and no credentials were passed: there is no \
                     $CREDENTIALS_DIRECTORY"
                )
            } else if error.kind() == std::io::ErrorKind::NotFound {
                format!("credential {name:?} was not passed")
            } else {
                format!("credential {name:?} cannot be read: {error}")
            };
            let allowed = format!(
                "one that systemd passes: LoadCredential={name}:/path/of/the/file in the unit (to \
                 check by hand: systemd-run --pty --property=LoadCredential={name}:/path tidegate \
                 check)"
            );
            return self.fault(key, problem, &allowed);
        }
        self.fault(key, format!("{} cannot be read: {error}", path.display()), "a readable file");
    }
}

/// Whether two listeners could not both be opened. Port 0 stands for any free one.
fn collide(a: SocketAddr, b: SocketAddr) -> bool {
    let any = a.ip().is_unspecified() || b.ip().is_unspecified();
    a.port() != 0 && a.port() == b.port() && (a.ip() == b.ip() || any)
}
