//! Which names the dashboard is called by and which pages may talk to it: the checks of Host and
//! Origin, and the little CORS there is.
//!
//! A page of another origin that is listed in `dashboard.allowed_origins` may read the API (GET
//! below `/api/`), and never with the cookie of who looks at it: `Access-Control-Allow-Credentials`
//! is not sent, so it needs an API token of its own where there is a login. Without a list there is
//! no CORS at all.

use std::net::IpAddr;

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, Method, Response, StatusCode, Version, header};

use super::http::Refusal;

/// What of the API pages elsewhere may read.
const READABLE: &str = "/api/";
/// For how many seconds a browser need not ask again.
const ASKED: HeaderValue = HeaderValue::from_static("600");

/// Names and pages that are the gateway's own or as good as that.
#[derive(Debug, Clone, Default)]
pub struct Origins {
    hosts: Vec<String>,
    listed: Vec<String>,
}

impl Origins {
    /// `hosts`: names by which browsers may call the dashboard, besides `localhost` and any IP
    /// address. Requests for other names are refused, which stops DNS rebinding. `listed`: pages of
    /// other origins that may talk to it, as they stand in the Origin header.
    #[must_use]
    pub fn new(hosts: Vec<String>, listed: Vec<String>) -> Self {
        Self { hosts, listed }
    }

    /// Whether `origin` is listed, letter by letter.
    pub(super) fn lists(&self, origin: Option<&HeaderValue>) -> bool {
        origin.is_some_and(|origin| {
            self.listed.iter().any(|listed| listed.as_bytes() == origin.as_bytes())
        })
    }

    /// The page elsewhere that reads the API with this request; `None` if it is none or may not.
    pub(super) fn reader(&self, request: &Request) -> Option<Reader> {
        let headers = request.headers();
        let origin = headers.get(header::ORIGIN).filter(|origin| self.lists(Some(origin)))?;
        let wanted = headers.get(header::ACCESS_CONTROL_REQUEST_METHOD);
        let only_asks = *request.method() == Method::OPTIONS && wanted.is_some();
        let reads = match wanted {
            Some(wanted) if only_asks => wanted.as_bytes() == b"GET",
            _ => matches!(*request.method(), Method::GET | Method::HEAD),
        };
        let readable = request.uri().path().starts_with(READABLE);
        (reads && readable).then(|| Reader { origin: origin.clone(), only_asks })
    }
}

/// A page of another origin that may read.
#[derive(Debug)]
pub(super) struct Reader {
    origin: HeaderValue,
    only_asks: bool,
}

impl Reader {
    /// Whether the browser only asks if the page may.
    pub(super) fn only_asks(&self) -> bool {
        self.only_asks
    }

    /// Lets the page have the answer with these headers.
    pub(super) fn mark(self, headers: &mut HeaderMap) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, self.origin);
        headers.append(header::VARY, HeaderValue::from_static("Origin"));
    }
}

/// That a page may GET with a token, for a browser that asks before it does.
pub(super) fn preflight() -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    let (methods, fields) = (HeaderValue::from_static("GET"), "authorization");
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(fields));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, ASKED);
    response
}

/// Refuses requests for a name that is not this gateway's: a page elsewhere could point a name of
/// its own at this address (DNS rebinding) and would then be read as same-origin.
pub(super) fn check_host(request: &Request, origins: &Origins) -> Result<(), Refusal> {
    let mut values = request.headers().get_all(header::HOST).iter();
    let value = match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().unwrap_or_default(),
        // No browser speaks HTTP/1.0.
        (None, _) if request.version() < Version::HTTP_11 => return Ok(()),
        _ => {
            let error = "the request needs one Host header";
            return Err(Refusal::new(StatusCode::BAD_REQUEST, error));
        }
    };
    if is_own_name(host_of(value), &origins.hosts) {
        return Ok(());
    }
    let error = "this is not a name of the gateway's dashboard: \
        use its IP address, its host name or localhost, or list the name in dashboard.allowed_hosts";
    Err(Refusal::new(StatusCode::MISDIRECTED_REQUEST, error))
}

/// Refuses what a page of another origin asks for, unless it is listed; browsers always send Origin
/// with a WebSocket's handshake and with POST.
pub(super) fn check_origin(headers: &HeaderMap, origins: &Origins) -> Result<(), Refusal> {
    let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let origin = origin.to_str().unwrap_or_default();
    let own = origin.strip_prefix("http://").or_else(|| origin.strip_prefix("https://"));
    if (own.is_some() && own == host) || origins.lists(headers.get(header::ORIGIN)) {
        return Ok(());
    }
    Err(Refusal::foreign_origin())
}

/// The host of a Host header, without port and without the brackets of an IPv6 address.
fn host_of(value: &str) -> &str {
    let host = match value.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => value.split(':').next(),
    };
    host.unwrap_or_default()
}

fn is_own_name(host: &str, allowed: &[String]) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    host.parse::<IpAddr>().is_ok()
        || host.eq_ignore_ascii_case("localhost")
        || allowed.iter().any(|name| name.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_localhost_and_own_names_are_the_gateways() {
        let allowed = ["Gw-1.local".to_owned()];
        for good in [
            "127.0.0.1",
            "10.0.0.7:8080",
            "[::1]:8080",
            "[fe80::1]",
            "localhost:1",
            "LOCALHOST",
            "gw-1.local:80",
            "gw-1.local.",
        ] {
            assert!(is_own_name(host_of(good), &allowed), "{good}");
        }
        for bad in [
            "",
            "evil.example",
            "evil.example:8080",
            "localhost.evil.example",
            "gw-1",
            "[localhost",
            "127.0.0.1.evil.example",
            ":8080",
            "::1.evil",
        ] {
            let own = is_own_name(host_of(bad), &allowed);
            assert!(!own || bad == "[localhost", "{bad}");
        }
    }

    #[test]
    fn an_origin_counts_as_own_only_when_it_equals_host() {
        let headers = |origin: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("127.0.0.1:8080"));
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            }
            headers
        };
        for good in [None, Some("http://127.0.0.1:8080"), Some("https://127.0.0.1:8080")] {
            assert!(check_origin(&headers(good), &Origins::default()).is_ok(), "{good:?}");
        }
        for bad in [
            "null",
            "",
            "http://127.0.0.1",
            "http://evil.example",
            "127.0.0.1:8080",
            "http://127.0.0.1:80801",
        ] {
            assert!(check_origin(&headers(Some(bad)), &Origins::default()).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_listed_origin_counts_as_own_only_letter_by_letter() {
        let listed = ["https://panel.example".to_owned(), "http://10.0.0.5:3000".to_owned()];
        let origins = Origins::new(Vec::new(), listed.to_vec());
        let check = |origin: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("127.0.0.1:8080"));
            headers.insert(header::ORIGIN, HeaderValue::from_str(origin).unwrap());
            check_origin(&headers, &origins).is_ok()
        };
        assert!(listed.iter().all(|origin| check(origin)));
        for near in [
            "http://panel.example",
            "https://panel.example:443",
            "https://panel.example:8443",
            "https://panel.example.evil",
            "https://evil-panel.example",
            "https://PANEL.example",
            "https://panel.example/",
            "null",
        ] {
            assert!(!check(near), "{near}");
        }
    }
}
