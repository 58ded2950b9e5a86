//! Files that cannot be used are named when the uplink is made.

use std::path::Path;
use std::sync::Arc;

use tidegate::config::Mqtt;
use tidegate::uplink::MqttPublisher;

use crate::driver::{WallClock, settings};

fn error(settings: &Mqtt) -> String {
    let made =
        MqttPublisher::new(settings, "gw-1", Arc::default(), Arc::default(), Arc::new(WallClock));
    made.err().expect("an error").to_string()
}

fn tls() -> Mqtt {
    Mqtt { tls: true, ..settings(1) }
}

fn write(folder: &Path, name: &str, text: &str) -> std::path::PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, text).unwrap();
    path
}

#[test]
fn a_file_that_is_missing_or_holds_something_else_is_named_with_its_setting() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let missing = Some(folder.join("nowhere.pem"));
    let signed = rcgen::generate_simple_self_signed(vec!["gw".to_owned()]).unwrap();
    let other = rcgen::KeyPair::generate().unwrap();
    let good = Some(write(folder, "good.pem", &signed.cert.pem()));
    let key = Some(write(folder, "good.key", &signed.key_pair.serialize_pem()));
    let wrong_key = Some(write(folder, "wrong.key", &other.serialize_pem()));
    let text = Some(write(folder, "text.pem", "hello\n"));

    let with = |ca: &Option<_>, cert: &Option<_>, key: &Option<_>| {
        error(&Mqtt { ca: ca.clone(), cert: cert.clone(), key: key.clone(), ..tls() })
    };
    let none = None;
    for (error, parts) in [
        (with(&missing, &none, &none), ["mqtt.ca", "nowhere.pem", "cannot be read"]),
        (with(&text, &none, &none), ["mqtt.ca", "text.pem", "no certificate"]),
        (with(&good, &missing, &key), ["mqtt.cert", "nowhere.pem", "cannot be read"]),
        (with(&good, &good, &text), ["mqtt.key", "text.pem", "no private key"]),
        (with(&good, &good, &wrong_key), ["mqtt.key", "wrong.key", "cannot be used together"]),
        (with(&good, &good, &none), ["mqtt.cert", "mqtt.key", "belong together"]),
        (
            error(&Mqtt { password_file: missing.clone(), ..settings(1) }),
            ["mqtt.password_file", "nowhere.pem", "cannot be read"],
        ),
        (
            error(&Mqtt { host: "not a host".to_owned(), ca: good.clone(), ..tls() }),
            ["not a host"; 3],
        ),
        (
            error(&Mqtt { prefix: "x".repeat(65_000), ..settings(1) }),
            ["mqtt.prefix", "65000", "60000"],
        ),
    ] {
        for part in parts {
            assert!(error.contains(part), "{error:?} should say {part:?}");
        }
    }
}
