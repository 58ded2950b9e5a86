//! What a client certificate says about its bearer.

use tokio::net::TcpStream;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::server::TlsStream;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::core::ids::DeviceId;
use crate::host::revoked::CertificateId;

/// Which client certificate `stream` showed, if it is `device`'s: its subject's CN or one of its DNS
/// names is the id, letter by letter. It was checked against `client_ca` in the handshake.
pub(crate) fn certificate_of(
    stream: &TlsStream<TcpStream>,
    device: &DeviceId,
) -> Option<CertificateId> {
    let (_, connection) = stream.get_ref();
    let leaf = connection.peer_certificates().and_then(<[_]>::first)?;
    names(leaf, device.as_str()).then(|| CertificateId::of(leaf)).flatten()
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
}
