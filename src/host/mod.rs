//! What the operating system provides.

pub mod tls;
