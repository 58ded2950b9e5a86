//! The rules of SenML, one by one.

use ciborium::Value as Cbor;
use tidegate::core::batch::{Reading, Value};
use tidegate::core::ids::DeviceId;
use tidegate::core::senml::{Limits, Reject, RejectCode, resolve};

use crate::support::{LIMITS, NOW, cbor, device, hex, pack, resolved, stamped};

/// The one reading of a pack in JSON.
fn one(json: &str) -> Reading {
    let readings = resolved(&pack(json)).unwrap_or_else(|e| panic!("{json}: {e}"));
    let [reading] = readings.try_into().unwrap();
    reading
}

fn refusal(pack: &[u8]) -> Reject {
    resolved(pack).expect_err("it is refused")
}

/// The reason why a pack in JSON is malformed.
fn malformed(json: &str) -> String {
    let reject = refusal(&pack(json));
    assert_eq!(reject.code, RejectCode::MalformedSenml, "{json}: {reject}");
    reject.reason
}

/// The value of a record whose `v` is the CBOR item `item`.
fn number(item: &str) -> Result<f64, String> {
    match resolved(&hex(&format!("81 a2 00 6161 02 {item}"))) {
        Ok(readings) => match readings[0].value {
            Some(Value::Number(number)) => Ok(number),
            ref other => panic!("{item}: {other:?}"),
        },
        Err(reject) => Err(reject.reason),
    }
}

#[test]
fn the_codes_are_those_of_the_protocol() {
    let codes = [
        (RejectCode::MalformedSenml, 1, "1"),
        (RejectCode::NameNotPermitted, 2, "2"),
        (RejectCode::TooManyRecords, 3, "3"),
        (RejectCode::TimeOutOfRange, 4, "4"),
        (RejectCode::RefusedByBroker, 5, "5"),
    ];
    for (code, number, word) in codes {
        assert_eq!((code.code(), code.as_str()), (number, word));
    }
}

#[test]
fn the_base_value_is_added_and_stands_alone_where_there_is_no_value() {
    assert_eq!(one(r#"[{"n":"a","bv":20,"v":1.5}]"#).value, Some(Value::Number(21.5)));
    // Section 4.5.4: a missing value counts as zero.
    assert_eq!(one(r#"[{"n":"a","bv":20}]"#).value, Some(Value::Number(20.0)));
    assert_eq!(one(r#"[{"bn":"a","bv":20}]"#).value, Some(Value::Number(20.0)));
    // It is no second value beside another kind.
    assert_eq!(one(r#"[{"n":"a","bv":20,"vb":true}]"#).value, Some(Value::Bool(true)));
    let values: Vec<_> = resolved(&pack(
        r#"[{"n":"a","bv":10,"v":1},{"n":"b","v":2},{"n":"c","bv":-5,"v":3},{"n":"d"}]"#,
    ))
    .unwrap()
    .into_iter()
    .map(|reading| reading.value.unwrap())
    .collect();
    assert_eq!(values, [11.0, 12.0, -2.0, -5.0].map(Value::Number));
}

#[test]
fn the_base_sum_is_added_and_a_sum_needs_no_value() {
    let both = one(r#"[{"n":"a","bs":100,"s":5}]"#);
    assert_eq!((both.value, both.sum), (None, Some(105.0)));
    assert_eq!(one(r#"[{"n":"a","bs":100,"v":1}]"#).sum, Some(100.0));
    let alone = one(r#"[{"n":"a","s":5}]"#);
    assert_eq!((alone.value, alone.sum), (None, Some(5.0)));
}

#[test]
fn base_fields_hold_for_their_own_record_whatever_the_order_and_until_replaced() {
    let readings = resolved(&pack(
        r#"[{"v":1,"n":"x","u":"V","bu":"A","bn":"r1/"},{"n":"y","v":2},{"bn":"r2/","n":"z","v":3},
            {"bu":"Cel","n":"z","v":4}]"#,
    ))
    .unwrap();
    let expected = [
        stamped("r1/x", "V", 1.0),
        stamped("r1/y", "A", 2.0),
        stamped("r2/z", "A", 3.0),
        stamped("r2/z", "Cel", 4.0),
    ];
    assert_eq!(readings, expected);
}

#[test]
fn update_times_are_kept() {
    assert_eq!(one(r#"[{"n":"a","v":1,"ut":60}]"#).update_time, Some(60.0));
    assert_eq!(malformed(r#"[{"n":"a","v":1,"ut":-1}]"#), "record 0: 'ut' (7) is negative");
}

#[test]
fn times_below_2_to_28_count_from_now_and_others_from_1970() {
    for (json, time, relative) in [
        (r#"[{"n":"a","v":1}]"#, NOW, true),
        (r#"[{"n":"a","v":1,"t":-5.25}]"#, NOW - 5.25, true),
        (r#"[{"n":"a","v":1,"t":5}]"#, NOW + 5.0, true),
        (r#"[{"n":"a","v":1,"bt":-100,"t":40}]"#, NOW - 60.0, true),
        (r#"[{"n":"a","v":1,"t":-268435456}]"#, NOW - 268_435_456.0, true),
        (r#"[{"n":"a","v":1,"t":268435456}]"#, 268_435_456.0, false),
        (r#"[{"n":"a","v":1,"bt":268435450,"t":6}]"#, 268_435_456.0, false),
        (r#"[{"n":"a","v":1,"bt":1763799000.5}]"#, 1_763_799_000.5, false),
        (r#"[{"n":"a","v":1,"bt":1763800300}]"#, NOW + 300.0, false),
    ] {
        let reading = one(json);
        assert_eq!(reading.time.to_bits(), time.to_bits(), "{json}");
        assert_eq!(reading.relative, relative, "{json}");
    }
}

#[test]
fn a_time_before_1970_or_too_far_ahead_is_refused_with_code_4() {
    for (json, says) in [
        (
            r#"[{"n":"a","v":1,"t":301}]"#,
            "record 0: its time 1763800301 lies more than 300 s ahead",
        ),
        (r#"[{"n":"a","v":1},{"n":"a","v":1,"t":4e9}]"#, "record 1: its time 4000000000 lies more"),
        (r#"[{"n":"a","v":1,"t":-1763800001}]"#, "record 0: its time -1 lies before 1970"),
        (r#"[{"n":"a","v":1,"bt":1.7e308,"t":1.7e308}]"#, "record 0: its time inf lies more"),
        (r#"[{"n":"a","v":1,"bt":-1.7e308,"t":-1.7e308}]"#, "record 0: its time -inf lies before"),
    ] {
        let reject = refusal(&pack(json));
        assert_eq!(reject.code, RejectCode::TimeOutOfRange, "{json}");
        assert!(reject.reason.starts_with(says), "{reject}");
    }
}

#[test]
fn a_gateway_without_a_clock_takes_absolute_times_until_2100_and_ages_from_before_1970() {
    let at = |json: &str| resolve(&pack(json), &device(), 100.0, &LIMITS);
    let time = |json: &str| at(json).unwrap()[0].time;
    assert_eq!(time(r#"[{"n":"a","v":1,"t":-5}]"#).to_bits(), 95f64.to_bits());
    assert_eq!(time(r#"[{"n":"a","v":1,"t":1763800000}]"#).to_bits(), NOW.to_bits());
    assert!(at(r#"[{"n":"a","v":1,"t":4102444800}]"#).is_ok());
    assert_eq!(time(r#"[{"n":"a","v":1,"t":-101}]"#).to_bits(), (-1f64).to_bits());
    for json in [r#"[{"n":"a","v":1,"t":4102444801}]"#, r#"[{"n":"a","v":1,"t":-268435557}]"#] {
        assert_eq!(at(json).unwrap_err().code, RejectCode::TimeOutOfRange);
    }
}

#[test]
fn readings_come_in_chronological_order_and_equal_times_keep_theirs() {
    let names: String = resolved(&pack(
        r#"[{"n":"d","v":1,"t":0},{"n":"b","v":1,"t":-2},{"n":"e","v":1,"t":0},
            {"n":"c","v":1,"t":-2},{"n":"a","v":1,"t":-3}]"#,
    ))
    .unwrap()
    .into_iter()
    .map(|reading| reading.name.to_string())
    .collect();
    assert_eq!(names, "abcde");
}

#[test]
fn the_devices_own_id_and_a_separator_are_taken_off_the_name() {
    for (json, name) in [
        (r#"[{"n":"kiln-3:temp","v":1}]"#, "temp"),
        (r#"[{"n":"kiln-3/temp","v":1}]"#, "temp"),
        (r#"[{"n":"kiln-3.temp","v":1}]"#, "temp"),
        (r#"[{"bn":"kiln-3:","n":"temp","v":1}]"#, "temp"),
        (r#"[{"bn":"kil","n":"n-3:temp","v":1}]"#, "temp"),
        (r#"[{"bn":"kiln-3:a/","n":"temp","v":1}]"#, "a/temp"),
        (r#"[{"n":"kiln-3:kiln-3:temp","v":1}]"#, "kiln-3:temp"),
        (r#"[{"n":"kiln-3","v":1}]"#, "kiln-3"),
        (r#"[{"n":"kiln-3-temp","v":1}]"#, "kiln-3-temp"),
        (r#"[{"n":"kiln-33:temp","v":1}]"#, "kiln-33:temp"),
    ] {
        assert_eq!(one(json).name, name, "{json}");
    }
}

#[test]
fn a_name_has_1_to_64_characters_of_the_senml_set() {
    let long = "a".repeat(64);
    let id = "d".repeat(64);
    let longest = resolve(
        &pack(&format!(r#"[{{"bn":"{id}/","n":"{long}","v":1}}]"#)),
        &DeviceId::new(&id).unwrap(),
        NOW,
        &LIMITS,
    );
    assert_eq!(longest.unwrap()[0].name, long);
    assert_eq!(one(r#"[{"n":"0-:./_Zz","v":1}]"#).name, "0-:./_Zz");
    for (json, says) in [
        (r#"[{"v":1}]"#.to_owned(), "it has no name, neither 'n' nor 'bn'"),
        (r#"[{"n":"","v":1}]"#.to_owned(), "it has no name"),
        (r#"[{"n":"kiln-3:","v":1}]"#.to_owned(), "nothing is left of its name"),
        (r#"[{"n":"_a","v":1}]"#.to_owned(), r#"does not begin with a letter or digit: "_a""#),
        (r#"[{"n":"kiln-3::a","v":1}]"#.to_owned(), "does not begin with a letter or digit"),
        (
            r#"[{"n":"a b","v":1}]"#.to_owned(),
            r#"another character than A-Z a-z 0-9 - : . / _: "a b""#,
        ),
        (r#"[{"n":"a+","v":1}]"#.to_owned(), "another character"),
        (r#"[{"n":"aé","v":1}]"#.to_owned(), "another character"),
        (format!(r#"[{{"n":"{long}a","v":1}}]"#), "longer than 64 characters"),
        (format!(r#"[{{"bn":"{long}{long}","n":"aa","v":1}}]"#), "its name has 130 characters"),
    ] {
        let reason = malformed(&json);
        assert!(reason.starts_with("record 0: ") && reason.contains(says), "{reason}");
    }
}

#[test]
fn every_kind_of_number_is_read() {
    let huge = format!("c2 58 80 {}", "80".to_owned() + &"00".repeat(127));
    for (item, expected) in [
        ("00", 0.0),
        ("17", 23.0),
        ("18 ff", 255.0),
        ("19 ffff", 65_535.0),
        ("1a ffffffff", 4_294_967_295.0),
        ("1b ffffffffffffffff", 18_446_744_073_709_551_615.0),
        ("20", -1.0),
        ("3b ffffffffffffffff", -18_446_744_073_709_551_616.0),
        ("3b 001fffffffffffff", -9_007_199_254_740_992.0),
        ("f9 3e00", 1.5),
        ("f9 0001", 5.960_464_477_539_063e-8),
        ("f9 8000", -0.0),
        ("fa 47c35000", 100_000.0),
        ("fb 3ff199999999999a", 1.1),
        ("fb 0000000000000001", 5e-324),
        ("c2 40", 0.0),
        ("c2 42 0100", 256.0),
        ("c3 42 00ff", -256.0),
        ("c2 49 010000000000000000", 18_446_744_073_709_551_616.0),
        ("c3 49 010000000000000000", -18_446_744_073_709_551_617.0),
        ("c2 5f 41 01 41 00 ff", 256.0),
        (huge.as_str(), 2f64.powi(1023)),
        ("c4 82 21 19 6ab3", 273.15),
        ("c4 82 01 05", 50.0),
        ("c4 82 21 38 64", -1.01),
        ("c4 82 39 ffff 00", 0.0),
        ("c4 82 3b ffffffffffffffff 01", 0.0),
        ("c4 82 20 c2 49 010000000000000000", 1_844_674_407_370_955_161.6),
        ("c4 9f 21 19 6ab3 ff", 273.15),
    ] {
        let number = number(item).unwrap_or_else(|e| panic!("{item}: {e}"));
        assert_eq!(number.to_bits(), expected.to_bits(), "{item}: {number}");
    }
}

/// Against the parser of the standard library, which rounds correctly.
#[test]
fn bignums_round_to_the_nearest_double() {
    let decimal = |bytes: &[u8], plus_one: bool| {
        let mut digits = vec![0u8];
        for (byte, last) in bytes.iter().zip((0..bytes.len()).rev().map(|left| left == 0)) {
            let mut carry = u32::from(*byte) + u32::from(plus_one && last);
            for digit in &mut digits {
                let sum = u32::from(*digit) * 256 + carry;
                *digit = (sum % 10) as u8;
                carry = sum / 10;
            }
            while carry > 0 {
                digits.push((carry % 10) as u8);
                carry /= 10;
            }
        }
        digits.iter().rev().map(|digit| char::from(b'0' + digit)).collect::<String>()
    };
    // Halfway cases and their neighbours, at widths around 64, 128 and 1024 bits.
    for len in [7, 8, 9, 15, 16, 17, 18, 33, 127, 128] {
        for tail in [[0x00, 0x00], [0x00, 0x01], [0xff, 0xff], [0x80, 0x00], [0x7f, 0xff]] {
            for head in [0x80, 0x81, 0xff, 0x01] {
                let mut bytes = vec![0; len];
                bytes[0] = head;
                bytes[6] = 0x04;
                bytes[len - 2..].copy_from_slice(&tail);
                let item =
                    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat();
                for (tag, plus_one, sign) in [("c2", false, ""), ("c3", true, "-")] {
                    let expected: f64 =
                        format!("{sign}{}", decimal(&bytes, plus_one)).parse().unwrap();
                    let found = number(&format!("{tag} 58 {len:02x} {item}"));
                    assert_eq!(found.map(f64::to_bits), Ok(expected.to_bits()), "{tag} {item}");
                }
            }
        }
    }
}

#[test]
fn what_is_not_a_finite_number_is_refused() {
    let too_big = format!("c2 58 81 01 {}", "00".repeat(128));
    let rounds_up = format!("c2 58 80 {}", "ff".repeat(128));
    let long = format!("c4 82 00 c2 51 {}", "ff".repeat(17));
    for (item, says) in [
        ("f9 7e00", "is not a finite number"),
        ("f9 7c00", "is not a finite number"),
        ("fa ff800000", "is not a finite number"),
        ("fb 7ff8000000000000", "is not a finite number"),
        ("c4 82 19 0190 01", "is not a finite number"),
        ("c4 82 1b ffffffffffffffff 01", "is not a finite number"),
        (too_big.as_str(), "is not a finite number"),
        (rounds_up.as_str(), "is not a finite number"),
        (long.as_str(), "has a mantissa of more than 128 bits"),
        ("f6", "is null, not a number"),
        ("f5", "is a boolean, not a number"),
        ("61 31", "is text, not a number"),
        ("c1 01", "has tag 1; a number may be a bignum (2, 3) or a decimal fraction (4)"),
        ("c2 01", "is a bignum of an unsigned integer, not of a byte string"),
        ("c4 81 01", "is not a decimal fraction of the form [exponent, mantissa]"),
        ("c4 83 01 01 01", "is not a decimal fraction of the form [exponent, mantissa]"),
        ("c4 82 01 f9 3e00", "is not a decimal fraction of the form [exponent, mantissa]"),
        ("c4 82 f6 01", "is not a decimal fraction of the form [exponent, mantissa]"),
    ] {
        assert_eq!(number(item), Err(format!("record 0: 'v' (2) {says}")), "{item}");
    }
    assert_eq!(
        malformed(r#"[{"n":"a","v":1},{"n":"a","bv":1.7e308,"v":1.7e308}]"#),
        "record 1: 'v' (2) with its base added is not a finite number"
    );
    assert_eq!(
        malformed(r#"[{"n":"a","bs":1.7e308,"s":1.7e308}]"#),
        "record 0: 's' (5) with its base added is not a finite number"
    );
}

#[test]
fn data_may_be_a_byte_string_or_base64url_text() {
    let data = |item: &str| {
        resolved(&hex(&format!("81 a2 00 6161 08 {item}")))
            .map(|mut readings| readings.remove(0).value)
    };
    let expected = |bytes: &[u8]| Ok(Some(Value::Data(bytes.into())));
    assert_eq!(data("42 0102"), expected(&[1, 2]));
    assert_eq!(data("5f 41 01 41 02 ff"), expected(&[1, 2]));
    assert_eq!(data("40"), expected(&[]));
    assert_eq!(data("66 61476b674367"), expected(b"hi \n"));
    assert_eq!(data("64 5f773d3d"), expected(&[0xff]));
    assert_eq!(
        data("63 2b2f2f").unwrap_err().reason,
        "record 0: 'vd' (8) is text that is not base64url"
    );
    assert_eq!(
        data("01").unwrap_err().reason,
        "record 0: 'vd' (8) is an unsigned integer, not a byte string"
    );
}

#[test]
fn a_record_has_exactly_one_value_or_a_sum() {
    for json in [
        r#"[{"n":"a","v":1,"vs":"x"}]"#,
        r#"[{"n":"a","vb":true,"vd":""}]"#,
        r#"[{"n":"a","vs":"x","vb":true,"s":1}]"#,
    ] {
        assert_eq!(malformed(json), "record 0: it has more than one of 'v', 'vs', 'vb' and 'vd'");
    }
    for json in [r#"[{"n":"a"}]"#, r#"[{"bn":"a","t":1}]"#, "[{}]", r#"[{"x":1}]"#] {
        let says = "record 0: it has neither a value ('v', 'vs', 'vb', 'vd') nor a sum";
        assert_eq!(malformed(json), says, "{json}");
    }
}

#[test]
fn a_pack_without_a_measurement_is_refused() {
    for json in ["[]", r#"[{"bn":"a"}]"#, r#"[{"bn":"a"},{"bt":5,"bver":10}]"#] {
        assert_eq!(malformed(json), "the pack holds no measurement", "{json}");
    }
}

#[test]
fn all_records_have_one_version_of_at_most_10() {
    for good in [
        r#"[{"bver":10,"n":"a","v":1}]"#,
        r#"[{"bver":5,"n":"a","v":1},{"n":"a","v":1},{"bver":5,"n":"a","v":1}]"#,
        r#"[{"n":"a","v":1},{"bver":10,"n":"a","v":1}]"#,
        r#"[{"bver":1,"bn":"a"},{"v":1}]"#,
    ] {
        assert!(resolved(&pack(good)).is_ok(), "{good}");
    }
    for (bad, says) in [
        (
            r#"[{"bver":11,"n":"a","v":1}]"#,
            "record 0: 'bver' (-1) is 11, the newest version understood is 10",
        ),
        (r#"[{"bver":0,"n":"a","v":1}]"#, "record 0: 'bver' (-1) is 0, versions start at 1"),
        (
            r#"[{"bver":5.5,"n":"a","v":1}]"#,
            "record 0: 'bver' (-1) is a floating-point number, not an unsigned integer",
        ),
        (
            r#"[{"n":"a","v":1},{"bver":5,"n":"a","v":1}]"#,
            "record 1: 'bver' (-1) is 5, that of the records before is 10",
        ),
        (
            r#"[{"bver":5,"n":"a","v":1},{"n":"a","v":1},{"bver":10,"n":"a","v":1}]"#,
            "record 2: 'bver' (-1) is 10, that of the records before is 5",
        ),
    ] {
        assert_eq!(malformed(bad), says);
    }
}

#[test]
fn unknown_labels_are_ignored_unless_they_must_be_understood() {
    assert_eq!(
        one(r#"[{"n":"a","v":1,"colour":["red",{"deep":1}],"bx":5,"_x":1,"":2}]"#),
        stamped("a", "", 1.0)
    );
    // Integers beyond the table.
    let extra = hex("81 a4 00 6161 02 01 09 f6 26 80");
    assert_eq!(resolved(&extra), Ok(vec![stamped("a", "", 1.0)]));
    assert_eq!(
        malformed(r#"[{"n":"a","v":1},{"n":"a","v":1,"scale_":2}]"#),
        r#"record 1: the label "scale_" ends in '_', so it must be understood, and it is not known here"#
    );
    let hostile = format!(r#"[{{"n":"a","v":1,"{}_":2}}]"#, "x\\n".repeat(5000));
    assert!(malformed(&hostile).len() < 250);
}

#[test]
fn a_label_written_as_text_is_refused_rather_than_overlooked() {
    for (label, key) in [("v", 2), ("t", 6), ("bn", -2), ("vd", 8)] {
        let pack = cbor(&Cbor::Array(vec![Cbor::Map(vec![
            (0.into(), "a".into()),
            (2.into(), 1.into()),
            (label.into(), 1.into()),
        ])]));
        let says = format!("record 0: the label '{label}' is text, in CBOR it is {key}");
        assert_eq!(refusal(&pack).reason, says);
    }
}

#[test]
fn a_malformed_record_is_named_by_its_index_and_label() {
    for (bytes, says) in [
        ("81 80", "record 0: it is an array, not a map"),
        ("82 a2 00 6161 02 01 05", "record 1: it is an unsigned integer, not a map"),
        ("81 a1 f5 01", "record 0: a label is a boolean, not an integer or text"),
        ("81 a1 40 01", "record 0: a label is a byte string, not an integer or text"),
        ("81 a2 02 01 02 01", "record 0: 'v' (2) comes twice"),
        ("81 a2 21 6161 21 6161", "record 0: 'bn' (-2) comes twice"),
        ("81 a1 00 01", "record 0: 'n' (0) is an unsigned integer, not text"),
        ("81 a1 01 41 61", "record 0: 'u' (1) is a byte string, not text"),
        ("81 a1 03 01", "record 0: 'vs' (3) is an unsigned integer, not text"),
        ("81 a1 04 01", "record 0: 'vb' (4) is an unsigned integer, not a boolean"),
        ("81 a1 06 6131", "record 0: 't' (6) is text, not a number"),
        ("a0", "the pack is a map, not an array"),
        (
            "81 a2 00 6161 02",
            "the pack is not well-formed CBOR: the input ends inside the item at byte 6",
        ),
        ("80 00", "the pack is not well-formed CBOR: bytes left over at byte 1"),
    ] {
        let reject = refusal(&hex(bytes));
        assert_eq!((reject.code, reject.reason.as_str()), (RejectCode::MalformedSenml, says));
    }
}

#[test]
fn units_are_limited() {
    let with_unit = |label: &str, chars: usize| {
        pack(&format!(r#"[{{"n":"a","v":1,"{label}":"{}"}}]"#, "é".repeat(chars)))
    };
    for label in ["u", "bu"] {
        assert!(resolved(&with_unit(label, 64)).is_ok());
        assert!(refusal(&with_unit(label, 65)).reason.ends_with("is longer than 64 characters"));
    }
}

#[test]
fn the_number_of_records_is_limited_whether_or_not_the_pack_says_it() {
    let limits = Limits { max_records: 3, max_ahead: 300.0 };
    let record = "a2 00 6161 02 01 ";
    let at = |bytes: &str| resolve(&hex(bytes), &device(), NOW, &limits);
    let (three, four) = (record.repeat(3), record.repeat(4));
    assert_eq!(at(&format!("83 {three}")).unwrap().len(), 3);
    assert_eq!(at(&format!("9f {three} ff")).unwrap().len(), 3);
    for bytes in [
        format!("84 {four}"),
        format!("9f {four} ff"),
        // Records without a reading count too.
        "84 a1 21 6161 a1 21 6161 a1 21 6161 a1 02 01".to_owned(),
        // The claim alone is enough.
        "9b 0fffffffffffffff".to_owned(),
    ] {
        let reject = at(&bytes).unwrap_err();
        assert_eq!(reject.code, RejectCode::TooManyRecords, "{bytes}");
        assert_eq!(reject.reason, "the pack holds more than 3 records");
    }
}
