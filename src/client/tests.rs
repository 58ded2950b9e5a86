use std::time::Instant;

use futures_util::{FutureExt, SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::Message;

use super::fake::{FakeGateway, FakeSession, soon};
use super::*;
use crate::core::frame::GatewayMessage;

fn options(gateway: &FakeGateway) -> Options {
    Options {
        backoff_min: Duration::from_millis(10),
        backoff_max: Duration::from_millis(50),
        ..Options::new(gateway.url.clone(), "kiln-3")
    }
}

/// A client of `gateway` and its first session, before WELCOME.
async fn pair(gateway: &FakeGateway, options: Options) -> (Client, FakeSession) {
    let (client, connection) = Client::start(options).unwrap();
    tokio::spawn(connection);
    (client, gateway.accept().await)
}

async fn send(client: &Client, count: usize) {
    for _ in 0..count {
        soon(client.send(&[reading("t", "Cel", 1.5, 0.0)])).await.unwrap();
    }
}

async fn next(client: &Client) -> Event {
    soon(client.event()).await.unwrap()
}

#[tokio::test]
async fn the_greeting_carries_who_the_device_is() {
    let gateway = FakeGateway::bind().await;
    let mut options = options(&gateway);
    options.token = Some("secret".into());
    options.epoch = Some(7);
    options.model = Some("K-3".into());
    let (client, mut session) = pair(&gateway, options).await;
    assert_eq!(session.device, "kiln-3");
    assert_eq!(session.authorization.as_deref(), Some("Bearer secret"));
    assert_eq!((session.hello.epoch, session.hello.model.as_deref()), (Some(7), Some("K-3")));
    session.welcome(0).await;
    assert_eq!(next(&client).await, Event::Connected { acked: 0 });
    assert!((client.now() - 1_763_800_000.0).abs() < 5.0, "the gateway's clock counts");
    assert!(client.clock_offset().is_some_and(|offset| offset < 0.0));
}

#[tokio::test]
async fn batches_before_the_first_connection_are_kept_and_sent_in_order() {
    let gateway = FakeGateway::bind().await;
    let (client, connection) = Client::start(options(&gateway)).unwrap();
    send(&client, 3).await;
    tokio::spawn(connection);
    let mut session = gateway.accept().await;
    session.welcome(0).await;
    assert_eq!(session.seqs(3).await, [1, 2, 3]);
    session.ack(3).await;
    assert_eq!(soon(client.settled()).await, 0);
}

#[tokio::test]
async fn a_reconnect_drops_what_is_acknowledged_and_resends_the_rest_in_order() {
    let gateway = FakeGateway::bind().await;
    let (client, mut session) = pair(&gateway, options(&gateway)).await;
    session.welcome(0).await;
    send(&client, 5).await;
    assert_eq!(session.seqs(5).await, [1, 2, 3, 4, 5]);
    session.ack(2).await;
    assert_eq!(next(&client).await, Event::Connected { acked: 0 });
    assert_eq!(next(&client).await, Event::Acked(2));
    drop(session);
    assert!(matches!(next(&client).await, Event::Disconnected { .. }));
    send(&client, 1).await;
    let mut session = gateway.accept().await;
    assert_eq!(session.hello.epoch, Some(client.epoch()));
    session.welcome(3).await;
    assert_eq!(session.seqs(3).await, [4, 5, 6]);
    session.ack(6).await;
    assert_eq!(soon(client.settled()).await, 0);
    assert_eq!(client.acked(), 6);
}

#[tokio::test]
async fn send_waits_while_the_window_is_full() {
    let gateway = FakeGateway::bind().await;
    let mut options = options(&gateway);
    options.keep_batches = 2;
    let (client, mut session) = pair(&gateway, options).await;
    session.welcome(0).await;
    send(&client, 2).await;
    assert_eq!(session.seqs(2).await, [1, 2]);
    assert_eq!(client.try_send_pack(&[0x80]).unwrap(), None);
    let pack = [reading("t", "Cel", 2.0, 0.0)];
    let mut third = Box::pin(client.send(&pack));
    assert!(third.as_mut().now_or_never().is_none());
    session.ack(1).await;
    assert_eq!(soon(third).await.unwrap(), 3);
    assert_eq!(session.seq().await, 3);
}

#[tokio::test]
async fn no_more_is_on_the_way_than_the_gateways_window() {
    let gateway = FakeGateway::bind().await;
    let (client, mut session) = pair(&gateway, options(&gateway)).await;
    session.welcome_with(0, 2, 65536, 30).await;
    send(&client, 5).await;
    assert_eq!(session.seqs(2).await, [1, 2]);
    // A ping is answered after everything that was written before it.
    session.socket.send(Message::Ping("now".into())).await.unwrap();
    let answer = soon(session.socket.next()).await.unwrap().unwrap();
    assert_eq!(answer, Message::Pong("now".into()), "and no third batch");
    session.ack(2).await;
    assert_eq!(session.seqs(2).await, [3, 4]);
}

#[tokio::test]
async fn a_refused_batch_is_told_and_not_sent_again() {
    let gateway = FakeGateway::bind().await;
    let (client, mut session) = pair(&gateway, options(&gateway)).await;
    session.welcome(0).await;
    send(&client, 3).await;
    session.seqs(3).await;
    let reject = GatewayMessage::Reject { seq: Some(2), code: 2, reason: "not yours".into() };
    session.send(&reject).await;
    assert_eq!(next(&client).await, Event::Connected { acked: 0 });
    let told = Event::Rejected { seq: Some(2), code: 2, reason: "not yours".into() };
    assert_eq!(next(&client).await, told);
    drop(session);
    let mut session = gateway.accept().await;
    session.welcome(0).await;
    assert_eq!(session.seqs(2).await, [1, 3]);
    session.ack(3).await;
    assert_eq!(soon(client.settled()).await, 0);
}

#[tokio::test]
async fn revoked_replaced_and_unacceptable_end_the_client() {
    for code in [4003, 4009, 1007, 1009, 1002] {
        let gateway = FakeGateway::bind().await;
        let (client, mut session) = pair(&gateway, options(&gateway)).await;
        session.welcome(0).await;
        assert_eq!(next(&client).await, Event::Connected { acked: 0 });
        session.close(code, "because").await;
        let stopped = soon(client.event()).await.unwrap_err();
        assert!(stopped.to_string().contains("because"), "{code}: {stopped}");
        match code {
            4003 => assert!(matches!(stopped, Stopped::Revoked(_))),
            4009 => assert!(matches!(stopped, Stopped::Replaced(_))),
            code => assert!(matches!(stopped, Stopped::Unacceptable { code: c, .. } if c == code)),
        }
        let error = client.send(&[reading("t", "Cel", 1.0, 0.0)]).await.unwrap_err();
        assert_eq!(error, SendError::Stopped(stopped));
    }
}

#[tokio::test]
async fn a_restart_an_overload_and_a_goodbye_lead_to_a_new_connection() {
    for code in [1000, 1001, 1012, 1013, 4008] {
        let gateway = FakeGateway::bind().await;
        let (client, mut session) = pair(&gateway, options(&gateway)).await;
        session.welcome(0).await;
        send(&client, 1).await;
        assert_eq!(session.seq().await, 1);
        session.close(code, "for now").await;
        let mut session = gateway.accept().await;
        session.welcome(0).await;
        assert_eq!(session.seq().await, 1);
    }
}

#[tokio::test]
async fn a_refusal_that_waiting_cannot_cure_is_an_error_in_the_gateways_words() {
    let gateway = FakeGateway::bind().await;
    let connect = Client::connect(options(&gateway));
    let refuse = gateway.refuse("401 Unauthorized", "no or wrong credentials\n");
    let (result, ()) = soon(async { tokio::join!(connect, refuse) }).await;
    let error = result.unwrap_err().to_string();
    assert_eq!(error, "the gateway refused the connection: 401 no or wrong credentials");
}

#[tokio::test]
async fn a_full_gateway_is_tried_again_but_not_before_it_said() {
    let gateway = FakeGateway::bind().await;
    let (client, connection) = Client::start(options(&gateway)).unwrap();
    tokio::spawn(connection);
    gateway.refuse("503 Service Unavailable\r\nRetry-After: 1", "full").await;
    let refused = Instant::now();
    let mut session = gateway.accept().await;
    assert!(refused.elapsed() >= Duration::from_millis(900), "{:?}", refused.elapsed());
    session.welcome(0).await;
    assert!(
        matches!(next(&client).await, Event::Unreachable { reason } if reason.contains("503 full"))
    );
    soon(client.connected()).await.unwrap();
}

#[tokio::test]
async fn attempts_are_spread_and_never_faster_than_the_shortest_wait() {
    let gateway = FakeGateway::bind().await;
    let mut options = options(&gateway);
    options.backoff_min = Duration::from_millis(40);
    options.backoff_max = Duration::from_millis(80);
    let (client, connection) = Client::start(options).unwrap();
    tokio::spawn(connection);
    gateway.refuse("503 Service Unavailable", "full").await;
    for _ in 0..4 {
        let refused = Instant::now();
        gateway.refuse("503 Service Unavailable", "full").await;
        // The client counts from when it saw the refusal, which is a little earlier than here.
        assert!(refused.elapsed() >= Duration::from_millis(35), "{:?}", refused.elapsed());
    }
    assert!(!client.is_connected());
}

#[tokio::test]
async fn an_epoch_that_was_used_before_is_an_error_not_a_silent_loss() {
    let gateway = FakeGateway::bind().await;
    let mut options = options(&gateway);
    options.epoch = Some(7);
    let (client, mut session) = pair(&gateway, options.clone()).await;
    session.welcome(90).await;
    let stopped = soon(client.connected()).await.unwrap_err();
    assert_eq!(stopped, Stopped::EpochInUse { epoch: 7, acked: 90, highest_sent: 0 });

    options.first_seq = 91;
    let (client, mut session) = pair(&gateway, options).await;
    session.welcome(90).await;
    send(&client, 1).await;
    assert_eq!(session.seq().await, 91);
}

#[tokio::test]
async fn what_the_gateway_would_not_take_is_refused_here() {
    let gateway = FakeGateway::bind().await;
    let (client, mut session) = pair(&gateway, options(&gateway)).await;
    send(&client, 1).await;
    session.welcome_with(0, 8, 10, 30).await;
    assert!(matches!(next(&client).await, Event::Rejected { seq: Some(1), code: 0, .. }));
    let error = client.send(&[reading("t", "Cel", 1.0, 0.0)]).await.unwrap_err();
    assert!(matches!(error, SendError::TooLarge { max_frame: 10, .. }));
}

#[tokio::test]
async fn best_effort_is_dropped_without_a_connection_and_sent_with_one() {
    let gateway = FakeGateway::bind().await;
    let (client, mut session) = pair(&gateway, options(&gateway)).await;
    let readings = [reading("t", "Cel", 1.0, 0.0)];
    assert!(!client.best_effort(&readings).await.unwrap());
    session.welcome(0).await;
    soon(client.connected()).await.unwrap();
    assert!(soon(client.best_effort(&readings)).await.unwrap());
    assert_eq!(soon(session.try_readings()).await.unwrap().0, None);
    assert_eq!(client.unacknowledged(), 0);
}

#[tokio::test]
async fn a_command_that_comes_twice_is_carried_out_once_and_answered_twice() {
    let gateway = FakeGateway::bind().await;
    let (client, mut session) = pair(&gateway, options(&gateway)).await;
    session.welcome(0).await;
    let command = command("c-1", "open");
    session.send(&command).await;
    assert_eq!(next(&client).await, Event::Connected { acked: 0 });
    assert!(matches!(next(&client).await, Event::Command(Command { id, .. }) if id == "c-1"));
    client.result("c-1", true, Value::from("done"));
    let answer = ("c-1".into(), true, Value::from("done"));
    assert_eq!(session.result().await, answer);
    session.send(&command).await;
    assert_eq!(session.result().await, answer);
    assert_eq!(client.try_event(), None);
}

fn command(id: &str, name: &str) -> GatewayMessage {
    let params = Value::from(format!("for {id}"));
    GatewayMessage::Command { id: id.into(), name: name.into(), params, ttl: 60 }
}

#[tokio::test]
async fn each_command_goes_to_its_handler_and_a_slow_one_holds_up_no_other() {
    let gateway = FakeGateway::bind().await;
    let release = Arc::new(tokio::sync::Notify::new());
    let released = release.clone();
    let handlers = Handlers::new()
        .on("slow", move |command: Command| {
            let released = released.clone();
            async move {
                released.notified().await;
                Ok(command.params)
            }
        })
        .on("fails", |_| async { Err("the valve is stuck".to_owned()) });
    let mut options = options(&gateway);
    options.commands = handlers.names();
    let (client, mut session) = pair(&gateway, options).await;
    assert_eq!(session.hello.commands, ["fails", "slow"]);
    session.welcome(0).await;
    let mut others = Vec::new();
    let talk = async {
        for (id, name) in [("1", "slow"), ("2", "fails"), ("3", "dance")] {
            session.send(&command(id, name)).await;
        }
        assert_eq!(session.result().await, ("2".into(), false, Value::from("the valve is stuck")));
        let (id, ok, value) = session.result().await;
        assert_eq!((id.as_str(), ok), ("3", false));
        assert!(value.as_text().unwrap().contains("does not know the command \"dance\""));
        release.notify_one();
        assert_eq!(session.result().await, ("1".into(), true, Value::from("for 1")));
        client.shared.tell_connection(|state| state.closing = true);
    };
    let (stopped, ()) = soon(async {
        tokio::join!(handlers.serve(&client, |event| others.push(event.clone())), talk)
    })
    .await;
    assert_eq!(stopped, Stopped::Closed);
    assert_eq!(others, [Event::Connected { acked: 0 }]);
}

#[tokio::test]
async fn an_answer_that_a_broken_connection_may_have_taken_with_it_is_sent_again() {
    let gateway = FakeGateway::bind().await;
    let (client, mut session) = pair(&gateway, options(&gateway)).await;
    session.welcome(0).await;
    session.send(&command("c-1", "open")).await;
    assert_eq!(next(&client).await, Event::Connected { acked: 0 });
    assert!(matches!(next(&client).await, Event::Command(_)));
    client.result("c-1", true, Value::from("done"));
    // Whether the gateway has read it is not known when the connection breaks.
    soon(client.settled()).await;
    drop(session);
    let mut session = gateway.accept().await;
    session.welcome(0).await;
    assert_eq!(session.result().await, ("c-1".into(), true, Value::from("done")));
    // What is answered while there is no connection waits for one.
    drop(session);
    while client.is_connected() {
        next(&client).await;
    }
    client.result("c-2", false, Value::from("no"));
    let mut session = gateway.accept().await;
    session.welcome(0).await;
    let mut seen = [session.result().await.0, session.result().await.0];
    seen.sort();
    assert_eq!(seen, ["c-1", "c-2"]);
}

#[tokio::test]
async fn a_gateway_that_acknowledges_what_was_never_sent_is_none() {
    let gateway = FakeGateway::bind().await;
    let (client, mut session) = pair(&gateway, options(&gateway)).await;
    session.welcome(0).await;
    session.ack(5).await;
    assert_eq!(next(&client).await, Event::Connected { acked: 0 });
    assert!(matches!(soon(client.event()).await, Err(Stopped::NotAGateway(_))));
}

#[tokio::test]
async fn close_waits_for_what_is_not_settled_and_says_goodbye() {
    let gateway = FakeGateway::bind().await;
    let (client, mut session) = pair(&gateway, options(&gateway)).await;
    session.welcome(0).await;
    send(&client, 2).await;
    let closing = tokio::spawn(client.close(Duration::from_secs(5)));
    assert_eq!(session.seqs(2).await, [1, 2]);
    session.ack(2).await;
    assert!(soon(session.try_readings()).await.is_none());
    assert_eq!(soon(closing).await.unwrap(), 0);
}

#[tokio::test]
async fn close_without_a_gateway_ends_and_says_what_is_left() {
    let gateway = FakeGateway::bind().await;
    let (client, connection) = Client::start(options(&gateway)).unwrap();
    tokio::spawn(connection);
    drop(gateway);
    send(&client, 2).await;
    assert_eq!(soon(client.close(Duration::from_millis(50))).await, 2);
}

#[tokio::test]
async fn a_dropped_client_hangs_up() {
    let gateway = FakeGateway::bind().await;
    let (client, mut session) = pair(&gateway, options(&gateway)).await;
    session.welcome(0).await;
    soon(client.connected()).await.unwrap();
    drop(client);
    assert!(soon(session.try_readings()).await.is_none());
}

#[tokio::test]
async fn a_gateway_that_falls_silent_is_left() {
    let gateway = FakeGateway::bind().await;
    let mut options = options(&gateway);
    options.silence_slack = Duration::from_millis(50);
    let (client, mut session) = pair(&gateway, options).await;
    session.welcome_with(0, 8, 65536, 0).await;
    assert_eq!(next(&client).await, Event::Connected { acked: 0 });
    let connected = Instant::now();
    let Event::Disconnected { reason } = next(&client).await else { panic!() };
    assert!(reason.contains("nothing heard"), "{reason}");
    assert!(connected.elapsed() >= Duration::from_millis(40), "{:?}", connected.elapsed());
}

#[tokio::test]
async fn a_device_whose_network_is_gone_comes_back_by_itself() {
    let gateway = FakeGateway::bind().await;
    let (client, mut session) = pair(&gateway, options(&gateway)).await;
    session.welcome(0).await;
    soon(client.connected()).await.unwrap();
    let cut = Instant::now();
    client.disconnect(Duration::from_millis(60));
    assert!(soon(session.try_readings()).await.is_none());
    send(&client, 1).await;
    let mut session = gateway.accept().await;
    assert!(cut.elapsed() >= Duration::from_millis(60));
    session.welcome(0).await;
    assert_eq!(session.seq().await, 1);
}

#[tokio::test]
async fn events_that_nobody_fetches_are_bounded_and_counted() {
    let gateway = FakeGateway::bind().await;
    let (client, mut session) = pair(&gateway, options(&gateway)).await;
    session.welcome(0).await;
    for _ in 0..1100 {
        let reject = GatewayMessage::Reject { seq: None, code: 1, reason: String::new() };
        session.send(&reject).await;
    }
    send(&client, 1).await;
    assert_eq!(session.seq().await, 1);
    session.ack(1).await;
    assert_eq!(soon(client.settled()).await, 0);
    assert_eq!(next(&client).await, Event::Missed(1101 - 1024));
}
