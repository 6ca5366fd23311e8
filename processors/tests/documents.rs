//! Documents against editors: whatever way edits come (late, twice, out of order, damaged, between crashes), a document is
//! what an editor has that got all of them, and a replay makes the same.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use engram_pipeline::driver::Driver;
use engram_pipeline::log::partitioner::partition_for;
use engram_processors::collaboration::documents::{DocumentsConfig, SYNC};
use engram_processors::collaboration::{
    self, DOCUMENT_CONFLICTS, DOCUMENT_EDITS, DOCUMENT_REJECTS, DOCUMENT_SEQUENCED, DOCUMENT_STATE,
};
use engram_schemas::Event;
use engram_schemas::codec::{Decoder, Encoder};
use engram_schemas::document::{DocumentState, Edit, EditConflict, EditRejected, SequencedEdit};
use engram_schemas::registry::Registry;
use proptest::prelude::*;
use yrs::updates::decoder::Decode;
use yrs::{Array, Doc, GetString, Map, OffsetKind, Options, ReadTxn, StateVector, Text, Transact, Update};

const PARTITIONS: i32 = 2;

/// The service, with its edits written and its outputs read.
struct Bed {
    driver: Driver,
    edits: Encoder<Edit>,
    written: u32,
}

impl Bed {
    fn new(config: DocumentsConfig) -> Self {
        let driver = Driver::of(Arc::new(collaboration::service(config)), PARTITIONS).expect("the service starts");
        let registry = driver.registry();
        let edits = Encoder::register(&*registry as &dyn Registry, DOCUMENT_EDITS).expect("registered");
        Self { driver, edits, written: 0 }
    }

    fn write(&mut self, document: &str, actor: &str, update: &[u8], purpose: &str) -> String {
        self.written += 1;
        let edit = Edit {
            id: format!("e{}", self.written),
            time: 1_700_000_000_000 + i64::from(self.written),
            document: document.to_owned(),
            actor: actor.to_owned(),
            session: String::new(),
            update: update.to_vec(),
            source: String::new(),
            purpose: purpose.to_owned(),
        };
        let mut value = Vec::new();
        self.edits.encode(&edit, &mut value).expect("an edit");
        let partition = partition_for(document.as_bytes(), PARTITIONS);
        self.driver.write(DOCUMENT_EDITS, partition, Some(document.as_bytes()), Some(&value), edit.time);
        edit.id
    }

    fn run(&mut self) {
        self.driver.process().expect("processed");
        self.driver.commit().expect("committed");
    }

    fn read<E: Event>(&self, topic: &str) -> Vec<E> {
        let mut decoder = Decoder::new(self.driver.registry());
        let records = self.driver.records(topic);
        records
            .iter()
            .map(|record| decoder.decode(record.value.as_deref().expect("a value")).expect("an event"))
            .collect()
    }

    /// The last state that was told of each document, once all timers have fired.
    fn states(&mut self) -> BTreeMap<String, DocumentState> {
        self.driver.advance_wall_clock(Duration::from_secs(60)).expect("timers fire");
        self.run();
        self.read::<DocumentState>(DOCUMENT_STATE).into_iter().map(|state| (state.document.clone(), state)).collect()
    }

    fn replays(&self) {
        let verified = self.driver.replay(None).expect("a replay");
        assert!(verified.difference.is_none(), "{:?}", verified.difference);
    }
}

/// Somebody's copy of a document.
struct Editor(Doc);

impl Editor {
    fn new(client: u64) -> Self {
        let options =
            Options { offset_kind: OffsetKind::Utf16, ..Options::with_client_id(yrs::block::ClientID::new(client)) };
        Self(Doc::with_options(options))
    }

    fn change(&self, change: impl FnOnce(&mut yrs::TransactionMut<'_>)) -> Vec<u8> {
        let mut transaction = self.0.transact_mut();
        change(&mut transaction);
        transaction.commit();
        transaction.encode_update_v1()
    }

    fn insert(&self, at: u32, text: &str) -> Vec<u8> {
        let root = self.0.get_or_insert_text("text");
        self.change(|transaction| {
            let at = at.min(root.len(transaction));
            root.insert(transaction, at, text);
        })
    }

    fn delete(&self, at: u32, len: u32) -> Vec<u8> {
        let root = self.0.get_or_insert_text("text");
        self.change(|transaction| {
            let have = root.len(transaction);
            let at = at.min(have);
            root.remove_range(transaction, at, len.min(have - at));
        })
    }

    fn set(&self, key: &str, value: i64) -> Vec<u8> {
        let root = self.0.get_or_insert_map("meta");
        self.change(|transaction| {
            root.insert(transaction, key, value);
        })
    }

    fn push(&self, value: i64) -> Vec<u8> {
        let root = self.0.get_or_insert_array("list");
        self.change(|transaction| {
            root.push_back(transaction, value);
        })
    }

    fn take(&self, update: &[u8]) {
        self.0.transact_mut().apply_update(Update::decode_v1(update).expect("an update")).expect("applied");
    }

    fn whole(&self) -> Vec<u8> {
        self.0.transact().encode_state_as_update_v1(&StateVector::default())
    }

    fn text(&self) -> String {
        self.0.get_or_insert_text("text").get_string(&self.0.transact())
    }
}

fn small() -> DocumentsConfig {
    DocumentsConfig { checkpoint_bytes: 200, open_documents_max: 1, ..DocumentsConfig::default() }
}

#[test]
fn edits_become_a_document_and_come_once() {
    let mut bed = Bed::new(DocumentsConfig::default());
    let (ada, ben) = (Editor::new(1), Editor::new(2));
    let first = ada.insert(0, "Hello 👋");
    bed.write("notes.md", "ada", &first, "");
    ben.take(&first);
    let second = ben.insert(5, ",");
    bed.write("notes.md", "ben", &second, "");
    bed.write("notes.md", "ada", &first, "");
    bed.write("notes.md", "ben", &ben.whole(), SYNC);
    bed.run();
    let sequenced = bed.read::<SequencedEdit>(DOCUMENT_SEQUENCED);
    let told: Vec<(i64, &str, i64)> = sequenced.iter().map(|edit| (edit.seq, edit.id.as_str(), edit.offset)).collect();
    assert_eq!(told, [(1, "e1", 0), (2, "e2", 1)]);
    let state = &bed.states()["notes.md"];
    assert_eq!((state.seq, state.offset, state.roots.as_str()), (2, 1, r#"{"text":"Hello, 👋"}"#));
    let copy = Editor::new(3);
    copy.take(&state.state);
    assert_eq!(copy.text(), "Hello, 👋");
    let rejected = bed.read::<EditRejected>(DOCUMENT_REJECTS);
    assert_eq!(
        rejected.iter().map(|edit| (edit.id.as_str(), edit.cause.as_str())).collect::<Vec<_>>(),
        [("e3", "known")]
    );
    bed.replays();
}

#[test]
fn what_does_not_fit_is_told_and_harms_nothing() {
    let config = DocumentsConfig { nesting_max: 1, update_bytes_max: 1 << 10, document_bytes_max: 2 << 10, ..small() };
    let mut bed = Bed::new(config);
    let ada = Editor::new(1);
    let first = ada.insert(0, "abc");
    let lost = ada.insert(3, "d");
    let after = ada.insert(4, "e");
    bed.write("d", "ada", &first, "");
    let expected = [
        (bed.write("d", "ada", &after, ""), "missing-causes"),
        (bed.write("d", "ada", b"no update", ""), "malformed-update"),
        (bed.write("d", "ada", &Editor::new(5).insert(0, &"x".repeat(2_000)), ""), "too-large"),
        (
            bed.write(
                "d",
                "ada",
                &{
                    let deep = Editor::new(6);
                    let root = deep.0.get_or_insert_map("deep");
                    deep.change(|transaction| {
                        let one = root.insert(transaction, "a", yrs::MapPrelim::default());
                        let two = one.insert(transaction, "b", yrs::MapPrelim::default());
                        two.insert(transaction, "c", 1);
                    })
                },
                "",
            ),
            "too-deep",
        ),
    ];
    bed.write("d", "ada", &lost, "");
    bed.write("d", "ada", &after, "");
    bed.run();
    let rejected = bed.read::<EditRejected>(DOCUMENT_REJECTS);
    let told: Vec<(String, &str)> = rejected.iter().map(|edit| (edit.id.clone(), edit.cause.as_str())).collect();
    assert_eq!(told, expected, "{rejected:?}");
    assert_eq!(bed.states()["d"].roots, r#"{"text":"abcde"}"#);
    bed.replays();
}

#[test]
fn concurrent_edits_of_one_place_are_conflicts() {
    let mut bed = Bed::new(DocumentsConfig::default());
    let (ada, ben) = (Editor::new(1), Editor::new(2));
    let first = ada.insert(0, "Hello");
    ben.take(&first);
    bed.write("d", "ada", &first, "");
    // Both at the end; both the same key; one after the other, knowing of it.
    let updates =
        [("ada", ada.insert(5, "!")), ("ben", ben.insert(5, "?")), ("ada", ada.set("k", 1)), ("ben", ben.set("k", 2))];
    for (actor, update) in &updates {
        bed.write("d", actor, update, "");
    }
    ben.take(&ada.whole());
    ada.take(&ben.whole());
    bed.write("d", "ben", &ben.insert(0, ">"), "");
    ada.take(&ben.whole());
    bed.write("d", "ada", &ada.insert(0, "<"), "");
    bed.run();
    let conflicts = bed.read::<EditConflict>(DOCUMENT_CONFLICTS);
    let told: Vec<String> = conflicts
        .iter()
        .map(|it| {
            let EditConflict { kind, seq, actor, other_seq, other_actor, winner, root, key, .. } = it;
            format!("{kind}: {seq} of {actor}, {other_seq} of {other_actor}, {winner} stands, {root} {key}")
        })
        .collect();
    assert_eq!(told, ["insert: 3 of ben, 2 of ada, 0 stands,  ", "value: 5 of ben, 4 of ada, 5 stands, meta k"]);
    assert_eq!(bed.states()["d"].roots, r#"{"meta":{"k":2},"text":"<>Hello!?"}"#);
    bed.replays();
}

#[derive(Debug, Clone)]
enum Step {
    Insert {
        editor: usize,
        at: u32,
        text: String,
    },
    Delete {
        editor: usize,
        at: u32,
        len: u32,
    },
    Set {
        editor: usize,
        key: u8,
        value: i64,
    },
    Push {
        editor: usize,
        value: i64,
    },
    /// An editor gets all that the document has.
    Sync {
        editor: usize,
    },
    /// The server gets all that an editor has.
    Whole {
        editor: usize,
    },
    /// An earlier update once more, damaged or not.
    Again {
        which: usize,
        damage: Option<(usize, u8)>,
    },
    Commit,
    Abort,
    Restart {
        elsewhere: bool,
    },
    Tick,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let editor = 0..4_usize;
    let step = prop_oneof![
        6 => (editor.clone(), 0..40_u32, "[a-c👋é]{1,4}").prop_map(|(editor, at, text)| Step::Insert { editor, at, text }),
        3 => (editor.clone(), 0..40_u32, 1..6_u32).prop_map(|(editor, at, len)| Step::Delete { editor, at, len }),
        2 => (editor.clone(), 0..3_u8, any::<i32>()).prop_map(|(editor, key, value)| Step::Set { editor, key, value: value.into() }),
        1 => (editor.clone(), any::<i32>()).prop_map(|(editor, value)| Step::Push { editor, value: value.into() }),
        3 => editor.clone().prop_map(|editor| Step::Sync { editor }),
        1 => editor.prop_map(|editor| Step::Whole { editor }),
        1 => (any::<usize>(), proptest::option::of((any::<usize>(), any::<u8>()))).prop_map(|(which, damage)| Step::Again { which, damage }),
        2 => Just(Step::Commit),
        1 => Just(Step::Abort),
        1 => any::<bool>().prop_map(|elsewhere| Step::Restart { elsewhere }),
        1 => Just(Step::Tick),
    ];
    proptest::collection::vec(step, 1..80)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// Editors 0 and 1 are at one document, 2 and 3 at another. What is damaged may still be an update, of something else:
    /// then it counts, so the oracle applies what was sequenced.
    #[test]
    fn a_document_is_what_all_its_edits_make(steps in steps(), checkpoint_bytes in 50..400_usize) {
        let mut bed = Bed::new(DocumentsConfig { checkpoint_bytes, ..small() });
        let documents = ["one", "two"];
        let editors: Vec<Editor> = (1..=4).map(Editor::new).collect();
        let oracle: Vec<Editor> = (0..2).map(|_| Editor::new(99)).collect();
        let mut sent: Vec<(usize, Vec<u8>)> = Vec::new();
        for step in steps {
            let mut send = |bed: &mut Bed, editor: usize, update: Vec<u8>, purpose: &str| {
                bed.write(documents[editor / 2], &format!("user{editor}"), &update, purpose);
                sent.push((editor, update));
            };
            match step {
                Step::Insert { editor, at, text } => send(&mut bed, editor, editors[editor].insert(at, &text), ""),
                Step::Delete { editor, at, len } => send(&mut bed, editor, editors[editor].delete(at, len), ""),
                Step::Set { editor, key, value } => send(&mut bed, editor, editors[editor].set(&key.to_string(), value), ""),
                Step::Push { editor, value } => send(&mut bed, editor, editors[editor].push(value), ""),
                Step::Sync { editor } => {
                    for edit in bed.read::<SequencedEdit>(DOCUMENT_SEQUENCED) {
                        if edit.document == documents[editor / 2] {
                            editors[editor].take(&edit.update);
                        }
                    }
                }
                Step::Whole { editor } => send(&mut bed, editor, editors[editor].whole(), SYNC),
                Step::Again { which, damage } if !sent.is_empty() => {
                    let (editor, mut update) = sent[which % sent.len()].clone();
                    if let Some((at, byte)) = damage {
                        let at = at % update.len();
                        update[at] = byte;
                    }
                    bed.write(documents[editor / 2], "mallory", &update, "");
                }
                Step::Again { .. } => {}
                Step::Commit => bed.run(),
                Step::Abort => {
                    bed.driver.process().expect("processed");
                    bed.driver.abort().expect("aborted");
                }
                Step::Restart { elsewhere } => {
                    if elsewhere { bed.driver.restart_elsewhere() } else { bed.driver.restart() }.expect("restarted");
                }
                Step::Tick => bed.driver.advance_wall_clock(Duration::from_millis(300)).expect("timers fire"),
            }
        }
        bed.run();
        let sequenced = bed.read::<SequencedEdit>(DOCUMENT_SEQUENCED);
        let states = bed.states();
        for (index, document) in documents.iter().enumerate() {
            let own: Vec<&SequencedEdit> = sequenced.iter().filter(|edit| edit.document == *document).collect();
            prop_assert!(own.iter().map(|edit| edit.seq).eq(1..=own.len() as i64));
            for edit in &own {
                oracle[index].take(&edit.update);
            }
            let Some(state) = states.get(*document) else {
                prop_assert!(own.is_empty());
                continue;
            };
            let copy = Editor::new(98);
            copy.take(&state.state);
            prop_assert_eq!(copy.0.transact().state_vector(), oracle[index].0.transact().state_vector());
            prop_assert_eq!(copy.text(), oracle[index].text());
            let roots: serde_json::Value = serde_json::from_str(&state.roots).expect("JSON");
            if let Some(text) = roots["text"].as_str() {
                prop_assert_eq!(text, oracle[index].text());
            }
        }
        bed.replays();
    }
}
