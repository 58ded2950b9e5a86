//! The numbers of SenML-CBOR (RFC 8428 section 6): integers, floats of every size, bignums and
//! decimal fractions (RFC 8949 sections 3.4.3 and 3.4.4), each as the nearest double.

use crate::core::cbor::{Cursor, Error, Header};

const POSITIVE_BIGNUM: u64 = 2;
const NEGATIVE_BIGNUM: u64 = 3;
const DECIMAL_FRACTION: u64 = 4;

/// No double reaches 2^1024, so a longer bignum need not be looked at.
const BIGNUM_MAX: usize = 128;

/// Why an item is not a usable number; the text follows "it ".
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    Cbor(Error),
    Wrong(String),
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self::Cbor(error)
    }
}

/// The number whose header is `header`.
#[inline]
pub(super) fn number(cursor: &mut Cursor<'_>, header: Header) -> Result<f64, Fault> {
    let number = match header {
        Header::Float(bits) => f64::from_bits(bits),
        Header::Positive(number) => number as f64,
        Header::Negative(inverted) => negative(inverted),
        Header::Tag(tag) => tagged(cursor, tag)?,
        other => return Err(Fault::Wrong(format!("is {}, not a number", other.kind()))),
    };
    if number.is_finite() { Ok(number) } else { Err(Fault::Wrong("is not a finite number".into())) }
}

fn negative(inverted: u64) -> f64 {
    (-1 - i128::from(inverted)) as f64
}

fn tagged(cursor: &mut Cursor<'_>, tag: u64) -> Result<f64, Fault> {
    match tag {
        POSITIVE_BIGNUM => Ok(bignum(cursor)?.to_f64()),
        NEGATIVE_BIGNUM => Ok(-bignum(cursor)?.plus_one().to_f64()),
        DECIMAL_FRACTION => decimal_fraction(cursor),
        other => Err(Fault::Wrong(format!(
            "has tag {other}; a number may be a bignum (2, 3) or a decimal fraction (4)"
        ))),
    }
}

fn bignum(cursor: &mut Cursor<'_>) -> Result<Bignum, Fault> {
    match cursor.header()? {
        Header::Bytes(len) => Ok(Bignum::new(&cursor.bytes(len)?)),
        other => {
            Err(Fault::Wrong(format!("is a bignum of {}, not of a byte string", other.kind())))
        }
    }
}

/// `[exponent, mantissa]`: mantissa × 10^exponent.
fn decimal_fraction(cursor: &mut Cursor<'_>) -> Result<f64, Fault> {
    let shape =
        || Fault::Wrong("is not a decimal fraction of the form [exponent, mantissa]".to_owned());
    let Header::Array(mut left) = cursor.header()? else { return Err(shape()) };
    if !cursor.more(&mut left)? {
        return Err(shape());
    }
    let exponent = match cursor.header()? {
        Header::Positive(exponent) => i128::from(exponent),
        Header::Negative(inverted) => -1 - i128::from(inverted),
        _ => return Err(shape()),
    };
    if !cursor.more(&mut left)? {
        return Err(shape());
    }
    let too_long = || Fault::Wrong("has a mantissa of more than 128 bits".to_owned());
    let (sign, mantissa) = match cursor.header()? {
        Header::Positive(mantissa) => ("", u128::from(mantissa)),
        Header::Negative(inverted) => ("-", u128::from(inverted) + 1),
        Header::Tag(POSITIVE_BIGNUM) => ("", bignum(cursor)?.to_u128().ok_or_else(too_long)?),
        Header::Tag(NEGATIVE_BIGNUM) => {
            ("-", bignum(cursor)?.plus_one().to_u128().ok_or_else(too_long)?)
        }
        _ => return Err(shape()),
    };
    if cursor.more(&mut left)? {
        return Err(shape());
    }
    // The parser rounds correctly, whatever the exponent; arithmetic with powers of ten does not.
    format!("{sign}{mantissa}e{exponent}").parse().map_err(|_| shape())
}

/// An unsigned integer of up to [`BIGNUM_MAX`] bytes, right-aligned; one more byte for the carry
/// of [`Bignum::plus_one`]. Anything longer is kept as "too large".
struct Bignum {
    bytes: [u8; BIGNUM_MAX + 1],
    too_large: bool,
}

impl Bignum {
    fn new(digits: &[u8]) -> Self {
        let mut number = Self { bytes: [0; BIGNUM_MAX + 1], too_large: false };
        let digits = significant(digits);
        if digits.len() > BIGNUM_MAX {
            number.too_large = true;
        } else {
            for (to, from) in number.bytes.iter_mut().rev().zip(digits.iter().rev()) {
                *to = *from;
            }
        }
        number
    }

    fn plus_one(mut self) -> Self {
        for byte in self.bytes.iter_mut().rev() {
            let (sum, carry) = byte.overflowing_add(1);
            *byte = sum;
            if !carry {
                break;
            }
        }
        self
    }

    fn to_u128(&self) -> Option<u128> {
        let digits = significant(&self.bytes);
        (!self.too_large && digits.len() <= 16).then(|| fold(digits))
    }

    /// The nearest double, or infinity.
    fn to_f64(&self) -> f64 {
        let digits = significant(&self.bytes);
        if self.too_large || digits.len() > BIGNUM_MAX {
            return f64::INFINITY;
        }
        let (head, tail) = digits.split_at(digits.len().min(16));
        // 128 bits are more than a double holds: of the rest only matters whether it is zero.
        let sticky = u128::from(tail.iter().any(|byte| *byte != 0));
        (fold(head) | sticky) as f64 * power_of_two(8 * tail.len())
    }
}

/// Without leading zeros.
fn significant(digits: &[u8]) -> &[u8] {
    let zeros = digits.iter().take_while(|byte| **byte == 0).count();
    digits.get(zeros..).unwrap_or_default()
}

fn fold(digits: &[u8]) -> u128 {
    digits.iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
}

/// 2^`exponent`, exactly; at most 2^1016 is asked for.
fn power_of_two(exponent: usize) -> f64 {
    f64::from_bits((1023 + exponent as u64) << 52)
}
