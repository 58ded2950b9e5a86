//! A gateway, and a device that writes and reads its frames byte by byte.

use std::io::{ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Longer than anything takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const MAX_FRAME: usize = 100_000;

pub(crate) const CONTINUATION: u8 = 0x0;
pub(crate) const TEXT: u8 = 0x1;
pub(crate) const BINARY: u8 = 0x2;
pub(crate) const CLOSE: u8 = 0x8;
pub(crate) const PING: u8 = 0x9;
pub(crate) const PONG: u8 = 0xa;
/// The last frame of its message.
pub(crate) const FIN: u8 = 0x80;
/// A payload is masked.
pub(crate) const MASKED: u8 = 0x80;
pub(crate) const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// The real binary without a broker; ended when dropped.
pub(crate) struct Gateway {
    port: u16,
    child: Child,
    _dir: TempDir,
}

impl Gateway {
    pub(crate) fn start() -> Self {
        let began = Instant::now();
        loop {
            if let Some(gateway) = Self::try_start() {
                return gateway;
            }
            // Somebody else took the port in between.
            assert!(began.elapsed() < PATIENCE, "the gateway does not start");
        }
    }

    fn try_start() -> Option<Self> {
        // All three at once, so that they differ.
        let free = [(); 3].map(|()| TcpListener::bind(("127.0.0.1", 0)).unwrap());
        let [port, dashboard, broker] = free.map(|free| free.local_addr().unwrap().port());
        let dir = tempfile::tempdir().unwrap();
        let config = format!(
            "[gateway]\nid = \"gw-test\"\ndata_dir = \"data\"\n\
             [devices]\nlisten = \"127.0.0.1:{port}\"\nauth = \"none\"\n\
             hello_timeout = \"60s\"\nmax_frame = {MAX_FRAME}\n\
             [dashboard]\nlisten = \"127.0.0.1:{dashboard}\"\n\
             [mqtt]\nurl = \"mqtt://127.0.0.1:{broker}\"\n[log]\ntarget = \"stderr\"\n"
        );
        std::fs::write(dir.path().join("tidegate.toml"), config).unwrap();
        let log = std::fs::File::create(dir.path().join("log")).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_tidegate"))
            .args(["run", "--config", "tidegate.toml"])
            .current_dir(dir.path())
            .env_remove("NOTIFY_SOCKET")
            .env_remove("JOURNAL_STREAM")
            .env_remove("STATE_DIRECTORY")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let began = Instant::now();
        while began.elapsed() < PATIENCE {
            if child.try_wait().unwrap().is_some() {
                break;
            }
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return Some(Self { port, child, _dir: dir });
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        child.wait().unwrap();
        let log = std::fs::read_to_string(dir.path().join("log")).unwrap();
        assert!(log.contains("listen"), "the gateway did not start:\n{log}");
        None
    }

    pub(crate) fn connect(&self) -> Wire {
        let stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Wire { stream }
    }

    /// A WebSocket on which nothing was said yet.
    pub(crate) fn open(&self) -> Wire {
        let mut wire = self.connect();
        wire.send(request("").as_bytes());
        assert_eq!(wire.answer().status, 101);
        wire
    }

    /// One on which HELLO was answered.
    pub(crate) fn greeted(&self) -> Wire {
        let mut wire = self.open();
        wire.send(&frame(FIN | BINARY, HELLO));
        wire.welcome();
        wire
    }

    /// Sends `request` and gives the answer.
    pub(crate) fn ask(&self, request: impl AsRef<[u8]>) -> Answer {
        let mut wire = self.connect();
        wire.send(request.as_ref());
        let answer = wire.answer();
        if answer.status != 101 {
            wire.ends();
        }
        answer
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The bytes of one connection.
pub(crate) struct Wire {
    stream: TcpStream,
}

/// A frame of the gateway.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) first: u8,
    pub(crate) payload: Vec<u8>,
}

/// An HTTP answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Wire {
    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    fn exactly<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub(crate) fn answer(&mut self) -> Answer {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.extend(self.exactly::<1>());
        }
        let head = String::from_utf8(head).unwrap();
        let status = head.strip_prefix("HTTP/1.1 ").unwrap()[..3].parse().unwrap();
        let mut answer = Answer { status, head, body: String::new() };
        let length = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        answer.body = String::from_utf8(body).unwrap();
        answer
    }

    /// The next frame. A server masks nothing and takes no more bytes for a length than it needs
    /// (RFC 6455 sections 5.1 and 5.2).
    pub(crate) fn frame(&mut self) -> Frame {
        let [first, length] = self.exactly();
        assert_eq!(length & MASKED, 0, "a frame of a server is not masked");
        let length = match length {
            126 => {
                let length = u16::from_be_bytes(self.exactly());
                assert!(length > 125, "{length} in 16 bits");
                usize::from(length)
            }
            127 => {
                let length = u64::from_be_bytes(self.exactly());
                assert!(length > 65_535, "{length} in 64 bits");
                usize::try_from(length).unwrap()
            }
            length => usize::from(length),
        };
        let mut payload = vec![0; length];
        self.stream.read_exact(&mut payload).unwrap();
        Frame { first, payload }
    }

    /// WELCOME: an array whose first item is 16.
    pub(crate) fn welcome(&mut self) {
        let welcome = self.frame();
        assert_eq!((welcome.first, &welcome.payload[..2]), (FIN | BINARY, &[0x82, 0x10][..]));
    }

    /// A Close frame and the end; gives the code and the reason.
    pub(crate) fn closed(&mut self) -> (u16, String) {
        let close = self.frame();
        assert_eq!(close.first, FIN | CLOSE, "{close:?}");
        self.ends();
        let (code, reason) = close.payload.split_at(2);
        let reason = String::from_utf8(reason.to_vec()).unwrap();
        (u16::from_be_bytes(code.try_into().unwrap()), reason)
    }

    /// The gateway has nothing more to say and closes its side in order, without a reset.
    pub(crate) fn ends(&mut self) {
        let mut more = [0; 16];
        match self.stream.read(&mut more) {
            Ok(0) => {}
            Ok(n) => panic!("{:?} after the end", &more[..n]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => panic!("it is left open"),
            Err(error) => panic!("{error}"),
        }
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// `[0, {}]`
pub(crate) const HELLO: &[u8] = &[0x82, 0x00, 0xa0];

/// HELLO of `length` bytes, at least 9: `[0, {}, h'00…']`. Items at the end are ignored.
pub(crate) fn hello(length: usize) -> Vec<u8> {
    let mut message = vec![0x83, 0x00, 0xa0, 0x5a];
    let rest = length - 8;
    message.extend(u32::try_from(rest).unwrap().to_be_bytes());
    message.resize(length, 0);
    message
}

/// A masked frame with the shortest length that fits.
pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let length = match payload.len() {
        n @ 0..=125 => vec![MASKED | u8::try_from(n).unwrap()],
        n @ 126..=65_535 => {
            [&[MASKED | 0x7e][..], &u16::try_from(n).unwrap().to_be_bytes()].concat()
        }
        n => [&[MASKED | 0x7f][..], &(n as u64).to_be_bytes()].concat(),
    };
    with_length(first, &length, MASK, payload)
}

/// A frame whose bytes of length, the bit for the mask included, are given.
pub(crate) fn with_length(first: u8, length: &[u8], mask: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let masked = payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask);
    [&[first][..], length, &mask].concat().into_iter().chain(masked).collect()
}

/// A handshake with `more` header lines.
pub(crate) fn request(more: &str) -> String {
    format!(
        "GET /v1/devices/kiln-3 HTTP/1.1\r\nHost: gateway.example\r\nConnection: Upgrade\r\n\
         Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
         Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: tidegate.v1\r\n{more}\r\n"
    )
}
