//! What a few people did at once, told one by one, with what is to come of it written out by hand.

use engram_processors::collaboration::{GRAPH_CURRENT, MEMORY_CURRENT};
use engram_schemas::memory::Memory;

use crate::bed::{About, Bed, Event, Op};

fn memory(id: &str) -> About {
    About::Memory(id.to_owned())
}

fn supports(from: &str, to: &str) -> About {
    About::Relation(from.to_owned(), "supports".to_owned(), to.to_owned())
}

pub fn create(title: &str) -> Op {
    Op::Create { title: title.to_owned(), tags: Vec::new(), metadata: Default::default(), embedding: vec![0.5] }
}

fn title(text: &str) -> Op {
    Op::Edit("title".to_owned(), text.to_owned())
}

fn relate() -> Op {
    Op::Relate(1.0, Default::default())
}

/// Events of one workspace; the id of each is its number, from 1, and so is its version if all are taken.
fn told(events: &[(&str, About, Option<i64>, Op)]) -> Vec<Event> {
    let events = events.iter().cloned().zip(1..);
    events
        .map(|((actor, about, observed, op), number)| Event {
            id: number.to_string(),
            time: number,
            workspace: "w".to_owned(),
            actor: actor.to_owned(),
            about,
            observed,
            op,
        })
        .collect()
}

/// Something in every store.
pub fn some() -> Vec<Event> {
    told(&[
        ("ada", memory("m"), None, create("Tea")),
        ("ada", supports("m", "a\0b.md"), None, relate()),
        ("ada", supports("m", "m"), None, relate()),
        ("bob", memory("m"), None, Op::SetMetadata("lang".to_owned(), Some("en".to_owned()))),
        ("bob", memory("m"), None, Op::AddTag("drink".to_owned())),
    ])
}

/// What came of it: kind, property, winner, loser, winner's value, loser's value; places are left to the model.
type Told = (&'static str, &'static str, &'static str, &'static str, &'static str, &'static str);

fn conflicts_of(events: &[Event]) -> (Bed, Vec<[String; 6]>) {
    let mut bed = Bed::new();
    bed.take(events);
    let told = |c: engram_schemas::graph::GraphConflict| {
        [c.kind, c.property, c.winner, c.loser, c.winner_value, c.loser_value]
    };
    let conflicts = bed.conflicts().into_iter().map(told).collect();
    (bed, conflicts)
}

#[track_caller]
fn assert_conflicts(conflicts: &[[String; 6]], expected: &[Told]) {
    let expected: Vec<[String; 6]> =
        expected.iter().map(|(a, b, c, d, e, f)| [a, b, c, d, e, f].map(|text| (*text).to_owned())).collect();
    assert_eq!(conflicts, expected);
}

fn seen(bed: &Bed) -> Memory {
    bed.memories().remove(&("w".to_owned(), "m".to_owned())).expect("it is kept")
}

#[test]
fn the_last_value_stands_and_who_lost_theirs_is_told() {
    let start = ("ada", memory("m"), None, create("Tea"));
    let cases: [(&str, Option<i64>, &str, &[Told]); 5] = [
        ("bob", Some(1), "Green tea", &[("overwritten", "title", "bob", "ada", "Green tea", "Black tea")]),
        ("bob", Some(1), "Black tea", &[]), // The same value.
        ("bob", Some(2), "Green tea", &[]), // It was seen.
        ("bob", None, "Green tea", &[]),
        ("ada", Some(1), "Green tea", &[]), // Her own.
    ];
    for (actor, observed, text, expected) in cases {
        let events = [
            start.clone(),
            ("ada", memory("m"), Some(1), title("Black tea")),
            (actor, memory("m"), observed, title(text)),
        ];
        let (bed, conflicts) = conflicts_of(&told(&events));
        assert_conflicts(&conflicts, expected);
        assert_eq!(seen(&bed).title, text);
    }
}

#[test]
fn the_anonymous_do_not_know_each_other() {
    let events = [
        ("", memory("m"), None, create("a")),
        ("", memory("m"), Some(1), title("b")),
        ("", memory("m"), Some(1), title("c")),
    ];
    let (_, conflicts) = conflicts_of(&told(&events));
    assert_conflicts(&conflicts, &[("overwritten", "title", "", "", "c", "b")]);
}

#[test]
fn a_removal_takes_what_its_author_has_seen_and_nothing_else() {
    let tag = || "tea".to_owned();
    let events = told(&[
        ("ada", memory("m"), None, create("Tea")),
        ("bob", memory("m"), Some(1), Op::AddTag(tag())),
        ("ada", memory("m"), Some(1), Op::AddTag(tag())),
        // Ada has not seen Bob's tag, so it stays, although hers came after it; hers is gone.
        ("ada", memory("m"), Some(1), Op::RemoveTag(tag())),
        ("bob", memory("m"), Some(1), Op::RemoveTag(tag())),
    ]);
    let (bed, conflicts) = conflicts_of(&events[..4]);
    assert_conflicts(&conflicts, &[("kept", "tag:tea", "bob", "ada", "", "")]);
    assert_eq!(seen(&bed).tags, ["tea"]);
    let (bed, conflicts) = conflicts_of(&events);
    assert_eq!((seen(&bed).tags, conflicts.len()), (vec![], 1));
}

#[test]
fn a_memory_made_anew_survives_a_deletion_that_has_not_seen_it() {
    for again in [Op::Restore, create("Tea")] {
        let events = told(&[
            ("ada", memory("m"), None, create("Tea")),
            ("ada", memory("m"), None, Op::Delete),
            ("bob", memory("m"), None, again),
            ("eve", memory("m"), Some(1), Op::Delete),
        ]);
        let (bed, conflicts) = conflicts_of(&events);
        assert_conflicts(&conflicts, &[("kept", "", "bob", "eve", "", "")]);
        assert!(!seen(&bed).deleted);
    }
}

#[test]
fn a_deletion_and_a_change_meet_in_either_order() {
    let events = told(&[
        ("ada", memory("m"), None, create("Tea")),
        ("bob", memory("m"), Some(1), title("Green tea")),
        ("ada", memory("m"), Some(1), Op::Delete),
    ]);
    let (_, conflicts) = conflicts_of(&events);
    assert_conflicts(&conflicts, &[("removed", "title", "ada", "bob", "", "Green tea")]);

    // What was done to it while it was deleted is there when it is back.
    let events = told(&[
        ("ada", memory("m"), None, create("Tea")),
        ("ada", memory("m"), None, Op::Delete),
        ("bob", memory("m"), Some(1), title("Green tea")),
        ("eve", memory("m"), None, Op::Restore),
    ]);
    let (bed, conflicts) = conflicts_of(&events);
    assert_conflicts(&conflicts, &[("removed", "title", "ada", "bob", "", "Green tea")]);
    let seen = seen(&bed);
    assert_eq!((seen.title.as_str(), seen.deleted, seen.embedding), ("Green tea", false, vec![0.5]));
    assert_eq!((seen.version, seen.created_by.as_str(), seen.updated_by.as_str()), (4, "ada", "eve"));
}

#[test]
fn a_relation_hides_and_shows_with_its_ends() {
    let mut events = told(&[
        ("ada", memory("m"), None, create("Tea")),
        ("ada", memory("n"), None, create("Water")),
        ("ada", supports("m", "n"), None, relate()),
        ("ada", memory("m"), None, Op::Delete),
        ("ada", memory("n"), None, Op::Delete),
        ("ada", memory("m"), None, Op::Restore),
        ("ada", memory("n"), None, Op::Restore),
    ]);
    let mut bed = Bed::new();
    bed.take(&events.drain(..3).collect::<Vec<_>>());
    let hidden: [&[&str]; 4] = [&["m"], &["m", "n"], &["n"], &[]];
    for (event, hidden_by) in events.into_iter().zip(hidden) {
        let before = bed.driver.records(GRAPH_CURRENT).len();
        bed.take(&[event]);
        let relation = bed.relations().into_values().next().expect("it is there");
        assert_eq!(
            (relation.hidden_by, relation.visible),
            (hidden_by.iter().map(|node| (*node).to_owned()).collect(), hidden_by.is_empty())
        );
        assert_eq!(relation.version, 3, "nobody has changed the relation itself");
        assert_eq!(bed.driver.records(GRAPH_CURRENT).len(), before + 1);
    }
}

/// Whoever relates something to a deleted memory is told, and told where the deletion is: in the other topic.
#[test]
fn a_relation_to_a_deleted_memory_is_hidden_and_told() {
    let events = told(&[
        ("ada", memory("m"), None, create("Tea")),
        ("ada", memory("m"), None, Op::Delete),
        ("bob", supports("m", "notes.md"), None, relate()),
    ]);
    let (bed, conflicts) = conflicts_of(&events);
    assert_conflicts(&conflicts, &[("removed", "", "ada", "bob", "", "")]);
    let conflict = &bed.conflicts()[0];
    assert_eq!(
        (conflict.winner_place.as_str(), conflict.loser_place.as_str()),
        ("memory.events/0/1", "graph.events/0/0")
    );
    assert_eq!(conflict.subject, r#"["w","m","supports","notes.md"]"#);
    assert!(bed.relations().into_values().all(|relation| !relation.visible));
}

#[test]
fn two_nodes_may_have_relations_of_several_types_both_ways() {
    let follows = About::Relation("m".to_owned(), "follows".to_owned(), "n".to_owned());
    let events = told(&[
        ("ada", supports("m", "n"), None, relate()),
        ("ada", follows, None, relate()),
        ("ada", supports("n", "m"), None, relate()),
        ("ada", supports("m", "n"), None, Op::Unrelate),
    ]);
    let (bed, _) = conflicts_of(&events);
    let there: Vec<String> = bed.relations().into_values().map(|r| format!("{} {} {}", r.from, r.kind, r.to)).collect();
    assert_eq!(there, ["m follows n", "n supports m"]);
    let last = bed.driver.records(GRAPH_CURRENT).pop().expect("a record");
    assert_ne!(last.value, None, "the removal is before the others: in the order of first change");
}

#[test]
fn what_is_delivered_again_changes_nothing() {
    let events = told(&[
        ("ada", memory("m"), None, create("Tea")),
        ("ada", memory("m"), None, title("Green tea")),
        ("bob", memory("m"), None, title("Black tea")),
        ("ada", supports("m", "n"), None, relate()),
        ("bob", supports("m", "n"), None, Op::Unrelate),
    ]);
    let mut bed = Bed::new();
    bed.take(&events);
    let (entries, updates) = (bed.entries(), bed.driver.records(MEMORY_CURRENT).len());
    bed.take(&events);
    assert_eq!(bed.entries(), entries);
    assert_eq!(bed.driver.records(MEMORY_CURRENT).len(), updates);
    assert_eq!((bed.conflicts().len(), bed.dead_letters().len(), bed.relations().len()), (0, 0, 0));
}

#[test]
fn a_commit_tells_each_change_once() {
    let mut bed = Bed::new();
    let mut events = vec![("ada", memory("m"), None, create("Tea")), ("ada", supports("m", "n"), None, relate())];
    events.extend((0..50).map(|number| ("ada", memory("m"), None, title(&number.to_string()))));
    bed.take(&told(&events));
    assert_eq!((bed.driver.records(MEMORY_CURRENT).len(), bed.driver.records(GRAPH_CURRENT).len()), (1, 1));
    assert_eq!((seen(&bed).title.as_str(), seen(&bed).version), ("49", 52));
}

/// However many relations a memory has, they hide in the same commit as it.
#[test]
fn a_hub_is_deleted_in_one_step() {
    const RELATIONS: usize = 3_000;
    let mut bed = Bed::new();
    let mut events = vec![("ada", memory("m"), None, create("Tea"))];
    events.extend((0..RELATIONS).map(|number| ("ada", supports(&format!("file-{number}"), "m"), None, relate())));
    bed.take(&told(&events));
    for (op, visible) in [(Op::Delete, 0), (Op::Restore, RELATIONS)] {
        let commits = bed.driver.manifests(0).len();
        let id = format!("turn-{visible}");
        bed.take(&[Event { id, ..told(&[("ada", memory("m"), None, op)])[0].clone() }]);
        assert_eq!(bed.relations().into_values().filter(|relation| relation.visible).count(), visible);
        let with_outputs = bed.driver.manifests(0).split_off(commits).into_iter().filter(|commit| commit.outputs > 0);
        assert_eq!(with_outputs.map(|commit| commit.outputs).collect::<Vec<_>>(), [RELATIONS as i64 + 1]);
    }
    assert!(bed.driver.replay(None).expect("replayed").difference.is_none());
}
