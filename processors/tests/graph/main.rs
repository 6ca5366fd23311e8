//! Memories and relations: whatever several people do at once, and wherever commits, aborts and restarts fall, what comes of
//! it is what a model recomputes from the whole list of events (`model`).

mod bed;
mod limits;
mod model;
mod stories;

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;

use bed::{About, Bed, Event, Op, STORES};
use model::Model;

#[derive(Debug, Clone)]
enum Step {
    /// `observed` is so many versions behind the workspace's, if it is given at all.
    Event {
        workspace: &'static str,
        actor: &'static str,
        about: About,
        behind: Option<i64>,
        op: Box<Op>,
    },
    /// The event before last, and so on, once more.
    Again(usize),
    Process,
    Commit,
    /// What is processed from now on belongs to the next commit, until this one happens or does not.
    Begin,
    Abort,
    Restart,
    RestartElsewhere,
}

const TEXTS: [&str; 2] = ["a", "b"];

fn text() -> impl Strategy<Value = String> + Clone {
    select(&TEXTS[..]).prop_map(str::to_owned)
}

fn embedding(least: usize) -> impl Strategy<Value = Vec<f32>> {
    vec(select(&[0.1_f32, -2.0][..]), least..3)
}

fn memory_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => (text(), vec(text(), 0..3), btree_map(text(), text(), 0..2), embedding(0))
            .prop_map(|(title, tags, metadata, embedding)| Op::Create { title, tags, metadata, embedding }),
        2 => (select(&["title", "content"][..]), text()).prop_map(|(field, value)| Op::Edit(field.to_owned(), value)),
        1 => select(&["procedural", "semantic"][..]).prop_map(|kind| Op::Edit("type".to_owned(), kind.to_owned())),
        2 => text().prop_map(Op::AddTag),
        2 => text().prop_map(Op::RemoveTag),
        2 => (text(), option::of(text())).prop_map(|(key, value)| Op::SetMetadata(key, value)),
        1 => embedding(1).prop_map(Op::Embed),
        3 => Just(Op::Delete),
        2 => Just(Op::Restore),
    ]
}

fn relation_op() -> impl Strategy<Value = Op> {
    let strength = select(&[0.5, 0.1 + 0.2, -1e300][..]);
    prop_oneof![
        4 => (strength.clone(), btree_map(text(), text(), 0..2))
            .prop_map(|(strength, attributes)| Op::Relate(strength, attributes)),
        2 => (option::of(strength), btree_map(text(), option::of(text()), 0..3))
            .prop_map(|(strength, attributes)| Op::Modify(strength, attributes)),
        3 => Just(Op::Unrelate),
    ]
}

/// Few ids, so that they collide; one end is no memory.
fn about_and_op() -> impl Strategy<Value = (About, Op)> {
    let node = |ids: &'static [&'static str]| select(ids).prop_map(str::to_owned);
    let memory = node(&["m", "n"]).prop_map(About::Memory);
    let relation = (node(&["m", "n"]), node(&["supports", "follows"]), node(&["n", "notes.md"]));
    let relation = relation.prop_map(|(from, kind, to)| About::Relation(from, kind, to));
    prop_oneof![(memory, memory_op()), (relation, relation_op())]
}

fn step() -> impl Strategy<Value = Step> {
    let workspace = prop_oneof![5 => Just("w"), 1 => Just("v")];
    let actor = select(&["", "ada", "bob", "eve"][..]);
    let event = (workspace, actor, about_and_op(), option::weighted(0.7, 0..12_i64));
    prop_oneof![
        24 => event.prop_map(|(workspace, actor, (about, op), behind)| {
            Step::Event { workspace, actor, about, behind, op: Box::new(op) }
        }),
        2 => (0..12_usize).prop_map(Step::Again),
        3 => Just(Step::Process),
        2 => Just(Step::Commit),
        1 => Just(Step::Begin),
        1 => Just(Step::Abort),
        1 => Just(Step::Restart),
        1 => Just(Step::RestartElsewhere),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    /// Fails if, for example, a removal takes what its author has not seen, a property keeps its first value, a relation is
    /// made to a deleted end and shown, a removed relation stays in the index, or anything is held outside of the stores.
    #[test]
    fn any_interleaving_comes_to_what_the_definitions_say(steps in vec(step(), 1..70)) {
        let (mut bed, mut model, mut events) = (Bed::new(), Model::default(), Vec::<Event>::new());
        for (number, step) in steps.into_iter().enumerate() {
            match step {
                Step::Event { workspace, actor, about, behind, op } => {
                    let observed = behind.map(|behind| (model.version(workspace) - behind).max(0));
                    let (id, time) = (number.to_string(), 1_000 - number as i64);
                    let (workspace, actor) = (workspace.to_owned(), actor.to_owned());
                    events.push(Event { id, time, workspace, actor, about, observed, op: *op });
                    bed.write(&events[events.len() - 1]);
                    model.push(&events[events.len() - 1]);
                }
                Step::Again(back) => {
                    if let Some(event) = events.iter().rev().nth(back) {
                        bed.write(event);
                        model.push(event);
                    }
                }
                Step::Process => drop(bed.driver.process().expect("processed")),
                Step::Commit => bed.driver.commit().expect("committed"),
                Step::Begin => bed.driver.begin_commit().expect("begun"),
                Step::Abort => bed.driver.abort().expect("aborted"),
                Step::Restart => bed.driver.restart().expect("restarted"),
                Step::RestartElsewhere => bed.driver.restart_elsewhere().expect("restarted"),
            }
            assert_no_relation_dangles(&mut bed);
        }
        bed.driver.run().expect("processed and committed");
        prop_assert_eq!(bed.memories(), model.memories());
        prop_assert_eq!(bed.relations(), model.relations());
        let (mut conflicts, mut expected) = (bed.conflicts(), model.conflicts.clone());
        conflicts.sort();
        expected.sort();
        prop_assert_eq!(conflicts, expected);
        let causes: Vec<String> = bed.dead_letters().into_iter().map(|letter| letter.cause).collect();
        prop_assert_eq!(causes, model.rejected.clone());

        let before = bed.entries();
        let verified = bed.driver.replay(None).expect("replayed");
        prop_assert!(verified.difference.is_none(), "{:?}", verified.difference);
        bed.driver.restart_elsewhere().expect("restarted");
        prop_assert_eq!(bed.entries(), before, "the stores, from the changelog");
    }
}

/// At every moment: what the stores show of a relation is what they show of its ends, and it is found by either end if it
/// is there, and only then.
fn assert_no_relation_dangles(bed: &mut Bed) {
    let memories: BTreeMap<String, bool> = bed
        .shown("memories")
        .into_iter()
        .map(|(key, memory)| (key.to_string(), memory["deleted"].as_bool().expect("a flag")))
        .collect();
    let mut index = Vec::new();
    for (key, relation) in bed.shown("relations") {
        let is_there = relation["removed"] == false;
        let mut ends = vec![&key["from"], &key["to"]];
        ends.dedup();
        let is_deleted = |node| memories.get(&json!({"workspace": key["workspace"], "memory": node}).to_string());
        let hidden = ends.iter().any(|node| is_deleted(*node) == Some(&true));
        assert_eq!(relation["visible"], is_there && !hidden, "{key} {relation}");
        for node in ends.into_iter().filter(|_| is_there) {
            let mut entry = json!({"workspace": key["workspace"], "node": node});
            entry.as_object_mut().expect("an object").extend(key.as_object().expect("an object").clone());
            index.push(entry.to_string());
        }
    }
    let mut shown: Vec<_> = bed.shown("node-relations").into_iter().map(|(key, _)| key.to_string()).collect();
    index.sort();
    shown.sort();
    assert_eq!(shown, index);
}

/// `engram state` shows every entry with a key by which it finds it again.
#[test]
fn every_entry_is_found_by_the_key_that_is_shown() {
    let mut bed = Bed::new();
    bed.take(&stories::some());
    let service = bed.driver.service();
    for (name, entries) in STORES.into_iter().zip(bed.entries()) {
        let store = service.stores.iter().find(|store| store.name == name).expect("a store");
        assert!(!entries.is_empty(), "{name}");
        for (key, value) in entries {
            let (shown, value) = (store.describe)(&key, &value);
            let place = (store.locate)(&shown).unwrap_or_else(|| panic!("{name} {shown}"));
            assert_eq!((place.key, place.routed_by), (key, b"w".to_vec()), "{name} {shown}");
            assert!(!value.to_string().contains("unreadable"), "{name} {shown} {value}");
        }
        assert_eq!((store.locate)(&json!({"workspace": 1})), None);
    }
}
