//! What simulated devices can be told to do: the commands of `tidegate simulate` and of the demo.

use std::time::Instant;

use ciborium::Value;

use crate::client::Command;

/// The names of the commands, for HELLO.
pub(super) const COMMANDS: [&str; 3] = ["identify", "set-interval", "set-output"];
/// Seconds between two batches that can be asked for.
const INTERVALS: std::ops::RangeInclusive<f64> = 0.05..=3600.0;

/// A device that can be told.
pub(super) trait Told {
    /// What it is.
    fn model(&self) -> &str;
    /// Since when it runs.
    fn started(&self) -> Instant;
    /// Seconds between two batches; none where it does not measure at intervals.
    fn interval(&self) -> Option<f64>;
    /// Changes them.
    fn set_interval(&mut self, seconds: f64);
    /// What it can switch.
    fn outputs(&self) -> &'static [&'static str];
    /// Switches one of them.
    fn set_output(&mut self, output: &'static str, on: bool);
}

/// Does what `command` says and returns the result, or what is wrong with the command.
pub(super) fn carry_out(command: &Command, device: &mut dyn Told) -> Result<Value, String> {
    match command.name.as_str() {
        "identify" => Ok(map([
            ("model", device.model().into()),
            ("firmware", env!("CARGO_PKG_VERSION").into()),
            ("uptime_s", device.started().elapsed().as_secs().into()),
        ])),
        "set-interval" => {
            let before = device.interval().ok_or("this device does not measure at intervals")?;
            let seconds = number(member(&command.params, "seconds")?)
                .filter(|seconds| INTERVALS.contains(seconds))
                .ok_or_else(|| {
                    let (least, most) = INTERVALS.into_inner();
                    format!("\"seconds\" is a number from {least} to {most}")
                })?;
            device.set_interval(seconds);
            Ok(map([("seconds", seconds.into()), ("before", before.into())]))
        }
        "set-output" => {
            let known = device.outputs();
            let output = *member(&command.params, "output")?
                .as_text()
                .and_then(|name| known.iter().find(|output| **output == name))
                .ok_or_else(|| format!("\"output\" is one of {}", known.join(", ")))?;
            let on = member(&command.params, "on")?.as_bool().ok_or("\"on\" is true or false")?;
            device.set_output(output, on);
            Ok(map([("output", output.into()), ("on", on.into())]))
        }
        name => Err(format!("this device does not know the command {name:?}")),
    }
}

fn member<'a>(params: &'a Value, name: &str) -> Result<&'a Value, String> {
    params
        .as_map()
        .and_then(|members| {
            members.iter().find(|(key, _)| key.as_text() == Some(name)).map(|(_, value)| value)
        })
        .ok_or_else(|| format!("the parameters need a member {name:?}"))
}

fn number(value: &Value) -> Option<f64> {
    #[allow(clippy::cast_precision_loss, reason = "beyond 2^53 seconds is out of range anyway")]
    let integer = |value: &Value| value.as_integer().map(|number| i128::from(number) as f64);
    value.as_float().or_else(|| integer(value))
}

fn map<const N: usize>(members: [(&str, Value); N]) -> Value {
    Value::Map(members.into_iter().map(|(key, value)| (key.into(), value)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Relay {
        seconds: f64,
        lamp: Option<bool>,
    }

    impl Told for Relay {
        fn model(&self) -> &'static str {
            "relay"
        }

        fn started(&self) -> Instant {
            Instant::now()
        }

        fn interval(&self) -> Option<f64> {
            Some(self.seconds)
        }

        fn set_interval(&mut self, seconds: f64) {
            self.seconds = seconds;
        }

        fn outputs(&self) -> &'static [&'static str] {
            &["lamp", "horn"]
        }

        fn set_output(&mut self, output: &'static str, on: bool) {
            assert_eq!(output, "lamp");
            self.lamp = Some(on);
        }
    }

    fn told(device: &mut Relay, name: &str, params: Value) -> Result<Value, String> {
        let command = Command { id: "1".into(), name: name.into(), params, ttl: 60 };
        carry_out(&command, device)
    }

    #[test]
    fn a_device_does_what_it_is_told_and_says_so() {
        let mut device = Relay { seconds: 1.0, lamp: None };
        let faster = map([("seconds", 2.into())]);
        assert_eq!(
            told(&mut device, "set-interval", faster),
            Ok(map([("seconds", 2.0.into()), ("before", 1.0.into())]))
        );
        let on = map([("output", "lamp".into()), ("on", true.into())]);
        assert_eq!(told(&mut device, "set-output", on.clone()), Ok(on));
        assert_eq!((device.seconds, device.lamp), (2.0, Some(true)));
        let who = told(&mut device, "identify", Value::Null).unwrap();
        assert_eq!(member(&who, "model").unwrap().as_text(), Some("relay"));
    }

    #[test]
    fn what_it_cannot_do_is_answered_with_the_reason_and_changes_nothing() {
        let mut device = Relay { seconds: 1.0, lamp: None };
        for (name, params, words) in [
            ("dance", Value::Null, "does not know the command \"dance\""),
            ("set-interval", Value::Null, "need a member \"seconds\""),
            ("set-interval", map([("seconds", (-1).into())]), "a number from 0.05 to 3600"),
            ("set-interval", map([("seconds", "fast".into())]), "a number from 0.05 to 3600"),
            ("set-output", map([("output", "door".into())]), "one of lamp, horn"),
            ("set-output", map([("output", "lamp".into())]), "need a member \"on\""),
        ] {
            let error = told(&mut device, name, params).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        assert_eq!((device.seconds, device.lamp), (1.0, None));
    }
}
