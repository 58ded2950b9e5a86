//! A fault of the program in what is shown to all viewers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tidegate::dashboard::{Context, Fleet};
use tidegate::ports::Clock;

use super::support::*;

/// Panics once in the dashboard's thread, when told to.
#[derive(Default)]
struct BreakingClock(AtomicBool);

impl Clock for BreakingClock {
    fn unix(&self) -> f64 {
        let here = std::thread::current().name() == Some("dashboard");
        assert!(!here || !self.0.swap(false, Ordering::AcqRel), "as the test wishes");
        SystemClock.unix()
    }
}

#[tokio::test]
async fn viewers_get_news_again_after_what_makes_them_panicked() {
    let clock = Arc::new(BreakingClock::default());
    let gateway =
        Gateway::of(Context { clock: clock.clone() as Arc<dyn Clock>, ..context(Fleet::new()) });
    gateway.up("a");
    let mut feed = gateway.watch("/api/v1/stream").await;
    assert_eq!(feed.next().await["type"], "snapshot");

    clock.0.store(true, Ordering::Release);
    // The status comes once a second and carries the time.
    while clock.0.load(Ordering::Acquire) {
        feed.next().await;
    }
    gateway.send("a", vec![number("x", 1.0, 1.0)]);
    assert_eq!(feed.news().await["readings"][0]["n"], "x", "who was there");
    let mut another = gateway.watch("/api/v1/stream").await;
    assert_eq!(another.next().await["type"], "snapshot", "and who comes after");
    assert_eq!(gateway.get("/api/v1/status").status, 200);
}
