//! How connections end: every close code, and the heartbeat.

use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::Frame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::{Data, OpCode};

use crate::harness::{
    Broker, Device, FromGateway, Gateway, Setup, Value, hello, readings, record, until,
};

async fn start(adjust: impl FnOnce(Setup) -> Setup) -> (Broker, Gateway) {
    let broker = Broker::start("").await;
    let gateway = adjust(Setup::new(broker.port)).start().await;
    (broker, gateway)
}

fn one_reading() -> Value {
    readings(Some(1), Value::Array(vec![record("a", 1.0, 0.0)]))
}

#[tokio::test]
async fn a_message_out_of_turn_is_1002() {
    let (_broker, gateway) = start(|setup| setup).await;
    let result = Value::Array(vec![2.into(), "c1".into(), true.into(), Value::Null]);
    for early in [one_reading(), result] {
        let mut device = gateway.device("kiln-3").connect().await.unwrap();
        device.send(&early).await;
        assert_eq!(device.closed().await, 1002, "{early:?} before HELLO");
    }
    let (mut device, _) = gateway.device("kiln-3").open(None).await;
    device.send(&hello(None, &[])).await;
    assert_eq!(device.closed().await, 1002, "HELLO twice");
}

#[tokio::test]
async fn a_text_message_is_1003() {
    let (_broker, gateway) = start(|setup| setup).await;
    let (mut device, _) = gateway.device("kiln-3").open(None).await;
    device.send_frame(Message::text("[1,1,[]]")).await;
    assert_eq!(device.closed().await, 1003);
    let mut device = gateway.device("kiln-3").connect().await.unwrap();
    device.send_frame(Message::text("hello")).await;
    assert_eq!(device.closed().await, 1003, "also before HELLO");
}

#[tokio::test]
async fn bytes_that_are_no_message_are_1007() {
    let (_broker, gateway) = start(|setup| setup).await;
    let nested = [vec![0x83, 0x01, 0x01], vec![0x81; 5000], vec![0x00]].concat();
    let bad: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("cut short", vec![0x83, 0x01]),
        ("bytes left over", vec![0x83, 0x01, 0x01, 0x80, 0x00]),
        ("no array", vec![0xa0]),
        ("an empty array", vec![0x80]),
        ("a type that is not in the table", vec![0x82, 0x18, 0x63, 0xa0]),
        ("a type of the gateway", vec![0x82, 0x11, 0x01]),
        ("a type that is text", vec![0x83, 0x61, 0x31, 0x01, 0x80]),
        ("a length nobody can hold", vec![0x9b, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]),
        (
            "a text as long as the address space",
            vec![0x83, 0x01, 0x01, 0x7b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
        ),
        ("nesting without end", nested),
        ("a reserved initial byte", vec![0x83, 0x01, 0x01, 0x1c]),
        ("a break alone", vec![0xff]),
        ("a seq that is text", vec![0x83, 0x01, 0x61, 0x31, 0x80]),
        ("a negative seq", vec![0x83, 0x01, 0x20, 0x80]),
        ("a pack that is a number", vec![0x83, 0x01, 0x01, 0x05]),
        ("no pack", vec![0x82, 0x01, 0x01]),
        ("a RESULT without a value", vec![0x83, 0x02, 0x61, 0x31, 0xf5]),
    ];
    for (what, bytes) in bad {
        let (mut device, _) = gateway.device("kiln-3").open(None).await;
        device.send_bytes(bytes).await;
        assert_eq!(device.closed().await, 1007, "{what}");
    }
}

#[tokio::test]
async fn a_known_key_of_the_wrong_type_is_1007() {
    let (_broker, gateway) = start(|setup| setup).await;
    let wrong: Vec<(&str, Value)> = vec![
        ("epoch", "7".into()),
        ("epoch", (-7).into()),
        ("model", 1.into()),
        ("firmware", Value::Array(vec![])),
        ("commands", "reboot".into()),
        ("commands", Value::Array(vec![1.into()])),
    ];
    for (key, value) in wrong {
        let mut device = gateway.device("kiln-3").connect().await.unwrap();
        device.send(&hello(None, &[(key, value.clone())])).await;
        assert_eq!(device.closed().await, 1007, "{key} = {value:?}");
    }
}

#[tokio::test]
async fn a_message_over_max_frame_is_1009() {
    let (_broker, gateway) = start(|setup| setup.set("devices.max_frame", "2KiB")).await;
    let (mut device, _) = gateway.device("kiln-3").open(None).await;
    device.send_bytes(vec![0; 3000]).await;
    assert_eq!(device.closed().await, 1009, "in one frame");
    let (mut device, _) = gateway.device("kiln-3").open(None).await;
    let part = |opcode, last| Frame::message(vec![0; 900], OpCode::Data(opcode), last);
    device.send_frame(Message::Frame(part(Data::Binary, false))).await;
    device.send_frame(Message::Frame(part(Data::Continue, false))).await;
    device.send_frame(Message::Frame(part(Data::Continue, true))).await;
    assert_eq!(device.closed().await, 1009, "in pieces");
}

#[tokio::test]
async fn a_message_in_pieces_is_put_together() {
    let (_broker, gateway) = start(|setup| setup).await;
    let (mut device, _) = gateway.device("kiln-3").open(None).await;
    let mut bytes = Vec::new();
    ciborium::into_writer(&one_reading(), &mut bytes).unwrap();
    let last = bytes.len() - 1;
    for (at, byte) in bytes.into_iter().enumerate() {
        let data = if at == 0 { Data::Binary } else { Data::Continue };
        let frame = Frame::message(vec![byte], OpCode::Data(data), at == last);
        device.send_frame(Message::Frame(frame)).await;
    }
    device.acked(1).await;
}

#[tokio::test]
async fn empty_pieces_without_end_do_not_hold_a_connection() {
    let (_broker, gateway) = start(|setup| setup).await;
    let (mut hostile, _) = gateway.device("kiln-3").open(None).await;
    let piece = |data| Message::Frame(Frame::message(Vec::new(), OpCode::Data(data), false));
    hostile.send_frame(piece(Data::Binary)).await;
    for _ in 0..200_000 {
        // The gateway is free to drop such a peer while it sends.
        if hostile.try_frame(piece(Data::Continue)).await.is_err() {
            break;
        }
    }
    match hostile.next().await {
        FromGateway::Close { code, .. } => assert!([1002, 1008, 1009].contains(&code), "{code}"),
        FromGateway::Gone => {}
        other => panic!("{other:?}"),
    }
    let (mut other, _) = gateway.device("kiln-4").open(None).await;
    other.reading(1, 1.0).await;
    other.acked(1).await;
}

#[tokio::test]
async fn silence_before_hello_ends_the_connection() {
    let (_broker, gateway) = start(|setup| setup.set("devices.hello_timeout", "300ms")).await;
    let mut device = gateway.device("kiln-3").connect().await.unwrap();
    let code = device.closed().await;
    assert!([1002, 1008, 4008].contains(&code), "{code}");
}

#[tokio::test]
async fn a_missed_heartbeat_is_4008() {
    let adjust = |setup: Setup| {
        let setup = setup.set("devices.heartbeat_interval", "300ms");
        setup.set("devices.heartbeat_timeout", "300ms")
    };
    let (_broker, gateway) = start(adjust).await;
    let (mut device, _) = gateway.device("kiln-3").open(None).await;
    let connected = async || gateway.metric("tidegate_devices_connected").await;
    until("it is connected", async || connected().await == 1).await;
    // Nobody reads the device's socket, so nobody answers its pings.
    until("it is given up", async || connected().await == 0).await;
    assert_eq!(device.closed().await, 4008);
}

#[tokio::test]
async fn a_device_that_answers_pings_stays() {
    let adjust = |setup: Setup| {
        let setup = setup.set("devices.heartbeat_interval", "200ms");
        setup.set("devices.heartbeat_timeout", "10s")
    };
    let (_broker, gateway) = start(adjust).await;
    let (mut device, _) = gateway.device("kiln-3").open(None).await;
    device.show_pings = true;
    for _ in 0..5 {
        assert_eq!(device.next().await, FromGateway::Ping);
    }
    device.show_pings = false;
    device.reading(1, 1.0).await;
    device.acked(1).await;
}

#[tokio::test]
async fn a_devices_own_ping_is_answered() {
    let (_broker, gateway) = start(|setup| setup).await;
    let (mut device, _) = gateway.device("kiln-3").open(None).await;
    device.show_pings = true;
    device.send_frame(Message::Ping(vec![1, 2, 3].into())).await;
    assert_eq!(device.next().await, FromGateway::Pong);
}

#[tokio::test]
async fn a_second_connection_replaces_the_first_with_4009() {
    let (_broker, gateway) = start(|setup| setup).await;
    let (mut first, _) = gateway.device("kiln-3").open(Some(7)).await;
    first.reading(1, 1.0).await;
    first.acked(1).await;
    let (mut second, welcome) = gateway.device("kiln-3").open(Some(7)).await;
    assert_eq!(welcome.acked, 1);
    assert_eq!(first.closed().await, 4009);
    second.reading(2, 1.0).await;
    second.acked(2).await;
    assert_eq!(gateway.metric("tidegate_devices_connected").await, 1);
}

#[tokio::test]
async fn a_hostile_device_does_not_disturb_another() {
    let (_broker, gateway) = start(|setup| setup).await;
    let (mut good, _) = gateway.device("good").open(Some(7)).await;
    for seq in 1..=50 {
        let (mut bad, _): (Device, _) = gateway.device("bad").open(None).await;
        bad.send_bytes(vec![0xff; 100]).await;
        good.reading(seq, 1.0).await;
        good.acked(seq).await;
        assert_eq!(bad.closed().await, 1007);
    }
}

#[tokio::test]
async fn sigterm_closes_devices_with_1012() {
    let (_broker, mut gateway) = start(|setup| setup).await;
    let (mut device, _) = gateway.device("kiln-3").open(Some(7)).await;
    device.reading(1, 1.0).await;
    device.acked(1).await;
    gateway.signal(rustix::process::Signal::TERM);
    assert_eq!(device.closed().await, 1012);
    assert_eq!(gateway.ended().await.code(), Some(0));
}
