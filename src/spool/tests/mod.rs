//! The spool as the engine sees it, on real disks: grouped by what may go wrong.

mod basics;
mod clock;
mod crash;
mod damage;
mod full_disk;
mod inspection;
mod limits;
mod losses;
mod measure;
mod panics;
mod power_cut;
mod reserve;
mod support;
mod vanished;
