//! What a device may publish.

use proptest::prelude::*;
use tidegate::core::policy::{PATTERN_MAX, Pattern, Permissions};
use tidegate::core::senml::RejectCode;

use crate::support::{NOW, reading};

fn patterns(texts: &[&str]) -> Vec<Pattern> {
    texts.iter().map(|text| Pattern::new(text).unwrap()).collect()
}

#[test]
fn a_star_stands_for_any_run_and_a_question_mark_for_one_character() {
    for (pattern, yes, no) in [
        ("temperature", vec!["temperature"], vec!["", "temperatures", "Temperature", "temp"]),
        ("*", vec!["", "a", "pump/speed"], vec![]),
        ("pump/*", vec!["pump/", "pump/speed", "pump/a/b"], vec!["pump", "a/pump/speed"]),
        ("*/speed", vec!["/speed", "pump/speed", "/speed/speed"], vec!["speed", "pump/speeds"]),
        ("a?c", vec!["abc", "a/c", "aéc"], vec!["ac", "abbc"]),
        ("a*b*c", vec!["abc", "aXbYc", "abcbc", "abbc"], vec!["acb", "ab", "abcd"]),
        ("**a**", vec!["a", "bab"], vec!["b", ""]),
        ("?*", vec!["a", "ab"], vec![""]),
        ("[a-z]", vec!["[a-z]"], vec!["a"]),
    ] {
        let compiled = Pattern::new(pattern).unwrap();
        for name in yes {
            assert!(compiled.matches(name), "{pattern} {name}");
        }
        for name in no {
            assert!(!compiled.matches(name), "{pattern} {name}");
        }
    }
}

#[test]
fn a_pattern_is_refused_when_empty_too_long_or_blank() {
    for (bad, says) in [
        (String::new(), "empty"),
        ("a".repeat(PATTERN_MAX + 1), "longer than 128"),
        ("a b".into(), "blank"),
        ("a\0".into(), "control"),
    ] {
        let error = Pattern::new(&bad).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
    assert!(Pattern::new(&"é".repeat(PATTERN_MAX)).is_ok());
}

#[test]
fn many_stars_do_not_take_exponential_time() {
    let pattern = Pattern::new(&"*a".repeat(PATTERN_MAX / 2)).unwrap();
    assert!(!pattern.matches(&"a".repeat(PATTERN_MAX / 2 - 1)));
    assert!(!pattern.matches(&format!("{}b", "a".repeat(60_000))));
    assert!(pattern.matches(&"a".repeat(60_000)));
}

#[test]
fn no_patterns_allow_everything_and_some_allow_only_what_they_match() {
    let all = Permissions::default();
    assert!(all.allows_reading("anything") && all.allows_command("reboot"));
    let some = Permissions {
        readings: patterns(&["temp*", "pump/?"]),
        commands: patterns(&["reboot"]),
        ..Permissions::default()
    };
    assert!(some.allows_reading("temperature") && some.allows_reading("pump/1"));
    assert!(!some.allows_reading("pump/10") && !some.allows_reading("humidity"));
    assert!(some.allows_command("reboot") && !some.allows_command("setpoint"));
}

#[test]
fn a_refusal_names_the_reading_and_what_is_allowed() {
    let permissions =
        Permissions { readings: patterns(&["temp*", "pump/?"]), ..Permissions::default() };
    let good = reading("temperature", "Cel", 1.0, NOW);
    let bad = reading("humidity", "%RH", 1.0, NOW);
    assert_eq!(permissions.check(std::slice::from_ref(&good)), Ok(()));
    let reject = permissions.check(&[good, bad]).unwrap_err();
    assert_eq!(reject.code, RejectCode::NameNotPermitted);
    assert_eq!(reject.code.code(), 2);
    assert_eq!(
        reject.reason,
        r#"reading "humidity" does not match the device's readings patterns ["temp*", "pump/?"]"#
    );
}

#[test]
fn a_refusal_stays_short_however_many_patterns_there_are() {
    let many: Vec<String> = (0..100).map(|n| format!("sensor-{n}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    let permissions = Permissions { readings: patterns(&many), ..Permissions::default() };
    let reason = permissions.check(&[reading("x", "", 1.0, NOW)]).unwrap_err().reason;
    assert!(reason.ends_with(r#""sensor-6", "sensor-7" and 92 more]"#), "{reason}");
}

/// By definition: what a glob means, without regard to time.
fn matches_plainly(pattern: &[char], name: &[char]) -> bool {
    match (pattern, name) {
        ([], []) => true,
        (['*', rest @ ..], _) => {
            matches_plainly(rest, name)
                || matches!(name, [_, more @ ..] if matches_plainly(pattern, more))
        }
        (['?', rest @ ..], [_, more @ ..]) => matches_plainly(rest, more),
        ([p, rest @ ..], [n, more @ ..]) => p == n && matches_plainly(rest, more),
        _ => false,
    }
}

proptest! {
    #[test]
    fn a_pattern_matches_as_its_definition_says(pattern in "[ab*?]{1,8}", name in "[ab]{0,8}") {
        let chars = |text: &str| text.chars().collect::<Vec<_>>();
        prop_assert_eq!(
            Pattern::new(&pattern).unwrap().matches(&name),
            matches_plainly(&chars(&pattern), &chars(&name))
        );
    }
}
