//! The gateway as its neighbours see it: the real binary between devices, a real mosquitto and
//! HTTP clients. One crate for all of it, so that it links once.

#[cfg(test)]
mod harness;
