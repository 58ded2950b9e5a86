//! Chunks: what is written reads back, and damage is noticed.

#![allow(clippy::float_cmp, reason = "bit for bit is what is meant")]

use std::path::PathBuf;

use super::*;
use crate::core::batch::{Reading, Value};
use crate::core::clock::Base;
use crate::core::ids::DeviceId;

fn reading(name: &str, value: Option<Value>, time: f64) -> Reading {
    Reading {
        name: name.into(),
        unit: None,
        value,
        sum: None,
        time,
        update_time: None,
        relative: false,
    }
}

/// Every kind of everything, the same for ever: the golden file holds it.
fn golden() -> Vec<(Position, Arc<Batch>)> {
    let device = |id| DeviceId::new(id).unwrap();
    let at = 1_763_800_000.125;
    let kiln = Batch {
        device: device("kiln-3"),
        epoch: 7,
        seq: Some(42),
        received: at,
        base: Base::default(),
        shift: 0.0,
        readings: vec![
            Reading {
                unit: Some("Cel".into()),
                update_time: Some(60.0),
                ..reading("temperature", Some(Value::Number(21.5)), at)
            },
            reading("state", Some(Value::Text("heating".into())), at),
            reading("door", Some(Value::Bool(false)), at + 0.5),
            reading("alarm", Some(Value::Bool(true)), at + 0.5),
            reading("raw", Some(Value::Data(Box::new([0, 1, 2, 255]))), at - 3600.0),
            Reading { unit: Some("J".into()), sum: Some(1234.5), ..reading("energy", None, at) },
        ],
    };
    let next = Batch {
        seq: Some(43),
        received: at + 1.0,
        base: Base { boot: 0x0123_4567_89ab_cdef, offset: 1_763_790_000.25 },
        shift: 0.0,
        readings: vec![
            reading("temperature", Some(Value::Number(std::f64::consts::PI)), at + 1.0),
            Reading {
                relative: true,
                ..reading("temperature", Some(Value::Number(f64::from(0.1_f32))), at + 2.0)
            },
        ],
        ..kiln.clone()
    };
    let restarted = Batch { epoch: u64::MAX, seq: Some(1), readings: Vec::new(), ..kiln.clone() };
    let unnumbered = Batch {
        device: device("Pump_1"),
        epoch: 0,
        seq: None,
        received: at + 1.5,
        base: Base::default(),
        shift: 0.0,
        readings: vec![reading("rpm", Some(Value::Number(-1500.0)), at)],
    };
    let batches = [kiln, next, restarted, unnumbered];
    (1000..).zip(batches.map(Arc::new)).collect()
}

fn noise(bytes: usize) -> Vec<(Position, Arc<Batch>)> {
    let mut state = 1_u32;
    let data: Vec<u8> = (0..bytes)
        .map(|_| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            state.to_le_bytes()[3]
        })
        .collect();
    let readings = vec![reading("data", Some(Value::Data(data.into())), 5.0)];
    let device = DeviceId::new("cam").unwrap();
    vec![(
        7,
        Arc::new(Batch {
            device,
            epoch: 1,
            seq: Some(1),
            received: 5.0,
            base: Base::default(),
            shift: 0.0,
            readings,
        }),
    )]
}

fn whole(chunks: &[Chunk]) -> Vec<(Position, Batch)> {
    let mut all = Vec::new();
    for chunk in chunks {
        let (header, batches) = read(&chunk.values).unwrap();
        assert_eq!((header.first, header.count), (chunk.first, chunk.count));
        all.extend((header.first..).zip(batches));
    }
    all
}

fn plain(batches: &[(Position, Arc<Batch>)]) -> Vec<(Position, Batch)> {
    batches.iter().map(|(position, batch)| (*position, (**batch).clone())).collect()
}

fn golden_path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden/disk").join(name)
}

/// Bytes that earlier versions wrote can be read for ever, and this version writes the same.
/// `TIDEGATE_WRITE_GOLDEN=1` writes the files of a new version.
#[test]
fn the_golden_chunk_is_read_and_written_unchanged() {
    let path = golden_path("chunk-v1.bin");
    let chunks = build(&golden(), 998, 1000);
    assert_eq!((chunks.len(), chunks[0].values.len()), (1, 1));
    if std::env::var_os("TIDEGATE_WRITE_GOLDEN").is_some() {
        std::fs::write(&path, &chunks[0].values[0]).unwrap();
    }
    let bytes = std::fs::read(&path).unwrap();
    let (header, batches) = read(&[&bytes]).unwrap();
    assert_eq!((header.first, header.count, header.readings), (1000, 4, 9));
    assert_eq!((header.head, header.durable), (998, 1000));
    assert_eq!(header.oldest, 1_763_800_000.125);
    let expected: Vec<_> = golden().into_iter().map(|(_, batch)| (*batch).clone()).collect();
    assert_eq!(batches, expected);
    assert_eq!(chunks[0].values[0], bytes, "this version writes something else");
}

#[test]
fn a_large_batch_is_cut_into_values_that_stay_small() {
    for bytes in [0, 1, 3_900, 4_028, 4_100, 64 * 1024, 300_000] {
        let batches = noise(bytes);
        let chunks = build(&batches, 0, 0);
        assert!(chunks.iter().flat_map(|c| &c.values).all(|value| value.len() <= VALUE_MAX));
        assert_eq!(chunks[0].values.len(), (bytes + 25).div_ceil(PIECE_MAX).max(1), "{bytes}");
        assert_eq!(whole(&chunks), plain(&batches));
    }
}

#[test]
fn positions_that_do_not_follow_each_other_go_into_chunks_of_their_own() {
    let batch = noise(10).remove(0).1;
    let batches: Vec<_> = [3, 4, 5, 9, 10, 12].map(|position| (position, batch.clone())).into();
    let chunks = build(&batches, 0, 0);
    let found: Vec<_> = chunks.iter().map(|chunk| (chunk.first, chunk.count)).collect();
    assert_eq!(found, [(3, 3), (9, 2), (12, 1)]);
    assert_eq!(whole(&chunks), plain(&batches));
}

#[test]
fn any_flipped_bit_and_any_cut_is_noticed() {
    let value = build(&golden(), 998, 1000).remove(0).values.remove(0);
    for at in 0..value.len() {
        for bit in 0..8 {
            let mut bad = value.clone();
            bad[at] ^= 1 << bit;
            assert!(read(&[&bad]).is_err(), "byte {at}, bit {bit}");
        }
        assert!(read(&[&value[..at]]).is_err(), "cut at {at}");
    }
}

#[test]
fn pieces_that_do_not_belong_together_are_refused() {
    let values = build(&noise(10_000), 0, 0).remove(0).values;
    assert_eq!(values.len(), 3);
    let other = build(&noise(10_001), 0, 0).remove(0).values;
    let refused = |values: &[&Vec<u8>]| read(values).unwrap_err();
    assert_eq!(refused(&[&values[0], &values[1]]), ChunkError::Pieces);
    assert_eq!(refused(&[&values[0], &values[2], &values[1]]), ChunkError::Pieces);
    assert_eq!(refused(&[&values[0], &other[1], &values[2]]), ChunkError::Pieces);
    assert_eq!(refused(&[]), ChunkError::Pieces);
}

#[test]
fn pieces_are_found_in_any_bytes() {
    let values = build(&noise(10_000), 0, 0).remove(0).values;
    let mut bytes = b"tgS1 is not a piece, nor is tgS".to_vec();
    let mut places = Vec::new();
    for value in &values {
        places.push(bytes.len());
        bytes.extend_from_slice(value);
        bytes.extend_from_slice(b"tgtgS1");
    }
    let found = find_pieces(&bytes, bytes.len());
    assert_eq!(found.iter().map(|(at, _)| *at).collect::<Vec<_>>(), places);
    assert!(found.iter().zip(&values).all(|((_, header), value)| value_len(header) == value.len()));
    let limited = find_pieces(&bytes, places[2]);
    assert_eq!(limited.len(), 2, "what begins at the limit belongs to the next window");
}
