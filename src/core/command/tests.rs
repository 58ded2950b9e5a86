//! Single rules of the desk.

use std::collections::BTreeMap;
use std::sync::Arc;

use ciborium::Value;

use super::*;
use crate::core::policy::Pattern;

fn settings() -> Settings {
    Settings { max_count: 5, max_age: 1000.0, max_size: 64, max_in_flight: 2, default_ttl: 60 }
}

fn at(mono: f64) -> Now {
    Now { unix: 1_763_800_000.0 + mono, mono }
}

fn device(name: &str) -> DeviceId {
    DeviceId::new(name).unwrap()
}

#[allow(clippy::unnecessary_wraps, reason = "the shape of a lookup")]
fn everything(_: &DeviceId) -> Option<Arc<Permissions>> {
    Some(Arc::default())
}

fn requester() -> Requester {
    Requester { via: Way::Http, name: "ann".into(), response: None }
}

fn ask(name: &str, id: &str) -> Request {
    Request {
        name: name.into(),
        params: Value::Null,
        id: Some(id.into()),
        ttl: None,
        redeliver: true,
    }
}

struct Bench {
    desk: Desk,
    now: f64,
    tickets: Ticket,
    /// What was persisted last, as the disk has it once it is durable.
    pending: Vec<Arc<Record>>,
    disk: BTreeMap<u64, Record>,
    /// What views were told last.
    shown: Option<Arc<Record>>,
}

impl Bench {
    fn new() -> Self {
        Self::restored(settings(), Kept::default(), 0.0)
    }

    fn restored(settings: Settings, kept: Kept, now: f64) -> Self {
        let desk = Desk::restore(settings, kept, 7, at(now));
        let pending = Vec::new();
        Self { desk, now, tickets: 0, pending, disk: BTreeMap::new(), shown: None }
    }

    fn request(&mut self, name: &str, request: Request) -> Ticket {
        self.request_permitted(name, request, &everything)
    }

    fn request_permitted(&mut self, name: &str, request: Request, permits: Permits<'_>) -> Ticket {
        self.tickets += 1;
        let now = at(self.now);
        self.desk.request(self.tickets, &device(name), request, requester(), permits, now);
        self.tickets
    }

    fn open(&mut self, session: u64, name: &str, announced: &[&str]) {
        let announced = announced.iter().map(|name| (*name).to_owned()).collect();
        self.desk.opened(SessionId(session), &device(name), announced);
    }

    fn result(&mut self, session: u64, id: &str, ok: bool, value: Value) {
        let answered = Answered { id: id.into(), ok, value };
        self.desk.result(SessionId(session), answered, at(self.now));
    }

    /// What is done without the disk having answered.
    fn pump(&mut self) -> Vec<Action> {
        self.pump_permitted(&everything)
    }

    fn pump_permitted(&mut self, permits: Permits<'_>) -> Vec<Action> {
        self.desk.pump(permits, at(self.now));
        let mut rest = Vec::new();
        for action in self.desk.actions() {
            match action {
                Action::Persist(record) => self.pending.push(record),
                Action::Changed(record) => self.shown = Some(record),
                Action::Forget { number, .. } => {
                    self.disk.remove(&number);
                    rest.push(action);
                }
                action => rest.push(action),
            }
        }
        rest
    }

    fn commit(&mut self) {
        for record in self.pending.drain(..) {
            self.desk.persisted(record.number, record.version);
            self.disk.insert(record.number, Record::clone(&record));
        }
    }

    /// Everything until nothing is left to do.
    fn settle(&mut self) -> Vec<Action> {
        self.settle_permitted(&everything)
    }

    fn settle_permitted(&mut self, permits: Permits<'_>) -> Vec<Action> {
        let mut all = self.pump_permitted(permits);
        while !self.pending.is_empty() {
            self.commit();
            all.extend(self.pump_permitted(permits));
        }
        all
    }

    fn crash(&mut self) {
        let records = self.disk.values().cloned().collect();
        let kept = Kept { records, next_number: 1, damaged: false };
        self.desk = Desk::restore(settings(), kept, 8, at(self.now));
        self.pending.clear();
    }

    fn record(&self, id: &str) -> Arc<Record> {
        self.desk.records().find(|record| record.id == id).unwrap().clone()
    }

    fn state(&self, id: &str) -> State {
        self.record(id).state()
    }
}

fn sent(actions: &[Action]) -> Vec<(u64, String)> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Send { session, record, .. } => Some((session.0, record.id.clone())),
            _ => None,
        })
        .collect()
}

fn answers(actions: &[Action]) -> Vec<(Ticket, State, bool)> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Answer { ticket, reply: Reply::Kept { record, repeated } } => {
                Some((*ticket, record.state(), *repeated))
            }
            _ => None,
        })
        .collect()
}

fn refusals(actions: &[Action]) -> Vec<(Ticket, String)> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::Answer { ticket, reply: Reply::Refused(refusal) } => {
                Some((*ticket, refusal.to_string()))
            }
            _ => None,
        })
        .collect()
}

fn published(actions: &[Action]) -> Vec<(u64, String, State)> {
    actions
        .iter()
        .filter_map(|action| match action {
            Action::PublishResult { finish, record } => {
                Some((*finish, record.id.clone(), record.state()))
            }
            _ => None,
        })
        .collect()
}

fn here(session: u64, id: &str) -> Vec<(u64, String)> {
    vec![(session, id.to_owned())]
}

#[test]
fn a_request_is_answered_and_sent_once_it_is_durable() {
    let mut bench = Bench::new();
    bench.open(1, "a", &[]);
    let ticket = bench.request("a", ask("identify", "x"));
    assert_eq!(bench.pump(), [], "nothing before the disk has it");
    bench.commit();
    let actions = bench.pump();
    assert_eq!(answers(&actions), [(ticket, State::Delivered, false)]);
    assert_eq!(sent(&actions), here(1, "x"));
    bench.result(1, "x", true, Value::Integer(7.into()));
    bench.settle();
    let record = bench.record("x");
    assert_eq!((record.state(), &record.value), (State::Done, &Value::Integer(7.into())));
    let history: Vec<_> = record.history.iter().map(|entry| entry.state.as_str()).collect();
    assert_eq!(history, ["queued", "delivered", "done"]);
    assert_eq!(bench.desk.counts().states, [1, 1, 1, 0, 0, 0]);
}

#[test]
fn the_same_id_again_is_answered_with_the_first_and_sends_nothing() {
    let mut bench = Bench::new();
    bench.open(1, "a", &[]);
    let first = bench.request("a", ask("identify", "x"));
    let second = bench.request("a", ask("other", "x"));
    let actions = bench.settle();
    assert_eq!(
        answers(&actions),
        [(first, State::Delivered, false), (second, State::Delivered, true)]
    );
    assert_eq!(sent(&actions), here(1, "x"));
    bench.result(1, "x", false, Value::Text("jammed".into()));
    bench.crash();
    assert_eq!(bench.state("x"), State::Delivered, "the result was not durable");
    bench.result(1, "x", true, Value::Null);
    assert_eq!(bench.desk.counts().results_unknown, 1, "the session was of before the crash");
    let third = bench.request("a", ask("identify", "x"));
    assert_eq!(answers(&bench.settle()), [(third, State::Delivered, true)]);
    let other = bench.request("b", ask("identify", "x"));
    assert_eq!(answers(&bench.settle()), [(other, State::Queued, false)]);
}

#[test]
fn ids_that_the_gateway_draws_differ_even_from_guessed_ones() {
    let mut bench = Bench::new();
    bench.request("a", ask("n", "0000000000000007-2"));
    bench.request("a", Request { id: None, ..ask("n", "") });
    let ids: Vec<_> = bench.desk.records().map(|record| record.id.clone()).collect();
    assert_eq!(ids, ["0000000000000007-2", "0000000000000007-2x"]);
}

#[test]
fn an_away_device_gets_its_commands_oldest_first_and_no_more_than_the_limit() {
    let mut bench = Bench::new();
    for id in ["1", "2", "3"] {
        bench.request("a", ask("n", id));
    }
    assert_eq!(sent(&bench.settle()), []);
    bench.open(1, "a", &[]);
    assert_eq!(sent(&bench.settle()), [(1, "1".into()), (1, "2".into())]);
    bench.result(1, "2", true, Value::Null);
    assert_eq!(sent(&bench.settle()), here(1, "3"));
}

#[test]
fn without_a_result_a_command_is_sent_again_on_the_next_connection() {
    let mut bench = Bench::new();
    bench.request("a", ask("n", "x"));
    bench.open(1, "a", &[]);
    assert_eq!(sent(&bench.settle()), here(1, "x"));
    bench.desk.closed(SessionId(1));
    assert_eq!(bench.settle(), []);
    bench.open(2, "a", &[]);
    assert_eq!(sent(&bench.settle()), here(2, "x"));
    bench.open(3, "a", &[]);
    bench.desk.closed(SessionId(2));
    assert_eq!(sent(&bench.settle()), here(3, "x"), "one that replaces the other counts too");
    bench.crash();
    bench.open(4, "a", &[]);
    assert_eq!(sent(&bench.settle()), here(4, "x"));
    assert_eq!(bench.record("x").sent, 4);
}

#[test]
fn without_redeliver_a_command_is_sent_after_delivered_is_durable_and_never_again() {
    let mut bench = Bench::new();
    bench.open(1, "a", &[]);
    bench.request("a", Request { redeliver: false, ..ask("n", "x") });
    bench.pump();
    bench.commit();
    assert_eq!(sent(&bench.pump()), [], "delivered is not durable yet");
    assert_eq!(bench.state("x"), State::Delivered);
    bench.commit();
    assert_eq!(sent(&bench.pump()), here(1, "x"));
    bench.desk.closed(SessionId(1));
    bench.open(2, "a", &[]);
    assert_eq!(sent(&bench.settle()), []);
    bench.crash();
    bench.open(3, "a", &[]);
    assert_eq!(sent(&bench.settle()), []);
    bench.now = 61.0;
    bench.settle();
    assert_eq!(bench.state("x"), State::Expired);
    assert!(bench.record("x").error.as_ref().unwrap().contains("is not known"));
}

#[test]
fn without_redeliver_a_crash_before_the_write_does_not_send_and_a_reconnect_does() {
    let mut bench = Bench::new();
    bench.open(1, "a", &[]);
    bench.request("a", Request { redeliver: false, ..ask("n", "x") });
    bench.pump();
    bench.commit();
    bench.pump();
    // The connection goes after the decision and before the write: this process knows that.
    bench.desk.closed(SessionId(1));
    bench.commit();
    assert_eq!(sent(&bench.pump()), []);
    bench.open(2, "a", &[]);
    assert_eq!(sent(&bench.pump()), here(2, "x"));
    // After a crash nobody knows.
    let mut bench = Bench::new();
    bench.open(1, "a", &[]);
    bench.request("a", Request { redeliver: false, ..ask("n", "x") });
    bench.pump();
    bench.commit();
    bench.pump();
    bench.commit();
    bench.crash();
    bench.open(2, "a", &[]);
    assert_eq!(sent(&bench.settle()), []);
}

#[test]
fn what_waits_for_the_disk_holds_those_behind_it() {
    let mut bench = Bench::new();
    bench.request("a", Request { redeliver: false, ..ask("n", "1") });
    bench.request("a", ask("n", "2"));
    bench.settle();
    bench.open(1, "a", &[]);
    assert_eq!(sent(&bench.pump()), []);
    bench.commit();
    assert_eq!(sent(&bench.pump()), [(1, "1".into()), (1, "2".into())]);
}

#[test]
fn what_may_not_be_sent_is_rejected_with_the_reason() {
    let permits = |device: &DeviceId| {
        (device.as_str() != "stranger").then(|| {
            let commands = vec![Pattern::new("set-*").unwrap()];
            Arc::new(Permissions { commands, ..Permissions::default() })
        })
    };
    let mut bench = Bench::new();
    bench.open(1, "a", &["set-output"]);
    bench.request_permitted("stranger", ask("set-x", "1"), &permits);
    bench.request_permitted("a", ask("reboot", "2"), &permits);
    bench.request_permitted("a", ask("set-x", "3"), &permits);
    bench.request_permitted("away", ask("set-x", "4"), &permits);
    let actions = bench.settle_permitted(&permits);
    assert_eq!(sent(&actions), []);
    let error = |id: &str| bench.record(id).error.clone().unwrap();
    assert_eq!(error("1"), "no device stranger is registered");
    assert_eq!(error("2"), "a may not be sent \"reboot\": its registry entry permits set-*");
    assert_eq!(error("3"), "a does not know \"set-x\": it announced set-output");
    assert_eq!(bench.state("4"), State::Queued);
    assert_eq!(answers(&actions).len(), 4);
    // The one that waited is looked at again.
    bench.open(2, "away", &["identify"]);
    bench.settle_permitted(&permits);
    assert_eq!(bench.state("4"), State::Rejected);
    bench.result(2, "4", true, Value::Null);
    assert_eq!(bench.desk.counts().results_unknown, 1);
}

#[test]
fn a_permission_that_is_taken_away_counts_on_delivery() {
    let mut bench = Bench::new();
    bench.request("a", ask("n", "x"));
    bench.settle();
    bench.open(1, "a", &[]);
    let actions = bench.settle_permitted(&|_| None);
    assert_eq!((sent(&actions).len(), bench.state("x")), (0, State::Rejected));
}

#[test]
fn results_are_told_apart() {
    let mut bench = Bench::new();
    bench.open(1, "a", &[]);
    bench.open(2, "b", &[]);
    bench.request("a", ask("n", "x"));
    bench.settle();
    bench.result(2, "x", true, Value::Null);
    bench.result(1, "y", true, Value::Null);
    assert_eq!(bench.desk.counts().results_unknown, 2);
    assert_eq!(bench.state("x"), State::Delivered);
    bench.now = 60.0;
    bench.settle();
    assert_eq!(bench.state("x"), State::Expired);
    bench.result(1, "x", false, Value::Map(vec![(Value::Text("e".into()), Value::Bool(true))]));
    bench.settle();
    let record = bench.record("x");
    assert_eq!((record.state(), record.error.as_deref()), (State::Failed, Some(r#"{"e":true}"#)));
    assert!(record.history.last().unwrap().late);
    bench.result(1, "x", true, Value::Null);
    let counts = bench.desk.counts();
    assert_eq!((counts.results_late, counts.results_duplicate), (1, 1));
    assert_eq!(bench.state("x"), State::Failed);
}

#[test]
fn a_result_over_the_size_limit_is_left_out_and_its_command_is_done() {
    let mut bench = Bench::new();
    bench.open(1, "a", &[]);
    bench.request("a", ask("n", "x"));
    bench.settle();
    bench.result(1, "x", true, Value::Bytes(vec![0; 100]));
    let record = bench.record("x");
    assert_eq!((record.state(), &record.value), (State::Done, &Value::Null));
    let error = "its result of 102 bytes is over commands.max_size and left out";
    assert_eq!(record.error.as_deref(), Some(error));
}

#[test]
fn results_are_published_when_durable_in_order_until_the_broker_has_them() {
    let mut bench = Bench::new();
    bench.open(1, "a", &[]);
    for id in ["1", "2"] {
        bench.request("a", ask("n", id));
    }
    bench.settle();
    for id in ["2", "1"] {
        bench.result(1, id, true, Value::Null);
    }
    bench.desk.uplink_up();
    assert_eq!(published(&bench.pump()), [], "not durable");
    bench.commit();
    let both = [(1, "2".to_owned(), State::Done), (2, "1".to_owned(), State::Done)];
    assert_eq!(published(&bench.pump()), both);
    bench.desk.result_published(1);
    bench.desk.uplink_down();
    assert_eq!(published(&bench.settle()), []);
    bench.desk.uplink_up();
    assert_eq!(published(&bench.settle()), both[1..]);
    bench.crash();
    bench.desk.uplink_up();
    assert_eq!(published(&bench.settle()), both[1..], "the first is not published again");
    bench.desk.result_published(2);
    bench.settle();
    bench.crash();
    bench.desk.uplink_up();
    assert_eq!(published(&bench.settle()), []);
}

#[test]
fn the_one_that_ended_first_and_is_published_goes_first_and_the_unfinished_never() {
    let mut bench = Bench::new();
    bench.open(1, "a", &[]);
    bench.desk.uplink_up();
    for id in ["1", "2"] {
        bench.request("a", ask("n", id));
        bench.settle();
    }
    for id in ["2", "1"] {
        bench.result(1, id, true, Value::Null);
    }
    bench.settle();
    bench.desk.result_published(2);
    for id in ["3", "4", "5", "6"] {
        bench.request("b", ask("n", id));
        bench.settle();
    }
    let ids = |bench: &Bench| bench.desk.records().map(|r| r.id.clone()).collect::<Vec<_>>();
    assert_eq!(ids(&bench), ["2", "3", "4", "5", "6"], "the unpublished one stays");
    assert_eq!(bench.desk.counts().results_lost, 0);
    bench.request("b", ask("n", "7"));
    let actions = bench.settle();
    assert!(actions.contains(&Action::Forget { number: 2, lost: true }));
    assert_eq!(bench.desk.counts().results_lost, 1);
    let ticket = bench.request("b", ask("n", "8"));
    let refused = refusals(&bench.settle());
    assert_eq!(refused.len(), 1);
    assert!(refused[0].0 == ticket && refused[0].1.starts_with("ledger full"), "{refused:?}");
    assert_eq!(ids(&bench), ["3", "4", "5", "6", "7"]);
}

#[test]
fn what_ended_long_ago_goes() {
    let mut bench = Bench::new();
    bench.request("a", Request { ttl: Some(1), ..ask("n", "x") });
    bench.settle();
    assert_eq!(bench.desk.next_wake(at(0.5)), Some(1.0));
    bench.now = 1.0;
    bench.settle();
    assert_eq!(bench.state("x"), State::Expired);
    assert_eq!(bench.desk.next_wake(at(1.0)), Some(61.0));
    bench.now = 1000.5;
    bench.settle();
    assert_eq!(bench.desk.len(), 1);
    bench.now = 1001.5;
    bench.settle();
    assert!(bench.desk.is_empty() && bench.desk.next_wake(at(0.0)).is_none());
}

#[test]
fn a_disk_that_refuses_refuses_requests_and_keeps_what_it_has() {
    let mut bench = Bench::new();
    bench.request("a", ask("n", "kept"));
    bench.settle();
    let waiting = bench.request("a", ask("n", "waits"));
    bench.pump();
    bench.desk.stalled("no space left");
    let late = bench.request("a", ask("n", "comes"));
    let again = bench.request("a", ask("n", "kept"));
    let actions = bench.pump();
    let reason = "the command cannot be stored: no space left".to_owned();
    assert_eq!(refusals(&actions), [(waiting, reason.clone()), (late, reason)]);
    assert_eq!(answers(&actions), [(again, State::Queued, true)]);
    assert!(actions.contains(&Action::Forget { number: 2, lost: false }));
    bench.open(1, "a", &[]);
    assert_eq!(sent(&bench.pump()), here(1, "kept"), "what it has can be sent");
    bench.desk.resumed();
    bench.request("a", ask("n", "comes"));
    bench.settle();
    assert_eq!(bench.state("comes"), State::Delivered);
}

#[test]
fn a_wall_clock_that_is_set_does_not_change_a_ttl_and_after_a_restart_not_beyond_it() {
    let mut bench = Bench::new();
    bench.request("a", ask("n", "x"));
    bench.settle();
    let later = Now { unix: at(0.0).unix + 1e6, mono: 59.0 };
    bench.desk.pump(&everything, later);
    assert_eq!(bench.state("x"), State::Queued);
    let kept =
        || Kept { records: bench.disk.values().cloned().collect(), next_number: 1, damaged: false };
    let went_back = Now { unix: 5.0, mono: 100.0 };
    let desk = Desk::restore(settings(), kept(), 1, went_back);
    assert_eq!(desk.next_wake(went_back), Some(160.0));
    let went_on = Now { unix: at(20.0).unix, mono: 100.0 };
    let mut desk = Desk::restore(settings(), kept(), 1, went_on);
    assert_eq!(desk.next_wake(went_on), Some(140.0));
    desk.pump(&everything, Now { mono: 140.0, ..went_on });
    assert_eq!(desk.records().next().unwrap().state(), State::Expired);
}

#[test]
fn after_damage_what_must_not_be_sent_twice_is_not_sent() {
    let mut bench = Bench::new();
    bench.request("a", Request { redeliver: false, ..ask("n", "once") });
    bench.request("a", ask("n", "again"));
    bench.settle();
    let records = bench.disk.values().cloned().collect();
    let mut bench =
        Bench::restored(settings(), Kept { records, next_number: 9, damaged: true }, 1.0);
    bench.open(1, "a", &[]);
    assert_eq!(sent(&bench.settle()), here(1, "again"));
    assert!(bench.record("once").error.as_ref().unwrap().contains("damaged"));
    bench.request("a", ask("n", "new"));
    assert_eq!(bench.record("new").number, 9);
}

#[test]
fn a_record_survives_its_own_format() {
    let mut bench = Bench::new();
    bench.open(1, "a", &[]);
    bench.request("a", ask("n", "x"));
    bench.settle();
    let mut record = Record::clone(&bench.record("x"));
    record.requester.response = Some(Response::new("t/1".into(), Some(vec![0, 255])).unwrap());
    let mut bytes = Vec::new();
    ciborium::into_writer(&record, &mut bytes).unwrap();
    assert_eq!(ciborium::from_reader::<Record, _>(bytes.as_slice()).unwrap(), record);
    let json = record.to_json();
    assert_eq!(json["requester"]["response"]["correlation"], "AP8");
    assert_eq!(json["history"][1]["state"], "delivered");
    assert_eq!(
        record.result_json().as_object().unwrap().keys().collect::<Vec<_>>(),
        ["device", "error", "id", "name", "state", "time", "value"]
    );
}

#[test]
fn an_end_is_told_when_it_is_durable() {
    let mut bench = Bench::new();
    bench.open(1, "a", &[]);
    bench.request("a", ask("x", "1"));
    bench.settle();
    bench.result(1, "1", true, Value::Null);
    let again = bench.request("a", ask("x", "1"));
    let actions = bench.pump();
    assert_eq!(answers(&actions), [(again, State::Delivered, true)]);
    assert_eq!(bench.shown.as_ref().unwrap().state(), State::Delivered);
    bench.settle();
    assert_eq!(bench.shown.as_ref().unwrap().state(), State::Done);
}
