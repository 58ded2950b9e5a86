//! The URL that readings are pushed to.

use std::net::IpAddr;

use super::text::host_and_port;

/// Parameters that stores take credentials from. They would stand in access logs, error messages and
/// `ps`, so none may be in a URL of the configuration.
const CREDENTIALS: [&str; 12] = [
    "u",
    "p",
    "user",
    "username",
    "password",
    "passwd",
    "token",
    "access_token",
    "auth_token",
    "api_key",
    "apikey",
    "authorization",
];

/// What `precision=` may say: the times that are sent are nanoseconds.
const PRECISIONS: [&str; 5] = ["ns", "n", "nanosecond", "nanoseconds", "auto"];

/// Where to POST to, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteUrl {
    /// Whether over TLS.
    pub tls: bool,
    /// Host name or IP address, without brackets.
    pub host: String,
    /// Its port, the scheme's own where the URL names none.
    pub port: u16,
    /// What the `Host` header says.
    pub authority: String,
    /// Path and query, as they are sent.
    pub target: String,
}

impl WriteUrl {
    /// Whether the host is this machine, as far as its name tells.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        self.host == "localhost" || self.host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
    }

    /// The whole of it again. No credentials are in it: it would not have been read.
    #[must_use]
    pub fn text(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}{}", self.authority, self.target)
    }
}

/// Reads a URL.
///
/// # Errors
/// What is wrong with it. The text is not repeated where it may hold a password.
pub fn write_url(url: &str) -> Result<WriteUrl, String> {
    let (tls, rest) = if let Some(rest) = url.strip_prefix("https://") {
        (true, rest)
    } else if let Some(rest) = url.strip_prefix("http://") {
        (false, rest)
    } else {
        return Err("does not begin with http:// or https://".into());
    };
    let (authority, target) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if authority.contains('@') {
        return Err(
            "holds a user name or password; put USER:PASSWORD into a file of its own, name \
                    it in token_file and write auth = \"basic\""
                .into(),
        );
    }
    let query = target.split_once('?').map_or("", |(_, query)| query);
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if CREDENTIALS.contains(&name.to_ascii_lowercase().as_str()) {
            return Err(format!(
                "holds credentials ({name}=…); put them into a file of its own and name it in \
                 token_file: the token alone, or USER:PASSWORD with auth = \"basic\""
            ));
        }
        if name == "precision" && !PRECISIONS.contains(&value) {
            return Err(format!(
                "says precision={value}; the times are sent in nanoseconds, so \
                                write precision=ns or leave it out"
            ));
        }
    }
    if url.len() > 2048 {
        return Err("is longer than 2048 characters".into());
    }
    if let Some(c) = target.chars().find(|c| !c.is_ascii_graphic() || matches!(c, '"' | '<' | '>'))
    {
        return Err(format!("{url:?} holds {c:?}; write it with % and two hexadecimal digits"));
    }
    if target.contains('#') {
        return Err(format!("{url:?} has a part after #, which is never sent; write %23 for a #"));
    }
    if !target.starts_with('/') || target == "/" {
        return Err(format!(
            "{url:?} names no path; write the whole URL of the store's write interface, such as \
             {url}{}",
            if target == "/" { "write" } else { "/write" }
        ));
    }
    let (host, port) = host_and_port(url, authority)?;
    let port = port.unwrap_or(if tls { 443 } else { 80 });
    Ok(WriteUrl { tls, host, port, authority: authority.to_owned(), target: target.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_urls_of_the_stores_are_taken_apart() {
        let url = write_url("http://influx:8086/api/v2/write?org=o&bucket=b&precision=ns").unwrap();
        assert_eq!((url.tls, url.host.as_str(), url.port), (false, "influx", 8086));
        assert_eq!(url.target, "/api/v2/write?org=o&bucket=b&precision=ns");
        assert_eq!(url.authority, "influx:8086");
        assert!(!url.is_loopback());
        let url = write_url("https://[::1]/api/live/push/tidegate").unwrap();
        assert_eq!((url.tls, url.host.as_str(), url.port), (true, "::1", 443));
        assert_eq!(url.authority, "[::1]");
        assert!(url.is_loopback());
        assert_eq!(url.text(), "https://[::1]/api/live/push/tidegate");
        assert_eq!(write_url("http://localhost/write?db=t").unwrap().port, 80);
    }

    #[test]
    fn credentials_are_refused_and_not_repeated() {
        for url in [
            "http://user:s3cret@host/write",
            "http://s3cret@host/write",
            "http://host/write?db=t&u=me&p=s3cret",
            "https://host/write?token=s3cret",
            "https://host/write?API_KEY=s3cret",
        ] {
            let error = write_url(url).unwrap_err();
            assert!(!error.contains("s3cret"), "{error}");
            assert!(error.contains("token_file"), "{error}");
        }
    }

    #[test]
    fn what_would_never_work_is_refused_with_a_word_about_it() {
        for (url, word) in [
            ("", "http://"),
            ("ftp://h/x", "http://"),
            ("http://h", "http://h/write"),
            ("http://h/", "http://h/write"),
            ("http://h?db=x", "no path"),
            ("http:///write", "not a host"),
            ("http://h:0/write", "no port"),
            ("http://[::1/write", "]"),
            ("http://h/wr ite", "%"),
            ("http://h/wrüte", "%"),
            ("http://h/write#x", "#"),
            ("http://h/write\r\nHost: x", "%"),
            ("http://h/write?precision=s", "nanoseconds"),
        ] {
            let error = write_url(url).unwrap_err();
            assert!(error.contains(word), "{url:?}: {error}");
        }
        assert!(write_url(&format!("http://h/{}", "a".repeat(2048))).is_err());
    }
}
