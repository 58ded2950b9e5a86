//! Room for what has arrived of requests that are not complete: of all connections together.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Bytes in all. A head of 8 KiB for each of a full house would be twenty times that.
const ROOM: usize = 4 << 20;

/// The common room.
#[derive(Debug, Default)]
pub(crate) struct Heads {
    taken: AtomicUsize,
}

/// The part of one request that has arrived; gives its room back when dropped.
#[derive(Debug)]
pub(crate) struct Kept<'a> {
    heads: &'a Heads,
    bytes: Vec<u8>,
}

impl Heads {
    /// Nothing has arrived.
    pub(crate) fn keep(&self) -> Kept<'_> {
        Kept { heads: self, bytes: Vec::new() }
    }
}

impl Kept<'_> {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Adds what has arrived. `false`: there is no room, and nothing was added.
    pub(crate) fn add(&mut self, piece: &[u8]) -> bool {
        let before = self.heads.taken.fetch_add(piece.len(), Ordering::Relaxed);
        if before + piece.len() > ROOM {
            self.heads.taken.fetch_sub(piece.len(), Ordering::Relaxed);
            return false;
        }
        self.bytes.extend_from_slice(piece);
        true
    }
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        self.heads.taken.fetch_sub(self.bytes.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_bounded_over_all_and_given_back() {
        let heads = Heads::default();
        let mut kept: Vec<_> = (0..512).map(|_| heads.keep()).collect();
        for one in &mut kept {
            assert!(one.add(&[7; 8192]));
        }
        assert!(!heads.keep().add(b"G"));
        kept.pop();
        let mut one = heads.keep();
        assert!(one.add(&[7; 8192]) && !one.add(b"x"));
        assert_eq!(one.bytes().len(), 8192);
        drop((one, kept));
        assert_eq!(heads.taken.load(Ordering::Relaxed), 0);
    }
}
