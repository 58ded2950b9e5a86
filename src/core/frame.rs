//! The messages of the device protocol `tidegate.v1`: one CBOR array each, the message type first.
//!
//! Unknown map keys and extra array items are ignored, so that a newer device can talk to an older
//! gateway; a known one of the wrong type is an error. Decoding reads every byte of the message
//! once: what it returns was well-formed to the end.

use ciborium::Value;

use super::cbor::{self, Cursor, Header, Len, Writer};

/// Longest `model` and `firmware` in HELLO, in characters.
pub const TEXT_MAX: usize = 128;
/// Most commands that HELLO may list.
pub const COMMANDS_MAX: usize = 64;
/// Longest command name in HELLO, in characters.
pub const COMMAND_NAME_MAX: usize = 64;
/// Longest id of a command, in characters.
pub const MESSAGE_ID_MAX: usize = 128;

const HELLO: u64 = 0;
const READINGS: u64 = 1;
const RESULT: u64 = 2;
const WELCOME: u64 = 16;
const ACK: u64 = 17;
const REJECT: u64 = 18;
const COMMAND: u64 = 19;

/// Why a message is not one of the table: the connection closes with 1007 and this text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FrameError(String);

impl From<cbor::Error> for FrameError {
    fn from(error: cbor::Error) -> Self {
        Self(format!("not well-formed CBOR: {error}"))
    }
}

/// What a device says about itself, first of all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hello {
    /// Which run of sequence numbers follows; absent, they count for this connection alone.
    pub epoch: Option<u64>,
    /// For people: the kind of device, at most [`TEXT_MAX`] characters.
    pub model: Option<String>,
    /// For people: what runs on it, at most [`TEXT_MAX`] characters.
    pub firmware: Option<String>,
    /// The commands it understands: at most [`COMMANDS_MAX`], each at most [`COMMAND_NAME_MAX`]
    /// characters.
    pub commands: Vec<String>,
}

/// A message from a device.
#[derive(Debug, Clone, PartialEq)]
pub enum DeviceMessage<'a> {
    /// `[0, {…}]`: the first message.
    Hello(Hello),
    /// `[1, seq, pack]`: a batch.
    Readings {
        /// Its number, from 1; `None` asks for no acknowledgement.
        seq: Option<u64>,
        /// The SenML pack: one well-formed CBOR array.
        pack: &'a [u8],
    },
    /// `[2, id, ok, value]`: what came of a command.
    Result {
        /// The command's id.
        id: String,
        /// Whether it was done.
        ok: bool,
        /// Its result, or what went wrong.
        value: Value,
    },
}

/// The gateway's answer to [`Hello`].
#[derive(Debug, Clone, PartialEq)]
pub struct Welcome {
    /// The gateway's id.
    pub gateway: String,
    /// Its clock: Unix time in seconds.
    pub time: f64,
    /// The highest settled number of the device's epoch, 0 if none.
    pub acked: u64,
    /// Batches that may be unsettled at a time.
    pub window: u64,
    /// Largest message in bytes.
    pub max_frame: u64,
    /// Seconds between two pings of the gateway.
    pub heartbeat: u64,
}

/// A message from the gateway.
#[derive(Debug, Clone, PartialEq)]
pub enum GatewayMessage {
    /// `[16, {…}]`: answers HELLO.
    Welcome(Welcome),
    /// `[17, seq]`: every batch up to `seq` is settled.
    Ack {
        /// The highest settled number.
        seq: u64,
    },
    /// `[18, seq, code, reason]`: this batch is refused for ever.
    Reject {
        /// The batch's number, if it had one.
        seq: Option<u64>,
        /// See [`RejectCode`](super::senml::RejectCode).
        code: u64,
        /// For a person.
        reason: String,
    },
    /// `[19, id, name, params, ttl]`: something to do.
    Command {
        /// What RESULT must name.
        id: String,
        /// Which command.
        name: String,
        /// Its parameters.
        params: Value,
        /// Seconds for which it is still wanted.
        ttl: u64,
    },
}

impl<'a> DeviceMessage<'a> {
    /// Reads one message.
    ///
    /// # Errors
    /// When the bytes are not exactly one well-formed CBOR item of at most 16 levels, or that is
    /// not a message of a device: unknown type, missing item, a known item or key of the wrong
    /// type or given twice, a text or list over its limit, or the number 0.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, FrameError> {
        let (kind, mut items) = Items::open(bytes)?;
        let message = match kind {
            HELLO => {
                items.message = "HELLO";
                Self::Hello(items.hello()?)
            }
            READINGS => {
                items.message = "READINGS";
                let seq = items.seq()?;
                if seq == Some(0) {
                    return Err(FrameError("READINGS: seq is 0, numbers start at 1".into()));
                }
                Self::Readings { seq, pack: items.pack()? }
            }
            RESULT => {
                items.message = "RESULT";
                Self::Result {
                    id: items.text("id", MESSAGE_ID_MAX)?,
                    ok: items.bool("ok")?,
                    value: items.value("value")?,
                }
            }
            other => return Err(unknown_type(other, "device")),
        };
        items.finish()?;
        Ok(message)
    }

    /// Writes the message. `pack` must be one well-formed CBOR array.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        match self {
            Self::Hello(hello) => {
                let mut w = Writer::new(&mut out);
                w.array(2);
                w.uint(HELLO);
                w.map(
                    usize::from(hello.epoch.is_some())
                        + usize::from(hello.model.is_some())
                        + usize::from(hello.firmware.is_some())
                        + usize::from(!hello.commands.is_empty()),
                );
                if let Some(epoch) = hello.epoch {
                    w.text("epoch");
                    w.uint(epoch);
                }
                if let Some(model) = &hello.model {
                    w.text("model");
                    w.text(model);
                }
                if let Some(firmware) = &hello.firmware {
                    w.text("firmware");
                    w.text(firmware);
                }
                if !hello.commands.is_empty() {
                    w.text("commands");
                    w.array(hello.commands.len());
                    hello.commands.iter().for_each(|name| w.text(name));
                }
            }
            Self::Readings { seq, pack } => {
                out.reserve_exact(pack.len() + 11);
                let mut w = Writer::new(&mut out);
                w.array(3);
                w.uint(READINGS);
                w.uint_or_null(*seq);
                w.raw(pack);
            }
            Self::Result { id, ok, value } => {
                let mut w = Writer::new(&mut out);
                w.array(4);
                w.uint(RESULT);
                w.text(id);
                w.bool(*ok);
                w.value(value);
            }
        }
        out
    }
}

impl GatewayMessage {
    /// Reads one message.
    ///
    /// # Errors
    /// As [`DeviceMessage::decode`], for the messages of the gateway.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameError> {
        let (kind, mut items) = Items::open(bytes)?;
        let message = match kind {
            WELCOME => {
                items.message = "WELCOME";
                Self::Welcome(items.welcome()?)
            }
            ACK => {
                items.message = "ACK";
                Self::Ack { seq: items.uint("seq")? }
            }
            REJECT => {
                items.message = "REJECT";
                Self::Reject {
                    seq: items.seq()?,
                    code: items.uint("code")?,
                    reason: items.text("reason", usize::MAX)?,
                }
            }
            COMMAND => {
                items.message = "COMMAND";
                Self::Command {
                    id: items.text("id", MESSAGE_ID_MAX)?,
                    name: items.text("name", usize::MAX)?,
                    params: items.value("params")?,
                    ttl: items.uint("ttl")?,
                }
            }
            other => return Err(unknown_type(other, "gateway")),
        };
        items.finish()?;
        Ok(message)
    }

    /// Writes the message.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Welcome(welcome) => {
                let mut out = Vec::with_capacity(128);
                let mut w = Writer::new(&mut out);
                w.array(2);
                w.uint(WELCOME);
                w.map(6);
                w.text("gateway");
                w.text(&welcome.gateway);
                w.text("time");
                w.double(welcome.time);
                for (key, value) in [
                    ("acked", welcome.acked),
                    ("window", welcome.window),
                    ("max_frame", welcome.max_frame),
                    ("heartbeat", welcome.heartbeat),
                ] {
                    w.text(key);
                    w.uint(value);
                }
                out
            }
            Self::Ack { seq } => {
                let mut out = Vec::with_capacity(11);
                let mut w = Writer::new(&mut out);
                w.array(2);
                w.uint(ACK);
                w.uint(*seq);
                out
            }
            Self::Reject { seq, code, reason } => {
                let mut out = Vec::with_capacity(reason.len() + 24);
                let mut w = Writer::new(&mut out);
                w.array(4);
                w.uint(REJECT);
                w.uint_or_null(*seq);
                w.uint(*code);
                w.text(reason);
                out
            }
            Self::Command { id, name, params, ttl } => {
                let mut out = Vec::new();
                let mut w = Writer::new(&mut out);
                w.array(5);
                w.uint(COMMAND);
                w.text(id);
                w.text(name);
                w.value(params);
                w.uint(*ttl);
                out
            }
        }
    }
}

/// Walks through the items of a message's array.
struct Items<'a> {
    cursor: Cursor<'a>,
    left: Len,
    message: &'static str,
}

/// Items of the message lie within its array.
const DEPTH: usize = 1;

impl<'a> Items<'a> {
    /// Opens the array and takes the message type.
    fn open(bytes: &'a [u8]) -> Result<(u64, Self), FrameError> {
        let mut cursor = Cursor::new(bytes);
        let left = match cursor.header()? {
            Header::Array(left) => left,
            other => {
                return Err(FrameError(format!("the message is {}, not an array", other.kind())));
            }
        };
        let mut items = Self { cursor, left, message: "the message" };
        let kind = items.uint("its type")?;
        Ok((kind, items))
    }

    /// Checks what is left, which is ignored otherwise.
    fn finish(mut self) -> Result<(), FrameError> {
        while self.cursor.more(&mut self.left)? {
            self.cursor.skip(DEPTH)?;
        }
        Ok(self.cursor.finish()?)
    }

    /// Moves to the item called `name`.
    fn item(&mut self, name: &str) -> Result<(), FrameError> {
        if self.cursor.more(&mut self.left)? {
            Ok(())
        } else {
            Err(FrameError(format!("{}: {name} is missing", self.message)))
        }
    }

    fn header(&mut self, name: &str) -> Result<Header, FrameError> {
        self.item(name)?;
        Ok(self.cursor.header()?)
    }

    fn wrong<T>(&self, name: &str, found: Header, wanted: &str) -> Result<T, FrameError> {
        Err(FrameError(format!("{}: {name} is {}, not {wanted}", self.message, found.kind())))
    }

    fn uint(&mut self, name: &str) -> Result<u64, FrameError> {
        match self.header(name)? {
            Header::Positive(n) => Ok(n),
            other => self.wrong(name, other, "an unsigned integer"),
        }
    }

    fn seq(&mut self) -> Result<Option<u64>, FrameError> {
        match self.header("seq")? {
            Header::Positive(n) => Ok(Some(n)),
            Header::NULL => Ok(None),
            other => self.wrong("seq", other, "an unsigned integer or null"),
        }
    }

    fn bool(&mut self, name: &str) -> Result<bool, FrameError> {
        match self.header(name)? {
            Header::FALSE => Ok(false),
            Header::TRUE => Ok(true),
            other => self.wrong(name, other, "a boolean"),
        }
    }

    fn text(&mut self, name: &str, max: usize) -> Result<String, FrameError> {
        let header = self.header(name)?;
        self.text_content(name, header, max)
    }

    fn value(&mut self, name: &str) -> Result<Value, FrameError> {
        self.item(name)?;
        Ok(self.cursor.value(DEPTH)?)
    }

    fn pack(&mut self) -> Result<&'a [u8], FrameError> {
        self.item("pack")?;
        let from = self.cursor.rest();
        let header = self.cursor.header()?;
        if !matches!(header, Header::Array(_)) {
            return self.wrong("pack", header, "an array");
        }
        self.cursor.skip_content(header, DEPTH)?;
        let len = from.len() - self.cursor.rest().len();
        Ok(from.get(..len).unwrap_or_default())
    }

    fn text_content(
        &mut self,
        name: &str,
        header: Header,
        max: usize,
    ) -> Result<String, FrameError> {
        let Header::Text(len) = header else {
            return self.wrong(name, header, "text");
        };
        let text = self.cursor.text(len)?;
        let chars = text.chars().count();
        if chars > max {
            return Err(FrameError(format!(
                "{}: {name} has {chars} characters, the limit is {max}",
                self.message
            )));
        }
        Ok(text.into_owned())
    }

    /// Reads the map of HELLO or WELCOME. `entry` takes the value of a key it knows and returns
    /// its bit, which must not come twice; the rest is passed over.
    fn map(
        &mut self,
        known: &[&str],
        mut entry: impl FnMut(&mut Self, &str, Header) -> Result<(), FrameError>,
    ) -> Result<Vec<bool>, FrameError> {
        let mut left = match self.header("its map")? {
            Header::Map(left) => left,
            other => return self.wrong("its second item", other, "a map"),
        };
        let mut seen = vec![false; known.len()];
        while self.cursor.more(&mut left)? {
            let key = match self.cursor.header()? {
                Header::Text(len) => self.cursor.text(len)?,
                other => {
                    self.cursor.skip_content(other, DEPTH + 1)?;
                    self.cursor.skip(DEPTH + 1)?;
                    continue;
                }
            };
            let place = known.iter().position(|known| *known == key);
            let Some((name, seen)) =
                place.and_then(|place| known.get(place).copied().zip(seen.get_mut(place)))
            else {
                self.cursor.skip(DEPTH + 1)?;
                continue;
            };
            if std::mem::replace(seen, true) {
                return Err(FrameError(format!("{}: {name} comes twice", self.message)));
            }
            let header = self.cursor.header()?;
            entry(self, name, header)?;
        }
        Ok(seen)
    }

    fn hello(&mut self) -> Result<Hello, FrameError> {
        let mut hello = Hello::default();
        self.map(&["epoch", "model", "firmware", "commands"], |items, key, header| {
            match key {
                "epoch" => match header {
                    Header::Positive(n) => hello.epoch = Some(n),
                    other => return items.wrong(key, other, "an unsigned integer"),
                },
                "model" => hello.model = Some(items.text_content(key, header, TEXT_MAX)?),
                "firmware" => hello.firmware = Some(items.text_content(key, header, TEXT_MAX)?),
                _ => hello.commands = items.commands(header)?,
            }
            Ok(())
        })?;
        Ok(hello)
    }

    fn commands(&mut self, header: Header) -> Result<Vec<String>, FrameError> {
        let Header::Array(mut left) = header else {
            return self.wrong("commands", header, "an array");
        };
        let mut commands = Vec::new();
        while self.cursor.more(&mut left)? {
            if commands.len() == COMMANDS_MAX {
                return Err(FrameError(format!(
                    "{}: commands lists more than {COMMANDS_MAX}",
                    self.message
                )));
            }
            let header = self.cursor.header()?;
            commands.push(self.text_content("a command's name", header, COMMAND_NAME_MAX)?);
        }
        Ok(commands)
    }

    fn welcome(&mut self) -> Result<Welcome, FrameError> {
        const KEYS: [&str; 6] = ["gateway", "time", "acked", "window", "max_frame", "heartbeat"];
        let mut welcome = Welcome {
            gateway: String::new(),
            time: 0.0,
            acked: 0,
            window: 0,
            max_frame: 0,
            heartbeat: 0,
        };
        let seen = self.map(&KEYS, |items, key, header| {
            let number = match (key, header) {
                ("gateway", header) => {
                    welcome.gateway = items.text_content(key, header, usize::MAX)?;
                    return Ok(());
                }
                ("time", Header::Float(bits)) if f64::from_bits(bits).is_finite() => {
                    welcome.time = f64::from_bits(bits);
                    return Ok(());
                }
                ("time", Header::Positive(time)) => {
                    welcome.time = time as f64;
                    return Ok(());
                }
                ("time", other) => return items.wrong(key, other, "a finite number"),
                (_, Header::Positive(number)) => number,
                (_, other) => return items.wrong(key, other, "an unsigned integer"),
            };
            match key {
                "acked" => welcome.acked = number,
                "window" => welcome.window = number,
                "max_frame" => welcome.max_frame = number,
                _ => welcome.heartbeat = number,
            }
            Ok(())
        })?;
        match KEYS.iter().zip(seen).find(|(_, seen)| !seen) {
            Some((key, _)) => Err(FrameError(format!("{}: {key} is missing", self.message))),
            None => Ok(welcome),
        }
    }
}

fn unknown_type(found: u64, sender: &str) -> FrameError {
    FrameError(format!("message type {found} is not one that a {sender} sends"))
}
