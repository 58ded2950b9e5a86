//! The state machine's tables, and what happens to them from outside.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use ciborium::Value;

use super::json::{cbor_len, to_json};
use super::record::{ERROR_MAX, Entry, Record, Requester, State};
use super::request::Request;
use super::{Action, Answered, Kept, Now, Permits, Refusal, Reply, Settings, Ticket};
use crate::core::ids::{DeviceId, SessionId};

/// What has happened since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Commands that entered each state, in the order of [`State::ALL`].
    pub states: [u64; 6],
    /// RESULTs for commands that the device does not have, or that were never sent.
    pub results_unknown: u64,
    /// RESULTs for commands that had one.
    pub results_duplicate: u64,
    /// RESULTs for commands that had expired.
    pub results_late: u64,
    /// Requests with an id that the device had already.
    pub requests_repeated: u64,
    /// Requests that the ledger could not take.
    pub requests_refused: u64,
    /// Results that went before the broker had them.
    pub results_lost: u64,
    /// Commands sent again after a reconnect.
    pub redelivered: u64,
}

/// See the [module](super).
#[derive(Debug)]
pub struct Desk {
    pub(super) settings: Settings,
    /// Goes into the ids that the gateway draws.
    seed: u64,
    next_number: u64,
    pub(super) next_finish: u64,
    pub(super) commands: BTreeMap<u64, Command>,
    ids: HashMap<DeviceId, HashMap<String, u64>>,
    pub(super) devices: HashMap<DeviceId, Device>,
    sessions: HashMap<SessionId, DeviceId>,
    /// By deadline, as [`ordered`] has it.
    pub(super) deadlines: BTreeSet<(u64, u64)>,
    /// Ended and published, by finish.
    pub(super) settled: BTreeMap<u64, u64>,
    /// Ended and not published, by finish.
    pub(super) unpublished: BTreeMap<u64, u64>,
    /// Results on their way to the broker, by finish.
    pub(super) publishing: BTreeSet<u64>,
    pub(super) uplink: bool,
    stalled: Option<String>,
    /// What changed since the last pump.
    pub(super) dirty: BTreeSet<u64>,
    pub(super) touched: BTreeSet<DeviceId>,
    pub(super) answerable: BTreeSet<u64>,
    /// What is to be looked at for [`Command::shown`].
    pub(super) unseen: BTreeSet<u64>,
    pub(super) actions: Vec<Action>,
    pub(super) counts: Counts,
}

#[derive(Debug)]
pub(super) struct Command {
    pub(super) record: Arc<Record>,
    /// As it may be told: an end only once it is durable, so that nobody is told of one that a
    /// crash takes back.
    pub(super) shown: Arc<Record>,
    /// The version that is known to be durable, 0 for none.
    pub(super) durable: u32,
    /// The version that ended it.
    pub(super) ended: u32,
    /// When its ttl runs out, by the monotonic clock.
    pub(super) deadline: f64,
    pub(super) sending: Sending,
    pub(super) waiting: Vec<(Ticket, bool)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sending {
    /// To be sent.
    Due,
    /// To be sent once this version, which says `delivered`, is durable.
    Authorised(u32),
    /// Sent on this connection.
    On(SessionId),
    /// Sent on an earlier one, and not again.
    Over,
}

#[derive(Debug, Default)]
pub(super) struct Device {
    pub(super) session: Option<SessionId>,
    /// As HELLO had it; empty: anything goes.
    pub(super) announced: Vec<String>,
    pub(super) unfinished: BTreeSet<u64>,
}

/// Orders times from 0 on.
pub(super) fn ordered(time: f64) -> u64 {
    time.max(0.0).to_bits()
}

impl Desk {
    /// Goes on with what the ledger holds. `seed` makes the ids that the gateway draws unlike those
    /// of earlier runs: draw it at random.
    ///
    /// Where the ledger was `damaged`, a command that must not be sent twice and is `queued` may
    /// have been sent: it becomes `delivered`, with a note.
    #[must_use]
    pub fn restore(settings: Settings, kept: Kept, seed: u64, now: Now) -> Self {
        let mut desk = Self {
            settings,
            seed,
            next_number: kept.next_number.max(1),
            next_finish: 1,
            commands: BTreeMap::new(),
            ids: HashMap::new(),
            devices: HashMap::new(),
            sessions: HashMap::new(),
            deadlines: BTreeSet::new(),
            settled: BTreeMap::new(),
            unpublished: BTreeMap::new(),
            publishing: BTreeSet::new(),
            uplink: false,
            stalled: None,
            dirty: BTreeSet::new(),
            touched: BTreeSet::new(),
            answerable: BTreeSet::new(),
            unseen: BTreeSet::new(),
            actions: Vec::new(),
            counts: Counts::default(),
        };
        for record in kept.records {
            desk.next_number = desk.next_number.max(record.number + 1);
            desk.next_finish = desk.next_finish.max(record.finish.map_or(0, |finish| finish + 1));
            let left = (record.expires - now.unix).clamp(0.0, record.ttl as f64);
            let durable = record.version;
            desk.insert(record, durable, now.mono + left);
        }
        if kept.damaged {
            desk.distrust(now);
        }
        // The setting may have been lowered.
        while desk.commands.len() > desk.settings.max_count && desk.evict_one() {}
        desk
    }

    fn distrust(&mut self, now: Now) {
        let suspect: Vec<u64> = self
            .commands
            .iter()
            .filter(|(_, command)| {
                !command.record.redeliver && command.record.state() == State::Queued
            })
            .map(|(number, _)| *number)
            .collect();
        for number in suspect {
            let note = "the ledger was damaged: this command may have been sent already, so it is \
                        not sent";
            self.enter(number, State::Delivered, now, |record, entry| {
                record.error = Some(note.into());
                entry.note = Some(note.into());
            });
            if let Some(command) = self.commands.get_mut(&number) {
                command.sending = Sending::Over;
            }
        }
    }

    /// Somebody asks for something to be done. [`Action::Answer`] with `ticket` follows: at once for
    /// what is refused, else when it is durable.
    pub fn request(
        &mut self,
        ticket: Ticket,
        device: &DeviceId,
        request: Request,
        requester: Requester,
        permits: Permits<'_>,
        now: Now,
    ) {
        let known = request.id.as_ref().and_then(|id| self.ids.get(device)?.get(id).copied());
        if let Some(number) = known {
            self.counts.requests_repeated += 1;
            if let Some(command) = self.commands.get_mut(&number) {
                command.waiting.push((ticket, true));
                self.answerable.insert(number);
            }
            return;
        }
        if let Some(reason) = self.stalled.clone() {
            return self.refuse(ticket, Refusal::Stalled(reason));
        }
        if self.commands.len() >= self.settings.max_count && !self.evict_one() {
            return self.refuse(ticket, Refusal::Full(self.commands.len()));
        }
        let number = self.next_number;
        self.next_number += 1;
        let rejection = self.rejection(device, &request.name, permits);
        let id = request.id.unwrap_or_else(|| self.draw_id(device, number));
        let ttl = request.ttl.unwrap_or(self.settings.default_ttl);
        let record = Record {
            number,
            version: 0,
            id,
            device: device.clone(),
            name: request.name,
            params: request.params,
            ttl,
            redeliver: request.redeliver,
            requester,
            accepted: now.unix,
            expires: now.unix + ttl as f64,
            sent: 0,
            history: Vec::new(),
            value: Value::Null,
            error: None,
            finish: None,
            published: false,
        };
        self.insert(record, 0, now.mono + ttl as f64);
        match rejection {
            None => self.enter(number, State::Queued, now, |_, _| {}),
            Some(reason) => self.enter(number, State::Rejected, now, |record, _| {
                record.error = Some(reason);
            }),
        }
        if let Some(command) = self.commands.get_mut(&number) {
            command.waiting.push((ticket, false));
        }
    }

    fn draw_id(&self, device: &DeviceId, number: u64) -> String {
        let mut id = format!("{:016x}-{number}", self.seed);
        // Whoever has seen one can give the next one as its own.
        while self.ids.get(device).is_some_and(|ids| ids.contains_key(&id)) {
            id.push('x');
        }
        id
    }

    fn refuse(&mut self, ticket: Ticket, refusal: Refusal) {
        self.counts.requests_refused += 1;
        self.actions.push(Action::Answer { ticket, reply: Reply::Refused(refusal) });
    }

    /// A device said HELLO on a connection, which replaces an earlier one. `announced` are the
    /// commands it understands; an empty list says nothing.
    pub fn opened(&mut self, session: SessionId, device: &DeviceId, announced: Vec<String>) {
        self.sessions.insert(session, device.clone());
        let state = self.devices.entry(device.clone()).or_default();
        let replaced = state.session.replace(session);
        state.announced = announced;
        if let Some(replaced) = replaced {
            self.interrupt(device, replaced);
        }
        self.touched.insert(device.clone());
    }

    /// A connection is gone.
    pub fn closed(&mut self, session: SessionId) {
        let Some(device) = self.sessions.remove(&session) else { return };
        let Some(state) = self.devices.get_mut(&device) else { return };
        if state.session == Some(session) {
            state.session = None;
            state.announced.clear();
            self.interrupt(&device, session);
            self.drop_idle(&device);
        }
    }

    /// What was sent on `session` without RESULT is to be sent again where that is allowed.
    fn interrupt(&mut self, device: &DeviceId, session: SessionId) {
        let Some(state) = self.devices.get(device) else { return };
        for number in &state.unfinished {
            let Some(command) = self.commands.get_mut(number) else { continue };
            if command.sending == Sending::On(session) {
                command.sending =
                    if command.record.redeliver { Sending::Due } else { Sending::Over };
            }
        }
    }

    /// A device answers a command. One that it does not have, that was rejected, or that has its
    /// result already, is counted and changes nothing.
    pub fn result(&mut self, session: SessionId, answered: Answered, now: Now) {
        let number = self.sessions.get(&session).and_then(|device| {
            let ids = self.ids.get(device)?;
            ids.get(&answered.id).copied()
        });
        let state = number.and_then(|number| Some(self.commands.get(&number)?.record.state()));
        let (Some(number), Some(state)) = (number, state) else {
            self.counts.results_unknown += 1;
            return;
        };
        let late = match state {
            State::Rejected => {
                self.counts.results_unknown += 1;
                return;
            }
            State::Done | State::Failed => {
                self.counts.results_duplicate += 1;
                return;
            }
            State::Expired => true,
            State::Queued | State::Delivered => false,
        };
        self.counts.results_late += u64::from(late);
        let max_size = self.settings.max_size;
        let entered = if answered.ok { State::Done } else { State::Failed };
        self.enter(number, entered, now, |record, entry| {
            entry.late = late;
            (record.value, record.error) = outcome(answered, max_size);
        });
    }

    /// The ledger has `version` of the command `number` on the disk.
    pub fn persisted(&mut self, number: u64, version: u32) {
        let Some(command) = self.commands.get_mut(&number) else { return };
        command.durable = command.durable.max(version);
        self.unseen.insert(number);
        self.answerable.insert(number);
        self.touched.insert(command.record.device.clone());
    }

    /// The ledger cannot be written: requests that wait for it are refused and forgotten, as are
    /// those that come, until [`Desk::resumed`]. Commands that it has go on where they need no
    /// writing.
    pub fn stalled(&mut self, reason: &str) {
        self.stalled = Some(reason.to_owned());
        let unstored: Vec<u64> = self
            .commands
            .iter()
            .filter(|(_, command)| command.durable == 0)
            .map(|(number, _)| *number)
            .collect();
        for number in unstored {
            let Some(command) = self.remove(number) else { continue };
            for (ticket, _) in command.waiting {
                self.refuse(ticket, Refusal::Stalled(reason.to_owned()));
            }
            self.actions.push(Action::Forget { number, lost: false });
        }
    }

    /// The ledger can be written again.
    pub fn resumed(&mut self) {
        self.stalled = None;
    }

    /// Results can be published.
    pub fn uplink_up(&mut self) {
        self.uplink = true;
        self.publishing.clear();
    }

    /// Results cannot be published; those on their way come again.
    pub fn uplink_down(&mut self) {
        self.uplink = false;
        self.publishing.clear();
    }

    /// The broker has the result that [`Action::PublishResult`] called `finish` (or will never take
    /// it, which is the caller's to report).
    pub fn result_published(&mut self, finish: u64) {
        self.publishing.remove(&finish);
        let Some(number) = self.unpublished.remove(&finish) else { return };
        self.settled.insert(finish, number);
        if let Some(command) = self.commands.get_mut(&number) {
            let record = Arc::make_mut(&mut command.record);
            record.published = true;
            record.version += 1;
            self.dirty.insert(number);
        }
    }

    /// The commands, oldest first.
    #[must_use]
    pub fn records(&self) -> impl DoubleEndedIterator<Item = &Arc<Record>> {
        self.commands.values().map(|command| &command.record)
    }

    /// How many commands there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.commands.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.commands.is_empty()
    }

    /// What has happened since the start.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    fn insert(&mut self, record: Record, durable: u32, deadline: f64) {
        let number = record.number;
        let unfinished = record.history.is_empty() || !record.state().is_final();
        self.ids.entry(record.device.clone()).or_default().insert(record.id.clone(), number);
        if unfinished {
            self.deadlines.insert((ordered(deadline), number));
            let device = self.devices.entry(record.device.clone()).or_default();
            device.unfinished.insert(number);
        } else if let Some(finish) = record.finish {
            let ended = if record.published { &mut self.settled } else { &mut self.unpublished };
            ended.insert(finish, number);
        }
        let delivered = record.history.iter().any(|entry| entry.state == State::Delivered);
        let sending = if delivered && !record.redeliver { Sending::Over } else { Sending::Due };
        let (record, waiting) = (Arc::new(record), Vec::new());
        let shown = record.clone();
        let command = Command { record, shown, durable, ended: 0, deadline, sending, waiting };
        self.commands.insert(number, command);
    }

    /// Takes the command out of all tables.
    pub(super) fn remove(&mut self, number: u64) -> Option<Command> {
        let command = self.commands.remove(&number)?;
        let record = &command.record;
        if let Some(ids) = self.ids.get_mut(&record.device) {
            ids.remove(&record.id);
            if ids.is_empty() {
                self.ids.remove(&record.device);
            }
        }
        if let Some(finish) = record.finish {
            self.settled.remove(&finish);
            self.unpublished.remove(&finish);
            self.publishing.remove(&finish);
        }
        self.deadlines.remove(&(ordered(command.deadline), number));
        self.dirty.remove(&number);
        self.unseen.remove(&number);
        self.answerable.remove(&number);
        if let Some(device) = self.devices.get_mut(&record.device) {
            device.unfinished.remove(&number);
        }
        self.drop_idle(&record.device);
        Some(command)
    }

    fn drop_idle(&mut self, device: &DeviceId) {
        let idle = |state: &Device| state.session.is_none() && state.unfinished.is_empty();
        if self.devices.get(device).is_some_and(idle) {
            self.devices.remove(device);
        }
    }

    /// The command comes into another state; `change` adds what belongs to it.
    pub(super) fn enter(
        &mut self,
        number: u64,
        state: State,
        now: Now,
        change: impl FnOnce(&mut Record, &mut Entry),
    ) {
        let Some(command) = self.commands.get_mut(&number) else { return };
        let record = Arc::make_mut(&mut command.record);
        record.version += 1;
        let mut entry = Entry { state, time: now.unix, late: false, note: None };
        change(record, &mut entry);
        record.history.push(entry);
        if state.is_final() {
            if let Some(earlier) = record.finish.replace(self.next_finish) {
                self.settled.remove(&earlier);
                self.unpublished.remove(&earlier);
                self.publishing.remove(&earlier);
            }
            record.published = false;
            command.ended = record.version;
            self.unpublished.insert(self.next_finish, number);
            self.next_finish += 1;
            self.deadlines.remove(&(ordered(command.deadline), number));
            if let Some(device) = self.devices.get_mut(&record.device) {
                device.unfinished.remove(&number);
            }
        }
        let device = record.device.clone();
        if let Some(count) = State::ALL
            .iter()
            .position(|s| *s == state)
            .and_then(|at| self.counts.states.get_mut(at))
        {
            *count += 1;
        }
        self.dirty.insert(number);
        self.drop_idle(&device);
        self.touched.insert(device);
    }
}

/// What a record keeps of a device's answer: the result; of a failure the device's words as text,
/// and the whole answer where it is more than text.
fn outcome(answered: Answered, max_size: usize) -> (Value, Option<String>) {
    let cut = |text: &str| text.chars().take(ERROR_MAX).collect::<String>();
    let size = cbor_len(&answered.value);
    if size > max_size {
        let error = format!("its result of {size} bytes is over commands.max_size and left out");
        return (Value::Null, Some(error));
    }
    match (answered.ok, answered.value) {
        (true, value) => (value, None),
        (false, Value::Text(words)) => (Value::Null, Some(cut(&words))),
        (false, Value::Null) => (Value::Null, Some("the device gave no reason".into())),
        (false, value) => {
            let words = cut(&to_json(&value).to_string());
            (value, Some(words))
        }
    }
}
