//! Commands: from whoever asks, down a device's socket, and back what became of them.

mod crashes;
mod crowd;
mod ends;
mod limits;
mod malformed;
mod permission;
mod recovery;
mod ways;

use crate::harness::{Broker, Gateway, Requester, Setup};

/// A broker, a gateway that is connected to it and has subscribed, and one who asks over MQTT 5.
async fn start(adjust: impl FnOnce(Setup) -> Setup) -> (Broker, Gateway, Requester) {
    let broker = Broker::start("").await;
    let gateway = adjust(Setup::new(broker.port)).start().await;
    gateway.until_uplink("connected").await;
    let mut requester = Requester::start(broker.port, 5).await;
    subscribed(&gateway, &mut requester).await;
    (broker, gateway, requester)
}

/// Waits until what is asked over MQTT reaches the gateway for the first time. Before that the
/// broker knows of no subscription, and drops requests as it must.
async fn subscribed(gateway: &Gateway, requester: &mut Requester) {
    let name = "tidegate_command_requests_malformed_total";
    let before = gateway.metric(name).await;
    crate::harness::until("the gateway has subscribed", async || {
        let topic = crate::harness::commands_of("nobody");
        requester.publish(&topic, b"-", crate::harness::Extra::default()).await;
        gateway.metric(name).await > before
    })
    .await;
}
