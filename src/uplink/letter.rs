//! Messages that are handed over one by one and must arrive.

use std::collections::VecDeque;

use super::mqtt::{Description, Outgoing, Wire};
use super::topics::{Topics, publishable};
use crate::ports::{Message, Token, UplinkEvent};

/// Most letters that are handed over and not answered.
const MAX_LETTERS: usize = 32;

/// Longest correlation data: MQTT counts its bytes in 16 bits.
const MAX_CORRELATION: usize = 65_535;

/// Makes a packet of `message`.
///
/// # Errors
/// Why no broker could take it.
pub(super) fn letter(
    wire: Wire,
    topics: &Topics,
    message: Message,
    retain_available: bool,
) -> Result<Outgoing, String> {
    let Message { topic, absolute, payload, retain, correlation, content_type } = message;
    publishable(&topic)?;
    if correlation.as_ref().is_some_and(|data| data.len() > MAX_CORRELATION) {
        return Err(format!("the correlation data is longer than {MAX_CORRELATION} bytes"));
    }
    let topic = if absolute { topic.into() } else { topics.below(&topic) };
    let description = wire.describes().then(|| Description {
        content_type,
        correlation,
        ..Description::default()
    });
    Ok(wire.publish(topic, payload.into(), retain && retain_available, description))
}

/// The letters of one connection.
#[derive(Debug, Default)]
pub(super) struct Letters {
    waiting: VecDeque<(Token, Outgoing)>,
    in_flight: usize,
    /// The last message that belongs to no batch was a letter, not an announcement.
    had_turn: bool,
}

impl Letters {
    /// How many more may be handed over.
    pub(super) fn room(&self) -> usize {
        MAX_LETTERS.saturating_sub(self.waiting.len() + self.in_flight)
    }

    /// Adds one to the end.
    pub(super) fn push(&mut self, token: Token, letter: Outgoing) {
        self.waiting.push_back((token, letter));
    }

    /// The next one to send; `None` if it is the turn of `others`, or there is none.
    pub(super) fn next(&mut self, others: bool) -> Option<(Token, Outgoing)> {
        let next = if self.had_turn && others { None } else { self.waiting.pop_front() };
        self.had_turn = next.is_some();
        self.in_flight += usize::from(self.had_turn);
        next
    }

    /// The broker has answered one that was sent.
    pub(super) fn answered(&mut self, token: Token, refusal: Option<String>) -> UplinkEvent {
        self.in_flight -= 1;
        match refusal {
            Some(reason) => UplinkEvent::SendRefused { token, reason },
            None => UplinkEvent::Sent(token),
        }
    }
}
