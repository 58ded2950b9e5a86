//! CBOR (RFC 8949) out of a byte slice and into a vector, on `ciborium-ll`.
//!
//! What comes from a device is hostile until proven otherwise, so everything here works within the
//! bytes that are really there: a length prefix is compared with what is left before anything is
//! taken, nothing is allocated from it, containers nest at most [`MAX_DEPTH`] deep, and each step
//! consumes at least one byte, so time is linear in the input.

use std::borrow::Cow;
use std::fmt;

use ciborium::Value;
use ciborium_ll::{Decoder, Encoder, Header as LowHeader, simple};

/// How deep arrays, maps and tags may nest; the message's own array is the first level.
pub(crate) const MAX_DEPTH: usize = 16;

/// The head of an item, as `ciborium_ll::Header` has it, but so that it travels in two registers:
/// every payload is one `u64`. Checking a record of four fields takes 30 ns this way; all through
/// `ciborium-ll`'s decoder and its heads it took 300 (one x86-64 core, best of 700 rounds).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Header {
    Positive(u64),
    /// The integer `-1 - n`.
    Negative(u64),
    /// The bits of a double.
    Float(u64),
    Simple(u64),
    Bytes(Len),
    Text(Len),
    Array(Len),
    Map(Len),
    Tag(u64),
    Break,
}

impl Header {
    pub(crate) const FALSE: Self = Self::Simple(simple::FALSE as u64);
    pub(crate) const TRUE: Self = Self::Simple(simple::TRUE as u64);
    pub(crate) const NULL: Self = Self::Simple(simple::NULL as u64);
    pub(crate) const UNDEFINED: Self = Self::Simple(simple::UNDEFINED as u64);

    /// What kind of item it begins, for error texts.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::Positive(_) => "an unsigned integer",
            Self::Negative(_) => "a negative integer",
            Self::Float(_) => "a floating-point number",
            Self::FALSE | Self::TRUE => "a boolean",
            Self::NULL => "null",
            Self::UNDEFINED => "undefined",
            Self::Simple(_) => "a simple value",
            Self::Bytes(_) => "a byte string",
            Self::Text(_) => "text",
            Self::Array(_) => "an array",
            Self::Map(_) => "a map",
            Self::Tag(_) => "a tagged item",
            Self::Break => "a break",
        }
    }
}

/// The length of a string in bytes, of an array in items, of a map in pairs; or indefinite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Len(u64);

impl Len {
    /// [`Cursor::header`] lets no definite length of this size pass.
    pub(crate) const INDEFINITE: Self = Self(u64::MAX);

    /// The length, if it is definite; the largest `usize` stands for all that is larger.
    #[inline]
    pub(crate) fn definite(self) -> Option<usize> {
        (self != Self::INDEFINITE).then(|| usize::try_from(self.0).unwrap_or(usize::MAX))
    }
}

/// Where and why bytes are not well-formed CBOR: a [`Fault`] in the lowest byte, the offset above
/// it, so that `Result<Header, Error>` fits two registers too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Error(u64);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    End,
    Reserved,
    Break,
    Chunk,
    Utf8,
    Depth,
    Simple,
    Trailing,
}

impl Error {
    #[cold]
    fn new(fault: Fault, offset: usize) -> Self {
        Self((offset as u64) << 8 | fault as u64)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const FAULTS: [(Fault, &str); 8] = [
            (Fault::End, "the input ends inside the item"),
            (Fault::Reserved, "reserved initial bytes"),
            (Fault::Break, "a break where an item is due"),
            (Fault::Chunk, "a chunk that is not a definite-length string of its string's kind"),
            (Fault::Utf8, "text that is not valid UTF-8"),
            (Fault::Depth, "nesting of more than 16 levels"),
            (Fault::Simple, "a simple value without a meaning"),
            (Fault::Trailing, "bytes left over"),
        ];
        let text = FAULTS
            .iter()
            .find(|(fault, _)| *fault as u64 == self.0 & 0xff)
            .map_or("damage", |(_, text)| *text);
        write!(f, "{text} at byte {}", self.0 >> 8)
    }
}

/// Reads one item after the other from a slice, borrowing strings from it.
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
    len: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Self { rest: input, len: input.len() }
    }

    /// What is not consumed yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The head of the next item. The content of strings, arrays, maps and tags follows it.
    ///
    /// The forms that fill almost every message are read here; `ciborium-ll`, which reads byte by
    /// byte from any kind of reader, has the rest: short floats, simple values, breaks and
    /// indefinite lengths.
    #[inline(always)]
    #[allow(
        clippy::inline_always,
        reason = "checking a message takes a third less time with it, measured"
    )]
    pub(crate) fn header(&mut self) -> Result<Header, Error> {
        let Some((first, rest)) = self.rest.split_first() else {
            return Err(self.error(Fault::End));
        };
        let (argument, rest) = match first & 0x1f {
            minor @ 0..=23 => (u64::from(minor), rest),
            24 => match rest.split_first_chunk() {
                Some((bytes, rest)) => (u8::from_be_bytes(*bytes).into(), rest),
                None => return Err(self.error(Fault::End)),
            },
            25 => match rest.split_first_chunk() {
                Some((bytes, rest)) => (u16::from_be_bytes(*bytes).into(), rest),
                None => return Err(self.error(Fault::End)),
            },
            26 => match rest.split_first_chunk() {
                Some((bytes, rest)) => (u32::from_be_bytes(*bytes).into(), rest),
                None => return Err(self.error(Fault::End)),
            },
            27 => match rest.split_first_chunk() {
                Some((bytes, rest)) => (u64::from_be_bytes(*bytes), rest),
                None => return Err(self.error(Fault::End)),
            },
            _ => return self.rare_header(),
        };
        let header = match first >> 5 {
            0 => Header::Positive(argument),
            1 => Header::Negative(argument),
            2 => Header::Bytes(Len(argument)),
            3 => Header::Text(Len(argument)),
            4 => Header::Array(Len(argument)),
            5 => Header::Map(Len(argument)),
            6 => Header::Tag(argument),
            _ if *first == 0xfb => Header::Float(argument),
            _ => return self.rare_header(),
        };
        // A definite length of 2^64 - 1 would pass for an indefinite one.
        if argument == u64::MAX && matches!(first, 0x40..0xc0) {
            return Err(self.error(Fault::End));
        }
        self.rest = rest;
        Ok(header)
    }

    #[cold]
    #[inline(never)]
    fn rare_header(&mut self) -> Result<Header, Error> {
        let mut decoder = Decoder::from(self.rest);
        let header = match decoder.pull() {
            Ok(header) => header,
            Err(ciborium_ll::Error::Io(_)) => return Err(self.error(Fault::End)),
            Err(ciborium_ll::Error::Syntax(_)) => return Err(self.error(Fault::Reserved)),
        };
        let len = |len: Option<usize>| len.map_or(Len::INDEFINITE, |len| Len(len as u64));
        let header = match header {
            LowHeader::Positive(number) => Header::Positive(number),
            LowHeader::Negative(inverted) => Header::Negative(inverted),
            LowHeader::Float(number) => Header::Float(number.to_bits()),
            // Simple values below 32 have a one-byte form only (RFC 8949 section 3.3); the decoder
            // takes the longer one too.
            LowHeader::Simple(0..32) if self.rest.first() == Some(&0xf8) => {
                return Err(self.error(Fault::Reserved));
            }
            LowHeader::Simple(value) => Header::Simple(value.into()),
            LowHeader::Tag(tag) => Header::Tag(tag),
            LowHeader::Break => Header::Break,
            LowHeader::Bytes(bytes) => Header::Bytes(len(bytes)),
            LowHeader::Text(bytes) => Header::Text(len(bytes)),
            LowHeader::Array(items) => Header::Array(len(items)),
            LowHeader::Map(pairs) => Header::Map(len(pairs)),
        };
        self.rest = self.rest.get(decoder.offset()..).unwrap_or_default();
        Ok(header)
    }

    /// Whether another item of an array, or another pair of a map, follows; `left` is the length
    /// its header gave. Takes the break of an indefinite one.
    #[inline]
    pub(crate) fn more(&mut self, left: &mut Len) -> Result<bool, Error> {
        match *left {
            Len::INDEFINITE => self.more_before_break(),
            Len(0) => Ok(false),
            Len(count) => {
                *left = Len(count - 1);
                Ok(true)
            }
        }
    }

    fn more_before_break(&mut self) -> Result<bool, Error> {
        match self.rest.split_first() {
            Some((0xff, rest)) => {
                self.rest = rest;
                Ok(false)
            }
            Some(_) => Ok(true),
            None => Err(self.error(Fault::End)),
        }
    }

    /// The content of a text string whose header said `len`.
    #[inline]
    pub(crate) fn text(&mut self, len: Len) -> Result<Cow<'a, str>, Error> {
        if len != Len::INDEFINITE {
            return self.text_chunk(len).map(Cow::Borrowed);
        }
        let mut text = String::new();
        self.chunks(true, |cursor, len| cursor.text_chunk(len).map(|chunk| text.push_str(chunk)))?;
        Ok(Cow::Owned(text))
    }

    /// The content of a byte string whose header said `len`.
    pub(crate) fn bytes(&mut self, len: Len) -> Result<Cow<'a, [u8]>, Error> {
        if len != Len::INDEFINITE {
            return self.take(len).map(Cow::Borrowed);
        }
        let mut bytes = Vec::new();
        self.chunks(false, |cursor, len| {
            cursor.take(len).map(|chunk| bytes.extend_from_slice(chunk))
        })?;
        Ok(Cow::Owned(bytes))
    }

    /// Passes over the next item, which lies within `depth` containers, and checks it on the way.
    pub(crate) fn skip(&mut self, depth: usize) -> Result<(), Error> {
        self.skip_items(1, depth)
    }

    fn skip_items(&mut self, count: u64, depth: usize) -> Result<(), Error> {
        for _ in 0..count {
            let header = self.header()?;
            self.skip_content(header, depth)?;
        }
        Ok(())
    }

    /// Passes over what follows `header`.
    #[inline]
    pub(crate) fn skip_content(&mut self, header: Header, depth: usize) -> Result<(), Error> {
        match header {
            Header::Positive(_) | Header::Negative(_) | Header::Float(_) | Header::Simple(_) => {
                Ok(())
            }
            Header::Bytes(Len::INDEFINITE)
            | Header::Text(Len::INDEFINITE)
            | Header::Array(Len::INDEFINITE)
            | Header::Map(Len::INDEFINITE)
            | Header::Break => self.skip_indefinite(header, depth),
            Header::Bytes(len) => self.take(len).map(drop),
            Header::Text(len) => self.text_chunk(len).map(drop),
            Header::Array(Len(items)) => self.skip_items(items, self.enter(depth)?),
            // What overflows is more than there can be, so it ends the same way.
            Header::Map(Len(pairs)) => self.skip_items(pairs.saturating_mul(2), self.enter(depth)?),
            Header::Tag(_) => self.skip_items(1, self.enter(depth)?),
        }
    }

    fn skip_indefinite(&mut self, header: Header, depth: usize) -> Result<(), Error> {
        let items = match header {
            Header::Bytes(_) => {
                return self.chunks(false, |cursor, len| cursor.take(len).map(drop));
            }
            Header::Text(_) => {
                return self.chunks(true, |cursor, len| cursor.text_chunk(len).map(drop));
            }
            Header::Array(_) => 1,
            Header::Map(_) => 2,
            _ => return Err(self.error_before(Fault::Break)),
        };
        let inside = self.enter(depth)?;
        while self.more_before_break()? {
            self.skip_items(items, inside)?;
        }
        Ok(())
    }

    /// The next item as a [`Value`]. `undefined` becomes null; other simple values than the four
    /// of RFC 8949 have no counterpart and are an error.
    pub(crate) fn value(&mut self, depth: usize) -> Result<Value, Error> {
        Ok(match self.header()? {
            Header::Positive(number) => Value::Integer(number.into()),
            Header::Negative(inverted) => {
                // Within -2^64 to -1, so the conversion holds.
                ciborium::value::Integer::try_from(-1 - i128::from(inverted))
                    .map_or(Value::Null, Value::Integer)
            }
            Header::Float(bits) => Value::Float(f64::from_bits(bits)),
            Header::FALSE => Value::Bool(false),
            Header::TRUE => Value::Bool(true),
            Header::NULL | Header::UNDEFINED => Value::Null,
            Header::Simple(_) => return Err(self.error_before(Fault::Simple)),
            Header::Break => return Err(self.error_before(Fault::Break)),
            Header::Bytes(len) => Value::Bytes(self.bytes(len)?.into_owned()),
            Header::Text(len) => Value::Text(self.text(len)?.into_owned()),
            Header::Array(mut left) => {
                let inside = self.enter(depth)?;
                let mut items = Vec::new();
                while self.more(&mut left)? {
                    items.push(self.value(inside)?);
                }
                Value::Array(items)
            }
            Header::Map(mut left) => {
                let inside = self.enter(depth)?;
                let mut pairs = Vec::new();
                while self.more(&mut left)? {
                    let key = self.value(inside)?;
                    pairs.push((key, self.value(inside)?));
                }
                Value::Map(pairs)
            }
            Header::Tag(tag) => {
                let inside = self.enter(depth)?;
                Value::Tag(tag, Box::new(self.value(inside)?))
            }
        })
    }

    /// Checks that nothing is left over.
    pub(crate) fn finish(&self) -> Result<(), Error> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.error(Fault::Trailing)) }
    }

    fn enter(&self, depth: usize) -> Result<usize, Error> {
        if depth < MAX_DEPTH { Ok(depth + 1) } else { Err(self.error_before(Fault::Depth)) }
    }

    #[inline]
    fn take(&mut self, len: Len) -> Result<&'a [u8], Error> {
        match len.definite().and_then(|len| self.rest.split_at_checked(len)) {
            Some((taken, rest)) => {
                self.rest = rest;
                Ok(taken)
            }
            None => Err(self.error(Fault::End)),
        }
    }

    #[inline]
    fn text_chunk(&mut self, len: Len) -> Result<&'a str, Error> {
        let offset = self.offset();
        std::str::from_utf8(self.take(len)?).map_err(|_| Error::new(Fault::Utf8, offset))
    }

    /// Gives each chunk of an indefinite-length string to `chunk`.
    fn chunks(
        &mut self,
        text: bool,
        mut chunk: impl FnMut(&mut Self, Len) -> Result<(), Error>,
    ) -> Result<(), Error> {
        while self.more_before_break()? {
            let offset = self.offset();
            match self.header()? {
                Header::Text(len) if text && len != Len::INDEFINITE => chunk(self, len)?,
                Header::Bytes(len) if !text && len != Len::INDEFINITE => chunk(self, len)?,
                _ => return Err(Error::new(Fault::Chunk, offset)),
            }
        }
        Ok(())
    }

    /// Bytes consumed so far.
    fn offset(&self) -> usize {
        self.len - self.rest.len()
    }

    #[cold]
    fn error(&self, fault: Fault) -> Error {
        Error::new(fault, self.offset())
    }

    /// For a fault in the head that was just read: names its last byte.
    #[cold]
    fn error_before(&self, fault: Fault) -> Error {
        Error::new(fault, self.offset().saturating_sub(1))
    }
}

/// Appends items to a buffer.
pub(crate) struct Writer<'a>(&'a mut Vec<u8>);

impl<'a> Writer<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        Self(out)
    }

    pub(crate) fn array(&mut self, len: usize) {
        self.header(LowHeader::Array(Some(len)));
    }

    pub(crate) fn map(&mut self, len: usize) {
        self.header(LowHeader::Map(Some(len)));
    }

    pub(crate) fn uint(&mut self, number: u64) {
        self.header(LowHeader::Positive(number));
    }

    /// The integer `-1 - inverted`.
    pub(crate) fn negative(&mut self, inverted: u64) {
        self.header(LowHeader::Negative(inverted));
    }

    pub(crate) fn uint_or_null(&mut self, number: Option<u64>) {
        match number {
            Some(number) => self.uint(number),
            None => self.header(LowHeader::Simple(simple::NULL)),
        }
    }

    pub(crate) fn bool(&mut self, value: bool) {
        self.header(LowHeader::Simple(if value { simple::TRUE } else { simple::FALSE }));
    }

    /// A float in the shortest form that keeps its value.
    pub(crate) fn float(&mut self, number: f64) {
        self.header(LowHeader::Float(number));
    }

    /// A double in its full eight bytes, for readers that know no shorter float.
    pub(crate) fn double(&mut self, number: f64) {
        self.0.push(0xfb);
        self.0.extend_from_slice(&number.to_be_bytes());
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.header(LowHeader::Text(Some(text.len())));
        self.raw(text.as_bytes());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.header(LowHeader::Bytes(Some(bytes.len())));
        self.raw(bytes);
    }

    /// What is encoded already.
    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    pub(crate) fn value(&mut self, value: &Value) {
        // Writing to a vector cannot fail, and a `Value` has no part that cannot be written.
        let _ = ciborium::into_writer(value, &mut *self.0);
    }

    #[inline]
    fn header(&mut self, header: LowHeader) {
        // As above.
        let _ = Encoder::from(&mut *self.0).push(header);
    }
}
