//! What a broker's code means, in words.

/// The MQTT 5 reason code (section 2.4) in words with its number, and what the broker adds to it:
/// `not authorised (0x87): topic closed for maintenance`.
pub(super) fn describe(code: u8, text: Option<&str>) -> String {
    let words = words(code).unwrap_or("unknown reason");
    match text.map(presentable).filter(|text| !text.is_empty()) {
        Some(text) => format!("{words} (0x{code:02x}): {text}"),
        None => format!("{words} (0x{code:02x})"),
    }
}

/// The return code of an MQTT 3.1.1 CONNACK (section 3.2.2.3) in words with its number.
pub(super) fn describe_v4(code: u8) -> String {
    let words = match code {
        1 => "unacceptable protocol version",
        2 => "client identifier not accepted",
        3 => "server unavailable",
        4 => "bad user name or password",
        5 => "not authorised",
        _ => "unknown reason",
    };
    format!("{words} ({code})")
}

/// The return code of a SUBACK that refuses, of either version.
pub(super) fn describe_suback(code: u8, text: Option<&str>) -> Option<String> {
    (code >= 0x80).then(|| describe(code, text))
}

fn words(code: u8) -> Option<&'static str> {
    let words = match code {
        0x00 => "normal disconnection",
        0x80 => "unspecified error",
        0x81 => "malformed packet",
        0x82 => "protocol error",
        0x83 => "implementation specific error",
        0x84 => "unsupported protocol version",
        0x85 => "client identifier not valid",
        0x86 => "bad user name or password",
        0x87 => "not authorised",
        0x88 => "server unavailable",
        0x89 => "server busy",
        0x8a => "banned",
        0x8b => "server shutting down",
        0x8c => "bad authentication method",
        0x8d => "keep alive timeout",
        0x8e => "session taken over by another client of the same id",
        0x8f => "topic filter invalid",
        0x90 => "topic name invalid",
        0x91 => "packet identifier in use",
        0x93 => "receive maximum exceeded",
        0x94 => "topic alias invalid",
        0x95 => "packet too large",
        0x96 => "message rate too high",
        0x97 => "quota exceeded",
        0x98 => "administrative action",
        0x99 => "payload format invalid",
        0x9a => "retain not supported",
        0x9b => "QoS not supported",
        0x9c => "use another server",
        0x9d => "server moved",
        0x9f => "connection rate exceeded",
        0xa0 => "maximum connect time",
        0xa2 => "wildcard subscriptions not supported",
        _ => return None,
    };
    Some(words)
}

/// Text from outside, short and on one line.
fn presentable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_has_words_its_number_and_the_brokers_own_text() {
        assert_eq!(describe(0x87, None), "not authorised (0x87)");
        assert_eq!(describe(0x97, Some("try\nlater")), "quota exceeded (0x97): trylater");
        assert_eq!(describe(0xc3, Some("")), "unknown reason (0xc3)");
        assert_eq!(describe_v4(5), "not authorised (5)");
    }

    #[test]
    fn a_long_text_is_cut() {
        assert!(describe(0x80, Some(&"x".repeat(65_535))).len() < 300);
    }
}
