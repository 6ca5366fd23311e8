//! Values that nobody meant: whatever the bytes are, reading them ends in an event or in an error, by row and by column
//! alike, with bounded memory, and never in a panic.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Array as _, AsArray as _, RecordBatch};
use arrow::datatypes::{Float64Type, Int64Type};
use engram_schemas::Event as _;
use engram_schemas::activity::Interaction;
use engram_schemas::codec::{Decoder, Encoder};
use engram_schemas::columnar::BatchDecoder;
use engram_schemas::registry::Registry;
use engram_schemas::registry::memory::MemoryRegistry;
use proptest::prelude::*;

fn registry() -> Arc<dyn Registry> {
    Arc::new(MemoryRegistry::default())
}

fn encoder(registry: &Arc<dyn Registry>) -> Encoder<Interaction> {
    Encoder::register(&**registry, "activity.events").expect("the contract registers")
}

prop_compose! {
    fn interaction()(
        id in ".{1,20}", time in -62_135_596_800_000_i64..253_402_300_799_999, user in ".{1,20}", kind in ".{1,20}",
        target in proptest::option::of(".{0,40}"), source in ".{0,10}",
        value in proptest::option::of(any::<f64>().prop_filter("finite", |value| value.is_finite())),
        attributes in proptest::collection::btree_map(".{0,10}", ".{0,10}", 0..4),
    ) -> Interaction {
        Interaction { id, time, user, kind, target, source, value, attributes }
    }
}

fn sample() -> Interaction {
    Interaction {
        id: "1".to_owned(),
        time: 1_700_000_000_000,
        user: "ada".to_owned(),
        kind: "document.open".to_owned(),
        target: Some("notes.md".to_owned()),
        source: "editor".to_owned(),
        value: Some(0.5),
        attributes: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
    }
}

fn assert_row(batch: &RecordBatch, row: usize, event: &Interaction) {
    let text = |name: &str| {
        let column = batch.column_by_name(name).expect(name).as_string::<i32>();
        column.is_valid(row).then(|| column.value(row).to_owned())
    };
    assert_eq!(text("id").as_deref(), Some(event.id.as_str()));
    assert_eq!(text("user").as_deref(), Some(event.user.as_str()));
    assert_eq!(text("type").as_deref(), Some(event.kind.as_str()));
    assert_eq!(text("target"), event.target);
    assert_eq!(batch.column_by_name("time").expect("time").as_primitive::<Int64Type>().value(row), event.time);
    let values = batch.column_by_name("value").expect("value").as_primitive::<Float64Type>();
    assert_eq!(values.is_valid(row).then(|| values.value(row)), event.value);
}

proptest! {
    #[test]
    fn events_come_back_by_row_and_by_column(events in proptest::collection::vec(interaction(), 1..20)) {
        let registry = registry();
        let encoder = encoder(&registry);
        let (mut decoder, mut batches) = (Decoder::new(registry.clone()), BatchDecoder::new::<Interaction>(registry, 100));
        let mut value = Vec::new();
        for event in &events {
            encoder.encode(event, &mut value).expect("encode");
            prop_assert_eq!(&decoder.decode::<Interaction>(&value).expect("decode"), event);
            batches.push(&value).expect("push");
        }
        let batch = batches.finish().expect("finish").expect("some rows");
        prop_assert_eq!(batch.num_rows(), events.len());
        for (row, event) in events.iter().enumerate() {
            assert_row(&batch, row, event);
        }
    }

    #[test]
    fn any_bytes_end_in_an_event_or_an_error(body in proptest::collection::vec(any::<u8>(), 0..200)) {
        let registry = registry();
        let encoder = encoder(&registry);
        let (mut good, mut value) = (Vec::new(), Vec::new());
        encoder.encode(&sample(), &mut good).expect("encode");
        value.extend_from_slice(&good[..5]);
        value.extend_from_slice(&body);
        let _ = Decoder::new(registry.clone()).decode::<Interaction>(&value);
        let _ = Decoder::new(registry.clone()).decode::<Interaction>(&body);
        let _ = Decoder::new(registry.clone()).decode_json(&value);
        // By column, a bad row between two good ones leaves them whole.
        let mut batches = BatchDecoder::new::<Interaction>(registry, 100);
        batches.push(&good).expect("push");
        let bad = batches.push(&value);
        batches.push(&good).expect("push");
        let batch = batches.finish().expect("finish").expect("some rows");
        prop_assert_eq!(batch.num_rows(), 2 + usize::from(bad.is_ok()));
        assert_row(&batch, 0, &sample());
        assert_row(&batch, batch.num_rows() - 1, &sample());
    }

    #[test]
    fn every_cut_is_an_error(cut in 0_usize..60) {
        let registry = registry();
        let mut value = Vec::new();
        encoder(&registry).encode(&sample(), &mut value).expect("encode");
        prop_assume!(cut < value.len());
        prop_assert!(Decoder::new(registry.clone()).decode::<Interaction>(&value[..cut]).is_err());
        prop_assert!(BatchDecoder::new::<Interaction>(registry, 10).push(&value[..cut]).is_err());
    }
}

#[test]
fn a_length_beyond_all_memory_is_an_error() {
    let registry = registry();
    let mut value = Vec::new();
    encoder(&registry).encode(&sample(), &mut value).expect("encode");
    value.truncate(5);
    // The id's length, as a zigzag varint: 2^62.
    value.extend_from_slice(&[0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01]);
    let error = Decoder::new(registry.clone()).decode::<Interaction>(&value).expect_err("too long");
    assert_eq!(error.code(), "malformed");
    assert!(BatchDecoder::new::<Interaction>(registry, 10).push(&value).is_err());
}

#[test]
fn what_a_schema_cannot_say_is_checked() {
    let registry = registry();
    let encoder = encoder(&registry);
    let mut value = Vec::new();
    encoder.encode(&sample(), &mut value).expect("encode");
    // Written past the encoder's own check, as another producer would.
    let write = |event: &Interaction| {
        let json = serde_json::to_value(event).expect("JSON");
        let mut body = value[..5].to_vec();
        body.extend(engram_schemas::codec::json_to_avro(Interaction::SCHEMA, &json).expect("fits the schema"));
        body
    };
    for (event, code) in [
        (Interaction { user: String::new(), ..sample() }, "empty-field"),
        (Interaction { time: i64::MAX, ..sample() }, "time-out-of-range"),
        (Interaction { time: i64::MIN, ..sample() }, "time-out-of-range"),
    ] {
        let error = Decoder::new(registry.clone()).decode::<Interaction>(&write(&event)).expect_err(code);
        assert_eq!(error.code(), code);
        assert!(encoder.encode(&event, &mut Vec::new()).is_err());
    }
    let nan = Interaction { value: Some(f64::NAN), ..sample() };
    assert!(encoder.encode(&nan, &mut Vec::new()).is_err());
    let mut body = write(&Interaction { value: Some(1.5), ..sample() });
    let at = body.windows(8).position(|bytes| bytes == 1.5_f64.to_le_bytes()).expect("the value is in there");
    body[at..at + 8].copy_from_slice(&f64::NAN.to_le_bytes());
    assert_eq!(Decoder::new(registry).decode::<Interaction>(&body).expect_err("not finite").code(), "not-finite");
}
