//! Records that no `engram produce` would write, put straight into a log.

use engram_pipeline::log::{Cleanup, Log, NewRecord, Producer, ProducerOptions, TopicSpec};
use engram_pipeline::service::TOPIC_MESSAGE_BYTES_MAX;

/// Creates a topic as `engram up` would.
pub fn create_topic(log: &dyn Log, name: &str, partitions: i32) {
    let (name, cleanup) = (name.to_owned(), Cleanup::Keep);
    let topic = TopicSpec { name, partitions, cleanup, max_message_bytes: TOPIC_MESSAGE_BYTES_MAX };
    log.create_topics(&[topic]).expect("a topic can be created");
}

pub fn producer(log: &dyn Log) -> Box<dyn Producer> {
    let options = ProducerOptions { client_id: "test".to_owned(), transactional_id: None };
    log.producer(&options).expect("a producer can be made")
}

pub fn write(producer: &mut dyn Producer, record: &NewRecord<'_>) {
    producer.write(record, false).expect("a record can be written");
}
