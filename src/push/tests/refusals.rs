//! Servers that say no.

use super::fake::status;
use super::*;

#[tokio::test]
async fn a_refused_batch_costs_itself_and_no_other() {
    let fake = Fake::start(|_, request| {
        if request.body.contains("name=bad") {
            status("400 Bad Request", "", "{\"error\":\"field type conflict\"}")
        } else {
            Reply::Taken
        }
    })
    .await;
    let pushing = Pushing::start(Push { batch_size: 64, ..settings(&fake.url()) });
    pushing.offer("good", 0..37);
    pushing.offer("bad", 37..38);
    pushing.offer("good", 38..64);
    pushing.until_counts((0, 63, 1)).await;
    let expected: Vec<u32> = (0..64).filter(|value| *value != 37).collect();
    assert_eq!(values(&fake), expected);
    assert_eq!(pushing.dropped("refused"), 1);
    let asked = fake.requests().len();
    assert!(asked <= 1 + 2 * 6, "halving 64 batches takes six steps, not {asked} requests");
    let state = pushing.state();
    assert!(!state.retrying, "{state:?}");
    assert!(state.last_error.unwrap().contains("field type conflict"));
}

#[tokio::test]
async fn a_server_that_takes_nothing_is_asked_three_times() {
    let fake = Fake::start(|_, _| status("422 Unprocessable Entity", "", "no")).await;
    let pushing = Pushing::start(settings(&fake.url()));
    pushing.offer("t", 0..100);
    pushing.until_counts((0, 0, 100)).await;
    assert_eq!((fake.requests().len(), pushing.errors()), (3, 3));
}

#[tokio::test]
async fn requests_get_smaller_for_a_server_that_finds_them_too_large() {
    let fake = Fake::start(|_, request| {
        if request.body.lines().count() > 10 {
            status("413 Content Too Large", "", "")
        } else {
            Reply::Taken
        }
    })
    .await;
    let pushing = Pushing::start(settings(&fake.url()));
    pushing.offer("t", 0..100);
    pushing.until_counts((0, 100, 0)).await;
    assert_eq!(values(&fake), (0..100).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_single_batch_that_is_too_large_is_given_up() {
    let fake = Fake::start(|_, _| status("413 Content Too Large", "", "")).await;
    let pushing = Pushing::start(settings(&fake.url()));
    pushing.offer("t", 0..2);
    pushing.until_counts((0, 0, 2)).await;
}

#[tokio::test]
async fn a_redirection_is_told_and_not_followed() {
    let other = Fake::start(|_, _| Reply::Taken).await;
    let header = format!("Location: {}\r\n", other.url());
    let fake = Fake::start(move |_, _| status("307 Temporary Redirect", &header, "")).await;
    let pushing = Pushing::start(settings(&fake.url()));
    pushing.offer("t", 0..1);
    until("it is told", || pushing.state().retrying).await;
    let error = pushing.state().last_error.unwrap();
    assert!(error.contains("307") && error.contains(&other.url()), "{error}");
    assert!(other.requests().is_empty());
    assert_eq!(pushing.counts(), (1, 0, 0), "kept");
}

#[tokio::test]
async fn a_secret_is_read_again_after_it_was_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = file(&folder, "token", "old\n");
    let fake = Fake::start(|_, request| {
        if request.head.contains("authorization: Token new\r\n") {
            Reply::Taken
        } else {
            status("401 Unauthorized", "", "{\"code\":\"unauthorized\"}")
        }
    })
    .await;
    let push = Push { token_file: Some(path), ..settings(&fake.url()) };
    let pushing = Pushing::start(push);
    pushing.offer("t", 0..5);
    until("it is told", || pushing.state().retrying).await;
    assert!(fake.requests()[0].head.contains("authorization: Token old\r\n"));
    assert!(pushing.state().last_error.unwrap().contains("unauthorized"));
    file(&folder, "token", "new\n");
    // By itself, at the next attempt.
    pushing.until_counts((0, 5, 0)).await;
    assert!(!pushing.state().retrying);
}

#[tokio::test]
async fn a_reload_reads_the_secret_and_tries_at_once() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("password");
    let fake = Fake::start(|_, _| Reply::Taken).await;
    let push =
        Push { token_file: Some(path.clone()), auth: PushAuth::Basic, ..settings(&fake.url()) };
    let pushing = Pushing::start(push);
    pushing.offer("t", 0..5);
    until("the missing file is told", || pushing.state().retrying).await;
    assert!(pushing.state().last_error.unwrap().contains("password: cannot be read"));
    assert!(fake.requests().is_empty(), "nothing is sent without the secret");
    file(&folder, "password", "Aladdin:open sesame");
    let started = Instant::now();
    pushing.handle.reload();
    pushing.until_counts((0, 5, 0)).await;
    assert!(started.elapsed() < DEADLINE);
    // RFC 7617 section 2.
    let head = &fake.requests()[0].head;
    assert!(head.contains("authorization: Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==\r\n"), "{head}");
}

#[tokio::test]
async fn a_server_that_asks_for_a_pause_gets_it() {
    let times = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = times.clone();
    let fake = Fake::start(move |number, _| {
        lock(&seen).push(Instant::now());
        match number {
            0 => status("429 Too Many Requests", "Retry-After: 3\r\n", ""),
            1 => status("503 Service Unavailable", "", "starting"),
            _ => Reply::Taken,
        }
    })
    .await;
    let pushing = Pushing::start(settings(&fake.url()));
    pushing.offer("t", 0..5);
    pushing.until_counts((0, 5, 0)).await;
    let times = lock(&times).clone();
    assert!(times[1] - times[0] >= Duration::from_secs(3));
    assert!(times[2] - times[1] >= Duration::from_millis(500));
}
