//! CBOR (RFC 8949) out of a byte slice, on `ciborium-ll`'s pull decoder.
//!
//! What comes from a device is hostile until proven otherwise, so everything here works within the
//! bytes that are really there: a length prefix is compared with what is left before anything is
//! taken, nothing is allocated from it, containers nest at most [`MAX_DEPTH`] deep, and each step
//! consumes at least one byte, so time is linear in the input.

use std::borrow::Cow;
use std::fmt;

use ciborium::Value;
use ciborium_ll::{Decoder, Encoder, Header, simple};

/// How deep arrays, maps and tags may nest; the message's own array is the first level.
pub(crate) const MAX_DEPTH: usize = 16;

/// Where and why bytes are not well-formed CBOR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Error {
    offset: usize,
    fault: Fault,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    End,
    Reserved,
    Break,
    Chunk,
    Utf8,
    Depth,
    Simple(u8),
    Trailing,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let offset = self.offset;
        match self.fault {
            Fault::End => write!(f, "it ends inside the item at byte {offset}"),
            Fault::Reserved => write!(f, "reserved or unusable initial bytes at byte {offset}"),
            Fault::Break => write!(f, "a break at byte {offset} where nothing is open"),
            Fault::Chunk => write!(
                f,
                "the chunk at byte {offset} is not a definite-length string of its string's kind"
            ),
            Fault::Utf8 => write!(f, "the text at byte {offset} is not valid UTF-8"),
            Fault::Depth => {
                write!(f, "the item at byte {offset} is nested deeper than {MAX_DEPTH} levels")
            }
            Fault::Simple(value) => {
                write!(f, "simple value {value} at byte {offset} has no meaning here")
            }
            Fault::Trailing => write!(f, "there are bytes left over from byte {offset} on"),
        }
    }
}

/// Reads one item after the other from a slice, borrowing strings from it.
#[derive(Clone)]
pub(crate) struct Cursor<'a> {
    rest: &'a [u8],
    len: usize,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Self { rest: input, len: input.len() }
    }

    /// Bytes consumed so far.
    pub(crate) fn offset(&self) -> usize {
        self.len - self.rest.len()
    }

    /// What is not consumed yet.
    pub(crate) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The head of the next item. The content of strings, arrays, maps and tags follows it.
    #[inline]
    pub(crate) fn header(&mut self) -> Result<Header, Error> {
        let mut decoder = Decoder::from(self.rest);
        let header = match decoder.pull() {
            Ok(header) => header,
            Err(ciborium_ll::Error::Io(_)) => return Err(self.error(Fault::End)),
            Err(ciborium_ll::Error::Syntax(_)) => return Err(self.error(Fault::Reserved)),
        };
        // Simple values below 32 have a one-byte form only (RFC 8949 section 3.3); the decoder
        // takes the longer one too.
        if matches!(header, Header::Simple(0..32)) && self.rest.first() == Some(&0xf8) {
            return Err(self.error(Fault::Reserved));
        }
        self.rest = self.rest.get(decoder.offset()..).unwrap_or_default();
        Ok(header)
    }

    /// Whether another item of an array, or another pair of a map, follows; `left` is the length
    /// its header gave. Takes the break of an indefinite one.
    #[inline]
    pub(crate) fn more(&mut self, left: &mut Option<usize>) -> Result<bool, Error> {
        match left {
            Some(0) => Ok(false),
            Some(left) => {
                *left -= 1;
                Ok(true)
            }
            None => match self.rest.split_first() {
                Some((0xff, rest)) => {
                    self.rest = rest;
                    Ok(false)
                }
                Some(_) => Ok(true),
                None => Err(self.error(Fault::End)),
            },
        }
    }

    /// The content of a text string whose header said `len`.
    #[inline]
    pub(crate) fn text(&mut self, len: Option<usize>) -> Result<Cow<'a, str>, Error> {
        if let Some(len) = len {
            return self.text_chunk(len).map(Cow::Borrowed);
        }
        let mut text = String::new();
        self.chunks(true, |cursor, len| cursor.text_chunk(len).map(|chunk| text.push_str(chunk)))?;
        Ok(Cow::Owned(text))
    }

    /// The content of a byte string whose header said `len`.
    pub(crate) fn bytes(&mut self, len: Option<usize>) -> Result<Cow<'a, [u8]>, Error> {
        if let Some(len) = len {
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
        let header = self.header()?;
        self.skip_content(header, depth)
    }

    /// Passes over what follows `header`.
    pub(crate) fn skip_content(&mut self, header: Header, depth: usize) -> Result<(), Error> {
        match header {
            Header::Positive(_) | Header::Negative(_) | Header::Float(_) | Header::Simple(_) => {
                Ok(())
            }
            Header::Break => Err(self.error(Fault::Break)),
            Header::Bytes(Some(len)) => self.take(len).map(drop),
            Header::Bytes(None) => self.chunks(false, |cursor, len| cursor.take(len).map(drop)),
            Header::Text(Some(len)) => self.text_chunk(len).map(drop),
            Header::Text(None) => self.chunks(true, |cursor, len| cursor.text_chunk(len).map(drop)),
            Header::Array(mut left) => {
                let inside = self.enter(depth)?;
                while self.more(&mut left)? {
                    self.skip(inside)?;
                }
                Ok(())
            }
            Header::Map(mut left) => {
                let inside = self.enter(depth)?;
                while self.more(&mut left)? {
                    self.skip(inside)?;
                    self.skip(inside)?;
                }
                Ok(())
            }
            Header::Tag(_) => {
                let inside = self.enter(depth)?;
                self.skip(inside)
            }
        }
    }

    /// The next item as a [`Value`]. `undefined` becomes null; other simple values than the four
    /// of RFC 8949 have no counterpart and are an error.
    pub(crate) fn value(&mut self, depth: usize) -> Result<Value, Error> {
        Ok(match self.header()? {
            Header::Positive(n) => Value::Integer(n.into()),
            Header::Negative(n) => {
                // Within -2^64 to -1, so the conversion holds.
                ciborium::value::Integer::try_from(-1 - i128::from(n))
                    .map_or(Value::Null, Value::Integer)
            }
            Header::Float(number) => Value::Float(number),
            Header::Simple(simple::FALSE) => Value::Bool(false),
            Header::Simple(simple::TRUE) => Value::Bool(true),
            Header::Simple(simple::NULL | simple::UNDEFINED) => Value::Null,
            Header::Simple(other) => return Err(self.error(Fault::Simple(other))),
            Header::Break => return Err(self.error(Fault::Break)),
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
        if depth < MAX_DEPTH { Ok(depth + 1) } else { Err(self.error(Fault::Depth)) }
    }

    #[inline]
    fn take(&mut self, len: usize) -> Result<&'a [u8], Error> {
        let Some((taken, rest)) = self.rest.split_at_checked(len) else {
            return Err(self.error(Fault::End));
        };
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    fn text_chunk(&mut self, len: usize) -> Result<&'a str, Error> {
        let error = self.error(Fault::Utf8);
        std::str::from_utf8(self.take(len)?).map_err(|_| error)
    }

    /// Gives each chunk of an indefinite-length string to `chunk`.
    fn chunks(
        &mut self,
        text: bool,
        mut chunk: impl FnMut(&mut Self, usize) -> Result<(), Error>,
    ) -> Result<(), Error> {
        while self.more(&mut None)? {
            let error = self.error(Fault::Chunk);
            match self.header()? {
                Header::Text(Some(len)) if text => chunk(self, len)?,
                Header::Bytes(Some(len)) if !text => chunk(self, len)?,
                _ => return Err(error),
            }
        }
        Ok(())
    }

    fn error(&self, fault: Fault) -> Error {
        Error { offset: self.offset(), fault }
    }
}

/// What kind of item a header begins, for error texts.
pub(crate) fn kind(header: Header) -> &'static str {
    match header {
        Header::Positive(_) => "an unsigned integer",
        Header::Negative(_) => "a negative integer",
        Header::Float(_) => "a floating-point number",
        Header::Simple(simple::FALSE | simple::TRUE) => "a boolean",
        Header::Simple(simple::NULL) => "null",
        Header::Simple(simple::UNDEFINED) => "undefined",
        Header::Simple(_) => "a simple value",
        Header::Bytes(_) => "a byte string",
        Header::Text(_) => "text",
        Header::Array(_) => "an array",
        Header::Map(_) => "a map",
        Header::Tag(_) => "a tagged item",
        Header::Break => "a break",
    }
}

/// Appends items to a buffer.
pub(crate) struct Writer<'a>(&'a mut Vec<u8>);

impl<'a> Writer<'a> {
    pub(crate) fn new(out: &'a mut Vec<u8>) -> Self {
        Self(out)
    }

    #[inline]
    pub(crate) fn header(&mut self, header: Header) {
        // Writing to a vector cannot fail.
        let _ = Encoder::from(&mut *self.0).push(header);
    }

    pub(crate) fn array(&mut self, len: usize) {
        self.header(Header::Array(Some(len)));
    }

    pub(crate) fn map(&mut self, len: usize) {
        self.header(Header::Map(Some(len)));
    }

    pub(crate) fn uint(&mut self, n: u64) {
        self.header(Header::Positive(n));
    }

    pub(crate) fn uint_or_null(&mut self, n: Option<u64>) {
        self.header(n.map_or(Header::Simple(simple::NULL), Header::Positive));
    }

    pub(crate) fn bool(&mut self, value: bool) {
        self.header(Header::Simple(if value { simple::TRUE } else { simple::FALSE }));
    }

    pub(crate) fn text(&mut self, text: &str) {
        self.header(Header::Text(Some(text.len())));
        self.0.extend_from_slice(text.as_bytes());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.header(Header::Bytes(Some(bytes.len())));
        self.0.extend_from_slice(bytes);
    }

    /// A double in its full eight bytes, for readers that know no shorter float.
    pub(crate) fn double(&mut self, number: f64) {
        self.0.push(0xfb);
        self.0.extend_from_slice(&number.to_be_bytes());
    }

    /// One item that is encoded already.
    pub(crate) fn raw(&mut self, item: &[u8]) {
        self.0.extend_from_slice(item);
    }

    pub(crate) fn value(&mut self, value: &Value) {
        // Writing to a vector cannot fail, and a `Value` has no part that cannot be written.
        let _ = ciborium::into_writer(value, &mut *self.0);
    }
}
