"""Reads and writes Engram's topics as any other program would: with Confluent's own client, serializer included.

    avro_client.py consume BROKERS REGISTRY TOPIC COUNT
        prints COUNT records, oldest first, committed ones only, each as one JSON line {"key": .., "value": ..};
        exits with 1 when they have not come within --seconds
    avro_client.py produce BROKERS REGISTRY SCHEMA [--topic activity.events] [--key user]
        takes JSON lines from standard input, registers the schema file, writes each line as one event whose key is
        the named field as UTF-8; prints how many were acknowledged

Times are integers, milliseconds since 1970. Bytes are written as hexadecimal digits.
"""

import argparse
import datetime
import json
import sys
import time

from confluent_kafka import Consumer, Producer, TopicPartition, OFFSET_BEGINNING
from confluent_kafka.schema_registry import SchemaRegistryClient, topic_record_subject_name_strategy
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)
MILLISECOND = datetime.timedelta(milliseconds=1)


def plain(value):
    """What json.dumps is given for a value it does not know."""
    if isinstance(value, datetime.datetime):
        return (value - EPOCH) // MILLISECOND
    if isinstance(value, bytes):
        return value.hex()
    return str(value)


def consume(options):
    decode = AvroDeserializer(SchemaRegistryClient({"url": options.registry}))
    consumer = Consumer({
        "bootstrap.servers": options.brokers,
        "group.id": "avro-client",  # required by the client; partitions are assigned by hand and nothing is committed
        "enable.auto.commit": False,
        "isolation.level": "read_committed",
    })
    deadline = time.monotonic() + options.seconds
    topic = consumer.list_topics(options.topic, timeout=options.seconds).topics[options.topic]
    if topic.error is not None:
        sys.exit(f"avro_client.py: {options.topic}: {topic.error}")
    consumer.assign([TopicPartition(options.topic, number, OFFSET_BEGINNING) for number in topic.partitions])
    left = options.count
    while left > 0 and time.monotonic() < deadline:
        message = consumer.poll(0.2)
        if message is None:
            continue
        if message.error():
            sys.exit(f"avro_client.py: {message.error()}")
        key = message.key()
        value = decode(message.value(), SerializationContext(options.topic, MessageField.VALUE))
        line = {"key": None if key is None else key.decode("utf-8", "backslashreplace"), "value": value}
        print(json.dumps(line, default=plain), flush=True)
        left -= 1
    consumer.close()
    if left > 0:
        sys.exit(f"avro_client.py: {options.topic}: {left} of {options.count} records did not come in {options.seconds} s")


def produce(options):
    with open(options.schema, encoding="utf-8") as file:
        schema = file.read()
    encode = AvroSerializer(SchemaRegistryClient({"url": options.registry}), schema, conf={
        "auto.register.schemas": True,
        "subject.name.strategy": topic_record_subject_name_strategy,
    })
    context = SerializationContext(options.topic, MessageField.VALUE)
    producer = Producer({"bootstrap.servers": options.brokers, "enable.idempotence": True})
    acknowledged, failures = 0, []

    def delivered(error, _message):
        nonlocal acknowledged
        if error is None:
            acknowledged += 1
        else:
            failures.append(str(error))

    for line in sys.stdin:
        if not line.strip():
            continue
        event = json.loads(line)
        key = str(event[options.key]).encode("utf-8")
        producer.produce(options.topic, encode(event, context), key, on_delivery=delivered)
        producer.poll(0)
    unsent = producer.flush(options.seconds)
    print(acknowledged)
    if failures or unsent:
        sys.exit(f"avro_client.py: {unsent + len(failures)} events not acknowledged: {(failures or ['time is up'])[0]}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)

    reading = commands.add_parser("consume")
    reading.add_argument("brokers")
    reading.add_argument("registry")
    reading.add_argument("topic")
    reading.add_argument("count", type=int)
    reading.set_defaults(run=consume)

    writing = commands.add_parser("produce")
    writing.add_argument("brokers")
    writing.add_argument("registry")
    writing.add_argument("schema")
    writing.add_argument("--topic", default="activity.events")
    writing.add_argument("--key", default="user")
    writing.set_defaults(run=produce)

    for command in (reading, writing):
        command.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
