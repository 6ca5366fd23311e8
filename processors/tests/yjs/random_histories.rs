//! Histories of random, concurrent edits that Yjs has made come to the same in a document, whatever happens to the service.

use std::collections::BTreeSet;

use engram_processors::collaboration::documents::DocumentsConfig;
use engram_processors::collaboration::{DOCUMENT_REJECTS, DOCUMENT_SEQUENCED};
use engram_schemas::document::{DocumentState, EditRejected, SequencedEdit};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom as _, SliceRandom as _};
use rand::{RngExt as _, SeedableRng as _};
use serde_json::Value;
use yrs::Update;
use yrs::updates::decoder::Decode;

use super::bed::Bed;
use super::histories::{self, History};

/// Documents of one service.
const TOGETHER: usize = 250;

#[test]
fn documents_are_what_yjs_makes_of_their_histories() {
    let seed = super::seed();
    let mut random = StdRng::seed_from_u64(seed);
    let histories = histories::make(super::count(10_000, 100_000), seed, 0.4);
    let mut resent = 0;
    for (number, together) in histories.chunks(TOGETHER).enumerate() {
        resent += play(together, number % 8 == 0, &mut random);
    }
    let updates: usize = histories.iter().map(|history| history.updates.len()).sum();
    println!("{} histories with {updates} updates; {resent} came before their causes", histories.len());
}

/// Sends some histories, each to a document of its own; returns how many updates had to be sent again.
fn play(histories: &[History], is_replayed: bool, random: &mut StdRng) -> usize {
    let mut bed = Bed::new(DocumentsConfig {
        checkpoint_bytes: random.random_range(50..1_500),
        open_documents_max: random.random_range(1..TOGETHER),
        ..DocumentsConfig::default()
    });
    // By the number of the edit: document and update.
    let mut written: Vec<(usize, usize)> = Vec::new();
    let mut send = |bed: &mut Bed, written: &mut Vec<(usize, usize)>, (document, update): (usize, usize)| {
        bed.write(&format!("history-{document}"), &histories[document].updates[update]);
        written.push((document, update));
    };
    // What comes next of each document; a document comes up once for each of its updates.
    let mut next = vec![0; histories.len()];
    let mut turns: Vec<usize> =
        histories.iter().enumerate().flat_map(|(index, it)| vec![index; it.updates.len()]).collect();
    turns.shuffle(random);
    for document in turns {
        send(&mut bed, &mut written, (document, next[document]));
        next[document] += 1;
        if random.random_bool(0.1) {
            let again = *written.choose(random).expect("something was written");
            send(&mut bed, &mut written, again);
        }
        if random.random_bool(0.01) {
            bed.process(random);
        }
    }
    let resent = resend_until_taken(histories, &mut bed, &mut written, &mut send);
    let states = bed.states();
    let sequenced = bed.read::<SequencedEdit>(DOCUMENT_SEQUENCED);
    for (document, history) in histories.iter().enumerate() {
        let name = format!("history-{document}");
        let Some(state) = states.get(&name) else {
            assert!(history.updates.is_empty(), "{name} is not there");
            continue;
        };
        let numbers = sequenced.iter().filter(|edit| edit.document == name).map(|edit| edit.seq);
        assert!(numbers.eq(1..=state.seq), "{name}: edits are numbered in their order");
        compare(history, state);
    }
    if is_replayed {
        bed.replays();
    }
    resent
}

/// What builds on something that has not come is refused, and sent again, as an editor does that syncs.
fn resend_until_taken(
    histories: &[History],
    bed: &mut Bed,
    written: &mut Vec<(usize, usize)>,
    send: &mut impl FnMut(&mut Bed, &mut Vec<(usize, usize)>, (usize, usize)),
) -> usize {
    let (mut seen, mut resent) = (BTreeSet::new(), 0);
    loop {
        bed.commit();
        let rejected = bed.read::<EditRejected>(DOCUMENT_REJECTS);
        let mut missing: Vec<(usize, usize)> = Vec::new();
        for edit in rejected.iter().filter(|edit| seen.insert(edit.id.clone())) {
            match edit.cause.as_str() {
                "known" => {}
                "missing-causes" => missing.push(written[edit.id.parse::<usize>().expect("a number")]),
                cause => panic!("{} was refused: {cause}, {}", edit.document, edit.detail),
            }
        }
        missing.sort_unstable();
        missing.dedup();
        assert!(missing.iter().all(|(document, _)| !histories[*document].is_causal), "what it builds on has come");
        if missing.is_empty() {
            return resent;
        }
        resent += missing.len();
        missing.into_iter().for_each(|which| send(bed, written, which));
    }
}

/// Roots, and clocks of clients, as Yjs has them.
pub fn compare(history: &History, state: &DocumentState) {
    let shown: Value = serde_json::from_str(&state.roots).expect("JSON");
    let expected = history.result["roots"].as_object().expect("roots");
    for (name, root) in expected {
        let shown = &shown[name];
        // A root that nothing was ever put into is not known.
        let is_empty = matches!(root["value"].to_string().as_str(), "\"\"" | "[]" | "{}");
        let is_same = if root["type"] == "xml" {
            without_formats(shown) == without_formats(&root["value"])
        } else {
            same(shown, &root["value"])
        };
        let fits = is_same || shown.is_null() && is_empty;
        assert!(fits, "{}, {name}, {}:\n{shown}\n{}", state.document, state.seq, root["value"]);
    }
    let others = shown.as_object().expect("an object").keys().find(|name| !expected.contains_key(*name));
    assert_eq!(others, None, "{}", state.document);
    let whole = Update::decode_v1(&state.state).expect("an update");
    let mut clocks: Vec<(u64, u32)> =
        whole.state_vector().iter().map(|(client, clock)| (client.get(), *clock)).collect();
    clocks.sort_unstable();
    let expected: Vec<(u64, u32)> =
        serde_json::from_value(history.result["stateVector"].clone()).expect("a state vector");
    assert_eq!(clocks, expected, "{}", state.document);
}

/// XML without the tags of formats: which of them Yjs shows can depend on the order in which its updates came.
fn without_formats(xml: &Value) -> Option<String> {
    Some(["<b>", "</b>", "<i>", "</i>"].iter().fold(xml.as_str()?.to_owned(), |xml, tag| xml.replace(tag, "")))
}

/// Equal, where 1 and 1.0 are the same, and numbers may differ by their last bit, with which JSON is not read exactly.
fn same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) => {
            let (one, other) = (one.as_f64().expect("a number"), other.as_f64().expect("a number"));
            (one - other).abs() <= one.abs() * f64::EPSILON
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same(one, other))
        }
        (Value::Object(one), Value::Object(other)) => {
            one.len() == other.len()
                && one.iter().all(|(key, value)| other.get(key).is_some_and(|other| same(value, other)))
        }
        _ => one == other,
    }
}
