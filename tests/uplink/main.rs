//! The uplink against a real mosquitto and against brokers that misbehave on purpose.

#[cfg(test)]
mod broker;
#[cfg(test)]
mod driver;
#[cfg(test)]
mod files;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod letters;
#[cfg(test)]
mod mosquitto;
#[cfg(test)]
mod requests;
#[cfg(test)]
mod sessions;
#[cfg(test)]
mod window;
