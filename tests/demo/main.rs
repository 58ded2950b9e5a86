//! `tidegate demo` and its broker as processes.

#![cfg(feature = "demo")]

#[cfg(test)]
mod processes;
