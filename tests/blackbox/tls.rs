//! A site without an authority of its own: certificates by `tidegate tls`, a gateway with them, and
//! devices that show theirs.

use std::path::{Path, PathBuf};

use tidegate::client::tls as client_tls;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use rustix::process::Signal;

use crate::harness::{Broker, Gateway, Setup, until, within};

/// Runs `tidegate tls` in the gateway's folder and gives what it prints.
fn tls(gateway: &Gateway, arguments: &[&str]) -> Vec<String> {
    let output = gateway.binary().arg("tls").args(arguments).output().unwrap();
    assert!(output.status.success(), "tls {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

/// A gateway whose devices show certificates of `tidegate tls new`, for `devices`.
async fn start(devices: &[&str]) -> (Broker, Gateway) {
    let broker = Broker::start("").await;
    let table: toml::Table =
        "cert = \"pki/server.crt\"\nkey = \"pki/server.key\"\nclient_ca = \"pki/ca.crt\"\n\
         crl = \"pki/revoked.crl\"\n"
            .parse()
            .unwrap();
    let setup = Setup::new(broker.port).set("devices.auth", "mtls").set("devices.tls", table);
    let mut gateway = setup.prepare();
    let named = devices.iter().flat_map(|device| ["--device", device]);
    let arguments: Vec<&str> =
        ["new", "pki", "--host", "127.0.0.1"].into_iter().chain(named).collect();
    let made = tls(&gateway, &arguments);
    assert_eq!(made.len(), 4 + 2 * devices.len(), "{made:?}");
    for file in &made {
        assert!(gateway.dir().join(file).exists(), "{file}");
    }
    let checked = gateway.command(&["check"]);
    assert!(checked.status.success(), "{checked:?}");
    gateway.start().await;
    (broker, gateway)
}

struct Shown {
    ca: PathBuf,
    pair: Option<(PathBuf, PathBuf)>,
}

impl Shown {
    fn of(gateway: &Gateway, device: &str) -> Self {
        let folder = gateway.dir().join("pki");
        let own = |kind: &str| folder.join("devices").join(format!("{device}.{kind}"));
        Self { ca: folder.join("ca.crt"), pair: Some((own("crt"), own("key"))) }
    }

    fn connector(&self) -> TlsConnector {
        let pair = self.pair.as_ref().map(|(cert, key)| (cert.as_path(), key.as_path()));
        TlsConnector::from(client_tls::config(Some(&self.ca), pair).unwrap())
    }
}

/// The status with which a handshake as `id` is answered; `None` if TLS is refused.
async fn status(gateway: &Gateway, connector: &TlsConnector, id: &str) -> Option<u16> {
    let attempt = async {
        let stream = TcpStream::connect(("127.0.0.1", gateway.devices)).await?;
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let mut stream = connector.connect(name, stream).await?;
        let request = format!(
            "GET /v1/devices/{id} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Protocol: tidegate.v1\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = [0; 12];
        stream.read_exact(&mut answer).await?;
        std::io::Result::Ok(String::from_utf8_lossy(&answer[9..]).parse().unwrap())
    };
    within("an answer", attempt).await.ok()
}

/// What the gateway shows as its certificate.
async fn certificate(gateway: &Gateway, connector: &TlsConnector) -> Vec<u8> {
    let stream = TcpStream::connect(("127.0.0.1", gateway.devices)).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = within("TLS", connector.connect(name, stream)).await.unwrap();
    let (_, connection) = stream.get_ref();
    connection.peer_certificates().unwrap()[0].as_ref().to_vec()
}

#[tokio::test]
async fn certificates_of_tls_new_let_each_device_in_as_itself_and_nobody_else() {
    let (_broker, gateway) = start(&["kiln-3", "kiln_4"]).await;
    let own = Shown::of(&gateway, "kiln-3").connector();
    assert_eq!(status(&gateway, &own, "kiln-3").await, Some(101));
    assert_eq!(status(&gateway, &own, "kiln_4").await, Some(401), "another's id");
    let other = Shown::of(&gateway, "kiln_4").connector();
    assert_eq!(status(&gateway, &other, "kiln_4").await, Some(101));
    let none = Shown { pair: None, ..Shown::of(&gateway, "kiln-3") }.connector();
    assert_eq!(status(&gateway, &none, "kiln-3").await, None, "no certificate");

    let mut options =
        tidegate::client::Options::new(format!("wss://127.0.0.1:{}", gateway.devices), "kiln-3");
    let shown = Shown::of(&gateway, "kiln-3");
    let (cert, key) = shown.pair.as_ref().unwrap();
    options.tls = Some(client_tls::config(Some(&shown.ca), Some((cert, key))).unwrap());
    let client = within("connecting", tidegate::client::Client::connect(options)).await.unwrap();
    let reading = tidegate::client::reading("temperature", "Cel", 21.5, client.now());
    within("sending", client.send(&[reading])).await.unwrap();
    assert_eq!(client.close(crate::harness::DEADLINE).await, 0, "all is acknowledged");

    // Without an id none can be named: it is told with the count of all.
    let output = gateway.command(&["why", "kiln_4"]);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("TLS handshakes failed"), "{said}");
}

#[tokio::test]
async fn a_revoked_certificate_opens_nothing_more_within_seconds_and_a_new_one_does() {
    let (_broker, gateway) = start(&["a", "b"]).await;
    let [a, b] = ["a", "b"].map(|device| Shown::of(&gateway, device).connector());
    assert_eq!(status(&gateway, &a, "a").await, Some(101));
    assert_eq!(tls(&gateway, &["revoke", "pki", "a"]), ["pki/revoked.crl"]);
    until("a is refused", async || status(&gateway, &a, "a").await.is_none()).await;
    assert_eq!(status(&gateway, &b, "b").await, Some(101));
    tls(&gateway, &["new", "pki", "--device", "a"]);
    let fresh = Shown::of(&gateway, "a").connector();
    assert_eq!(status(&gateway, &fresh, "a").await, Some(101));
}

#[tokio::test]
async fn a_renewed_certificate_is_taken_up_when_the_file_changes_and_on_sighup() {
    let (_broker, gateway) = start(&["a"]).await;
    let own = Shown::of(&gateway, "a").connector();
    let mut before = certificate(&gateway, &own).await;
    for by_signal in [false, true] {
        tls(&gateway, &["new", "pki", "--host", "127.0.0.1", "--renew"]);
        if by_signal {
            gateway.signal(Signal::HUP);
        }
        until("the new one is shown", async || certificate(&gateway, &own).await != before).await;
        before = certificate(&gateway, &own).await;
    }
    // A file that is no certificate changes nothing.
    let path: &Path = &gateway.dir().join("pki/server.crt");
    std::fs::write(path, "no certificate").unwrap();
    gateway.signal(Signal::HUP);
    until("it is in the log", async || gateway.log().contains("server.crt")).await;
    assert_eq!(certificate(&gateway, &own).await, before);
}
