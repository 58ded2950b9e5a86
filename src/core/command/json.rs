//! JSON, which requesters speak, and CBOR, which devices speak.
//!
//! **JSON → CBOR** (parameters) loses nothing: integers of 64 bits stay integers, `1.0` stays a
//! float, an integer beyond 64 bits becomes the nearest float (as the JSON reader has it), member
//! names become text keys. A member that is given twice counts as it was given last.
//!
//! **CBOR → JSON** (results) follows RFC 8949 section 6.1:
//!
//! | CBOR | JSON |
//! |---|---|
//! | integer | the number; beyond 64 bits the nearest float |
//! | float | the number; NaN and infinities become null |
//! | byte string | base64url without padding, as SenML's `vd`; after tag 22 base64, after tag 23 hexadecimal |
//! | bignum (tags 2 and 3) | base64url without padding, after `~` where negative |
//! | any other tag | what it tags |
//! | map key that is not text | its JSON as text: `{1: 2}` becomes `{"1":2}` |
//! | keys that become the same text | the last one counts |
//! | `undefined`, unknown simple values | null |
//! | deeper than [`DEPTH_MAX`] levels | null |

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ciborium::Value;
use serde_json::Value as Json;

/// Levels of nesting of parameters and results. A COMMAND of 16 levels, its own array being one, is
/// the most that a device of this protocol has to understand.
pub const DEPTH_MAX: usize = 15;

const POSITIVE_BIGNUM: u64 = 2;
const NEGATIVE_BIGNUM: u64 = 3;
const EXPECTED_BASE64: u64 = 22;
const EXPECTED_HEX: u64 = 23;

/// Parameters as a device reads them. `None` where they nest deeper than [`DEPTH_MAX`] levels.
#[must_use]
pub fn to_cbor(json: &Json) -> Option<Value> {
    from_json(json, DEPTH_MAX)
}

fn from_json(json: &Json, depth: usize) -> Option<Value> {
    Some(match json {
        Json::Null => Value::Null,
        Json::Bool(flag) => Value::Bool(*flag),
        Json::Number(number) => match (number.as_u64(), number.as_i64()) {
            (Some(number), _) => Value::Integer(number.into()),
            (None, Some(number)) => Value::Integer(number.into()),
            (None, None) => Value::Float(number.as_f64()?),
        },
        Json::String(text) => Value::Text(text.clone()),
        Json::Array(items) => {
            let inside = depth.checked_sub(1)?;
            let items = items.iter().map(|item| from_json(item, inside));
            Value::Array(items.collect::<Option<_>>()?)
        }
        Json::Object(members) => {
            let inside = depth.checked_sub(1)?;
            let members = members
                .iter()
                .map(|(name, value)| Some((Value::Text(name.clone()), from_json(value, inside)?)));
            Value::Map(members.collect::<Option<_>>()?)
        }
    })
}

/// A result as requesters read it; see the module.
#[must_use]
pub fn to_json(value: &Value) -> Json {
    into_json(value, DEPTH_MAX)
}

fn into_json(value: &Value, depth: usize) -> Json {
    let inside = depth.checked_sub(1);
    match value {
        Value::Integer(integer) => {
            let integer = i128::from(*integer);
            let exact = u64::try_from(integer).map(Json::from);
            let exact = exact.or_else(|_| i64::try_from(integer).map(Json::from));
            exact.unwrap_or_else(|_| (integer as f64).into())
        }
        Value::Float(number) => (*number).into(),
        Value::Bytes(bytes) => bytes_text(bytes).into(),
        Value::Text(text) => text.as_str().into(),
        Value::Bool(flag) => (*flag).into(),
        Value::Array(items) => inside.map_or(Json::Null, |inside| {
            items.iter().map(|item| into_json(item, inside)).collect()
        }),
        Value::Map(pairs) => inside.map_or(Json::Null, |inside| {
            let pair =
                |(key, value): &(Value, Value)| (key_text(key, inside), into_json(value, inside));
            pairs.iter().map(pair).collect()
        }),
        Value::Tag(tag, tagged) => match (*tag, &**tagged, inside) {
            (POSITIVE_BIGNUM, Value::Bytes(bytes), _) => bytes_text(bytes).into(),
            (NEGATIVE_BIGNUM, Value::Bytes(bytes), _) => format!("~{}", bytes_text(bytes)).into(),
            (EXPECTED_BASE64, Value::Bytes(bytes), _) => STANDARD.encode(bytes).into(),
            (EXPECTED_HEX, Value::Bytes(bytes), _) => hex(bytes).into(),
            (_, tagged, Some(inside)) => into_json(tagged, inside),
            (_, _, None) => Json::Null,
        },
        // Null, and what a later version of the library may add.
        _ => Json::Null,
    }
}

fn key_text(key: &Value, depth: usize) -> String {
    match into_json(key, depth) {
        Json::String(text) => text,
        other => other.to_string(),
    }
}

/// Bytes as text in JSON: base64url without padding.
#[must_use]
pub fn bytes_text(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or('0');
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

/// How many bytes `value` takes as CBOR.
#[must_use]
pub fn cbor_len(value: &Value) -> usize {
    struct Count(usize);
    impl std::io::Write for Count {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut count = Count(0);
    match ciborium::into_writer(value, &mut count) {
        Ok(()) => count.0,
        // What cannot be written is too long for anything.
        Err(_) => usize::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn arbitrary_json() -> impl Strategy<Value = Json> {
        let leaf = prop_oneof![
            Just(Json::Null),
            any::<bool>().prop_map(Json::from),
            any::<u64>().prop_map(Json::from),
            any::<i64>().prop_map(Json::from),
            (-1e300..1e300).prop_map(Json::from),
            ".{0,12}".prop_map(Json::from),
        ];
        leaf.prop_recursive(6, 40, 5, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..5).prop_map(Json::from),
                proptest::collection::btree_map(".{0,6}", inner, 0..5)
                    .prop_map(|members| Json::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn json_survives_the_way_through_cbor(json in arbitrary_json()) {
            let cbor = to_cbor(&json).unwrap();
            prop_assert_eq!(to_json(&cbor), json);
            let mut bytes = Vec::new();
            ciborium::into_writer(&cbor, &mut bytes).unwrap();
            prop_assert_eq!(cbor_len(&cbor), bytes.len());
        }
    }

    #[test]
    fn what_json_lacks_becomes_what_rfc_8949_says() {
        let text = |text: &str| Value::Text(text.into());
        let bytes = Value::Bytes(vec![0xfb, 0xff, 0x01]);
        let tagged = |tag, value: Value| Value::Tag(tag, Box::new(value));
        let lowest = ciborium::value::Integer::try_from(-(1_i128 << 64)).unwrap();
        let map = Value::Map(vec![
            (Value::Integer(1.into()), text("a")),
            (Value::Bool(true), Value::Null),
            (Value::Array(vec![Value::Null]), Value::Bool(false)),
            (text("1"), text("last")),
        ]);
        for (cbor, json) in [
            (bytes.clone(), serde_json::json!("-_8B")),
            (tagged(22, bytes.clone()), serde_json::json!("+/8B")),
            (tagged(23, bytes.clone()), serde_json::json!("fbff01")),
            (tagged(2, bytes.clone()), serde_json::json!("-_8B")),
            (tagged(3, bytes), serde_json::json!("~-_8B")),
            (tagged(1, Value::Integer(7.into())), serde_json::json!(7)),
            (Value::Float(f64::NAN), Json::Null),
            (Value::Float(f64::NEG_INFINITY), Json::Null),
            (Value::Integer(u64::MAX.into()), serde_json::json!(u64::MAX)),
            (Value::Integer(lowest), serde_json::json!(-(2.0_f64.powi(64)))),
            (map, serde_json::json!({"1": "last", "true": null, "[null]": false})),
        ] {
            assert_eq!(to_json(&cbor), json, "{cbor:?}");
        }
    }

    #[test]
    fn nesting_ends_at_fifteen_levels() {
        let nested = |levels| (0..levels).fold(Json::Null, |json, _| Json::Array(vec![json]));
        assert!(to_cbor(&nested(DEPTH_MAX)).is_some());
        assert!(to_cbor(&nested(DEPTH_MAX + 1)).is_none());
        let deep = (0..100).fold(Value::Null, |value, _| Value::Array(vec![value]));
        let expected = nested(DEPTH_MAX);
        assert_eq!(to_json(&deep), expected);
    }
}
