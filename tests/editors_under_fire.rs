//! Stock editors on Apache Kafka while everything between them is killed: the gateway, the process that has the documents,
//! the broker. They converge to one text, which is that of the log's replay, and nothing that was acknowledged is lost.
//!
//! An editor that loses its connection forgets its document (`--forgetful`): otherwise it would silently bring back what a
//! server has lost.

mod support;

use std::net::TcpListener;
use std::time::{Duration, Instant};

use engram_schemas::yjs::protocol;
use rand::RngExt as _;
use serde_json::{Value, json};
use support::activity::seeded;
use support::editors::Script;
use support::engram::{Engram, Up};
use support::kafka::Kafka;
use support::wait_until;
use yrs::{Doc, Text as _, Transact as _};

const CONFIG: &str = "[gateway]\nmessages_per_second = 10000\nmessages_burst = 10000\n\
                      [kafka]\nstatic_membership = true\n[kafka.properties]\n\"session.timeout.ms\" = \"6000\"\n";
const BACK_WITHIN: Duration = Duration::from_secs(60);

/// One of the machines of the test, at an address that stays.
struct Machine {
    engram: Engram,
    address: String,
    service: &'static str,
    up: Option<Up>,
}

impl Machine {
    fn new(kafka: &Kafka, folder: &std::path::Path, name: &str, service: &'static str) -> Self {
        let engram = Engram::on_kafka(&folder.join(name), kafka.brokers()).configured(CONFIG);
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = free.local_addr().expect("it has one").to_string();
        Self { engram, address, service, up: None }
    }

    fn start(&mut self) {
        self.up = Some(self.engram.up_at(&self.address, &["--services", self.service]));
    }

    fn kill(&mut self) {
        self.up.take().expect("it runs").kill();
    }
}

#[test]
fn editors_lose_nothing_while_gateway_processor_and_broker_are_killed() {
    let soak = std::env::var_os("ENGRAM_SOAK").is_some();
    let (kafka, folder) = (Kafka::start_to_be_killed(), tempfile::tempdir().expect("a temporary folder"));
    // The documents are in another process than the gateway that the editors know.
    let mut processor = Machine::new(&kafka, folder.path(), "processor", "collaboration");
    let mut gateway = Machine::new(&kafka, folder.path(), "gateway", "activity");
    processor.start();
    gateway.start();
    let url = gateway.up.as_ref().expect("it runs").documents();
    let many: Vec<String> = (0..50).map(|number| format!("own/{number}")).collect();
    let many = many.join(",");
    let edits = if soak { "1200" } else { "60" };
    let start = |document: &str, clients: &str| {
        let arguments = ["--clients", clients, "--edits", edits, "--rate", "4", "--timeout", "900"];
        let flags = ["--unique", "--forgetful", "--url", &url, "--document", document];
        Script::start("editors", &[&arguments[..], &flags].concat())
    };
    let scripts = [start("shared", "20"), start(&many, "1")];

    let metrics = format!("{}/metrics", gateway.up.as_ref().expect("it runs").http);
    wait_until("all editors are there", BACK_WITHIN, || {
        let mut response = ureq::get(&metrics).call().expect("metrics");
        let text = response.body_mut().read_to_string().expect("text");
        text.lines().any(|line| line == "engram_gateway_sessions 70")
    });
    let mut random = seeded();
    let until = Instant::now() + Duration::from_secs(if soak { 270 } else { 9 });
    let mut kills = [0, 0, 0];
    while Instant::now() < until || kills.contains(&0) {
        std::thread::sleep(Duration::from_millis(random.random_range(1_000..2_500)));
        let victim =
            if soak { random.random_range(0..3) } else { kills.iter().position(|count| *count == 0).unwrap_or(0) };
        kills[victim] += 1;
        let pause = Duration::from_millis(random.random_range(0..1_500));
        match victim {
            0 => {
                gateway.kill();
                std::thread::sleep(pause);
                gateway.start();
            }
            1 => {
                processor.kill();
                std::thread::sleep(pause);
                processor.start();
            }
            _ => {
                kafka.kill();
                std::thread::sleep(pause);
                kafka.restart();
            }
        }
    }
    println!("killed: gateway {}, processor {}, broker {}", kills[0], kills[1], kills[2]);
    let (mut sent, mut acknowledged, mut reconnects, mut results) = (0, 0, 0, Vec::<Value>::new());
    for script in scripts {
        for result in script.finish().into_iter().filter(|line| line["converged"] == true) {
            assert_eq!((&result["lost"], &result["duplicated"]), (&json!([]), &json!([])), "{result}");
            let number = |field: &str| result[field].as_u64().expect("a number");
            (sent, acknowledged) = (sent + number("sent"), acknowledged + number("acknowledged"));
            reconnects += number("reconnects");
            results.push(result);
        }
    }
    println!("{} documents, {sent} edits, {acknowledged} acknowledged, {reconnects} reconnections", results.len());
    assert_eq!(results.len(), 51);
    for result in &results {
        let path = format!("/v1/documents/{}", result["document"].as_str().expect("its name"));
        let up = gateway.up.as_ref().expect("it runs");
        let mut shown = Value::Null;
        let until = Instant::now() + BACK_WITHIN;
        while filled(&shown["roots"]) != filled(&result["roots"]) {
            assert!(Instant::now() < until, "the editors have {result}\nthe gateway shows {shown}");
            std::thread::sleep(Duration::from_millis(100));
            shown = up.get(&path);
        }
    }
    gateway.up.take().expect("it runs").stop();
    processor.up.take().expect("it runs").stop();
    processor.engram.replays("collaboration");
}

/// The broker is away, and the gateway that has taken edits meanwhile dies before it is back: they are on its disk, and arrive
/// once and in order.
#[test]
fn edits_outlive_the_broker_and_the_gateway() {
    let (kafka, folder) = (Kafka::start_to_be_killed(), tempfile::tempdir().expect("a temporary folder"));
    let mut machine = Machine::new(&kafka, folder.path(), "one", "collaboration");
    machine.start();
    let url = machine.up.as_ref().expect("it runs").documents();
    let doc = Doc::with_client_id(7);
    let text = doc.get_or_insert_text("text");
    let (mut socket, _) = tungstenite::connect(format!("{url}/notes.md")).expect("an editor is let in");
    let mut write = |letter: &str| {
        let mut transaction = doc.transact_mut();
        let end = text.len(&transaction);
        text.insert(&mut transaction, end, letter);
        let frame = protocol::update(&transaction.encode_update_v1());
        socket.send(tungstenite::Message::Binary(frame.into())).expect("sent");
    };
    let shown = |machine: &Machine| {
        let up = machine.up.as_ref().expect("it runs");
        let response = ureq::get(format!("{}/v1/documents/notes.md", up.http)).call();
        response.ok().and_then(|mut response| response.body_mut().read_json::<Value>().ok()).unwrap_or_default()
    };
    write("a");
    wait_until("the first is there", BACK_WITHIN, || shown(&machine)["roots"]["text"] == "a");
    kafka.kill();
    for letter in ["b", "c", "d", "e"] {
        write(letter);
    }
    let spool = machine.engram.data().join("gateway").join("spool");
    let size = || spool.metadata().map_or(0, |metadata| metadata.len());
    wait_until("they are on the disk", BACK_WITHIN, || size() > 0);
    write("f");
    let before = size();
    wait_until("so is the last", BACK_WITHIN, || size() > before);
    machine.kill();
    kafka.restart();
    machine.start();
    wait_until("they are there", BACK_WITHIN, || shown(&machine)["roots"]["text"] == "abcdef");
    wait_until("the spool is empty", BACK_WITHIN, || size() == 0);
    assert_eq!(shown(&machine)["seq"], 6);
    machine.up.take().expect("it runs").stop();
    machine.engram.replays("collaboration");
}

/// The roots that have something in them: editors name some that nobody has ever put anything into.
fn filled(roots: &Value) -> Vec<(&String, &Value)> {
    let is_filled = |root: &Value| ![json!({}), json!([]), json!("")].contains(root);
    roots.as_object().into_iter().flatten().filter(|(_, root)| is_filled(root)).collect()
}
