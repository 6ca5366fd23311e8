//! Transactions drawn at random, by two producers at once, compared with a model that a few vectors make up.

use std::collections::BTreeSet;

use super::fixture::{Fixture, flush, write};
use crate::log::{Producer, TopicPartition};

const PARTITIONS: usize = 3;
const STEPS: usize = 150;

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}

struct Side {
    producer: Box<dyn Producer>,
    /// The values of its open transaction.
    open: Vec<String>,
}

pub fn random_transactions_agree_with_a_model(fixture: &Fixture<'_>) {
    let mut random = Random(fixture.seed);
    let topic = fixture.topic("topic", PARTITIONS as i32);
    let partitions: Vec<_> = (0..PARTITIONS).map(|number| TopicPartition::new(topic.as_str(), number as i32)).collect();
    let positions: Vec<_> = partitions.iter().map(|partition| (partition.clone(), 0)).collect();
    let mut reader = fixture.reader(&positions);
    let mut sides = ["one", "two"].map(|id| Side { producer: fixture.transactional(id), open: Vec::new() });
    // Every value that was written, with its offset; and which of them were committed.
    let mut written: Vec<Vec<(i64, String)>> = vec![Vec::new(); PARTITIONS];
    let mut committed: BTreeSet<String> = BTreeSet::new();

    for step in 0..STEPS {
        let which = random.below(2);
        let side = &mut sides[which];
        match random.below(10) {
            0..6 => {
                let (index, value) = (random.below(PARTITIONS), format!("{which}-{step}"));
                write(&mut *side.producer, &partitions[index], &[&value]);
                // Flushed one by one, so that the model knows every offset.
                let ends = flush(&mut *side.producer);
                assert_eq!(ends.len(), 1, "seed {}, step {step}: {ends:?}", fixture.seed);
                assert_eq!(ends[0].0, partitions[index], "seed {}, step {step}", fixture.seed);
                written[index].push((ends[0].1 - 1, value.clone()));
                side.open.push(value);
            }
            6..8 => {
                side.producer.commit(None).expect("a transaction can be committed");
                committed.extend(side.open.drain(..));
            }
            8 => {
                side.producer.abort().expect("a transaction can be aborted");
                side.open.clear();
            }
            // Another life of this producer: what it had open is aborted.
            _ => {
                side.producer = fixture.transactional(["one", "two"][which]);
                side.open.clear();
            }
        }
        reader.fetch(random.below(PARTITIONS), 1 + random.below(5));
        for record in reader.records.iter().flatten() {
            let text = record.text();
            assert!(committed.contains(&text), "seed {}, step {step}: {text} is not committed", fixture.seed);
        }
    }
    for side in &mut sides {
        side.producer.abort().expect("a transaction can be aborted");
    }
    for (index, partition) in partitions.iter().enumerate() {
        reader.read_to(index, fixture.settled_end(partition));
        let read: Vec<_> = reader.records[index].iter().map(|record| (record.offset, record.text())).collect();
        let mut expected = written[index].clone();
        assert!(expected.is_sorted(), "seed {}: offsets grow with every write to {partition}", fixture.seed);
        expected.retain(|(_, value)| committed.contains(value));
        assert_eq!(read, expected, "seed {}: {partition}", fixture.seed);
    }
}
