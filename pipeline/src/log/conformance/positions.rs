//! Positions of a group: committed with the transaction that carries them, or not at all.

use super::fixture::{Fixture, commit, until, write};
use super::member::{Member, settle};
use crate::log::{CommitError, GroupPositions, Producer, TopicPartition};

/// A group with one member that holds both partitions of a topic.
struct Group<'a> {
    fixture: &'a Fixture<'a>,
    name: String,
    member: Member,
    inputs: [TopicPartition; 2],
    output: TopicPartition,
}

impl<'a> Group<'a> {
    fn new(fixture: &'a Fixture<'a>) -> Self {
        let (input, output) = (fixture.topic("input", 2), fixture.topic("output", 1));
        let name = fixture.name("group");
        let mut member = Member::join(fixture, &name, &[&input], None);
        settle([&mut member], [2]);
        let inputs = [0, 1].map(|number| TopicPartition::new(input.as_str(), number));
        Self { fixture, name, member, inputs, output: TopicPartition::new(output, 0) }
    }

    fn committed(&self) -> [Option<i64>; 2] {
        let committed = self.fixture.log.committed(&self.name, &self.inputs).expect("positions are known");
        committed.try_into().expect("one position for each partition")
    }

    fn commit(&mut self, producer: &mut dyn Producer, positions: &[(usize, i64)]) -> Result<(), CommitError> {
        self.member.step();
        let positions: Vec<_> = positions.iter().map(|&(index, at)| (self.inputs[index].clone(), at)).collect();
        let membership = self.member.membership();
        producer.commit(Some(GroupPositions { group: &self.name, membership: &membership, positions: &positions }))
    }
}

pub fn positions_are_committed_with_their_transaction(fixture: &Fixture<'_>) {
    let mut group = Group::new(fixture);
    assert_eq!(group.committed(), [None, None]);
    let mut producer = fixture.transactional("p");
    write(&mut *producer, &group.output.clone(), &["a"]);
    group.commit(&mut *producer, &[(0, 5)]).expect("positions can be committed");
    assert_eq!(group.committed(), [Some(5), None]);
    assert_eq!(fixture.values(&group.output), ["a"]);
    // Positions may go alone, and back.
    group.commit(&mut *producer, &[(0, 4), (1, 9)]).expect("positions can be committed");
    assert_eq!(group.committed(), [Some(4), Some(9)]);
    let mut backwards = group.inputs.clone();
    backwards.reverse();
    let committed = fixture.log.committed(&group.name, &backwards).expect("positions are known");
    assert_eq!(committed, [Some(9), Some(4)], "in the order asked for");
    assert_eq!(fixture.log.committed(&fixture.name("other"), &backwards).expect("positions are known"), [None, None]);
}

pub fn positions_stay_when_the_transaction_is_aborted(fixture: &Fixture<'_>) {
    let mut group = Group::new(fixture);
    let output = group.output.clone();
    let mut producer = fixture.transactional("p");
    write(&mut *producer, &output, &["a"]);
    group.commit(&mut *producer, &[(0, 5)]).expect("positions can be committed");
    write(&mut *producer, &output, &["b"]);
    producer.abort().expect("a transaction can be aborted");
    assert_eq!(group.committed(), [Some(5), None]);
    write(&mut *producer, &output, &["c"]);
    commit(&mut *producer);
    assert_eq!(group.committed(), [Some(5), None], "a transaction without positions leaves them");
    // Fenced: neither its records nor its positions count.
    write(&mut *producer, &output, &["d"]);
    let _newer = fixture.transactional("p");
    group.commit(&mut *producer, &[(0, 6), (1, 6)]).expect_err("a fenced producer commits nothing");
    assert_eq!(group.committed(), [Some(5), None]);
    assert_eq!(fixture.values(&output), ["a", "c"]);
}

pub fn positions_are_committed_without_transactions_too(fixture: &Fixture<'_>) {
    let mut group = Group::new(fixture);
    let output = group.output.clone();
    let mut producer = fixture.producer();
    write(&mut *producer, &output, &["a"]);
    group.commit(&mut *producer, &[(0, 2), (1, 3)]).expect("positions can be committed");
    assert_eq!(group.committed(), [Some(2), Some(3)]);
    assert_eq!(fixture.values(&output), ["a"], "the commit has flushed");
    write(&mut *producer, &output, &["b"]);
    commit(&mut *producer);
    assert_eq!(fixture.values(&output), ["a", "b"]);
    assert_eq!(group.committed(), [Some(2), Some(3)]);
}

pub fn positions_are_those_of_their_group(fixture: &Fixture<'_>) {
    let mut group = Group::new(fixture);
    let mut producer = fixture.transactional("p");
    group.commit(&mut *producer, &[(0, 5), (1, 5)]).expect("positions can be committed");
    let other = fixture.name("other");
    let mut member = Member::join(fixture, &other, &[&group.inputs[0].topic], None);
    settle([&mut member], [2]);
    assert_eq!(fixture.log.committed(&other, &group.inputs).expect("positions are known"), [None, None]);
    drop(member);
    until("the other group can be deleted", || fixture.log.delete_group(&other).ok());
    assert_eq!(group.committed(), [Some(5), Some(5)]);
}
