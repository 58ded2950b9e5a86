//! The page's files, built into the binary by `build.rs`, compressed.

use std::io::Read;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use flate2::read::GzDecoder;
use sha2::{Digest, Sha256};

/// One file of the page.
#[derive(Debug)]
pub(super) struct Asset {
    /// Where it is served.
    pub(super) path: &'static str,
    content_type: &'static str,
    /// Whether its name changes with its content, so that it may be kept for ever.
    fixed: bool,
    gzip: &'static [u8],
}

/// All of them; none in a binary that was built without the page.
pub(super) static ASSETS: &[Asset] = include!(concat!(env!("OUT_DIR"), "/page.rs"));

/// Why there is no page, if there is none.
const MISSING: Option<&str> = include!(concat!(env!("OUT_DIR"), "/page-missing.rs"));

/// What stands in the page's place where there is none.
pub(super) fn missing() -> Option<String> {
    MISSING.map(|why| {
        format!(
            "This tidegate was built without its page: {why}\n\nEverything else is here: \
             /api/v1/status, /api/v1/devices, /metrics\n"
        )
    })
}

impl Asset {
    /// The answer to a request with `headers`: the file, or 304 where the browser has it already.
    /// For the page itself browsers ask each time, so that a new version of the gateway never meets
    /// an old page.
    pub(super) fn answer(&self, headers: &HeaderMap) -> Response<Body> {
        let etag = self.etag();
        let known = headers.get_all(header::IF_NONE_MATCH).iter().any(|value| {
            value.to_str().is_ok_and(|list| {
                list.split(',')
                    .map(str::trim)
                    .any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == etag)
            })
        });
        let gzip = takes_gzip(headers);
        let mut response = if known {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::NOT_MODIFIED;
            response
        } else if gzip {
            Response::new(Body::from(self.gzip))
        } else {
            Response::new(Body::from(self.unpacked()))
        };
        let answer = response.headers_mut();
        if gzip && !known {
            answer.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        }
        let cache = if self.fixed { "public, max-age=31536000, immutable" } else { "no-cache" };
        answer.insert(header::CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        answer.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
        answer.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        if let Ok(etag) = HeaderValue::from_str(&etag) {
            answer.insert(header::ETAG, etag);
        }
        response
    }

    fn unpacked(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Err(error) = GzDecoder::new(self.gzip).read_to_end(&mut bytes) {
            tracing::error!(%error, path = self.path, "a file of the page cannot be unpacked");
        }
        bytes
    }

    /// Weak, since the compressed and the plain form share it (RFC 9110 section 8.8.1).
    fn etag(&self) -> String {
        let digest = Sha256::digest(self.gzip);
        let short = digest.get(..12).map(|start| URL_SAFE_NO_PAD.encode(start)).unwrap_or_default();
        format!("\"{short}\"")
    }
}

/// Whether the client takes `gzip` (RFC 9110 section 12.5.3).
fn takes_gzip(headers: &HeaderMap) -> bool {
    headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok()).any(
        |list| {
            list.split(',').any(|one| {
                let mut parts = one.split(';').map(str::trim);
                let named = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
                let refused = parts.any(|part| {
                    part.strip_prefix("q=")
                        .is_some_and(|q| q.parse::<f32>().is_ok_and(|q| q == 0.0))
                });
                named && !refused
            })
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepting(value: &'static str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(value));
        headers
    }

    #[test]
    fn gzip_is_sent_only_to_who_takes_it() {
        assert!(takes_gzip(&accepting("gzip, deflate, br")));
        assert!(takes_gzip(&accepting("br;q=1.0, GZIP;q=0.5")));
        assert!(!takes_gzip(&accepting("gzip;q=0, br")));
        assert!(!takes_gzip(&accepting("identity")));
        assert!(!takes_gzip(&HeaderMap::new()));
    }
}
