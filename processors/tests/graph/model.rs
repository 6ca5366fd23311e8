//! What should come of the events, straight from the definitions and from the whole list every time: an element of a set is
//! there if one of its additions was seen by no later removal, a property has its last value, a relation can be seen if
//! neither end was made as a memory and is not there. No state is carried from one event to the next but the list.

use std::collections::{BTreeMap, BTreeSet};

use engram_schemas::graph::{GraphConflict, Relation, relation_key};
use engram_schemas::memory::{Memory, memory_key};

use crate::bed::{About, CONTENT, Event, KIND, MODEL, Op, topic};

/// An event that counts, as the `version`-th of its workspace.
#[derive(Debug, Clone)]
struct Taken {
    event: Event,
    version: i64,
    place: String,
}

#[derive(Debug, Default)]
pub struct Model {
    workspaces: BTreeMap<String, Vec<Taken>>,
    offsets: BTreeMap<&'static str, i64>,
    pub conflicts: Vec<GraphConflict>,
    /// Causes.
    pub rejected: Vec<&'static str>,
}

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Text(String),
    Number(f64),
    Embedding(Vec<f32>),
}

impl Value {
    fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Number(number) => number.to_string(),
            Self::Embedding(numbers) => format!("{} numbers by {MODEL:?}", numbers.len()),
        }
    }
}

/// Something that is there or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Element<'a> {
    /// The memory or relation itself.
    Whole,
    Tag(&'a str),
}

impl Element<'_> {
    fn is_added_by(self, event: &Event) -> bool {
        match (self, &event.op) {
            (Self::Whole, op) => matches!(op, Op::Create { .. } | Op::Restore | Op::Relate(..)),
            (Self::Tag(tag), Op::AddTag(added)) => added == tag,
            (Self::Tag(tag), Op::Create { tags, .. }) => tags.iter().any(|added| added == tag),
            _ => false,
        }
    }

    fn is_removed_by(self, event: &Event) -> bool {
        match (self, &event.op) {
            (Self::Whole, op) => matches!(op, Op::Delete | Op::Unrelate),
            (Self::Tag(tag), Op::RemoveTag(removed)) => removed == tag,
            _ => false,
        }
    }
}

fn has_seen(later: &Event, earlier: &Taken) -> bool {
    let is_own = !later.actor.is_empty() && later.actor == earlier.event.actor;
    is_own || later.observed.is_none_or(|observed| observed >= earlier.version)
}

/// The additions that no removal after them has seen.
fn additions<'a>(list: &[&'a Taken], element: Element<'_>) -> Vec<&'a Taken> {
    let added = list.iter().enumerate().filter(|(_, taken)| element.is_added_by(&taken.event));
    let left = added.filter(|(index, addition)| {
        let mut later = list[index + 1..].iter().filter(|taken| element.is_removed_by(&taken.event));
        !later.any(|removal| has_seen(&removal.event, addition))
    });
    left.map(|(_, addition)| *addition).collect()
}

fn is_there(list: &[&Taken], element: Element<'_>) -> bool {
    !additions(list, element).is_empty()
}

/// The index of the last event that has made it come, or go.
fn turned(list: &[&Taken], to_be_there: bool) -> Option<usize> {
    let is_there = |end: usize| is_there(&list[..end], Element::Whole);
    (0..list.len()).rev().find(|index| is_there(*index) != to_be_there && is_there(index + 1) == to_be_there)
}

/// A relation that comes again begins anew; a memory that does is as it was.
fn life<'l, 'a>(list: &'l [&'a Taken]) -> &'l [&'a Taken] {
    match list.first().map(|taken| &taken.event.about) {
        Some(About::Relation(..)) => &list[turned(list, true).unwrap_or(0)..],
        _ => list,
    }
}

/// The properties that an event writes; `None` removes one.
fn writes(event: &Event) -> Vec<(String, Option<Value>)> {
    let text = |text: &String| Some(Value::Text(text.clone()));
    match &event.op {
        Op::Create { title, metadata, embedding, .. } => {
            let mut writes = vec![
                ("type".to_owned(), Some(Value::Text(KIND.to_owned()))),
                ("title".to_owned(), text(title)),
                ("content".to_owned(), Some(Value::Text(CONTENT.to_owned()))),
            ];
            writes.extend(metadata.iter().map(|(key, value)| (format!("metadata:{key}"), text(value))));
            if !embedding.is_empty() {
                writes.push(("embedding".to_owned(), Some(Value::Embedding(embedding.clone()))));
            }
            writes
        }
        Op::Edit(field, value) => vec![(field.clone(), text(value))],
        Op::SetMetadata(key, value) => vec![(format!("metadata:{key}"), value.as_ref().and_then(text))],
        Op::Embed(numbers) => vec![("embedding".to_owned(), Some(Value::Embedding(numbers.clone())))],
        Op::Relate(strength, attributes) => {
            let attributes = attributes.iter().map(|(key, value)| (format!("attribute:{key}"), text(value)));
            [("strength".to_owned(), Some(Value::Number(*strength)))].into_iter().chain(attributes).collect()
        }
        Op::Modify(strength, attributes) => {
            let strength = strength.map(|strength| ("strength".to_owned(), Some(Value::Number(strength))));
            let attributes =
                attributes.iter().map(|(key, value)| (format!("attribute:{key}"), value.as_ref().and_then(text)));
            strength.into_iter().chain(attributes).collect()
        }
        _ => Vec::new(),
    }
}

/// The properties that there are, each with its last value and who wrote it.
fn properties<'a>(list: &[&'a Taken]) -> BTreeMap<String, (Value, &'a Taken)> {
    let mut properties = BTreeMap::new();
    for taken in life(list) {
        for (property, value) in writes(&taken.event) {
            match value {
                Some(value) => drop(properties.insert(property, (value, *taken))),
                None => drop(properties.remove(&property)),
            }
        }
    }
    properties
}

fn tags(list: &[&Taken]) -> BTreeSet<String> {
    let all = list.iter().flat_map(|taken| match &taken.event.op {
        Op::AddTag(tag) => vec![tag.clone()],
        Op::Create { tags, .. } => tags.clone(),
        _ => Vec::new(),
    });
    all.filter(|tag| is_there(list, Element::Tag(tag))).collect()
}

/// Whether the event at the end of the list has changed anything.
fn has_effect(list: &[&Taken]) -> bool {
    let (last, before) = list.split_last().expect("an event");
    let (was, is) = (is_there(before, Element::Whole), is_there(list, Element::Whole));
    match &last.event.op {
        Op::Delete | Op::Unrelate | Op::Restore => was != is,
        Op::RemoveTag(tag) => is_there(before, Element::Tag(tag)) && !is_there(list, Element::Tag(tag)),
        Op::SetMetadata(key, None) => properties(before).contains_key(&format!("metadata:{key}")),
        Op::Modify(..) => was,
        _ => true,
    }
}

impl Model {
    /// How many events of a workspace count.
    pub fn version(&self, workspace: &str) -> i64 {
        self.workspaces.get(workspace).map_or(0, Vec::len) as i64
    }

    /// The next record of the log.
    pub fn push(&mut self, event: &Event) {
        let offset = self.offsets.entry(topic(event)).or_default();
        let place = format!("{}/0/{offset}", topic(event));
        *offset += 1;
        let list = self.list(&event.workspace, &event.about);
        if list.iter().rev().take(8).any(|taken| taken.event.id == event.id) {
            return;
        }
        if list.is_empty() && !matches!(event.op, Op::Create { .. } | Op::Relate(..)) {
            self.rejected.push(match event.about {
                About::Memory(_) => "unknown-memory",
                About::Relation(..) => "unknown-relation",
            });
            return;
        }
        let taken = Taken { event: event.clone(), version: self.version(&event.workspace) + 1, place };
        let conflicts = self.conflicts_of(&list, &taken);
        self.conflicts.extend(conflicts);
        self.workspaces.entry(event.workspace.clone()).or_default().push(taken);
    }

    fn list(&self, workspace: &str, about: &About) -> Vec<&Taken> {
        let all = self.workspaces.get(workspace).map_or(&[] as &[Taken], Vec::as_slice);
        all.iter().filter(|taken| taken.event.about == *about).collect()
    }

    /// What has deleted a node, if that was made as a memory and is not there.
    fn deletion(&self, workspace: &str, node: &str) -> Option<&Taken> {
        let list = self.list(workspace, &About::Memory(node.to_owned()));
        if list.is_empty() || is_there(&list, Element::Whole) { None } else { turned(&list, false).map(|at| list[at]) }
    }

    fn conflicts_of(&self, before: &[&Taken], taken: &Taken) -> Vec<GraphConflict> {
        let event = &taken.event;
        let after: Vec<&Taken> = before.iter().copied().chain([taken]).collect();
        let was_there = is_there(before, Element::Whole);
        let gone_by = turned(before, false).filter(|_| !was_there).map(|at| before[at]);
        let mut found = Vec::new();
        let mut report = |kind: &str, property: &str, winner: &Taken, loser: &Taken, values: [String; 2]| {
            let subject = match &event.about {
                About::Memory(memory) => memory_key(&event.workspace, memory),
                About::Relation(from, kind, to) => relation_key(&event.workspace, from, kind, to),
            };
            let [winner_value, loser_value] = values;
            found.push(GraphConflict {
                workspace: event.workspace.clone(),
                kind: kind.to_owned(),
                subject,
                property: property.to_owned(),
                winner: winner.event.actor.clone(),
                loser: loser.event.actor.clone(),
                winner_value,
                loser_value,
                winner_place: winner.place.clone(),
                loser_place: loser.place.clone(),
                version: taken.version,
                time: event.time,
            });
        };
        let none = || [String::new(), String::new()];
        let comes_back = matches!(event.op, Op::Create { .. } | Op::Relate(..));
        let is_relation = matches!(event.about, About::Relation(..));
        let values = properties(before);
        for (property, value) in writes(event) {
            if let Some(gone_by) = gone_by
                && !comes_back
                && (value.is_some() || is_relation || values.contains_key(&property))
            {
                let value = value.as_ref().map(Value::text).unwrap_or_default();
                report("removed", &property, gone_by, taken, [String::new(), value]);
            }
            if let Some((old, by)) = values.get(&property)
                && (was_there || !is_relation)
                && !has_seen(event, by)
                && Some(old) != value.as_ref()
            {
                let value = value.as_ref().map(Value::text).unwrap_or_default();
                report("overwritten", &property, taken, by, [value, old.text()]);
            }
        }
        match &event.op {
            Op::AddTag(tag) => {
                if let Some(gone_by) = gone_by {
                    report("removed", &format!("tag:{tag}"), gone_by, taken, none());
                }
            }
            Op::RemoveTag(tag) if is_there(before, Element::Tag(tag)) => {
                match (additions(&after, Element::Tag(tag)).last(), gone_by) {
                    (Some(kept), _) => report("kept", &format!("tag:{tag}"), kept, taken, none()),
                    (None, Some(gone_by)) => report("removed", &format!("tag:{tag}"), gone_by, taken, none()),
                    (None, None) => {}
                }
            }
            Op::Delete | Op::Unrelate if was_there => {
                if let Some(kept) = additions(&after, Element::Whole).last() {
                    report("kept", "", kept, taken, none());
                } else {
                    for (property, (value, by)) in &values {
                        if !has_seen(event, by) {
                            report("removed", property, taken, by, [String::new(), value.text()]);
                        }
                    }
                    for tag in tags(before) {
                        let mut unseen = additions(before, Element::Tag(&tag)).into_iter().rev();
                        if let Some(by) = unseen.find(|addition| !has_seen(event, addition)) {
                            report("removed", &format!("tag:{tag}"), taken, by, none());
                        }
                    }
                }
            }
            Op::Relate(..) => {
                let About::Relation(from, _, to) = &event.about else { panic!("a relation") };
                for end in BTreeSet::from([from, to]) {
                    if let Some(deletion) = self.deletion(&event.workspace, end) {
                        report("removed", "", deletion, taken, none());
                    }
                }
            }
            _ => {}
        }
        found
    }

    fn all(&self) -> BTreeSet<(String, About)> {
        let all = self.workspaces.values().flatten();
        all.map(|taken| (taken.event.workspace.clone(), taken.event.about.clone())).collect()
    }

    pub fn memories(&self) -> BTreeMap<(String, String), Memory> {
        let mut memories = BTreeMap::new();
        for (workspace, about) in self.all() {
            let list = self.list(&workspace, &about);
            let About::Memory(memory) = about else { continue };
            let values = properties(&list);
            let text = |property: &str| values[property].0.text();
            let embedding = values.get("embedding").map(|(value, _)| match value {
                Value::Embedding(numbers) => numbers.clone(),
                other => panic!("{other:?} is no embedding"),
            });
            let (created, updated) = (&list[0].event, &last_with_effect(&list).event);
            let event = Memory {
                workspace: workspace.clone(),
                memory: memory.clone(),
                kind: text("type"),
                title: text("title"),
                content: text("content"),
                tags: tags(&list).into_iter().collect(),
                metadata: named(&values, "metadata:"),
                model: embedding.as_ref().map_or_else(String::new, |_| MODEL.to_owned()),
                embedding: embedding.unwrap_or_default(),
                deleted: !is_there(&list, Element::Whole),
                version: list.last().expect("an event").version,
                created: created.time,
                created_by: created.actor.clone(),
                updated: updated.time,
                updated_by: updated.actor.clone(),
            };
            memories.insert((workspace, memory), event);
        }
        memories
    }

    pub fn relations(&self) -> BTreeMap<(String, About), Relation> {
        let mut relations = BTreeMap::new();
        for (workspace, about) in self.all() {
            let list = self.list(&workspace, &about);
            let About::Relation(from, kind, to) = &about else { continue };
            if !is_there(&list, Element::Whole) {
                continue;
            }
            let mut hidden_by = vec![from.clone(), to.clone()];
            hidden_by.dedup();
            hidden_by.retain(|end| self.deletion(&workspace, end).is_some());
            let values = properties(&list);
            let Value::Number(strength) = values["strength"].0 else { panic!("a strength is a number") };
            let (created, updated) = (&life(&list)[0].event, &last_with_effect(&list).event);
            let event = Relation {
                workspace: workspace.clone(),
                from: from.clone(),
                to: to.clone(),
                kind: kind.clone(),
                strength,
                attributes: named(&values, "attribute:"),
                visible: hidden_by.is_empty(),
                hidden_by,
                version: list.last().expect("an event").version,
                created: created.time,
                created_by: created.actor.clone(),
                updated: updated.time,
                updated_by: updated.actor.clone(),
            };
            relations.insert((workspace, about), event);
        }
        relations
    }
}

fn last_with_effect<'a>(list: &[&'a Taken]) -> &'a Taken {
    let end = (1..=list.len()).rev().find(|end| has_effect(&list[..*end])).expect("making it is an effect");
    list[end - 1]
}

/// The properties whose names begin so, by the rest.
fn named(values: &BTreeMap<String, (Value, &Taken)>, prefix: &str) -> BTreeMap<String, String> {
    let named = values.iter().filter_map(|(name, (value, _))| Some((name.strip_prefix(prefix)?, value.text())));
    named.map(|(name, text)| (name.to_owned(), text)).collect()
}
