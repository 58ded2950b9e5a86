//! MQTT packets in and out, one surface for both protocol versions. The only file that knows
//! rumqttc.
//!
//! Of rumqttc only the packets are used, not its event loop: that writes once per packet, forgets
//! accepted publishes when the broker has lost the session, and has no acknowledgement timeout.
//! Its decoders (0.25.1) have traps, so this file cuts the frames itself and reads the packets that
//! are affected by hand:
//!
//! - CONNACK: a return code it does not know is an error without the code; the two bytes with
//!   which a 3.1.1 broker answers MQTT 5 are taken for an incomplete packet.
//! - PUBACK: a reason code it does not list is an error, and mosquitto sends 0x95 (packet too large)
//!   there; a batch that is too large would end the connection again and again.
//! - PUBLISH: a property it does not know, or text that is not UTF-8, is an error; see
//!   `incoming`.
//! - DISCONNECT: a missing or lone reason code, which mosquitto sends, is an error or taken for an
//!   incomplete packet, and the bytes are swallowed.
//!
//! Any complete frame that cannot be read is malformed; nothing ever waits for more bytes of it.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use rumqttc::mqttbytes::v4;
use rumqttc::v5::mqttbytes::v5;

use super::incoming::{self, Arrival};
use super::reason;
use super::requests::RECEIVE_MAX;
use crate::config::MqttVersion;

/// Largest packet taken from the broker, in bytes after the fixed header. MQTT 5 brokers are told.
pub(super) const MAX_INCOMING: u32 = 256 * 1024;

/// Largest packet that MQTT can express: fixed header and "remaining length".
const MAX_PACKET: usize = 268_435_455 + 5;

/// The packets of one protocol version.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wire {
    version: MqttVersion,
}

/// What the broker sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Incoming {
    /// The answer to CONNECT.
    ConnAck(ConnAck),
    /// The answer to a PUBLISH.
    PubAck {
        /// Of which one.
        pkid: u16,
        /// MQTT 5 reason code; 0 in MQTT 3.1.1. From 0x80 on a refusal.
        reason: u8,
        /// What the broker says beside the code.
        text: Option<String>,
    },
    /// A message of a subscription.
    Publish(Arrival),
    /// The beginning of a message over [`MAX_INCOMING`]; so many bytes of it are still to come and
    /// must be passed over.
    Oversized(Arrival, usize),
    /// The answer to a SUBSCRIBE with one filter.
    SubAck {
        /// Of which one.
        pkid: u16,
        /// The highest QoS granted; from 0x80 on a refusal.
        reason: u8,
        /// What the broker says beside the code.
        text: Option<String>,
    },
    /// The answer to PINGREQ.
    PingResp,
    /// The broker closes the connection (MQTT 5).
    Disconnect {
        /// Reason code.
        reason: u8,
        /// What the broker says beside the code.
        text: Option<String>,
    },
}

/// The answer to CONNECT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ConnAck {
    /// Whether the broker remembers an earlier connection.
    pub(super) session_present: bool,
    /// Why it refuses, in words; `None` when it accepts.
    pub(super) refusal: Option<Refusal>,
    /// What the broker takes.
    pub(super) limits: Limits,
}

/// Why a broker refuses a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The return or reason code.
    pub(super) code: u8,
    /// In words.
    pub(super) reason: String,
}

/// What a broker takes (MQTT 5 section 3.2.2.3); without limits in MQTT 3.1.1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Limits {
    /// Messages without PUBACK.
    pub(super) receive_max: u16,
    /// Bytes of a packet, fixed header included.
    pub(super) max_packet_size: usize,
    /// Highest quality of service.
    pub(super) max_qos: u8,
    /// Whether it keeps retained messages.
    pub(super) retain_available: bool,
    /// Keep-alive in seconds that replaces ours.
    pub(super) keep_alive: Option<u16>,
    /// Seconds for which it keeps the session, where these are others than asked for.
    pub(super) session_expiry: Option<u32>,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            receive_max: u16::MAX,
            max_packet_size: MAX_PACKET,
            max_qos: 2,
            retain_available: true,
            keep_alive: None,
            session_expiry: None,
        }
    }
}

/// The first packet. Not `Debug`: it holds the password.
pub(super) struct Connect {
    pub(super) client_id: String,
    /// Seconds.
    pub(super) keep_alive: u16,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    /// What the broker publishes when this connection breaks.
    pub(super) will_topic: Bytes,
    pub(super) will_payload: Bytes,
    pub(super) will_retain: bool,
    /// Seconds for which the broker is to keep subscription and unacknowledged requests; `None`:
    /// none of it is wanted, nor what it kept so far. MQTT 3.1.1 knows no limit.
    pub(super) session_expiry: Option<u32>,
}

/// Why bytes from the broker, or a packet for it, are wrong.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(super) enum WireError {
    /// Not a packet of this protocol version.
    #[error("the broker sent {0}, which is not MQTT")]
    Malformed(&'static str),
    /// A packet that no broker may send.
    #[error("the broker sent a packet of type {0}, which a broker may not send here")]
    Unexpected(u8),
    /// A packet over [`MAX_INCOMING`].
    #[error("the broker sent a packet of {0} bytes; the limit is {MAX_INCOMING}")]
    TooLarge(usize),
    /// A packet that rumqttc cannot write.
    #[error("cannot write the packet: {0}")]
    Write(String),
}

/// A PUBLISH with QoS 1, ready but for its packet identifier.
#[derive(Debug)]
pub(super) struct Outgoing(Packet);

#[derive(Debug)]
enum Packet {
    V4(v4::Publish),
    V5(v5::Publish),
}

impl Outgoing {
    /// Bytes on the wire.
    pub(super) fn size(&self) -> usize {
        match &self.0 {
            Packet::V4(publish) => publish.size(),
            Packet::V5(publish) => publish.size(),
        }
    }

    /// Writes it with its packet identifier, which is not 0, to the end of `out`.
    pub(super) fn write(self, pkid: u16, out: &mut BytesMut) -> Result<(), WireError> {
        let written = match self.0 {
            Packet::V4(mut publish) => {
                publish.pkid = pkid;
                publish.write(out).map_err(|e| e.to_string())
            }
            Packet::V5(mut publish) => {
                publish.pkid = pkid;
                publish.write(out).map_err(|e| e.to_string())
            }
        };
        written.map(drop).map_err(WireError::Write)
    }
}

impl Wire {
    pub(super) fn new(version: MqttVersion) -> Self {
        Self { version }
    }

    /// For the log: "5" or "3.1.1".
    pub(super) fn name(self) -> &'static str {
        match self.version {
            MqttVersion::V4 => "3.1.1",
            MqttVersion::V5 => "5",
        }
    }

    /// Writes CONNECT to the end of `out`.
    pub(super) fn connect(self, connect: Connect, out: &mut BytesMut) -> Result<(), WireError> {
        let username = connect.username.unwrap_or_default();
        let password = connect.password.unwrap_or_default();
        let with_login = !username.is_empty() || !password.is_empty();
        let written = match self.version {
            MqttVersion::V4 => {
                let packet = v4::Connect {
                    protocol: rumqttc::mqttbytes::Protocol::V4,
                    keep_alive: connect.keep_alive,
                    client_id: connect.client_id,
                    clean_session: connect.session_expiry.is_none(),
                    last_will: Some(v4::LastWill {
                        topic: text(&connect.will_topic),
                        message: connect.will_payload,
                        qos: rumqttc::mqttbytes::QoS::AtLeastOnce,
                        retain: connect.will_retain,
                    }),
                    login: with_login.then_some(v4::Login { username, password }),
                };
                packet.write(out).map_err(|e| e.to_string())
            }
            MqttVersion::V5 => {
                let properties = v5::ConnectProperties {
                    max_packet_size: Some(MAX_INCOMING),
                    session_expiry_interval: connect.session_expiry,
                    receive_maximum: connect.session_expiry.map(|_| RECEIVE_MAX),
                    ..v5::ConnectProperties::new()
                };
                let packet = v5::Connect {
                    keep_alive: connect.keep_alive,
                    client_id: connect.client_id,
                    clean_start: connect.session_expiry.is_none(),
                    properties: Some(properties),
                };
                let will = v5::LastWill {
                    topic: connect.will_topic,
                    message: connect.will_payload,
                    qos: rumqttc::v5::mqttbytes::QoS::AtLeastOnce,
                    retain: connect.will_retain,
                    properties: None,
                };
                let login = with_login.then_some(v5::Login { username, password });
                packet.write(&Some(will), &login, out).map_err(|e| e.to_string())
            }
        };
        written.map(drop).map_err(WireError::Write)
    }

    /// Prepares a PUBLISH with QoS 1. `properties` are MQTT 5 user properties, `content_type` is
    /// the media type of the payload; MQTT 3.1.1 has neither.
    pub(super) fn publish(
        self,
        topic: Bytes,
        payload: Bytes,
        retain: bool,
        described: Option<Description>,
    ) -> Outgoing {
        // 1 stands for the identifier to come: it counts in the size.
        let pkid = 1;
        Outgoing(match self.version {
            MqttVersion::V4 => Packet::V4(v4::Publish {
                dup: false,
                qos: rumqttc::mqttbytes::QoS::AtLeastOnce,
                retain,
                topic: text(&topic),
                pkid,
                payload,
            }),
            MqttVersion::V5 => Packet::V5(v5::Publish {
                dup: false,
                qos: rumqttc::v5::mqttbytes::QoS::AtLeastOnce,
                retain,
                topic,
                pkid,
                payload,
                properties: described.map(|described| v5::PublishProperties {
                    user_properties: described.user_properties,
                    content_type: described.content_type.map(str::to_owned),
                    correlation_data: described.correlation.map(Bytes::from),
                    ..v5::PublishProperties::default()
                }),
            }),
        })
    }

    /// Whether this version carries a [`Description`].
    pub(super) fn describes(self) -> bool {
        self.version == MqttVersion::V5
    }

    /// Writes SUBSCRIBE with QoS 1 to the end of `out`. An MQTT 5 broker is asked not to send what
    /// it has retained, nor what this client itself publishes.
    pub(super) fn subscribe(self, pkid: u16, filter: &str, out: &mut BytesMut) {
        let path = filter.to_owned();
        let before = out.len();
        let written = match self.version {
            MqttVersion::V4 => {
                let qos = rumqttc::mqttbytes::QoS::AtLeastOnce;
                let filters = vec![v4::SubscribeFilter { path, qos }];
                v4::Subscribe { pkid, filters }.write(out).is_ok()
            }
            MqttVersion::V5 => {
                let filters = vec![v5::Filter {
                    path,
                    qos: rumqttc::v5::mqttbytes::QoS::AtLeastOnce,
                    nolocal: true,
                    preserve_retain: false,
                    retain_forward_rule: v5::RetainForwardRule::Never,
                }];
                v5::Subscribe { pkid, filters, properties: None }.write(out).is_ok()
            }
        };
        if !written {
            // The settings bound the prefix, so it fits; if it did not, the broker would be given
            // up for not answering.
            out.truncate(before);
        }
    }

    /// Writes PINGREQ to the end of `out`; the same in both versions.
    pub(super) fn ping(out: &mut BytesMut) {
        out.put_slice(&[0xc0, 0]);
    }

    /// Writes PUBACK to the end of `out`; the same in both versions.
    pub(super) fn puback(pkid: u16, out: &mut BytesMut) {
        out.put_slice(&[0x40, 2]);
        out.put_u16(pkid);
    }

    /// Writes DISCONNECT "normal" to the end of `out`, which discards the will; the same in both
    /// versions.
    pub(super) fn disconnect(out: &mut BytesMut) {
        out.put_slice(&[0xe0, 0]);
    }

    /// Takes one packet from the front of `inbox`, if it is complete.
    ///
    /// Whatever the bytes are, this returns: a length is believed only up to [`MAX_INCOMING`],
    /// nothing is allocated for it, and a frame that does not hold what it must is an error.
    pub(super) fn decode(self, inbox: &mut BytesMut) -> Result<Option<Incoming>, WireError> {
        // Nearly all that a broker sends: PUBACK without reason.
        if let Some(&[0x40, 2, high, low]) = inbox.first_chunk::<4>() {
            inbox.advance(4);
            return pub_ack(u16::from_be_bytes([high, low]), 0, None).map(Some);
        }
        let Some((first, header, length)) = fixed_header(inbox)? else { return Ok(None) };
        if length > MAX_INCOMING as usize {
            return oversized(inbox, first, header, length);
        }
        if inbox.len() < header + length {
            return Ok(None);
        }
        let mut frame = inbox.split_to(header + length);
        frame.advance(header);
        let body = frame.freeze();
        let incoming = match first >> 4 {
            2 => self.conn_ack(body)?,
            3 => Incoming::Publish(incoming::publish(self.version, first, body)?),
            4 => self.incoming_pub_ack(body)?,
            9 => incoming::sub_ack(self.version, body)?,
            13 if length == 0 => Incoming::PingResp,
            14 if self.version == MqttVersion::V5 => disconnect(body)?,
            kind => return Err(WireError::Unexpected(kind)),
        };
        Ok(Some(incoming))
    }

    fn conn_ack(self, mut body: Bytes) -> Result<Incoming, WireError> {
        let Some(&[flags, code]) = body.first_chunk::<2>() else {
            return Err(WireError::Malformed("a CONNACK without a return code"));
        };
        body.advance(2);
        let mut limits = Limits::default();
        let mut said = None;
        let reason = match self.version {
            MqttVersion::V4 => reason::describe_v4(code),
            MqttVersion::V5 if body.is_empty() && (1..=5).contains(&code) => {
                let reason = reason::describe_v4(code);
                format!("{reason}; the broker answers as MQTT 3.1.1: try mqtt.version = 4")
            }
            MqttVersion::V5 => {
                if let Some(properties) = v5::ConnAckProperties::read(&mut body)
                    .map_err(|_| WireError::Malformed("a CONNACK with unreadable properties"))?
                {
                    limits = limits_of(&properties)?;
                    said = properties.reason_string;
                }
                reason::describe(code, said.as_deref())
            }
        };
        Ok(Incoming::ConnAck(ConnAck {
            session_present: flags & 1 == 1,
            refusal: (code != 0).then_some(Refusal { code, reason }),
            limits,
        }))
    }

    fn incoming_pub_ack(self, mut body: Bytes) -> Result<Incoming, WireError> {
        let malformed = || WireError::Malformed("an unreadable PUBACK");
        let Some(&[high, low]) = body.first_chunk::<2>() else { return Err(malformed()) };
        body.advance(2);
        let pkid = u16::from_be_bytes([high, low]);
        if self.version == MqttVersion::V4 {
            return if body.is_empty() { pub_ack(pkid, 0, None) } else { Err(malformed()) };
        }
        let Some(&reason) = body.first() else { return pub_ack(pkid, 0, None) };
        body.advance(1);
        if body.is_empty() {
            return pub_ack(pkid, reason, None);
        }
        let properties = v5::PubAckProperties::read(&mut body).map_err(|_| malformed())?;
        pub_ack(pkid, reason, properties.and_then(|properties| properties.reason_string))
    }
}

/// What MQTT 5 says about a payload beside it.
#[derive(Debug, Clone, Default)]
pub(super) struct Description {
    /// For programs.
    pub(super) user_properties: Vec<(String, String)>,
    /// The payload's media type.
    pub(super) content_type: Option<&'static str>,
    /// What a requester recognises the answer by.
    pub(super) correlation: Option<Vec<u8>>,
}

fn pub_ack(pkid: u16, reason: u8, text: Option<String>) -> Result<Incoming, WireError> {
    if pkid == 0 {
        return Err(WireError::Malformed("a PUBACK for packet identifier 0"));
    }
    Ok(Incoming::PubAck { pkid, reason, text })
}

fn disconnect(mut body: Bytes) -> Result<Incoming, WireError> {
    let Some(&reason) = body.first() else {
        return Ok(Incoming::Disconnect { reason: 0, text: None });
    };
    body.advance(1);
    if body.is_empty() {
        return Ok(Incoming::Disconnect { reason, text: None });
    }
    let properties = v5::DisconnectProperties::extract(&mut body)
        .map_err(|_| WireError::Malformed("an unreadable DISCONNECT"))?;
    Ok(Incoming::Disconnect { reason, text: properties.and_then(|p| p.reason_string) })
}

fn limits_of(properties: &v5::ConnAckProperties) -> Result<Limits, WireError> {
    let defaults = Limits::default();
    let limits = Limits {
        receive_max: properties.receive_max.unwrap_or(defaults.receive_max),
        max_packet_size: properties.max_packet_size.map_or(defaults.max_packet_size, |size| {
            usize::try_from(size).unwrap_or(usize::MAX).min(MAX_PACKET)
        }),
        max_qos: properties.max_qos.unwrap_or(defaults.max_qos),
        retain_available: properties.retain_available != Some(0),
        keep_alive: properties.server_keep_alive,
        session_expiry: properties.session_expiry_interval,
    };
    if limits.receive_max == 0 || limits.max_packet_size == 0 {
        return Err(WireError::Malformed("a CONNACK that allows nothing to be sent"));
    }
    Ok(limits)
}

/// Takes the beginning of a PUBLISH that is too large; no other packet may be.
fn oversized(
    inbox: &mut BytesMut,
    first: u8,
    header: usize,
    length: usize,
) -> Result<Option<Incoming>, WireError> {
    if first >> 4 != 3 {
        return Err(WireError::TooLarge(length));
    }
    // A topic and a packet identifier.
    let beginning = inbox.get(header..).unwrap_or_default();
    let beginning = beginning.get(..2 + 65_535 + 2).unwrap_or(beginning);
    let mut body = Bytes::copy_from_slice(beginning);
    let Some(arrival) = incoming::head(first, &mut body)? else { return Ok(None) };
    let taken = beginning.len() - body.len();
    inbox.advance(header + taken);
    Ok(Some(Incoming::Oversized(arrival, length - taken)))
}

/// First byte, length of the fixed header and of what follows it; `None` while incomplete.
fn fixed_header(bytes: &[u8]) -> Result<Option<(u8, usize, usize)>, WireError> {
    let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
    let mut length = 0;
    for (index, &byte) in rest.iter().take(4).enumerate() {
        length |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((first, index + 2, length)));
        }
    }
    if rest.len() >= 4 { Err(WireError::Malformed("an endless length")) } else { Ok(None) }
}

/// Topics are made from checked text.
fn text(topic: &Bytes) -> String {
    String::from_utf8_lossy(topic).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const V4: Wire = Wire { version: MqttVersion::V4 };
    const V5: Wire = Wire { version: MqttVersion::V5 };

    fn decode(wire: Wire, bytes: &[u8]) -> Result<Option<Incoming>, WireError> {
        wire.decode(&mut BytesMut::from(bytes))
    }

    fn acked(pkid: u16, reason: u8, text: Option<&str>) -> Incoming {
        Incoming::PubAck { pkid, reason, text: text.map(str::to_owned) }
    }

    #[test]
    fn a_puback_may_be_two_three_or_more_bytes_long() {
        assert_eq!(decode(V4, &[0x40, 2, 0, 9]), Ok(Some(acked(9, 0, None))));
        assert_eq!(decode(V5, &[0x40, 2, 1, 0]), Ok(Some(acked(256, 0, None))));
        assert_eq!(decode(V5, &[0x40, 3, 0, 9, 0x10]), Ok(Some(acked(9, 0x10, None))));
        assert_eq!(decode(V5, &[0x40, 4, 0, 9, 0x87, 0]), Ok(Some(acked(9, 0x87, None))));
        let with_text = [0x40, 9, 0, 9, 0x97, 5, 0x1f, 0, 2, b'n', b'o'];
        assert_eq!(decode(V5, &with_text), Ok(Some(acked(9, 0x97, Some("no")))));
    }

    #[test]
    fn a_puback_with_a_reason_the_standard_does_not_list_is_a_refusal_not_an_error() {
        assert_eq!(decode(V5, &[0x40, 3, 0, 9, 0x95]), Ok(Some(acked(9, 0x95, None))));
    }

    #[test]
    fn a_disconnect_may_be_empty_or_a_lone_reason() {
        let with = |reason| Ok(Some(Incoming::Disconnect { reason, text: None }));
        assert_eq!(decode(V5, &[0xe0, 0]), with(0));
        assert_eq!(decode(V5, &[0xe0, 1, 0x8b]), with(0x8b));
        assert_eq!(decode(V5, &[0xe0, 2, 0x95, 0]), with(0x95));
        assert_eq!(decode(V4, &[0xe0, 0]), Err(WireError::Unexpected(14)));
    }

    #[test]
    fn a_connack_says_what_the_broker_takes() {
        let bytes = [
            0x20, 18, 0, 0, 15, // flags, code, property length
            0x21, 0, 20, 0x27, 0, 1, 0, 0, 0x24, 1, 0x25, 0, 0x13, 0, 30,
        ];
        let Ok(Some(Incoming::ConnAck(ack))) = decode(V5, &bytes) else { panic!() };
        assert_eq!(ack.refusal, None);
        let limits = Limits {
            receive_max: 20,
            max_packet_size: 65_536,
            max_qos: 1,
            retain_available: false,
            keep_alive: Some(30),
            session_expiry: None,
        };
        assert_eq!(ack.limits, limits);
    }

    #[test]
    fn a_connack_says_why_it_refuses() {
        let refusal = |wire, bytes: &[u8]| match decode(wire, bytes) {
            Ok(Some(Incoming::ConnAck(ack))) => ack.refusal.unwrap().reason,
            other => panic!("{other:?}"),
        };
        assert_eq!(refusal(V4, &[0x20, 2, 0, 5]), "not authorised (5)");
        assert_eq!(refusal(V5, &[0x20, 3, 0, 0x86, 0]), "bad user name or password (0x86)");
        assert_eq!(refusal(V5, &[0x20, 3, 0, 0xee, 0]), "unknown reason (0xee)");
        let old_broker = refusal(V5, &[0x20, 2, 0, 1]);
        assert!(old_broker.contains("mqtt.version = 4"), "{old_broker}");
    }

    #[test]
    fn a_broker_that_takes_nothing_is_malformed() {
        assert!(decode(V5, &[0x20, 6, 0, 0, 3, 0x21, 0, 0]).is_err());
        assert!(decode(V5, &[0x20, 8, 0, 0, 5, 0x27, 0, 0, 0, 0]).is_err());
    }

    #[test]
    fn a_packet_in_pieces_is_waited_for_and_a_wrong_one_is_not() {
        for cut in 0..4 {
            assert_eq!(decode(V5, &[0x40, 2, 0, 9][..cut]), Ok(None));
        }
        // A frame that is complete but holds less than it must.
        for bytes in [&[0x40, 1, 0][..], &[0x20, 1, 0], &[0x30, 2, 0, 9], &[0x20, 3, 0, 0, 0x80]] {
            assert!(matches!(decode(V5, bytes), Err(WireError::Malformed(_))), "{bytes:?}");
        }
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_its_bytes_come() {
        assert_eq!(
            decode(V5, &[0x40, 0xff, 0xff, 0xff, 0x7f]),
            Err(WireError::TooLarge(268_435_455))
        );
        assert!(decode(V5, &[0x30, 0xff, 0xff, 0xff, 0xff]).is_err());
    }

    #[test]
    fn of_a_publish_over_the_limit_only_the_beginning_is_taken() {
        let bytes = b"\x32\xff\xff\xff\x7f\0\x03a/b\0\x09payload";
        for cut in 0..12 {
            assert_eq!(decode(V4, &bytes[..cut]), Ok(None), "{cut} bytes");
        }
        let mut inbox = BytesMut::from(&bytes[..]);
        let Ok(Some(Incoming::Oversized(arrival, left))) = V4.decode(&mut inbox) else { panic!() };
        assert_eq!((&arrival.topic[..], arrival.pkid), (&b"a/b"[..], Some(9)));
        assert_eq!(arrival.payload, None);
        assert_eq!((left, &inbox[..]), (268_435_455 - 7, &b"payload"[..]));
        assert!(decode(V4, b"\x34\xff\xff\xff\x7f\0\x03a/b\0\x09").is_err(), "QoS 2");
    }

    #[test]
    fn a_subscription_asks_for_qos_1_without_what_is_retained_or_our_own() {
        let mut out = BytesMut::new();
        V4.subscribe(7, "a/+", &mut out);
        assert_eq!(&out[..], b"\x82\x08\0\x07\0\x03a/+\x01");
        out.clear();
        V5.subscribe(7, "a/+", &mut out);
        assert_eq!(&out[..], b"\x82\x09\0\x07\0\0\x03a/+\x25");
    }

    #[test]
    fn packets_that_only_a_client_sends_are_unexpected() {
        for kind in [0_u8, 1, 5, 6, 7, 8, 10, 11, 12, 15] {
            assert_eq!(decode(V5, &[kind << 4, 0]), Err(WireError::Unexpected(kind)));
        }
    }

    #[test]
    fn a_publish_is_as_large_as_it_says_and_reads_back() {
        let described = Description {
            user_properties: vec![("epoch".into(), "7".into())],
            content_type: Some("application/senml+json"),
            correlation: Some(vec![1, 2, 3]),
        };
        for wire in [V4, V5] {
            for payload in [0, 1, 100, 200, 20_000] {
                let mut out = BytesMut::new();
                let publish = wire.publish(
                    Bytes::from_static(b"a/b"),
                    vec![b'x'; payload].into(),
                    true,
                    Some(described.clone()),
                );
                let size = publish.size();
                publish.write(513, &mut out).unwrap();
                assert_eq!(out.len(), size);
                let Ok(Some(Incoming::Publish(read))) = wire.decode(&mut out) else { panic!() };
                assert_eq!((read.pkid, read.retained), (Some(513), true));
                assert_eq!(read.payload.unwrap(), vec![b'x'; payload]);
                let correlation = (wire.version == MqttVersion::V5).then_some(&[1, 2, 3][..]);
                assert_eq!(read.correlation.as_deref(), correlation);
                assert!(out.is_empty());
            }
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic_or_ask_for_more_than_a_packet(
            mut bytes in prop::collection::vec(any::<u8>(), 0..200),
            first in prop::sample::select(vec![0x20_u8, 0x30, 0x32, 0x40, 0x90, 0xd0, 0xe0]),
            length in 0_u8..100,
        ) {
            if let Some(byte) = bytes.first_mut() { *byte = first; }
            if let Some(byte) = bytes.get_mut(1) { *byte = length; }
            for wire in [V4, V5] {
                let mut inbox = BytesMut::from(&bytes[..]);
                // Ends: every success takes at least two bytes off the front.
                while let Ok(Some(_)) = wire.decode(&mut inbox) {}
            }
        }
    }
}
