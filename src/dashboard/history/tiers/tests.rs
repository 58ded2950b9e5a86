use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::super::memory::Memory;
use super::*;

fn held(bytes: usize) -> Held {
    Arc::new(Memory::new(bytes)).begin(0).unwrap()
}

/// Every reading there was, by second.
#[derive(Default)]
struct Naive(Vec<(u32, f64)>);

impl Naive {
    fn buckets(&self, step: u32, first: u32) -> BTreeMap<u32, Bucket> {
        let mut buckets: BTreeMap<u32, Bucket> = BTreeMap::new();
        for (second, value) in &self.0 {
            let at = second / step;
            if at >= first {
                let one = Bucket::of(at, *value);
                buckets.entry(at).and_modify(|known| known.merge(&one)).or_insert(one);
            }
        }
        buckets
    }
}

/// Whether `seen` tells what `expected` does, as far as 24 bits of the spread go.
fn alike(seen: &Bucket, expected: &Bucket) -> bool {
    let near = (expected.max - expected.min) * 1e-5 + expected.mean().abs() * 1e-12;
    let close = |a: f64, b: f64| (a - b).abs() <= near;
    (seen.at, seen.count) == (expected.at, expected.count)
        && close(seen.min, expected.min)
        && close(seen.max, expected.max)
        && close(seen.mean(), expected.mean())
}

/// In every tier, from where it says that it has everything, it has what there was.
fn check(tiers: &Tiers, naive: &Naive) {
    for (tier, step) in STEPS.into_iter().enumerate() {
        let begins = tiers.begins(tier);
        let seen = tiers.view(tier, begins, u32::MAX);
        let expected = naive.buckets(step, begins);
        assert_eq!(
            seen.iter().map(|bucket| bucket.at).collect::<Vec<_>>(),
            expected.keys().copied().collect::<Vec<_>>(),
            "tier {tier} from {begins}"
        );
        for (seen, expected) in seen.iter().zip(expected.values()) {
            assert!(alike(seen, expected), "tier {tier}: {seen:?} {expected:?}");
        }
    }
}

/// Saves as the keeper does, and reads it into new tiers.
fn restarted(tiers: &Tiers, from: usize, held: &mut Held) -> Tiers {
    let mut fresh = Tiers::new();
    for (tier, step) in STEPS.into_iter().enumerate() {
        let all = tiers.view(tier, 0, u32::MAX);
        let end = all.last().map_or(0, |last| (last.at + 1) * step);
        let saved: Vec<_> = all.iter().map(Bucket::pack).collect();
        if tier < from {
            fresh.restore(tier, end.div_ceil(60) * 60 / step, &[], held);
        } else {
            fresh.restore(tier, tiers.begins(tier), &saved, held);
        }
    }
    fresh
}

#[derive(Debug, Clone)]
enum Step {
    /// Time goes on by so many seconds, then so many readings come that are so late.
    Readings {
        pause: u32,
        count: u8,
        late: u32,
        value: f64,
    },
    Restart,
    Trim,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let pause = prop_oneof![8 => 0..3_u32, 4 => 0..100_u32, 2 => 0..5000_u32, 1 => 0..90_000_u32];
    let late = prop_oneof![10 => Just(0_u32), 3 => 0..30_u32, 2 => 0..1000_u32, 1 => 0..50_000_u32];
    let value = prop_oneof![-50.0..50.0, 1_234_567.0..1_234_568.0, Just(21.5)];
    let readings = (pause, 1..4_u8, late, value)
        .prop_map(|(pause, count, late, value)| Step::Readings { pause, count, late, value });
    prop::collection::vec(
        prop_oneof![60 => readings, 1 => Just(Step::Restart), 1 => Just(Step::Trim)],
        1..600,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn every_tier_has_what_a_list_of_all_readings_has(steps in steps(), tight in any::<bool>()) {
        let mut held = held(if tight { 6000 } else { 1 << 20 });
        let (mut tiers, mut naive) = (Tiers::new(), Naive::default());
        let mut now = 1_000_000_u32;
        for step in steps {
            match step {
                Step::Readings { pause, count, late, value } => {
                    now += pause;
                    for extra in 0..count {
                        let value = value + f64::from(extra);
                        tiers.record(now - late, value, &mut held);
                        naive.0.push((now - late, value));
                    }
                }
                Step::Restart => {
                    let before = held.bytes();
                    tiers = restarted(&tiers, 0, &mut held);
                    held.give_back(before);
                }
                Step::Trim => tiers.trim(&mut held),
            }
        }
        check(&tiers, &naive);
        let used: usize = tiers.tiers.iter().map(|tier| tier.closed.capacity() * 24).sum();
        prop_assert_eq!(held.bytes(), used);
    }
}

#[test]
fn a_reading_a_second_fills_each_tier_to_its_reach() {
    let (mut tiers, mut held) = (Tiers::new(), held(1 << 20));
    for second in 0..100_000_u32 {
        tiers.record(1_000_000 + second, f64::from(second % 7), &mut held);
    }
    let newest = 1_099_999;
    for (tier, reaches) in [600, 3600, 21_600, 86_400].into_iter().enumerate() {
        let step = STEPS[tier];
        assert!(tiers.begins(tier) * step <= newest - reaches, "tier {tier}");
        let seen = tiers.view(tier, (newest - reaches) / step, u32::MAX);
        assert_eq!(seen.len(), (reaches / step + 1) as usize, "tier {tier}");
    }
    assert!(held.bytes() <= 42 * 1024, "{}", held.bytes());
}

#[test]
fn after_a_crash_the_wide_tiers_go_on_and_the_narrow_ones_say_where_they_begin() {
    let (mut tiers, mut held) = (Tiers::new(), held(1 << 20));
    let mut naive = Naive::default();
    for second in 0..5000 {
        tiers.record(1_000_000 + second, 1.5, &mut held);
        naive.0.push((1_000_000 + second, 1.5));
    }
    let mut tiers = restarted(&tiers, 2, &mut held);
    for second in 5000..5300 {
        tiers.record(1_000_000 + second, 2.5, &mut held);
        naive.0.push((1_000_000 + second, 2.5));
    }
    check(&tiers, &naive);
    assert!(tiers.begins(0) >= 1_005_000);
}

#[test]
fn what_is_restored_stands_before_what_has_come_meanwhile() {
    let (mut old, mut held) = (Tiers::new(), held(1 << 20));
    let mut naive = Naive::default();
    for second in 0..300 {
        old.record(1_000_000 + second, 1.0, &mut held);
        naive.0.push((1_000_000 + second, 1.0));
    }
    let mut tiers = Tiers::new();
    // A minute later, and in the midst of a wide bucket.
    for second in 480..500 {
        tiers.record(1_000_000 + second, 2.0, &mut held);
        naive.0.push((1_000_000 + second, 2.0));
    }
    for tier in 0..TIERS {
        let saved: Vec<_> = old.view(tier, 0, u32::MAX).iter().map(Bucket::pack).collect();
        tiers.restore(tier, old.begins(tier), &saved, &mut held);
    }
    check(&tiers, &naive);
}

#[test]
fn counters_keep_their_digits_and_extremes_stay_finite() {
    let (mut tiers, mut held) = (Tiers::new(), held(1 << 20));
    for second in 0..30 {
        tiers.record(second, 1_234_567.89 + f64::from(second) / 100.0, &mut held);
    }
    let seen = tiers.view(0, 0, 100);
    assert!((seen[3].mean() - 1_234_567.92).abs() < 1e-9, "{:?}", seen[3]);
    for value in [1e308, 1e308, -1e308, f64::MAX, f64::MIN] {
        tiers.record(100, value, &mut held);
    }
    tiers.record(1000, 1.0, &mut held);
    for tier in 0..TIERS {
        for bucket in tiers.view(tier, 0, 2000) {
            let all = [bucket.min, bucket.mean(), bucket.max];
            assert!(all.iter().all(|value| value.is_finite()), "{bucket:?}");
        }
    }
}

#[test]
fn what_lies_after_a_clock_that_was_set_back_goes() {
    let (mut tiers, mut held) = (Tiers::new(), held(1 << 20));
    for second in 0..5000 {
        tiers.record(1_000_000 + second, 1.0, &mut held);
    }
    tiers.forget_after(1_002_000);
    assert_eq!(tiers.newest().map(|newest| newest <= 1_002_000), Some(true));
    tiers.record(1_002_001, 1.0, &mut held);
    assert_eq!(tiers.newest(), Some(1_002_001));
    for (tier, step) in STEPS.into_iter().enumerate() {
        let seen = tiers.view(tier, 0, u32::MAX);
        assert!(seen.windows(2).all(|two| two[0].at < two[1].at), "tier {tier}");
        assert_eq!(seen.last().map(|last| last.at), Some(1_002_001 / step), "tier {tier}");
    }
}

/// `cargo test --release --lib ns_per_reading -- --ignored --nocapture`
#[test]
#[ignore = "a measurement, not a test"]
fn ns_per_reading() {
    let mut held = held(64 << 20);
    for (what, per_second) in
        [("one a second", 1_u32), ("ten a second", 10), ("1000 a second", 1000)]
    {
        let mut tiers = Tiers::new();
        let count = 4_000_000_u32;
        let run = |tiers: &mut Tiers, held: &mut Held, base: u32| {
            let begin = std::time::Instant::now();
            for number in 0..count {
                tiers.record(base + number / per_second, f64::from(number & 255), held);
            }
            begin.elapsed().as_nanos() as f64 / f64::from(count)
        };
        run(&mut tiers, &mut held, 1_000_000);
        let ns = run(&mut tiers, &mut held, 10_000_000);
        eprintln!("{what}: {ns:.1} ns per reading");
    }
}
