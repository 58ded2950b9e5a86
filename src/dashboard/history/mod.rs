//! What the readings of the last day were, in memory, and through restarts on the disk.
//!
//! | file | what it knows |
//! |---|---|
//! | `memory` | the one budget of bytes, and what was left out |
//! | `series` | one name: wrong clocks, numbers or states |
//! | `tiers` | numbers: buckets of four widths |
//! | `states` | texts and booleans: when they changed |
//! | `tend` | making room, and giving up what is old |
//! | `query` | what the API answers |
//! | `saved` | the bytes on the disk |
//! | `folder` | the databases on the disk |
//! | `keeper` | when what is written; its own thread |
//!
//! # In memory
//!
//! Each name of each device has a series: it begins with its first reading and grows as it fills. A
//! series of numbers has buckets (least, mean, greatest, count) of 1 s for ten minutes, 10 s for an
//! hour, 1 min for six hours and 4 min for a day. 24 bytes each, none for times without readings: a
//! reading a second takes 41 KiB after a day, one in four minutes 13 KiB. A series of texts or booleans has up
//! to 256 changes.
//!
//! All together stay within a budget (`history.max_memory`). When 15/16 of it are in use, series that
//! have been silent for over an hour go, the longest silent first, down to 14/16; if that is not
//! enough, what one series may take is lowered, so that the largest give up their oldest detail,
//! down to 6 KiB each, which still reach back eight hours. A limit is only raised again when less than half is in
//! use, so nothing is given up and taken back in turns. What there is no room for then are new series:
//! their readings are counted (`tidegate_history_refused_total`), and they begin when there is room.
//!
//! # On the disk
//!
//! Below `gateway.data_dir`; all of it may be deleted while the gateway is stopped.
//!
//! | path | what |
//! |---|---|
//! | `history/lock` | one process at a time: held with `flock` |
//! | `history/gen-<number>` | a sled database, 0.34: what one save wrote; values as in `saved` |
//!
//! Each save makes a database of its own with what has come since the save before, in buckets of 1
//! and 4 minutes, and closes it; the last one in an orderly stop has those of 1 and 10 seconds too. When
//! there are 32, or they have outgrown what there is, one is written with everything, and the older ones are
//! deleted when it is durable. They are read at the start, by our own scan of their files, and never
//! opened again (see `storage`). Where two have the same bucket the newer counts.
//!
//! Nothing of this may hurt the service: what cannot be read is left out with a line in the log, what
//! cannot be written is tried again at the time of the next save.

mod folder;
mod keeper;
mod memory;
pub(super) mod query;
mod saved;
mod series;
mod states;
mod tend;
mod tiers;

pub use self::keeper::Keeper;
pub(super) use self::memory::Memory;
pub(super) use self::series::Series;
pub(super) use self::tend::Tending;
