//! A request as it comes, over whichever way: one JSON object, checked member by member.
//!
//! ```json
//! {"name":"set-output","params":{"channel":2,"on":true},"id":"p-17","ttl":60,"redeliver":false}
//! ```
//!
//! Members that are not named here are ignored, on every way alike, so that a requester may carry
//! its own along; so are `id`, `ttl` and `redeliver` where they are null.

use ciborium::Value;
use serde_json::{Map, Value as Json};

use super::json::{DEPTH_MAX, cbor_len, to_cbor};
use crate::core::frame::COMMAND_NAME_MAX;

/// Longest id that a requester may give, in characters.
pub const ID_MAX: usize = 64;
/// Longest ttl in seconds: seven days.
pub const TTL_MAX: u64 = 7 * 86_400;

/// What was asked.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// Which command: 1 to 64 characters, no blanks or control characters.
    pub name: String,
    /// With what; null if nothing.
    pub params: Value,
    /// The requester's own name for it: 1 to 64 of `A-Z a-z 0-9 . _ : -`.
    pub id: Option<String>,
    /// For how many seconds it is wanted, 1 to 604 800.
    pub ttl: Option<u64>,
    /// Whether it may be sent again; see [`Record::redeliver`](super::Record::redeliver).
    pub redeliver: bool,
}

/// Why a request is none. `id` is what could be read of it all the same, for the answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct BadRequest {
    /// What is wrong and what would be right.
    pub reason: String,
    /// The request's id, where it had a valid one.
    pub id: Option<String>,
    /// The request's name, where it had a valid one.
    pub name: Option<String>,
}

impl BadRequest {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into(), id: None, name: None }
    }
}

impl Request {
    /// Most bytes of a body for parameters of `max_size` bytes: JSON may escape each in six.
    #[must_use]
    pub fn max_body(max_size: usize) -> usize {
        max_size.saturating_mul(6).saturating_add(4096)
    }

    /// Reads and checks `body`; its parameters may take `max_size` bytes as CBOR.
    ///
    /// # Errors
    /// When it is too long, not a JSON object, or a member is missing, of the wrong type or out of
    /// its range.
    pub fn parse(body: &[u8], max_size: usize) -> Result<Self, BadRequest> {
        let max_body = Self::max_body(max_size);
        if body.len() > max_body {
            return Err(BadRequest::new(format!(
                "the request has {} bytes, at most {max_body} are taken",
                body.len()
            )));
        }
        let json: Json = serde_json::from_slice(body)
            .map_err(|error| BadRequest::new(format!("the request is not JSON: {error}")))?;
        let Json::Object(members) = json else {
            return Err(BadRequest::new(format!(
                "the request is {}, not an object such as {{\"name\":\"identify\"}}",
                kind(&json)
            )));
        };
        let name = name(&members);
        let id = id(&members);
        let known = (id.clone().ok().flatten(), name.clone().ok());
        let checked = || {
            Ok(Self {
                name: name?,
                id: id?,
                params: params(&members, max_size)?,
                ttl: ttl(&members)?,
                redeliver: redeliver(&members)?,
            })
        };
        checked().map_err(|reason: String| BadRequest { reason, id: known.0, name: known.1 })
    }
}

fn member<'a>(members: &'a Map<String, Json>, name: &str) -> Option<&'a Json> {
    members.get(name).filter(|value| !value.is_null())
}

fn name(members: &Map<String, Json>) -> Result<String, String> {
    let Some(value) = member(members, "name") else {
        return Err("\"name\" is missing: the command to run, as in {\"name\":\"identify\"}".into());
    };
    let Some(name) = value.as_str() else {
        return Err(format!("\"name\" is {}, not a string", kind(value)));
    };
    let length = name.chars().count();
    if length == 0 || length > COMMAND_NAME_MAX {
        return Err(format!(
            "\"name\" has {length} characters, it must have 1 to {COMMAND_NAME_MAX}"
        ));
    }
    if name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err(format!("\"name\" is {name:?}: a name has no blanks or control characters"));
    }
    Ok(name.to_owned())
}

fn id(members: &Map<String, Json>) -> Result<Option<String>, String> {
    let Some(value) = member(members, "id") else { return Ok(None) };
    let allowed = format!("1 to {ID_MAX} letters, digits, '.', '_', ':' or '-'");
    let Some(id) = value.as_str() else {
        return Err(format!("\"id\" is {}, not a string of {allowed}", kind(value)));
    };
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
    if id.is_empty() || id.len() > ID_MAX || !id.bytes().all(fits) {
        let shown: String = id.chars().take(80).collect();
        return Err(format!("\"id\" is {shown:?}: it must be {allowed}"));
    }
    Ok(Some(id.to_owned()))
}

fn params(members: &Map<String, Json>, max_size: usize) -> Result<Value, String> {
    let json = members.get("params").unwrap_or(&Json::Null);
    let Some(params) = to_cbor(json) else {
        return Err(format!("\"params\" nests deeper than {DEPTH_MAX} levels"));
    };
    let size = cbor_len(&params);
    if size > max_size {
        return Err(format!(
            "\"params\" takes {size} bytes as CBOR, commands.max_size allows {max_size}"
        ));
    }
    Ok(params)
}

fn ttl(members: &Map<String, Json>) -> Result<Option<u64>, String> {
    let Some(value) = member(members, "ttl") else { return Ok(None) };
    let Json::Number(number) = value else {
        return Err(format!("\"ttl\" is {}, not a number of seconds", kind(value)));
    };
    // 60.0 is what some languages make of 60.
    let whole = number.as_f64().filter(|seconds| seconds.fract() == 0.0);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "in range")]
    let seconds = whole
        .filter(|seconds| (1.0..=TTL_MAX as f64).contains(seconds))
        .map(|seconds| seconds as u64);
    match seconds {
        Some(seconds) => Ok(Some(seconds)),
        None => Err(format!("\"ttl\" is {number}: it must be whole seconds, 1 to {TTL_MAX}")),
    }
}

fn redeliver(members: &Map<String, Json>) -> Result<bool, String> {
    match member(members, "redeliver") {
        None => Ok(true),
        Some(Json::Bool(redeliver)) => Ok(*redeliver),
        Some(other) => Err(format!("\"redeliver\" is {}, not true or false", kind(other))),
    }
}

/// The type of a JSON value with its article.
fn kind(value: &Json) -> &'static str {
    match value {
        Json::Null => "null",
        Json::Bool(_) => "a boolean",
        Json::Number(_) => "a number",
        Json::String(_) => "a string",
        Json::Array(_) => "an array",
        Json::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refusal(body: &str) -> String {
        Request::parse(body.as_bytes(), 64).unwrap_err().reason
    }

    #[test]
    fn a_request_needs_no_more_than_a_name() {
        let request = Request::parse(br#"{"name":"identify","comment":[1]}"#, 64).unwrap();
        let Request { name, params, id, ttl, redeliver } = request;
        assert_eq!((name.as_str(), params, id, ttl), ("identify", Value::Null, None, None));
        assert!(redeliver);
        let nulls = br#"{"name":"a","params":null,"id":null,"ttl":null,"redeliver":null}"#;
        assert!(Request::parse(nulls, 64).unwrap().redeliver);
    }

    #[test]
    fn every_member_arrives() {
        let body =
            br#"{"name":"a","params":{"x":[1,2.5]},"id":"A.b_c:9-","ttl":60.0,"redeliver":false}"#;
        let request = Request::parse(body, 64).unwrap();
        assert_eq!((request.id.as_deref(), request.ttl), (Some("A.b_c:9-"), Some(60)));
        assert!(!request.redeliver);
        assert_eq!(cbor_len(&request.params), 8);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let long = format!(r#"{{"name":"{}"}}"#, "x".repeat(65));
        let id = r#""id" is "a/b": it must be 1 to 64 letters, digits, '.', '_', ':' or '-'"#;
        for (body, reason) in [
            ("", "the request is not JSON: EOF while parsing a value at line 1 column 0"),
            ("{\"name\":", "the request is not JSON: EOF while parsing a value at line 1 column 8"),
            ("[1]", "the request is an array, not an object such as {\"name\":\"identify\"}"),
            ("{}", "\"name\" is missing: the command to run, as in {\"name\":\"identify\"}"),
            (r#"{"name":3}"#, "\"name\" is a number, not a string"),
            (r#"{"name":""}"#, "\"name\" has 0 characters, it must have 1 to 64"),
            (long.as_str(), "\"name\" has 65 characters, it must have 1 to 64"),
            (
                r#"{"name":"a b"}"#,
                "\"name\" is \"a b\": a name has no blanks or control characters",
            ),
            (r#"{"name":"a","id":"a/b"}"#, id),
            (r#"{"name":"a","ttl":0}"#, "\"ttl\" is 0: it must be whole seconds, 1 to 604800"),
            (r#"{"name":"a","ttl":1.5}"#, "\"ttl\" is 1.5: it must be whole seconds, 1 to 604800"),
            (
                r#"{"name":"a","ttl":604801}"#,
                "\"ttl\" is 604801: it must be whole seconds, 1 to 604800",
            ),
            (r#"{"name":"a","ttl":"60"}"#, "\"ttl\" is a string, not a number of seconds"),
            (r#"{"name":"a","redeliver":1}"#, "\"redeliver\" is a number, not true or false"),
        ] {
            assert_eq!(refusal(body), reason, "{body}");
        }
        let large = format!(r#"{{"name":"a","params":"{}"}}"#, "x".repeat(63));
        assert_eq!(
            refusal(&large),
            "\"params\" takes 65 bytes as CBOR, commands.max_size allows 64"
        );
        let deep = format!(r#"{{"name":"a","params":{}{}}}"#, "[".repeat(16), "]".repeat(16));
        assert_eq!(refusal(&deep), "\"params\" nests deeper than 15 levels");
        assert_eq!(
            refusal(&" ".repeat(5000)),
            "the request has 5000 bytes, at most 4480 are taken"
        );
    }

    #[test]
    fn a_bad_request_tells_its_id_where_that_could_be_read() {
        let bad = Request::parse(br#"{"name":"a","id":"p-1","ttl":-1}"#, 64).unwrap_err();
        assert_eq!((bad.id.as_deref(), bad.name.as_deref()), (Some("p-1"), Some("a")));
        assert_eq!(Request::parse(br#"{"id":"p/1"}"#, 64).unwrap_err().id, None);
    }

    proptest! {
        #[test]
        fn no_body_makes_it_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Request::parse(&body, 64);
        }
    }
}
