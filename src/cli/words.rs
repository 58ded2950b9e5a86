//! How figures read on a terminal.

/// A time to one or two units: `3 h 12 min`.
pub(super) fn span(seconds: f64) -> String {
    // Saturates; fractions of a second and the sign do not matter here.
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let seconds = seconds.max(0.0) as u64;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{minutes} min {} s", seconds % 60),
        3600..86_400 => format!("{hours} h {minutes} min"),
        _ => format!("{} d {hours} h", grouped(days)),
    }
}

/// The same where it is only an estimate: one unit, `9 h`.
pub(super) fn about(seconds: f64) -> String {
    for (unit, size) in [("d", 86_400.0), ("h", 3600.0), ("min", 60.0)] {
        // From two of a unit on the next smaller one is of no interest.
        if seconds >= 2.0 * size {
            // Saturates; positive.
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let count = (seconds / size).round() as u64;
            return format!("{} {unit}", grouped(count));
        }
    }
    format!("{:.0} s", seconds.max(0.0))
}

/// A size: `3.1 MiB`, `512 MiB`.
pub(super) fn bytes(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = larger;
    }
    if unit == "B" {
        format!("{bytes} B")
    } else if value >= 100.0 {
        format!("{value:.0} {unit}")
    } else {
        format!("{value:.1} {unit}")
    }
}

/// A number and what it counts: `1 batch`, `12 480 readings`.
pub(super) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{} {}", grouped(number), if number == 1 { one } else { many })
}

/// A number with its thousands set apart: `12 480`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            text.push(' ');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_read_as_people_write_them() {
        assert_eq!(
            [0.0, 59.9, 61.0, 11_520.0, 90_000.0].map(span).join(", "),
            "0 s, 59 s, 1 min 1 s, 3 h 12 min, 1 d 1 h"
        );
        assert_eq!(
            [-1.0, 0.4, 119.0, 120.0, 7199.0, 33_000.0, 900_000.0].map(about).join(", "),
            "0 s, 0 s, 119 s, 2 min, 120 min, 9 h, 10 d"
        );
        assert_eq!(
            [0, 1023, 1536, 3_250_586, 512 << 20, 3 << 40].map(bytes).join(", "),
            "0 B, 1023 B, 1.5 KiB, 3.1 MiB, 512 MiB, 3.0 TiB"
        );
        assert_eq!([0, 999, 1204, 1_000_000].map(grouped).join(", "), "0, 999, 1 204, 1 000 000");
        assert_eq!(count(1, "batch", "batches"), "1 batch");
        assert_eq!(count(2000, "batch", "batches"), "2 000 batches");
    }
}
