//! Commands that came and the answers to them: each is carried out once, and no answer is forgotten
//! before the gateway can have it.
//!
//! RESULT is not acknowledged by the protocol. A connection that breaks may take with it what was
//! written last, so the answers of its last moments are sent again on the next one; the gateway
//! recognises those it has.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use bytes::Bytes;

/// Commands remembered, so that one that is sent again is not carried out again. The oldest that is
/// answered goes first.
const REMEMBERED: usize = 256;

/// See the module. In the order in which the commands came.
#[derive(Debug, Default)]
pub(super) struct Answers {
    commands: VecDeque<Known>,
}

#[derive(Debug)]
struct Known {
    id: String,
    progress: Progress,
}

#[derive(Debug)]
enum Progress {
    /// Told to the program, which has not answered.
    Told,
    /// Waits for a connection, or for its turn on one.
    Answered(Bytes),
    /// Written to a connection at this time.
    Written(Bytes, Instant),
}

impl Answers {
    /// A command came. Says whether it is new; one that is answered is answered again.
    pub(super) fn came(&mut self, id: &str) -> bool {
        if let Some(known) = self.find(id) {
            known.send_again();
            return false;
        }
        if self.commands.len() >= REMEMBERED {
            let spare = |known: &Known| matches!(known.progress, Progress::Written(..));
            // Where none is answered the program has long given up on the oldest.
            let at = self.commands.iter().position(spare).unwrap_or_default();
            self.commands.remove(at);
        }
        self.commands.push_back(Known { id: id.to_owned(), progress: Progress::Told });
        true
    }

    /// A command was carried out: `message` is its RESULT. The first answer counts.
    pub(super) fn done(&mut self, id: &str, message: Bytes) {
        match self.find(id) {
            Some(Known { progress: progress @ Progress::Told, .. }) => {
                *progress = Progress::Answered(message);
            }
            Some(_) => {}
            // Forgotten, or of the time before this program started: the gateway will know it.
            None => self
                .commands
                .push_back(Known { id: id.to_owned(), progress: Progress::Answered(message) }),
        }
    }

    /// The next RESULT to write, at `now`.
    pub(super) fn next(&mut self, now: Instant) -> Option<Bytes> {
        self.commands.iter_mut().find_map(|known| {
            let Progress::Answered(message) = &known.progress else { return None };
            let message = message.clone();
            known.progress = Progress::Written(message.clone(), now);
            Some(message)
        })
    }

    /// A new connection: what was written to the last one within `doubt` is written again.
    pub(super) fn connected(&mut self, now: Instant, doubt: Duration) {
        for known in &mut self.commands {
            if matches!(&known.progress, Progress::Written(_, at) if now - *at < doubt) {
                known.send_again();
            }
        }
    }

    /// How many answers are not written.
    pub(super) fn waiting(&self) -> usize {
        let waits = |known: &&Known| matches!(known.progress, Progress::Answered(_));
        self.commands.iter().filter(waits).count()
    }

    fn find(&mut self, id: &str) -> Option<&mut Known> {
        // From the back: what comes again came lately.
        self.commands.iter_mut().rev().find(|known| known.id == id)
    }
}

impl Known {
    fn send_again(&mut self) {
        if let Progress::Written(message, _) = &self.progress {
            self.progress = Progress::Answered(message.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(text: &'static str) -> Bytes {
        Bytes::from_static(text.as_bytes())
    }

    #[test]
    fn a_command_is_carried_out_once_and_answered_as_often_as_it_comes() {
        let (mut answers, now) = (Answers::default(), Instant::now());
        assert!(answers.came("a") && !answers.came("a"));
        assert_eq!(answers.next(now), None, "nothing to say before it is done");
        answers.done("a", message("first"));
        answers.done("a", message("second"));
        assert_eq!((answers.waiting(), answers.next(now)), (1, Some(message("first"))));
        assert_eq!((answers.waiting(), answers.next(now)), (0, None));
        assert!(!answers.came("a"));
        assert_eq!(answers.next(now), Some(message("first")));
    }

    #[test]
    fn an_answer_waits_for_a_connection_and_those_of_the_last_moments_go_again() {
        let (mut answers, begin) = (Answers::default(), Instant::now());
        let later = |seconds| begin + Duration::from_secs(seconds);
        for id in ["old", "doubtful", "waiting"] {
            answers.came(id);
            answers.done(id, Bytes::copy_from_slice(id.as_bytes()));
            match id {
                "old" => assert!(answers.next(later(0)).is_some()),
                "doubtful" => assert!(answers.next(later(50)).is_some()),
                _ => {}
            }
        }
        answers.connected(later(60), Duration::from_secs(30));
        assert_eq!(answers.next(later(60)), Some(message("doubtful")), "in the order they came");
        assert_eq!(answers.next(later(60)), Some(message("waiting")));
        assert_eq!(answers.next(later(60)), None);
    }

    #[test]
    fn what_is_not_answered_is_remembered_longest() {
        let (mut answers, now) = (Answers::default(), Instant::now());
        answers.came("open");
        for number in 0..2 * REMEMBERED {
            let id = number.to_string();
            assert!(answers.came(&id));
            answers.done(&id, message("done"));
            assert!(answers.next(now).is_some());
        }
        assert!(!answers.came("open"));
        assert!(answers.came("0"), "long forgotten");
        assert!(answers.commands.len() <= REMEMBERED);
    }

    #[test]
    fn an_answer_to_a_forgotten_command_is_sent_all_the_same() {
        let (mut answers, now) = (Answers::default(), Instant::now());
        answers.done("of the last run", message("done"));
        assert_eq!(answers.next(now), Some(message("done")));
    }
}
