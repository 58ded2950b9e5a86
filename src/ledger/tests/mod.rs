mod basics;
mod crash;
mod damage;
mod full_disk;
mod panics;
mod support;
