//! The examples of RFC 8428 section 5.1, in CBOR.

use tidegate::core::batch::{Reading, Value};

use crate::support::{pack, reading, resolved, stamped};

const SENSOR: &str = "urn:dev:ow:10e2073a01080063";

#[test]
fn section_5_1_1_a_single_data_point() {
    let pack = pack(r#"[{"n":"urn:dev:ow:10e2073a01080063","u":"Cel","v":23.1}]"#);
    assert_eq!(resolved(&pack), Ok(vec![stamped(SENSOR, "Cel", 23.1)]));
}

#[test]
fn section_5_1_2_multiple_data_points() {
    let pack = pack(
        r#"[{"bn":"urn:dev:ow:10e2073a01080063:","n":"voltage","u":"V","v":120.1},
            {"n":"current","u":"A","v":1.2}]"#,
    );
    let expected = vec![
        stamped("urn:dev:ow:10e2073a01080063:voltage", "V", 120.1),
        stamped("urn:dev:ow:10e2073a01080063:current", "A", 1.2),
    ];
    assert_eq!(resolved(&pack), Ok(expected));
}

#[test]
fn section_5_1_2_a_stream_whose_name_is_the_base_name() {
    let pack = pack(
        r#"[{"bn":"urn:dev:ow:10e2073a01080063","bt":1.320067464e+09,"bu":"%RH","v":21.2},
            {"t":10,"v":21.3},{"t":20,"v":21.4}]"#,
    );
    let expected = [(0.0, 21.2), (10.0, 21.3), (20.0, 21.4)]
        .map(|(t, v)| reading(SENSOR, "%RH", v, 1_320_067_464.0 + t));
    assert_eq!(resolved(&pack).as_deref(), Ok(&expected[..]));
}

/// Its resolved form is section 5.1.4.
#[test]
fn section_5_1_3_multiple_measurements_resolve_to_section_5_1_4() {
    let given = pack(
        r#"[{"bn":"urn:dev:ow:10e2073a01080063","bt":1.320067464e+09,"bu":"%RH","v":20},
            {"u":"lon","v":24.30621},{"u":"lat","v":60.07965},
            {"t":60,"v":20.3},{"u":"lon","t":60,"v":24.30622},{"u":"lat","t":60,"v":60.07965},
            {"t":120,"v":20.7},{"u":"lon","t":120,"v":24.30623},{"u":"lat","t":120,"v":60.07966},
            {"u":"%EL","t":150,"v":98},
            {"t":180,"v":21.2},{"u":"lon","t":180,"v":24.30628},{"u":"lat","t":180,"v":60.07967}]"#,
    );
    let expected = [
        ("%RH", 1_320_067_464.0, 20.0),
        ("lon", 1_320_067_464.0, 24.30621),
        ("lat", 1_320_067_464.0, 60.07965),
        ("%RH", 1_320_067_524.0, 20.3),
        ("lon", 1_320_067_524.0, 24.30622),
        ("lat", 1_320_067_524.0, 60.07965),
        ("%RH", 1_320_067_584.0, 20.7),
        ("lon", 1_320_067_584.0, 24.30623),
        ("lat", 1_320_067_584.0, 60.07966),
        ("%EL", 1_320_067_614.0, 98.0),
        ("%RH", 1_320_067_644.0, 21.2),
        ("lon", 1_320_067_644.0, 24.30628),
        ("lat", 1_320_067_644.0, 60.07967),
    ]
    .map(|(unit, time, value)| reading(SENSOR, unit, value, time));
    assert_eq!(resolved(&given).as_deref(), Ok(&expected[..]));
    // Resolving what is resolved changes nothing.
    assert_eq!(resolved(&tidegate::core::senml::encode(&expected)).as_deref(), Ok(&expected[..]));
}

#[test]
fn section_5_1_5_multiple_data_types() {
    let pack = pack(
        r#"[{"bn":"urn:dev:ow:10e2073a01080063:","n":"temp","u":"Cel","v":23.1},
            {"n":"label","vs":"Machine Room"},{"n":"open","vb":false},
            {"n":"nfv-reader","vd":"aGkgCg"}]"#,
    );
    let values: Vec<_> = resolved(&pack)
        .unwrap()
        .into_iter()
        .map(|reading| (reading.name.trim_start_matches(SENSOR).to_owned(), reading.value.unwrap()))
        .collect();
    let expected = [
        (":temp", Value::Number(23.1)),
        (":label", Value::Text("Machine Room".into())),
        (":open", Value::Bool(false)),
        (":nfv-reader", Value::Data(b"hi \n".as_slice().into())),
    ];
    assert_eq!(values, expected.map(|(name, value)| (name.to_owned(), value)));
}

#[test]
fn section_5_1_6_a_collection_of_resources() {
    let pack = pack(
        r#"[{"bn":"2001:db8::2/","bt":1.320078429e+09,"n":"temperature","u":"Cel","v":25.2},
            {"n":"humidity","u":"%RH","v":30},
            {"bn":"2001:db8::1/","n":"temperature","u":"Cel","v":12.3},
            {"n":"humidity","u":"%RH","v":67}]"#,
    );
    let expected = [
        ("2001:db8::2/temperature", "Cel", 25.2),
        ("2001:db8::2/humidity", "%RH", 30.0),
        ("2001:db8::1/temperature", "Cel", 12.3),
        ("2001:db8::1/humidity", "%RH", 67.0),
    ]
    .map(|(name, unit, value)| reading(name, unit, value, 1_320_078_429.0));
    assert_eq!(resolved(&pack).as_deref(), Ok(&expected[..]));
}

#[test]
fn section_5_1_7_a_record_with_base_fields_only_makes_no_reading() {
    let pack = pack(
        r#"[{"bn":"urn:dev:ow:10e2073a01080063:"},{"n":"temp","u":"Cel","v":23.1},
            {"n":"heat","u":"/","v":1},{"n":"fan","u":"/","v":0}]"#,
    );
    let names: Vec<_> =
        resolved(&pack).unwrap().into_iter().map(|reading: Reading| reading.name).collect();
    assert_eq!(names, ["temp", "heat", "fan"].map(|name| format!("{SENSOR}:{name}")));
}

#[test]
fn section_5_1_7_lights_in_chronological_order() {
    let pack = pack(
        r#"[{"bt":1.320078429e+09,"bu":"/","n":"2001:db8::3","t":0.1,"v":0},
            {"n":"2001:db8::4","t":0.1,"v":0},
            {"n":"2001:db8::3","v":0.5},{"n":"2001:db8::4","v":0.5}]"#,
    );
    let expected = [
        ("2001:db8::3", 0.5, 1_320_078_429.0),
        ("2001:db8::4", 0.5, 1_320_078_429.0),
        ("2001:db8::3", 0.0, 1_320_078_429.0 + 0.1),
        ("2001:db8::4", 0.0, 1_320_078_429.0 + 0.1),
    ]
    .map(|(name, value, time)| reading(name, "/", value, time));
    assert_eq!(resolved(&pack).as_deref(), Ok(&expected[..]));
}
