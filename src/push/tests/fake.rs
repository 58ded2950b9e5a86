//! A server that does as the test says, byte for byte.

use std::io::Read;
use std::sync::{Arc, Mutex};

use flate2::read::GzDecoder;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::ports::lock;

/// What happens to a request.
#[derive(Debug, Clone)]
pub(super) enum Reply {
    /// 204, and the connection stays open.
    Taken,
    /// These bytes, and the connection stays open.
    Raw(String),
    /// These bytes, and then the connection is closed.
    RawAndClose(String),
    /// Nothing, for ever.
    Silence,
    /// The connection is closed without a word.
    Hangup,
    /// These bytes, then more bytes for ever.
    Endless(String),
}

/// A request as it came.
#[derive(Debug, Clone)]
pub(super) struct Request {
    /// All of it, in small letters.
    pub(super) head: String,
    /// Unpacked.
    pub(super) body: String,
    /// Which connection it came on, from 0.
    pub(super) connection: usize,
    taken: bool,
}

/// A running server.
pub(super) struct Fake {
    pub(super) port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
}

pub(super) fn status(status: &str, headers: &str, body: &str) -> Reply {
    let length = body.len();
    Reply::Raw(format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {length}\r\n\r\n{body}"))
}

impl Fake {
    /// `decide` is asked for each request, with its number from 0.
    pub(super) async fn start(
        decide: impl Fn(usize, &Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::start_with(None, decide).await
    }

    pub(super) async fn start_with(
        tls: Option<TlsAcceptor>,
        decide: impl Fn(usize, &Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::listen(TcpListener::bind("127.0.0.1:0").await.unwrap(), tls, decide)
    }

    /// At a port that was free a moment ago.
    pub(super) async fn start_at(
        port: u16,
        decide: impl Fn(usize, &Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        Self::listen(TcpListener::bind(("127.0.0.1", port)).await.unwrap(), None, decide)
    }

    fn listen(
        listener: TcpListener,
        tls: Option<TlsAcceptor>,
        decide: impl Fn(usize, &Request) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (known, decide) = (requests.clone(), Arc::new(decide));
        tokio::spawn(async move {
            for connection in 0.. {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (known, decide, tls) = (known.clone(), decide.clone(), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => serve(stream, connection, &known, &*decide).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                serve(stream, connection, &known, &*decide).await;
                            }
                        }
                    }
                });
            }
        });
        Self { port, requests }
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/write?db=x", self.port)
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        lock(&self.requests).clone()
    }

    /// Bodies of requests that were answered with [`Reply::Taken`].
    pub(super) fn accepted(&self) -> Vec<String> {
        self.requests().into_iter().filter(|r| r.taken).map(|r| r.body).collect()
    }
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    connection: usize,
    known: &Mutex<Vec<Request>>,
    decide: &(dyn Fn(usize, &Request) -> Reply + Send + Sync),
) {
    while let Some(mut request) = read(&mut stream, connection).await {
        let reply = {
            let mut known = lock(known);
            let reply = decide(known.len(), &request);
            request.taken = matches!(reply, Reply::Taken);
            known.push(request);
            reply
        };
        let (bytes, then) = match &reply {
            Reply::Taken => ("HTTP/1.1 204 No Content\r\n\r\n", true),
            Reply::Raw(text) => (text.as_str(), true),
            Reply::RawAndClose(text) | Reply::Endless(text) => (text.as_str(), false),
            Reply::Silence => return std::future::pending().await,
            Reply::Hangup => return,
        };
        if stream.write_all(bytes.as_bytes()).await.is_err() {
            return;
        }
        if matches!(reply, Reply::Endless(_)) {
            while stream.write_all(&[b'x'; 1024]).await.is_ok() {}
        }
        if !then {
            let _ = stream.shutdown().await;
            return;
        }
    }
}

async fn read<S: AsyncRead + Unpin>(stream: &mut S, connection: usize) -> Option<Request> {
    let mut bytes = Vec::new();
    loop {
        let end = bytes.windows(4).position(|four| four == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
            let small = head.to_lowercase();
            let length = small.split("content-length: ").nth(1).unwrap();
            let length: usize = length.lines().next().unwrap().trim().parse().unwrap();
            while bytes.len() < end + 4 + length {
                if stream.read_buf(&mut bytes).await.ok()? == 0 {
                    return None;
                }
            }
            let packed = &bytes[end + 4..];
            let mut body = String::new();
            if small.contains("content-encoding: gzip") {
                GzDecoder::new(packed).read_to_string(&mut body).unwrap();
            } else {
                body.push_str(std::str::from_utf8(packed).unwrap());
            }
            return Some(Request { head, body, connection, taken: false });
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}
