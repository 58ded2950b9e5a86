//! What everything that is kept on the disk is built on: the spool and the ledger of commands.
//!
//! | file | what it knows |
//! |---|---|
//! | `store` | one database, written front to back: the only file that knows sled |
//! | `pieces` | finding checksummed values in a database's file without the database |
//! | `disk` | lock, folders, sizes |

pub(crate) mod disk;
pub(crate) mod pieces;
pub(crate) mod store;
#[cfg(test)]
pub(crate) mod testing;
