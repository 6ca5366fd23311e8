//! The tests' own broker keeps what its fixture promises; every other test on Kafka relies on it.

mod support;

use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use support::kafka::Kafka;
use support::wait_until;

#[test]
fn a_killed_broker_comes_back_at_the_same_address() {
    let kafka = Kafka::start();
    let first = kafka.pid();
    assert!(TcpStream::connect(kafka.brokers()).is_ok(), "it listens");

    kafka.kill();
    assert!(TcpStream::connect(kafka.brokers()).is_err(), "nothing listens once it is killed");

    kafka.restart();
    assert!(TcpStream::connect(kafka.brokers()).is_ok(), "it listens again");
    assert_ne!(kafka.pid(), first, "it is another process");

    let dir = kafka.dir().to_owned();
    drop(kafka);
    assert!(!dir.exists(), "nothing of it is left");
}

#[test]
fn a_broker_goes_with_its_parent_even_when_that_is_killed() {
    let mut parent = Command::new("sleep").arg("600").spawn().expect("sleep runs");
    let dir = tempfile::tempdir().expect("a temporary folder can be made").keep();
    let kafka = Kafka::start_in(dir, parent.id());

    parent.kill().expect("sleep can be killed");
    // Not reaped yet on purpose: a zombie counts as gone.
    wait_until("the broker and its folder have gone", Duration::from_secs(20), || {
        kafka.pid().is_none() && !kafka.dir().exists()
    });
    parent.wait().expect("sleep has ended");
}
