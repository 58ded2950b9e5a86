//! What a proxy tells of the client behind it: the PROXY protocol, version 2
//! (haproxy.org/download/1.8/doc/proxy-protocol.txt, section 2.2), and `X-Forwarded-For`.
//!
//! Whether the peer may be believed is the caller's affair.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a header of the PROXY protocol begins with, in version 2.
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The part of fixed length, in bytes.
pub const FIXED: usize = 16;
/// The longest variable part that is read, in bytes: addresses, and what a proxy adds of its own.
/// The protocol allows 64 KiB, proxies send some hundred bytes.
pub const VARIABLE_MAX: usize = 2048;

/// Why a proxy's word cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadProxy {
    /// It said nothing.
    #[error("no PROXY header (version 2) came first")]
    Missing,
    /// Not what the document says, or longer than [`VARIABLE_MAX`].
    #[error("a PROXY header that is damaged, or longer than 2 KiB")]
    Malformed,
    /// Neither TCP over IPv4 nor over IPv6.
    #[error("a PROXY header for something other than TCP")]
    NotTcp,
    /// No `X-Forwarded-For`.
    #[error("no X-Forwarded-For came with the request")]
    NotForwarded,
    /// Not a list of addresses.
    #[error("an X-Forwarded-For that is not a list of IP addresses")]
    NotAddresses,
}

/// The fixed part of a header, understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preamble {
    family: Family,
    /// Length of the variable part in bytes, at most [`VARIABLE_MAX`].
    pub length: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    /// The proxy speaks for itself: a health check.
    Itself,
    V4,
    V6,
}

impl Preamble {
    /// Reads the fixed part.
    ///
    /// # Errors
    /// When it is none, or of a kind that a TCP listener has no use for.
    pub fn parse(bytes: [u8; FIXED]) -> Result<Self, BadProxy> {
        let [signature @ .., command, family, high, low] = bytes;
        if signature != SIGNATURE {
            return Err(BadProxy::Missing);
        }
        let length = usize::from(u16::from_be_bytes([high, low]));
        let (family, needed) = match (command, family) {
            // LOCAL, whatever else it says; and PROXY of an unknown protocol.
            (0x20, _) | (0x21, 0x00) => (Family::Itself, 0),
            (0x21, 0x11) => (Family::V4, 12),
            (0x21, 0x21) => (Family::V6, 36),
            (0x21, _) => return Err(BadProxy::NotTcp),
            _ => return Err(BadProxy::Malformed),
        };
        if length < needed || length > VARIABLE_MAX {
            return Err(BadProxy::Malformed);
        }
        Ok(Self { family, length })
    }

    /// Where the client is, from the variable part; `None`: the proxy itself is the client.
    ///
    /// # Errors
    /// When `variable` is shorter than [`Self::length`] said.
    pub fn client(self, variable: &[u8]) -> Result<Option<SocketAddr>, BadProxy> {
        let mut rest = variable;
        let ip = match self.family {
            Family::Itself => return Ok(None),
            Family::V4 => {
                let source: [u8; 4] = take(&mut rest)?;
                take::<4>(&mut rest)?;
                IpAddr::V4(Ipv4Addr::from(source))
            }
            Family::V6 => {
                let source: [u8; 16] = take(&mut rest)?;
                take::<16>(&mut rest)?;
                IpAddr::V6(Ipv6Addr::from(source))
            }
        };
        let port = u16::from_be_bytes(take(&mut rest)?);
        Ok(Some(SocketAddr::new(ip.to_canonical(), port)))
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], BadProxy> {
    let (taken, left) = rest.split_first_chunk().ok_or(BadProxy::Malformed)?;
    *rest = left;
    Ok(*taken)
}

/// Whether these first bytes of a connection are a header of the PROXY protocol, of version 1 or 2.
#[must_use]
pub fn is_header(bytes: &[u8]) -> bool {
    bytes.starts_with(&SIGNATURE) || bytes.starts_with(b"PROXY ")
}

/// Whether they are a part of the signature of version 2, and more is needed to know.
#[must_use]
pub fn begins_header(bytes: &[u8]) -> bool {
    bytes.len() < SIGNATURE.len() && SIGNATURE.starts_with(bytes)
}

/// The client that the lines of `X-Forwarded-For` name: the last address that is not one of our
/// own proxies. Everything before that one was said by somebody who is not believed. Where all are
/// our own, the first.
///
/// # Errors
/// When there is no line, or something other than an address (with or without a port) stands where
/// the client should.
pub fn forwarded<'a>(
    lines: impl DoubleEndedIterator<Item = &'a [u8]>,
    is_ours: impl Fn(IpAddr) -> bool,
) -> Result<IpAddr, BadProxy> {
    let mut first = None;
    for item in lines.rev().flat_map(|line| line.rsplit(|&byte| byte == b',')) {
        let text = std::str::from_utf8(item).map_err(|_| BadProxy::NotAddresses)?;
        let address = address(text.trim()).ok_or(BadProxy::NotAddresses)?;
        if !is_ours(address) {
            return Ok(address);
        }
        first = Some(address);
    }
    first.ok_or(BadProxy::NotForwarded)
}

/// An address, with or without a port, an IPv6 one with or without brackets.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
    let ip = bare.unwrap_or(text).parse::<IpAddr>();
    let ip = ip.ok().or_else(|| text.parse::<SocketAddr>().ok().map(|address| address.ip()))?;
    Some(ip.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(bytes: &[u8]) -> Result<Option<SocketAddr>, BadProxy> {
        let (fixed, variable) = bytes.split_first_chunk().ok_or(BadProxy::Missing)?;
        let preamble = Preamble::parse(*fixed)?;
        preamble.client(variable.get(..preamble.length).ok_or(BadProxy::Malformed)?)
    }

    fn header(command: u8, family: u8, variable: &[u8]) -> Vec<u8> {
        let length = u16::try_from(variable.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, variable].concat()
    }

    const V4: [u8; 12] = [192, 0, 2, 7, 10, 0, 0, 1, 0x30, 0x39, 0x1b, 0x9e];

    #[test]
    fn the_source_of_a_tcp_connection_is_found() {
        assert_eq!(parse(&header(0x21, 0x11, &V4)), Ok("192.0.2.7:12345".parse().ok()));
        let mut v6 = [0; 36];
        v6[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        v6[15] = 9;
        v6[33] = 80;
        assert_eq!(parse(&header(0x21, 0x21, &v6)), Ok("[2001:db8::9]:80".parse().ok()));
        // ::ffff:192.0.2.7 is 192.0.2.7.
        v6[..16].copy_from_slice(&Ipv4Addr::new(192, 0, 2, 7).to_ipv6_mapped().octets());
        assert_eq!(parse(&header(0x21, 0x21, &v6)), Ok("192.0.2.7:80".parse().ok()));
        let with_more = [&V4[..], &[0x04, 0, 1, 0]].concat();
        assert_eq!(parse(&header(0x21, 0x11, &with_more)), Ok("192.0.2.7:12345".parse().ok()));
    }

    #[test]
    fn a_health_check_comes_from_the_proxy_itself() {
        assert_eq!(parse(&header(0x20, 0x00, &[])), Ok(None));
        assert_eq!(parse(&header(0x20, 0x11, &V4)), Ok(None));
        assert_eq!(parse(&header(0x21, 0x00, &[1, 2, 3])), Ok(None));
    }

    #[test]
    fn everything_else_is_refused() {
        assert_eq!(parse(b"GET /v1/devices/kiln-3 HTTP/1.1\r\n"), Err(BadProxy::Missing));
        assert_eq!(parse(b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n"), Err(BadProxy::Missing));
        assert_eq!(parse(&header(0x21, 0x11, &V4[..11])), Err(BadProxy::Malformed));
        assert_eq!(parse(&header(0x21, 0x21, &V4)), Err(BadProxy::Malformed));
        assert_eq!(parse(&header(0x21, 0x11, &[0; 2049])), Err(BadProxy::Malformed));
        for command in [0x11, 0x22, 0x31, 0x00, 0xff] {
            assert_eq!(parse(&header(command, 0x11, &V4)), Err(BadProxy::Malformed), "{command:x}");
        }
        for family in [0x12, 0x22, 0x31, 0x32, 0x10, 0xff] {
            assert_eq!(parse(&header(0x21, family, &V4)), Err(BadProxy::NotTcp), "{family:x}");
        }
    }

    #[test]
    fn headers_of_both_versions_are_recognised() {
        assert!(is_header(&header(0x21, 0x11, &V4)) && is_header(b"PROXY TCP4 1.2.3.4"));
        assert!(!is_header(b"GET / HTTP/1.1") && !is_header(&SIGNATURE[..11]) && !is_header(b""));
    }

    #[test]
    fn the_last_address_that_is_not_ours_is_the_clients() {
        let ours = |ip: IpAddr| ip.to_string().starts_with("10.");
        let of = |lines: &[&str]| {
            forwarded(lines.iter().map(|line| line.as_bytes()), ours).map(|ip| ip.to_string())
        };
        let found = |text: &str| Ok(text.to_owned());
        assert_eq!(of(&["192.0.2.7"]), found("192.0.2.7"));
        assert_eq!(of(&["203.0.113.1, 192.0.2.7"]), found("192.0.2.7"), "the first may be a lie");
        assert_eq!(of(&["192.0.2.7, 10.0.0.2 ,10.0.0.1"]), found("192.0.2.7"));
        assert_eq!(of(&["203.0.113.1", "192.0.2.7, 10.0.0.2"]), found("192.0.2.7"));
        assert_eq!(of(&["10.0.0.3, 10.0.0.2"]), found("10.0.0.3"));
        assert_eq!(of(&["192.0.2.7:4711"]), found("192.0.2.7"));
        assert_eq!(of(&["[2001:db8::1]:80"]), found("2001:db8::1"));
        assert_eq!(of(&["[2001:db8::1]"]), found("2001:db8::1"));
        assert_eq!(of(&["2001:db8::1"]), found("2001:db8::1"));
        assert_eq!(of(&["junk, 192.0.2.7"]), found("192.0.2.7"), "nobody looks that far");
        assert_eq!(of(&[]), Err(BadProxy::NotForwarded));
        for bad in ["", "unknown", "192.0.2.7,", "192.0.2.7, _hidden", "192.0.2", "a.example"] {
            assert_eq!(of(&[bad]), Err(BadProxy::NotAddresses), "{bad}");
        }
    }

    proptest! {
        /// Nothing that arrives makes it panic or read beyond what was announced.
        #[test]
        fn any_bytes_are_judged(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _ = parse(&bytes);
            let signed: Vec<u8> = SIGNATURE.into_iter().chain(bytes.iter().copied()).collect();
            if let Ok(Some(client)) = parse(&signed) {
                prop_assert!(bytes.len() >= 16, "{client}");
            }
            let _ = forwarded(std::iter::once(&bytes[..]), |_| false);
        }
    }
}
