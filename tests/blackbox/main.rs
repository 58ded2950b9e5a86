//! The gateway as its neighbours see it: the real binary between devices, a real mosquitto and
//! HTTP clients. One crate for all of it, so that it links once.

#[cfg(test)]
mod clock;
#[cfg(test)]
mod commands;
#[cfg(test)]
mod crashes;
#[cfg(test)]
mod damage;
#[cfg(test)]
mod dashboard;
#[cfg(test)]
mod delivery;
#[cfg(test)]
mod drain;
#[cfg(test)]
mod examples;
#[cfg(test)]
mod facts;
#[cfg(test)]
mod floods;
#[cfg(test)]
mod forecast;
#[cfg(test)]
mod full_disk;
#[cfg(test)]
mod gateway;
#[cfg(test)]
mod gone;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod history;
#[cfg(test)]
mod outages;
#[cfg(test)]
mod panics;
#[cfg(test)]
mod people;
#[cfg(test)]
mod power;
#[cfg(test)]
mod protocol;
#[cfg(test)]
mod push;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod secrets;
#[cfg(test)]
mod selftest;
#[cfg(test)]
mod service;
#[cfg(test)]
mod session;
#[cfg(test)]
mod spool_tools;
#[cfg(test)]
mod tls;
#[cfg(test)]
mod uplink;
#[cfg(test)]
mod why;
