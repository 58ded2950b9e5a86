use std::sync::Mutex;

use clap::Parser;

use super::*;
use crate::client::fake::{FakeGateway, Ledger, soon};
use crate::ports::lock;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

fn args(url: &str, line: &str) -> Args {
    let words = ["simulate", "--url", url].into_iter().chain(line.split_whitespace());
    Line::try_parse_from(words).unwrap().args
}

/// Runs against a gateway that takes everything: what the summary says, and what arrived.
async fn simulated(line: &str) -> (Summary, Ledger, bool) {
    let gateway = FakeGateway::bind().await;
    let args = args(&gateway.url, line);
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let serving = tokio::spawn(gateway.serve(Arc::clone(&ledger)));
    let devices = devices(&args).unwrap();
    let totals = Arc::new(Totals::new(devices.len()).unwrap());
    soon(simulate(&args, devices, &totals)).await.unwrap();
    serving.abort();
    let summary = totals.summary(args.batch, args.best_effort);
    let success = verdict(&summary, totals.unexpected.get()) == ExitCode::SUCCESS;
    let ledger = std::mem::take(&mut *lock(&ledger));
    (summary, ledger, success)
}

#[tokio::test]
async fn every_device_sends_its_count_in_order_and_the_summary_agrees() {
    let (summary, ledger, success) =
        simulated("--devices 7 --rate 0 --count 100 --window 8 --batch 3").await;
    assert!(success, "{summary:?}");
    assert_eq!((summary.sent, summary.acked, summary.unacknowledged), (700, 700, 0));
    assert_eq!(ledger.seqs.len(), 7);
    for seqs in ledger.seqs.values() {
        assert_eq!(*seqs, (1..=100).collect::<Vec<_>>());
    }
    let json = serde_json::to_value(&summary).unwrap();
    assert!(json["ack_us"]["p99"].as_u64() >= json["ack_us"]["p50"].as_u64());
    assert!(json["readings_per_second"].as_f64().unwrap() > 0.0);
}

#[tokio::test]
async fn a_rate_is_kept() {
    let began = Instant::now();
    let (summary, ..) = simulated("--devices 2 --total-rate 200 --duration 500ms").await;
    let expected = 200.0 * began.elapsed().as_secs_f64();
    assert!((60.0..=expected).contains(&(summary.sent as f64)), "{summary:?}");
    assert_eq!(summary.acked, summary.sent);
}

#[tokio::test]
async fn best_effort_counts_what_was_written() {
    let (summary, ledger, success) =
        simulated("--devices 2 --rate 0 --count 50 --best-effort").await;
    assert!(success, "{summary:?}");
    assert_eq!((summary.sent, summary.acked, ledger.best_effort), (100, 0, 100));
}

#[tokio::test]
async fn malformed_packs_are_refused_and_nothing_else_is() {
    let (summary, ledger, success) =
        simulated("--devices 2 --rate 0 --count 100 --malformed 1").await;
    assert!(success, "{summary:?}");
    assert_eq!((summary.sent, summary.acked), (200, 0), "{summary:?}");
    assert_eq!(summary.rejected, ledger.rejected as u64);
    assert!(summary.rejected > 0);
}

#[tokio::test]
async fn a_reconnect_storm_loses_and_repeats_nothing() {
    let (summary, ledger, success) =
        simulated("--devices 5 --rate 200 --count 120 --reconnect-every 150ms").await;
    assert!(success, "{summary:?}");
    assert_eq!(summary.acked, 600);
    assert!(summary.reconnects >= 5, "{summary:?}");
    assert_eq!(ledger.connections as u64, 5 + summary.reconnects);
    for seqs in ledger.seqs.values() {
        assert_eq!(*seqs, (1..=120).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn idle_devices_connect_and_send_nothing() {
    let (summary, ledger, success) = simulated("--devices 5 --idle --duration 200ms").await;
    assert!(success, "{summary:?}");
    assert_eq!((summary.sent, ledger.connections), (0, 5));
}

#[tokio::test]
async fn a_gateway_that_is_not_there_is_a_failure_with_its_reason() {
    let gateway = FakeGateway::bind().await;
    let args = args(&gateway.url, "--devices 2 --duration 100ms");
    drop(gateway);
    let totals = Arc::new(Totals::new(2).unwrap());
    soon(simulate(&args, devices(&args).unwrap(), &totals)).await.unwrap();
    let summary = totals.summary(1, false);
    assert!(verdict(&summary, 0) != ExitCode::SUCCESS);
    assert!(summary.error.unwrap().contains("refused"), "says why");
}

#[test]
fn devices_and_tokens_come_from_a_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("tokens");
    std::fs::write(&file, "# id token\nkiln-1 aaa\n\n kiln-2  bbb \n").unwrap();
    let line = format!("--tokens {}", file.display());
    let found = devices(&args("ws://h", &line)).unwrap();
    let found: Vec<_> = found.iter().map(|o| (o.device.as_str(), o.token.as_deref())).collect();
    assert_eq!(found, [("kiln-1", Some("aaa")), ("kiln-2", Some("bbb"))]);
    let error = devices(&args("ws://h", &format!("{line} --devices 3"))).unwrap_err();
    assert!(error.to_string().contains("has 2 devices"), "{error}");
    std::fs::write(&file, "kiln-1 aaa\nsecret\n").unwrap();
    let error = devices(&args("ws://h", &line)).unwrap_err().to_string();
    assert!(error.contains(":2: ") && !error.contains("secret"), "{error}");
}

#[test]
fn devices_connect_from_several_loopback_addresses_in_turn() {
    let found = devices(&args("ws://h", "--devices 5 --sources 2")).unwrap();
    let addresses: Vec<_> = found.iter().map(|o| o.local_address.unwrap().to_string()).collect();
    assert_eq!(addresses, ["127.0.0.1", "127.0.0.2", "127.0.0.1", "127.0.0.2", "127.0.0.1"]);
}
