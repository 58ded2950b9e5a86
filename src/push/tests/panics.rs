//! A fault of the program in what sends.

use super::*;
use crate::storage::testing::BreakingClock;

#[tokio::test]
async fn a_push_that_panics_gives_up_what_it_was_sending_and_goes_on() {
    let fake = Fake::start(|_, _| Reply::Taken).await;
    let clock = Arc::new(BreakingClock::new("push"));
    let pushing = Pushing::with_clock(settings(&fake.url()), clock.clone());
    pushing.offer("before", 0..1);
    pushing.until_counts((0, 1, 0)).await;
    clock.break_it();
    pushing.offer("during", 0..1);
    until("it panics", || clock.has_broken()).await;
    pushing.until_counts((0, 1, 1)).await;
    assert_eq!(pushing.dropped("refused"), 1);
    pushing.offer("after", 0..1);
    pushing.until_counts((0, 2, 1)).await;
}
