//! Servers that are slow, broken, hostile or away.

use super::fake::status;
use super::*;

#[tokio::test]
async fn requests_share_a_connection() {
    let fake = Fake::start(|_, _| Reply::Taken).await;
    let pushing = Pushing::start(settings(&fake.url()));
    for round in 0..3 {
        pushing.offer("t", round * 10..round * 10 + 10);
        pushing.until_counts((0, u64::from(round) * 10 + 10, 0)).await;
    }
    let requests = fake.requests();
    assert!(requests.len() >= 3 && requests.iter().all(|request| request.connection == 0));
    let head = &requests[0].head;
    assert!(head.starts_with("POST /write?db=x HTTP/1.1\r\n"), "{head}");
    for line in ["host: 127.0.0.1:", "content-type: text/plain", "user-agent: tidegate/"] {
        assert!(head.contains(line), "{line} in {head}");
    }
    assert_eq!(
        requests[0].body.lines().next().unwrap(),
        "readings,gateway=gw,device=kiln-3,name=t value=0.0 1763800000000000000"
    );
}

#[tokio::test]
async fn a_server_that_closes_each_connection_after_its_answer_is_no_trouble() {
    let fake = Fake::start(|_, _| {
        Reply::RawAndClose("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned())
    })
    .await;
    let pushing = Pushing::start(settings(&fake.url()));
    for round in 0..5 {
        pushing.offer("t", round..round + 1);
        pushing.until_counts((0, u64::from(round) + 1, 0)).await;
    }
    assert_eq!(pushing.errors(), 0);
}

#[tokio::test]
async fn large_requests_are_compressed() {
    let fake = Fake::start(|_, _| Reply::Taken).await;
    let pushing = Pushing::start(Push { gzip: true, ..settings(&fake.url()) });
    pushing.offer("t", 0..100);
    pushing.until_counts((0, 100, 0)).await;
    assert_eq!(values(&fake), (0..100).collect::<Vec<_>>());
    let packed = |head: &String| head.contains("content-encoding: gzip");
    assert!(fake.requests().iter().any(|request| packed(&request.head)));
}

/// Whatever the first answers are, the readings arrive once the server is well again.
async fn survives(what: &str, reply: Reply) {
    let fake = Fake::start(move |number, _| if number < 2 { reply.clone() } else { Reply::Taken });
    let fake = fake.await;
    let push = Push { timeout: Duration::from_millis(400), ..settings(&fake.url()) };
    let pushing = Pushing::start(push);
    pushing.offer("t", 0..20);
    until(&format!("{what} is told"), || pushing.state().last_error.is_some()).await;
    let error = pushing.state().last_error.unwrap();
    assert!(error.len() < 1500, "{what}: {error}");
    pushing.until_counts((0, 20, 0)).await;
    assert_eq!(values(&fake), (0..20).collect::<Vec<_>>(), "{what}");
    assert!(pushing.errors() >= 1, "{what}");
}

#[tokio::test]
async fn silence_after_the_request_ends_with_the_time() {
    survives("silence", Reply::Silence).await;
}

#[tokio::test]
async fn a_connection_closed_without_an_answer_is_tried_again() {
    survives("a hang-up", Reply::Hangup).await;
}

#[tokio::test]
async fn an_answer_that_is_no_http_is_an_error() {
    survives("garbage", Reply::RawAndClose("SSH-2.0-OpenSSH_9.2\r\n".to_owned())).await;
}

#[tokio::test]
async fn endless_headers_are_cut() {
    survives("endless headers", Reply::Endless("HTTP/1.1 204 No Content\r\nX: ".to_owned())).await;
}

#[tokio::test]
async fn an_endless_body_is_cut() {
    let head = "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 99999999999\r\n\r\n";
    survives("an endless body", Reply::Endless(head.to_owned())).await;
}

#[tokio::test]
async fn half_an_answer_does_not_hold_up() {
    let half = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 100\r\n\r\nhalf".to_owned();
    survives("half an answer", Reply::Raw(half)).await;
}

#[tokio::test]
async fn an_endless_body_after_success_is_success() {
    let head = "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n".to_owned();
    let fake = Fake::start(move |_, _| Reply::Endless(head.clone())).await;
    let pushing = Pushing::start(settings(&fake.url()));
    pushing.offer("t", 0..20);
    pushing.until_counts((0, 20, 0)).await;
    assert_eq!(pushing.errors(), 0);
}

#[tokio::test]
async fn a_server_that_is_away_gets_everything_in_order_when_it_is_back() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let pushing = Pushing::start(settings(&format!("http://127.0.0.1:{port}/write")));
    pushing.offer("t", 0..150);
    until("it is told", || pushing.state().retrying).await;
    let error = pushing.state().last_error.unwrap();
    assert!(error.contains(&format!("cannot reach 127.0.0.1:{port}")), "{error}");
    pushing.offer("t", 150..250);
    let (seen, taken) = (Arc::new(std::sync::Mutex::new(String::new())), Reply::Taken);
    let log = seen.clone();
    let fake = Fake::start_at(port, move |_, request| {
        lock(&log).push_str(&request.body);
        taken.clone()
    })
    .await;
    pushing.until_counts((0, 250, 0)).await;
    assert_eq!(values(&fake), (0..250).collect::<Vec<_>>());
    let seen = lock(&seen).clone();
    assert!(seen.lines().map(|line| line.rsplit(' ').next().unwrap()).is_sorted());
}

#[tokio::test]
async fn a_stop_ends_in_time_though_the_server_is_silent() {
    let fake = Fake::start(|_, _| Reply::Silence).await;
    let pushing = Pushing::start(settings(&fake.url()));
    pushing.offer("t", 0..20);
    until("a request is under way", || !fake.requests().is_empty()).await;
    let Pushing { handle, health, metrics, .. } = pushing;
    let started = Instant::now();
    handle.stop(Duration::from_millis(300)).await;
    // The timeout of a request is 20 s.
    assert!(started.elapsed() < Duration::from_secs(15), "{:?}", started.elapsed());
    assert_eq!(health.pushes()[0].dropped.load(Ordering::Relaxed), 20);
    let label = metrics::PushDrop { push: "test".to_owned(), reason: "stopped" };
    assert_eq!(metrics.push_dropped.get_or_create(&label).get(), 20);
}

#[tokio::test]
async fn a_stop_sends_what_waits() {
    let fake = Fake::start(|_, _| Reply::Taken).await;
    let push = Push { interval: Duration::from_secs(600), ..settings(&fake.url()) };
    let pushing = Pushing::start(push);
    pushing.offer("t", 0..20);
    let Pushing { handle, health, .. } = pushing;
    handle.stop(DEADLINE).await;
    assert_eq!(values(&fake), (0..20).collect::<Vec<_>>());
    assert_eq!(health.pushes()[0].sent.load(Ordering::Relaxed), 20);
}

#[tokio::test]
async fn an_error_of_one_server_is_none_of_anothers() {
    let good = Fake::start(|_, _| Reply::Taken).await;
    let bad = Fake::start(|_, _| status("500 Internal Server Error", "", "")).await;
    let (health, metrics) = (Arc::new(Health::default()), Arc::new(Metrics::new()));
    let clock = Arc::new(SystemClock::new());
    let context = Context { gateway: "gw".to_owned(), health: health.clone(), metrics, clock };
    let pushes = [
        Push { name: "bad".to_owned(), ..settings(&bad.url()) },
        Push { name: "good".to_owned(), ..settings(&good.url()) },
    ];
    let handle = start(&pushes, &context).unwrap().unwrap();
    handle.feed().readings(&batch("kiln-3", "t", 1.0));
    let sent = |index: usize| health.pushes()[index].sent.load(Ordering::Relaxed);
    until("the good one has it", || sent(1) == 1).await;
    until("the bad one is told", || lock(&health.pushes()[0].state).retrying).await;
    assert_eq!(sent(0), 0);
    assert!(!lock(&health.pushes()[1].state).retrying);
}
