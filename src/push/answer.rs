//! What an answer means for the readings that were sent.

use std::time::Duration;

use hyper::StatusCode;

/// An answer of a server, as far as it matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    /// Where a redirection points.
    pub(super) location: Option<String>,
    /// How long the server wants to be left alone.
    pub(super) retry_after: Option<Duration>,
    /// The beginning of what it said, fit for a log.
    pub(super) said: String,
}

/// What to do with the readings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// They are the server's now.
    Accepted,
    /// The server will never take the request as it is: something in it is wrong.
    Refused(String),
    /// The request is too large for the server.
    TooLarge(String),
    /// They are kept and sent again.
    Later(Trouble),
}

/// Why nothing can be sent at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    pub(super) kind: Kind,
    pub(super) reason: String,
    /// Not before that.
    pub(super) wait: Option<Duration>,
}

/// What kind of trouble, which says who can mend it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The network, or a server that is away or overloaded: it passes.
    Server,
    /// The server does not accept the secret.
    Secret,
    /// The server has nothing at this URL that takes readings, or does not take them like this.
    Setting,
}

impl Kind {
    /// What the operator can do.
    pub(super) fn advice(self) -> &'static str {
        match self {
            Self::Server => "see that the server runs and can be reached; it is tried again",
            Self::Secret => {
                "the server does not accept the credentials: see push.token_file, push.auth and the \
                 token's rights there; the file is read again at each attempt"
            }
            Self::Setting => {
                "the server takes no readings at this URL: see push.url, and that the database or \
                 bucket in it exists"
            }
        }
    }

    /// Whether it may last until somebody does something, so that there is no hurry.
    pub(super) fn is_slow(self) -> bool {
        self != Self::Server
    }
}

impl Answer {
    pub(super) fn verdict(self) -> Verdict {
        let Self { status, location, retry_after, said } = self;
        let reason = match (&location, said.is_empty()) {
            (Some(location), _) => format!("{status}, redirects to {location}"),
            (None, true) => status.to_string(),
            (None, false) => format!("{status}: {said}"),
        };
        let later =
            |kind| Verdict::Later(Trouble { kind, reason: reason.clone(), wait: retry_after });
        match status.as_u16() {
            200..=299 => Verdict::Accepted,
            400 | 422 => Verdict::Refused(reason),
            413 => Verdict::TooLarge(reason),
            401 | 403 | 407 => later(Kind::Secret),
            408 | 425 | 429 | 500..=599 => later(Kind::Server),
            _ => later(Kind::Setting),
        }
    }
}

/// The beginning of a server's words: one line without control characters, at most 300 characters.
pub(super) fn words(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let mut words = String::new();
    for word in text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty())
    {
        if !words.is_empty() {
            words.push(' ');
        }
        words.push_str(word);
    }
    match words.char_indices().nth(300) {
        None => words,
        Some((end, _)) => {
            words.truncate(end);
            words + "…"
        }
    }
}

/// `Retry-After` in seconds (RFC 9110 section 10.2.3), ten minutes at most. A date is not read: the
/// gateway's clock may not be set, and there is a wait of its own.
pub(super) fn retry_after(value: &str) -> Option<Duration> {
    let seconds: u64 = value.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(600)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16) -> Answer {
        let status = StatusCode::from_u16(status).unwrap();
        Answer { status, location: None, retry_after: None, said: "why".to_owned() }
    }

    #[test]
    fn every_status_has_a_meaning() {
        let kind = |status| match answer(status).verdict() {
            Verdict::Later(trouble) => trouble.kind,
            other => panic!("{status}: {other:?}"),
        };
        for status in [200, 202, 204] {
            assert_eq!(answer(status).verdict(), Verdict::Accepted);
        }
        for status in [400, 422] {
            assert!(
                matches!(answer(status).verdict(), Verdict::Refused(why) if why.ends_with(": why"))
            );
        }
        assert!(matches!(answer(413).verdict(), Verdict::TooLarge(_)));
        for status in [408, 429, 500, 502, 503, 599] {
            assert_eq!(kind(status), Kind::Server);
        }
        for status in [401, 403] {
            assert_eq!(kind(status), Kind::Secret);
        }
        for status in [301, 302, 307, 404, 405, 410, 418] {
            assert_eq!(kind(status), Kind::Setting, "{status}");
        }
        let moved = Answer { location: Some("https://x/".to_owned()), ..answer(308) };
        let Verdict::Later(trouble) = moved.verdict() else { panic!() };
        assert_eq!(trouble.reason, "308 Permanent Redirect, redirects to https://x/");
    }

    #[test]
    fn words_are_one_bounded_line() {
        assert_eq!(words(b" {\"error\":\r\n \"no\x1b[31m\"}\0"), "{\"error\": \"no [31m\"}");
        let long = words("ü ".repeat(1000).as_bytes());
        assert!(long.chars().count() == 301 && long.ends_with('…'), "{long}");
        assert_eq!(words(&[0xff]), "\u{fffd}");
    }

    #[test]
    fn a_wait_that_the_server_asks_for_is_taken_in_seconds_and_bounded() {
        assert_eq!(retry_after(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(retry_after("999999999"), Some(Duration::from_secs(600)));
        for bad in ["", "-1", "1.5", "Wed, 21 Oct 2026 07:28:00 GMT", "99999999999999999999999"] {
            assert_eq!(retry_after(bad), None, "{bad:?}");
        }
    }
}
