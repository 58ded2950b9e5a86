//! Reading what comes because of a subscription: PUBLISH and SUBACK.
//!
//! By hand, because a session outlives connections: a message that could not be read would be sent
//! again over every connection and end each of them, and the readings with it. So whatever others
//! have published is taken, as long as the packet around it is whole: properties that make no sense
//! are left out, and of one that is too large all but the topic is passed over.

use bytes::{Buf, Bytes};

use super::mqtt::{Incoming, WireError};
use crate::config::MqttVersion;

/// A message of a subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Arrival {
    /// As the broker sent it; not checked to be text.
    pub(super) topic: Bytes,
    /// Its packet identifier where it wants a PUBACK (QoS 1).
    pub(super) pkid: Option<u16>,
    /// It is the state that the broker keeps for its topic, sent because of the subscription.
    pub(super) retained: bool,
    /// The payload; `None` where the packet is too large to be taken.
    pub(super) payload: Option<Bytes>,
    /// MQTT 5: where the answer is to go; not checked to be text.
    pub(super) response_topic: Option<Bytes>,
    /// MQTT 5: what the answer must carry.
    pub(super) correlation: Option<Bytes>,
}

const UNREADABLE: WireError = WireError::Malformed("an unreadable PUBLISH");

/// Reads the PUBLISH with this first byte from what follows its fixed header.
pub(super) fn publish(
    version: MqttVersion,
    first: u8,
    mut body: Bytes,
) -> Result<Arrival, WireError> {
    let mut arrival = head(first, &mut body)?.ok_or(UNREADABLE)?;
    if version == MqttVersion::V5 {
        let length = variable(&mut body).ok_or(UNREADABLE)?;
        if body.len() < length {
            return Err(UNREADABLE);
        }
        let properties = body.split_to(length);
        // What comes before a property that makes no sense still counts.
        let _ = read_properties(properties, &mut arrival);
    }
    arrival.payload = Some(body);
    Ok(arrival)
}

/// Reads topic and packet identifier off the front of `body`, which may be the beginning only;
/// `None` while that is too little.
pub(super) fn head(first: u8, body: &mut Bytes) -> Result<Option<Arrival>, WireError> {
    let acknowledged = match first & 0b0110 {
        0b0000 => false,
        0b0010 => true,
        0b0100 => {
            return Err(WireError::Malformed("a PUBLISH with QoS 2, which was never asked for"));
        }
        _ => return Err(UNREADABLE),
    };
    let Some(topic) = string(body) else { return Ok(None) };
    let pkid = if acknowledged {
        let Ok(pkid) = body.try_get_u16() else { return Ok(None) };
        if pkid == 0 {
            return Err(WireError::Malformed("a PUBLISH with packet identifier 0"));
        }
        Some(pkid)
    } else {
        None
    };
    Ok(Some(Arrival {
        topic,
        pkid,
        retained: first & 1 == 1,
        payload: None,
        response_topic: None,
        correlation: None,
    }))
}

/// MQTT 5 section 3.3.2.3. `None` where it makes no sense.
fn read_properties(mut bytes: Bytes, arrival: &mut Arrival) -> Option<()> {
    while bytes.has_remaining() {
        match variable(&mut bytes)? {
            // Response topic, correlation data.
            0x08 => arrival.response_topic = Some(string(&mut bytes)?),
            0x09 => arrival.correlation = Some(string(&mut bytes)?),
            // Payload format, expiry interval, content type, subscription identifier, alias, user.
            0x01 => {
                bytes.try_get_u8().ok()?;
            }
            0x02 => {
                bytes.try_get_u32().ok()?;
            }
            0x03 => {
                string(&mut bytes)?;
            }
            0x0b => {
                variable(&mut bytes)?;
            }
            0x23 => {
                bytes.try_get_u16().ok()?;
            }
            0x26 => {
                string(&mut bytes)?;
                string(&mut bytes)?;
            }
            _ => return None,
        }
    }
    Some(())
}

/// Reads a SUBACK for one filter from what follows its fixed header.
pub(super) fn sub_ack(version: MqttVersion, body: Bytes) -> Result<Incoming, WireError> {
    read_sub_ack(version, body).ok_or(WireError::Malformed("an unreadable SUBACK"))
}

fn read_sub_ack(version: MqttVersion, mut body: Bytes) -> Option<Incoming> {
    let pkid = body.try_get_u16().ok()?;
    let mut text = None;
    if version == MqttVersion::V5 {
        let length = variable(&mut body)?;
        if body.len() < length {
            return None;
        }
        text = reason_string(body.split_to(length));
    }
    Some(Incoming::SubAck { pkid, reason: body.try_get_u8().ok()?, text })
}

/// The reason string, if it is the first property; brokers send no other before it.
fn reason_string(mut properties: Bytes) -> Option<String> {
    let is_first = properties.try_get_u8().ok()? == 0x1f;
    let text = string(&mut properties).filter(|_| is_first)?;
    String::from_utf8(text.into()).ok()
}

/// Text or binary data with its length before it.
fn string(bytes: &mut Bytes) -> Option<Bytes> {
    let length = usize::from(u16::from_be_bytes(*bytes.first_chunk::<2>()?));
    if bytes.len() < 2 + length {
        return None;
    }
    bytes.advance(2);
    Some(bytes.split_to(length))
}

/// A number in one to four bytes (MQTT 5 section 1.5.5).
fn variable(bytes: &mut Bytes) -> Option<usize> {
    let mut number = 0;
    for shift in [0, 7, 14, 21] {
        let byte = bytes.try_get_u8().ok()?;
        number |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(version: MqttVersion, first: u8, body: &[u8]) -> Result<Arrival, WireError> {
        publish(version, first, Bytes::copy_from_slice(body))
    }

    fn arrival(pkid: Option<u16>, payload: &'static [u8]) -> Arrival {
        Arrival {
            topic: Bytes::from_static(b"a/b"),
            pkid,
            retained: false,
            payload: Some(Bytes::from_static(payload)),
            response_topic: None,
            correlation: None,
        }
    }

    #[test]
    fn a_publish_is_read_in_both_versions() {
        assert_eq!(
            read(MqttVersion::V4, 0x32, b"\0\x03a/b\x01\x02hi"),
            Ok(arrival(Some(258), b"hi"))
        );
        assert_eq!(read(MqttVersion::V4, 0x30, b"\0\x03a/b"), Ok(arrival(None, b"")));
        assert_eq!(
            read(MqttVersion::V5, 0x3b, b"\0\x03a/b\0\x09\0hi"),
            Ok(Arrival { retained: true, ..arrival(Some(9), b"hi") })
        );
    }

    #[test]
    fn response_topic_and_correlation_are_found_among_all_properties() {
        let properties =
            b"\x01\x01\x02\0\0\0\x3c\x03\0\x01j\x26\0\x01k\0\x01v\x0b\x80\x01\x23\0\x05\
                           \x08\0\x01r\x09\0\x02\xff\0";
        let mut body = b"\0\x03a/b\0\x09".to_vec();
        body.push(u8::try_from(properties.len()).unwrap());
        body.extend_from_slice(properties);
        body.extend_from_slice(b"hi");
        let expected = Arrival {
            response_topic: Some(Bytes::from_static(b"r")),
            correlation: Some(Bytes::from_static(&[0xff, 0])),
            ..arrival(Some(9), b"hi")
        };
        assert_eq!(read(MqttVersion::V5, 0x32, &body), Ok(expected));
    }

    #[test]
    fn properties_that_make_no_sense_do_not_cost_the_message() {
        // An unknown one; a text that is longer than all of them.
        for properties in [&b"\x08\0\x01r\x7f\0"[..], b"\x08\0\x01r\x03\xff\xff"] {
            let mut body = b"\0\x03a/b\0\x09".to_vec();
            body.push(u8::try_from(properties.len()).unwrap());
            body.extend_from_slice(properties);
            body.extend_from_slice(b"hi");
            let expected = Arrival {
                response_topic: Some(Bytes::from_static(b"r")),
                ..arrival(Some(9), b"hi")
            };
            assert_eq!(read(MqttVersion::V5, 0x32, &body), Ok(expected));
        }
    }

    #[test]
    fn a_packet_that_is_not_whole_is_an_error() {
        for (first, body) in [
            (0x32, &b""[..]),
            (0x32, b"\0\x03a/"),
            (0x32, b"\0\x03a/b\0"),
            (0x32, b"\0\x03a/b\0\0\0"),
            (0x32, b"\0\x03a/b\0\x01\x05\x01"),
            (0x32, b"\0\x03a/b\0\x01"),
            (0x34, b"\0\x03a/b\0\x01\0"),
            (0x36, b"\0\x03a/b\0\x01\0"),
        ] {
            assert!(read(MqttVersion::V5, first, body).is_err(), "{first:x} {body:?}");
        }
    }

    #[test]
    fn a_suback_says_what_was_granted() {
        let read = |version, body: &[u8]| sub_ack(version, Bytes::copy_from_slice(body));
        let with = |reason, text: Option<&str>| {
            Ok(Incoming::SubAck { pkid: 7, reason, text: text.map(str::to_owned) })
        };
        assert_eq!(read(MqttVersion::V4, b"\0\x07\x80"), with(0x80, None));
        assert_eq!(read(MqttVersion::V5, b"\0\x07\0\x01"), with(1, None));
        assert_eq!(read(MqttVersion::V5, b"\0\x07\x05\x1f\0\x02no\x87"), with(0x87, Some("no")));
        for body in [&b"\0"[..], b"\0\x07", b"\0\x07\0", b"\0\x07\x05\x87"] {
            assert!(read(MqttVersion::V5, body).is_err(), "{body:?}");
        }
    }
}
