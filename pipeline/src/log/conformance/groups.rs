//! Groups: partitions are shared by range, wander when members come and go, and a replaced member can do no harm.

use super::fixture::{Fixture, flush, until, write};
use super::member::{Member, settle};
use crate::log::{GroupInfo, GroupPositions, LogError, Rebalance, TopicPartition};

pub fn one_member_gets_all_partitions(fixture: &Fixture<'_>) {
    let (one, two) = (fixture.topic("one", 3), fixture.topic("two", 3));
    let mut member = Member::join(fixture, &fixture.name("group"), &[&one, &two], None);
    settle([&mut member], [6]);
    assert_eq!((member.numbers(&one), member.numbers(&two)), (vec![0, 1, 2], vec![0, 1, 2]));
    assert!(member.events.iter().all(|event| matches!(event, Rebalance::Assigned(_))), "{:?}", member.events);
}

pub fn a_member_reads_what_it_was_assigned(fixture: &Fixture<'_>) {
    let topic = fixture.topic("topic", 1);
    let partition = TopicPartition::new(topic.as_str(), 0);
    let mut producer = fixture.producer();
    write(&mut *producer, &partition, &["a", "b"]);
    flush(&mut *producer);
    let mut member = Member::join(fixture, &fixture.name("group"), &[&topic], None);
    settle([&mut member], [1]);
    let mut read = Vec::new();
    let end = until("the member reports the partition's end", || {
        member.step();
        let fetched = member.consumer.fetch(0, 10).expect("a member can fetch");
        if let Some(batch) = fetched.records {
            let values = (0..batch.len()).map(|index| batch.record(index).value.map(<[u8]>::to_vec));
            read.extend(values.map(|value| value.expect("no record is a tombstone")));
        }
        fetched.end
    });
    assert_eq!((read, end), (vec![b"a".to_vec(), b"b".to_vec()], 2));
}

pub fn members_share_copartitioned_topics_by_range(fixture: &Fixture<'_>) {
    let (one, two) = (fixture.topic("one", 4), fixture.topic("two", 4));
    let group = fixture.name("group");
    let mut first = Member::join(fixture, &group, &[&one, &two], None);
    settle([&mut first], [8]);
    let mut second = Member::join(fixture, &group, &[&one, &two], None);
    settle([&mut first, &mut second], [4, 4]);
    for member in [&first, &second] {
        assert_eq!(member.numbers(&one), member.numbers(&two), "a task's inputs come to the same member");
    }
    let mut shares = [first.numbers(&one), second.numbers(&one)];
    shares.sort();
    assert_eq!(shares, [[0, 1], [2, 3]], "ranges");
    let given: Vec<_> = first.events.iter().filter_map(revoked).flatten().collect();
    assert!(
        second.held.iter().all(|partition| given.contains(&partition)),
        "partitions are given back before another member has them: {:?}",
        first.events
    );
}

pub fn a_leaving_members_partitions_return(fixture: &Fixture<'_>) {
    let topic = fixture.topic("topic", 3);
    let group = fixture.name("group");
    let mut first = Member::join(fixture, &group, &[&topic], None);
    let mut second = Member::join(fixture, &group, &[&topic], None);
    until("both have a share", || {
        first.step();
        second.step();
        (first.count() > 0 && second.count() > 0 && first.count() + second.count() == 3).then_some(())
    });
    let before = first.events.len();
    drop(second);
    settle([&mut first], [3]);
    let lost = |event: &Rebalance| matches!(event, Rebalance::Lost(_));
    assert!(!first.events[before..].iter().any(lost), "{:?}", &first.events[before..]);
}

/// As a worker that fails over a rebalance does.
pub fn a_member_that_has_not_answered_can_leave(fixture: &Fixture<'_>) {
    let topic = fixture.topic("topic", 2);
    let group = fixture.name("group");
    let leave = |member: Member| {
        std::thread::scope(|scope| {
            let leaving = scope.spawn(|| drop(member));
            until("it has left", || leaving.is_finished().then_some(()));
        });
    };
    let mut silent = Member::join(fixture, &group, &[&topic], None);
    until("it is given partitions", || silent.consumer.poll_group().expect("the group can be served"));
    leave(silent);
    let mut silent = Member::join(fixture, &group, &[&topic], None);
    settle([&mut silent], [2]);
    let mut next = Member::join(fixture, &group, &[&topic], None);
    until("it is to give partitions back", || {
        next.step();
        silent.consumer.poll_group().expect("the group can be served")
    });
    leave(silent);
    settle([&mut next], [2]);
}

/// Fetching goes by the order in which partitions were taken, whatever was given back in between.
pub fn what_stays_with_a_member_is_read_on(fixture: &Fixture<'_>) {
    let topic = fixture.topic("topic", 4);
    let group = fixture.name("group");
    let mut producer = fixture.producer();
    for partition in 0..4 {
        write(&mut *producer, &TopicPartition::new(topic.as_str(), partition), &[&format!("{partition}")]);
    }
    flush(&mut *producer);
    let mut first = Member::join(fixture, &group, &[&topic], None);
    settle([&mut first], [4]);
    let mut second = Member::join(fixture, &group, &[&topic], None);
    settle([&mut first, &mut second], [2, 2]);
    for member in [&mut first, &mut second] {
        let positions: Vec<_> = member.held.iter().map(|partition| (partition.clone(), 0)).collect();
        member.consumer.assign(&positions).expect("a member can be set back");
        for (index, partition) in member.held.clone().into_iter().enumerate() {
            let value = until("the record was read", || {
                member.step();
                let batch = member.consumer.fetch(index, 10).expect("a member can fetch").records?;
                batch.record(0).value.map(<[u8]>::to_vec)
            });
            assert_eq!(value, partition.partition.to_string().into_bytes());
        }
    }
}

/// The ends of partitions were reported before others joined and left; then records come to them.
pub fn nothing_is_passed_over_when_members_come_and_go(fixture: &Fixture<'_>) {
    let topic = fixture.topic("topic", 4);
    let group = fixture.name("group");
    let mut producer = fixture.producer();
    let mut first = Member::join(fixture, &group, &[&topic], None);
    settle([&mut first], [4]);
    let mut read = vec![Vec::new(); 4];
    let take = |member: &mut Member, read: &mut Vec<Vec<Vec<u8>>>| {
        for (index, partition) in member.held.clone().into_iter().enumerate() {
            let fetched = member.consumer.fetch(index, 10).expect("a member can fetch");
            if let Some(batch) = fetched.records {
                let values = (0..batch.len()).filter_map(|at| batch.record(at).value.map(<[u8]>::to_vec));
                read[partition.partition as usize].extend(values);
            }
        }
    };
    let mut ends = [false; 4];
    until("the ends of all partitions are reported", || {
        first.step();
        for (index, partition) in first.held.clone().iter().enumerate() {
            ends[partition.partition as usize] |= first.consumer.fetch(index, 10).expect("it can fetch").end.is_some();
        }
        ends.iter().all(|&end| end).then_some(())
    });
    let mut second = Member::join(fixture, &group, &[&topic], None);
    settle([&mut first, &mut second], [2, 2]);
    for partition in 0..4 {
        let place = TopicPartition::new(topic.as_str(), partition);
        write(&mut *producer, &place, &[&format!("{partition}-a"), &format!("{partition}-b")]);
    }
    flush(&mut *producer);
    until("all records have come", || {
        for member in [&mut first, &mut second] {
            member.step();
            take(member, &mut read);
        }
        (read.iter().map(Vec::len).sum::<usize>() >= 8).then_some(())
    });
    for (partition, values) in read.iter().enumerate() {
        assert_eq!(*values, [format!("{partition}-a").into_bytes(), format!("{partition}-b").into_bytes()]);
    }
}

fn revoked(event: &Rebalance) -> Option<&Vec<TopicPartition>> {
    match event {
        Rebalance::Revoked(partitions) => Some(partitions),
        _ => None,
    }
}

pub fn groups_with_unequal_partition_counts_are_refused(fixture: &Fixture<'_>) {
    let (one, two) = (fixture.topic("one", 2), fixture.topic("two", 3));
    for topics in [[one.clone(), two], [one, fixture.name("never")]] {
        let options = crate::log::MemberOptions {
            group: fixture.name("group"),
            topics: topics.to_vec(),
            client_id: fixture.prefix.clone(),
            instance_id: None,
        };
        match fixture.log.member(&options) {
            Err(LogError::Refused(reason)) => assert!(reason.contains(&topics[1]), "{reason}"),
            Err(error) => panic!("refused, not {error:?}"),
            Ok(_) => panic!("{topics:?} cannot be shared"),
        }
    }
}

pub fn a_member_that_has_left_cannot_commit(fixture: &Fixture<'_>) {
    let topic = fixture.topic("topic", 1);
    let partition = TopicPartition::new(topic.as_str(), 0);
    let group = fixture.name("group");
    let mut former = Member::join(fixture, &group, &[&topic], None);
    settle([&mut former], [1]);
    let stale = former.membership();
    let mut next = Member::join(fixture, &group, &[&topic], None);
    drop(former);
    settle([&mut next], [1]);
    refuses(
        fixture,
        &partition,
        GroupPositions { group: &group, membership: &stale, positions: &[(partition.clone(), 7)] },
    );
    let positions = [(partition.clone(), 1)];
    let fresh = next.membership();
    let mut producer = fixture.transactional("p");
    let commit = GroupPositions { group: &group, membership: &fresh, positions: &positions };
    producer.commit(Some(commit)).expect("the member that holds the partition commits");
    assert_eq!(fixture.log.committed(&group, &[partition]).expect("positions are known"), [Some(1)]);
}

pub fn a_static_member_returns_to_its_place(fixture: &Fixture<'_>) {
    let topic = fixture.topic("topic", 4);
    let group = fixture.name("group");
    let mut former = Member::join(fixture, &group, &[&topic], Some("a"));
    let mut other = Member::join(fixture, &group, &[&topic], Some("b"));
    settle([&mut former, &mut other], [2, 2]);
    let stale = former.membership();
    let (held, events) = (former.held.clone(), other.events.len());
    let mut next = Member::join(fixture, &group, &[&topic], Some("a"));
    settle([&mut next, &mut other], [2, 2]);
    assert_eq!(next.held, held, "its partitions have waited for it");
    assert_eq!(other.events.len(), events, "nobody else was bothered: {:?}", other.events);
    let partition = held[0].clone();
    refuses(
        fixture,
        &partition,
        GroupPositions { group: &group, membership: &stale, positions: &[(partition.clone(), 7)] },
    );
    until("the former member learns that it was replaced", || {
        former.step();
        former.fenced.then_some(())
    });
    drop(former);
    let (fresh, positions) = (next.membership(), [(partition.clone(), 1)]);
    let mut producer = fixture.producer();
    let commit = GroupPositions { group: &group, membership: &fresh, positions: &positions };
    producer.commit(Some(commit)).expect("the member that holds the partition commits");
    assert_eq!(fixture.log.committed(&group, &[partition]).expect("positions are known"), [Some(1)]);
}

/// Neither with nor without a transaction may a commit with this membership go through.
fn refuses(fixture: &Fixture<'_>, partition: &TopicPartition, positions: GroupPositions<'_>) {
    use crate::log::CommitError::{Aborted, Fenced};
    let before = fixture.log.committed(positions.group, std::slice::from_ref(partition)).expect("positions are known");
    let mut transactional = fixture.transactional("stale");
    write(&mut *transactional, partition, &["of a replaced member"]);
    for mut producer in [transactional, fixture.producer()] {
        match producer.commit(Some(positions)) {
            Err(Aborted(_) | Fenced(_)) => {}
            Err(error) => panic!("the commit of a replaced member is fenced, not {error:?}"),
            Ok(()) => panic!("the commit of a replaced member went through"),
        }
    }
    // Where the refusal left the transaction open, it is resolved as it would be for a worker: by the next producer.
    drop(fixture.transactional("stale"));
    let after = fixture.log.committed(positions.group, std::slice::from_ref(partition)).expect("positions are known");
    assert_eq!(before, after, "the positions are as they were");
    assert!(fixture.values(partition).is_empty(), "the records of that transaction are not seen");
}

pub fn a_group_is_listed_and_deleted_when_empty(fixture: &Fixture<'_>) {
    let topic = fixture.topic("topic", 1);
    let partition = TopicPartition::new(topic.as_str(), 0);
    let group = fixture.name("group");
    let listed = || {
        let groups = fixture.log.groups().expect("groups can be listed");
        assert!(groups.is_sorted_by(|a, b| a.name < b.name), "groups are ordered by name");
        groups.into_iter().find(|info| info.name == group)
    };
    let committed = || fixture.log.committed(&group, std::slice::from_ref(&partition)).expect("positions are known");
    fixture.log.delete_group(&group).expect("an unknown group is ignored");
    assert_eq!(listed(), None);
    let mut member = Member::join(fixture, &group, &[&topic], None);
    settle([&mut member], [1]);
    until("the group is listed as stable", || {
        member.step();
        let stable = GroupInfo { name: group.clone(), state: "Stable".to_owned(), members: 1 };
        (listed() == Some(stable)).then_some(())
    });
    let (membership, positions) = (member.membership(), [(partition.clone(), 3)]);
    let commit = GroupPositions { group: &group, membership: &membership, positions: &positions };
    fixture.producer().commit(Some(commit)).expect("positions can be committed");
    match fixture.log.delete_group(&group) {
        Err(LogError::Refused(reason)) => assert!(reason.contains(&group), "{reason}"),
        other => panic!("a group with members is not deleted: {other:?}"),
    }
    drop(member);
    until("the group is listed as empty", || {
        let info = listed().expect("a group with positions is a group");
        (info.members == 0 && info.state == "Empty").then_some(())
    });
    assert_eq!(committed(), [Some(3)], "positions outlive the members");
    fixture.log.delete_group(&group).expect("a group without members can be deleted");
    assert_eq!(committed(), [None]);
    until("the group is listed no more", || listed().is_none().then_some(()));
}
