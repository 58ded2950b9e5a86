//! HTTP by hand, so that refusals are seen byte for byte.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::within;

/// An HTTP answer.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Response {
    /// The first header of that name.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e} in {:?}", self.body))
    }
}

/// `GET path`.
pub(crate) async fn get(port: u16, path: &str) -> Response {
    raw(port, &format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")).await
}

/// Sends `request` as it is and reads one answer.
pub(crate) async fn raw(port: u16, request: &str) -> Response {
    try_raw(port, request).await.unwrap_or_else(|e| panic!("{e} after {request:?}"))
}

/// As [`raw`], with the error.
pub(crate) async fn try_raw(port: u16, request: &str) -> std::io::Result<Response> {
    within("an HTTP answer", async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut bytes = Vec::new();
        loop {
            if let Some(response) = parse(&bytes, false) {
                return Ok(response);
            }
            let mut chunk = [0; 4096];
            match stream.read(&mut chunk).await? {
                0 => break,
                n => bytes.extend_from_slice(&chunk[..n]),
            }
        }
        parse(&bytes, true).ok_or_else(|| {
            std::io::Error::other(format!("no HTTP answer: {:?}", String::from_utf8_lossy(&bytes)))
        })
    })
    .await
}

fn parse(bytes: &[u8], ended: bool) -> Option<Response> {
    let text = String::from_utf8_lossy(bytes);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let mut lines = head.split("\r\n");
    let status = lines.next()?.split(' ').nth(1)?.parse().ok()?;
    let headers: Vec<_> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
        .collect();
    let mut response = Response { status, headers, body: body.to_owned() };
    if let Some(length) = response.header("content-length") {
        let length: usize = length.parse().ok()?;
        return (ended || body.len() >= length).then_some(response);
    }
    if response.header("transfer-encoding").is_some() {
        response.body = unchunk(body)?;
        return Some(response);
    }
    (ended || status == 101).then_some(response)
}

/// The chunks joined, once the last one is there.
fn unchunk(mut body: &str) -> Option<String> {
    let mut joined = String::new();
    loop {
        let (length, rest) = body.split_once("\r\n")?;
        let length = usize::from_str_radix(length.trim(), 16).ok()?;
        if length == 0 {
            return Some(joined);
        }
        joined.push_str(rest.get(..length)?);
        body = rest.get(length + 2..)?;
    }
}
