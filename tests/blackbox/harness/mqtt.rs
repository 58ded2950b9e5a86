//! Just enough of MQTT 3.1.1 and 5 to see what passes between gateway and broker.

use tokio::io::{AsyncRead, AsyncReadExt};

/// One control packet, as it was on the wire.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) bytes: Vec<u8>,
    header: usize,
}

/// What a PUBLISH says.
#[derive(Debug, Clone)]
pub(crate) struct Publish {
    pub(crate) packet_id: Option<u16>,
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
    /// MQTT 5 user properties.
    pub(crate) properties: Vec<(String, String)>,
    /// MQTT 5 correlation data.
    pub(crate) correlation: Option<Vec<u8>>,
}

impl Publish {
    /// The payload as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.payload)
            .unwrap_or_else(|e| panic!("{e}: {:?}", String::from_utf8_lossy(&self.payload)))
    }
}

pub(crate) const CONNECT: u8 = 1;
pub(crate) const PUBLISH: u8 = 3;
pub(crate) const PUBACK: u8 = 4;
pub(crate) const SUBACK: u8 = 9;

impl Packet {
    /// Reads one packet.
    pub(crate) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Self> {
        let mut bytes = vec![stream.read_u8().await?];
        let mut length = 0;
        for shift in [0, 7, 14, 21] {
            let byte = stream.read_u8().await?;
            bytes.push(byte);
            length |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
        }
        let header = bytes.len();
        bytes.resize(header + length, 0);
        stream.read_exact(&mut bytes[header..]).await?;
        Ok(Self { bytes, header })
    }

    /// The packet type.
    pub(crate) fn kind(&self) -> u8 {
        self.bytes[0] >> 4
    }

    fn body(&self) -> &[u8] {
        &self.bytes[self.header..]
    }

    /// The protocol level of a CONNECT.
    pub(crate) fn level(&self) -> u8 {
        self.body()[6]
    }

    /// The packet id and reason code of a PUBACK.
    pub(crate) fn puback(&self) -> (u16, u8) {
        let body = self.body();
        (u16::from_be_bytes([body[0], body[1]]), body.get(2).copied().unwrap_or(0))
    }

    /// The contents of a PUBLISH in protocol level `level`.
    pub(crate) fn publish(&self, level: u8) -> Publish {
        let mut rest = self.body();
        let topic = text(&mut rest);
        let has_id = self.bytes[0] & 0b110 != 0;
        let packet_id = has_id.then(|| number(&mut rest));
        let (mut properties, mut correlation) = (Vec::new(), None);
        if level == 5 {
            let length = varint(&mut rest);
            let (mut block, after) = rest.split_at(length);
            rest = after;
            while let Some((&id, after)) = block.split_first() {
                block = after;
                match id {
                    0x26 => properties.push((text(&mut block), text(&mut block))),
                    0x03 | 0x08 => drop(text(&mut block)),
                    0x09 => correlation = Some(binary(&mut block).to_vec()),
                    0x01 => block = &block[1..],
                    0x02 => block = &block[4..],
                    0x23 => block = &block[2..],
                    0x0b => drop(varint(&mut block)),
                    other => panic!("property {other:#x} does not belong in a PUBLISH"),
                }
            }
        }
        Publish { packet_id, topic, payload: rest.to_vec(), properties, correlation }
    }
}

fn number(rest: &mut &[u8]) -> u16 {
    let (head, tail) = rest.split_at(2);
    *rest = tail;
    u16::from_be_bytes([head[0], head[1]])
}

fn text(rest: &mut &[u8]) -> String {
    String::from_utf8_lossy(binary(rest)).into_owned()
}

fn binary<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let length = usize::from(number(rest));
    let (head, tail) = rest.split_at(length);
    *rest = tail;
    head
}

fn varint(rest: &mut &[u8]) -> usize {
    let mut value = 0;
    for shift in [0, 7, 14, 21] {
        let byte = rest[0];
        *rest = &rest[1..];
        value |= usize::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            break;
        }
    }
    value
}
