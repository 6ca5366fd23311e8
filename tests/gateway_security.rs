//! Those who may not, and those who ask too much: refused with the right code, logged, nothing leaked, nothing written.

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use engram_schemas::yjs::Reader;
use engram_schemas::yjs::protocol::{self, Message, Shown};
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use support::engram::{Engram, Up};
use support::wait_until;
use tungstenite::client::IntoClientRequest as _;
use tungstenite::stream::MaybeTlsStream;
use tungstenite::{Message as Frame, WebSocket};
use yrs::{Doc, ReadTxn as _, StateVector, Text as _, Transact as _};

const SECRET: &str = "a secret of the tests that is long enough";
const DEADLINE: Duration = Duration::from_secs(20);
const LIMITS: &str = "[gateway]\naddress_requests_per_second = 200\naddress_requests_burst = 400\nmessage_bytes_max = 65536\n\
                      json_depth_max = 10\nmessages_per_second = 50\nmessages_burst = 100\n";

struct Bed {
    engram: Engram,
    up: Up,
    _folder: tempfile::TempDir,
}

impl Bed {
    fn start() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let secret = folder.path().join("secret");
        std::fs::write(&secret, SECRET).expect("written");
        let keys = format!("[auth]\nkeys = [{{ algorithm = \"HS256\", file = {secret:?} }}]\n{LIMITS}");
        let engram = Engram::embedded(&folder.path().join("data")).configured(&keys);
        let up = engram.up(&["--services", "collaboration"]);
        Self { engram, up, _folder: folder }
    }

    fn socket(&self, document: &str, token: Option<&str>) -> Result<Socket, u16> {
        let query = token.map(|token| format!("?token={token}")).unwrap_or_default();
        let url = format!("{}/{document}{query}", self.up.documents());
        match tungstenite::connect(url.into_client_request().expect("a request")) {
            Ok((socket, _)) => {
                if let MaybeTlsStream::Plain(stream) = socket.get_ref() {
                    stream.set_read_timeout(Some(Duration::from_millis(300))).expect("set");
                }
                Ok(Socket(socket))
            }
            Err(tungstenite::Error::Http(response)) => Err(response.status().as_u16()),
            Err(error) => panic!("{error}"),
        }
    }

    /// Status and answer of a request.
    fn ask(&self, method: &str, path: &str, token: Option<&str>, body: &str) -> (u16, Value) {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let url = format!("{}{path}", self.up.http);
        let bearer = token.map(|token| format!("Bearer {token}"));
        let mut response = if method == "GET" {
            let mut request = agent.get(&url);
            if let Some(bearer) = &bearer {
                request = request.header("Authorization", bearer);
            }
            request.call().expect("an answer")
        } else {
            let mut request = agent.post(&url);
            if let Some(bearer) = &bearer {
                request = request.header("Authorization", bearer);
            }
            request.send(body).expect("an answer")
        };
        (response.status().as_u16(), response.body_mut().read_json().unwrap_or_default())
    }

    fn edits(&self) -> usize {
        self.engram.consume("document.edits").len()
    }
}

struct Socket(WebSocket<MaybeTlsStream<TcpStream>>);

impl Socket {
    fn send(&mut self, frame: Vec<u8>) {
        self.0.send(Frame::Binary(frame.into())).expect("sent");
    }

    /// The frames that come until `wanted` says so, or for a while.
    fn read_until(&mut self, mut wanted: impl FnMut(&[u8]) -> bool) -> Vec<Vec<u8>> {
        let (mut frames, until) = (Vec::new(), Instant::now() + Duration::from_secs(3));
        while Instant::now() < until {
            match self.0.read() {
                Ok(Frame::Binary(bytes)) => {
                    frames.push(bytes.to_vec());
                    if wanted(&bytes) {
                        return frames;
                    }
                }
                Ok(_) => {}
                Err(tungstenite::Error::Io(_)) => {}
                Err(error) => panic!("{error}"),
            }
        }
        frames
    }

    /// The code with which it is closed.
    fn closed(&mut self) -> Option<u16> {
        let until = Instant::now() + DEADLINE;
        while Instant::now() < until {
            match self.0.read() {
                Ok(Frame::Close(frame)) => return frame.map(|frame| frame.code.into()),
                Ok(_) => {}
                Err(tungstenite::Error::Io(error)) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return None,
            }
        }
        panic!("it is still open")
    }
}

fn now_s() -> i64 {
    #[expect(clippy::disallowed_methods, reason = "a token is for the machine's time")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).expect("after 1970").as_secs() as i64
}

fn claims(role: &str) -> Value {
    json!({"sub": "ada", "name": "Ada", "role": role, "exp": now_s() + 600})
}

fn sign(claims: &Value, secret: &str) -> String {
    encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(secret.as_bytes())).expect("a token")
}

fn token(role: &str) -> String {
    sign(&claims(role), SECRET)
}

/// An update that types something, by a client of its own.
fn typed(client: u64, text: &str) -> Vec<u8> {
    let doc = Doc::with_client_id(client);
    let root = doc.get_or_insert_text("text");
    root.insert(&mut doc.transact_mut(), 0, text);
    doc.transact().encode_state_as_update_v1(&StateVector::default())
}

fn is_denial(frame: &[u8]) -> bool {
    matches!(Message::read(&mut Reader::new(frame)), Ok(Some(Message::Authentication)))
}

#[test]
fn whoever_cannot_show_who_they_are_is_refused_at_the_door() {
    let bed = Bed::start();
    let with = |change: fn(&mut Value)| {
        let mut claims = claims("owner");
        change(&mut claims);
        sign(&claims, SECRET)
    };
    let good = token("owner");
    let (head, rest) = good.split_once('.').expect("three parts");
    let (body, signature) = rest.split_once('.').expect("three parts");
    // {"alg":"none","typ":"JWT"}
    let none = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{body}.");
    let tampered = format!("{head}.{}.{signature}", body.replacen('e', "f", 1));
    let bad = [
        ("no token", None),
        ("nonsense", Some("nonsense".to_owned())),
        ("expired", Some(with(|claims| claims["exp"] = json!(now_s() - 60)))),
        ("no end", Some(with(|claims| claims["exp"] = Value::Null))),
        ("another's signature", Some(sign(&claims("owner"), "another secret that is just as long as it"))),
        ("no signature", Some(none)),
        ("tampered", Some(tampered)),
        ("a tenant that cannot be", Some(with(|claims| claims["tenant"] = json!("a:b")))),
    ];
    for (what, token) in &bad {
        let token = token.as_deref();
        assert_eq!(bed.socket("d", token).err(), Some(401), "{what}");
        for (method, path) in [
            ("GET", "/v1/documents/d"),
            ("POST", "/v1/topics/document.edits"),
            ("GET", "/v1/topics/document.edits/stream"),
        ] {
            let (status, answer) = bed.ask(method, path, token, "{}");
            assert_eq!(status, 401, "{what}: {path}: {answer}");
            let message = answer["message"].as_str().expect("a message");
            assert!(!message.contains("HS256") && !message.contains("secret"), "{message}");
        }
    }
    // What is for other processes is for nobody here.
    for path in ["/v1/stores/collaboration/documents", "/internal/document?key=d"] {
        assert_eq!(bed.ask("GET", path, Some(&good), "").0, 403, "{path}");
    }
    let log = bed.up.log();
    assert!(log.contains("refused"), "{log}");
    for (_, token) in bad.iter().filter(|(_, token)| token.as_ref().is_some_and(|token| token.len() > 20)) {
        assert!(!log.contains(token.as_deref().expect("filtered")), "a token is in the log");
    }
    assert_eq!(bed.edits(), 0);
}

#[test]
fn nobody_does_more_than_their_role_allows() {
    let bed = Bed::start();
    let stranger = sign(&json!({"sub": "eve", "exp": now_s() + 600}), SECRET);
    assert_eq!(bed.socket("d", Some(&stranger)).err(), Some(403));
    assert_eq!(bed.ask("GET", "/v1/documents/d", Some(&stranger), "").0, 403);

    // A viewer sees what others write, and writes by no kind of message.
    let mut viewer = bed.socket("d", Some(&token("viewer"))).expect("a viewer may read");
    let mut editor = bed.socket("d", Some(&token("collaborator"))).expect("a collaborator may edit");
    let written = typed(7, "hello");
    editor.send(protocol::update(&written));
    let echo = protocol::update(&written);
    assert!(editor.read_until(|frame| frame == echo).contains(&echo), "no acknowledgement");
    assert!(viewer.read_until(|frame| frame == echo).contains(&echo), "a viewer is not told");
    for frame in [
        protocol::update(&typed(8, "no")),
        protocol::step2(&typed(9, "no")),
        [protocol::step1(&[0]), protocol::update(&typed(10, "no"))].concat(),
    ] {
        viewer.send(frame);
        assert!(viewer.read_until(is_denial).iter().any(|frame| is_denial(frame)), "not told");
    }
    // What an editor that has nothing new says when it is asked.
    viewer.send(protocol::step2(&[0, 0]));
    viewer.send(protocol::step2(&written));
    viewer.send(protocol::step1(&[0]));
    let is_step2 = |frame: &[u8]| matches!(Message::read(&mut Reader::new(frame)), Ok(Some(Message::Step2(_))));
    let frames = viewer.read_until(is_step2);
    assert!(!frames.iter().any(|frame| is_denial(frame)), "to have nothing new is allowed");
    assert_eq!(bed.edits(), 1);
    assert_eq!(bed.ask("GET", "/v1/documents/d", Some(&token("viewer")), "").1["roots"], json!({"text": "hello"}));

    // Events are for editors, and of one's own tenant only.
    let edit = |document: &str| {
        let update: String = typed(11, "x").iter().map(|byte| format!("{byte:02x}")).collect();
        json!({"id": "1", "document": document, "actor": "eve", "update": update}).to_string()
    };
    let path = "/v1/topics/document.edits";
    for (role, document, status) in
        [("viewer", "d", 403), ("collaborator", "d", 403), ("editor", "acme:d", 403), ("editor", "e", 200)]
    {
        assert_eq!(bed.ask("POST", path, Some(&token(role)), &edit(document)).0, status, "{role} {document}");
    }
    // The same id is another document in another tenant.
    let mut other = claims("owner");
    other["tenant"] = json!("acme");
    let other = sign(&other, SECRET);
    assert_eq!(bed.ask("GET", "/v1/documents/d", Some(&other), "").0, 404);
    assert_eq!(bed.ask("POST", path, Some(&other), &edit("d")).0, 403);
    assert_eq!(bed.ask("GET", "/v1/topics/activity.events/stream", Some(&other), "").0, 404);
    assert_eq!(bed.edits(), 2);
}

#[test]
fn a_name_cannot_be_forged_and_a_session_ends_with_its_token() {
    let bed = Bed::start();
    let mut short = claims("editor");
    // 5 s of leeway come to it.
    short["exp"] = json!(now_s() + 3);
    let mut ada = bed.socket("d", Some(&sign(&short, SECRET))).expect("not expired yet");
    let mut ben = bed.socket("d", Some(&token("viewer"))).expect("a viewer may read");
    let state = r#"{"user":{"name":"Somebody else","id":"root"}}"#;
    ada.send(protocol::awareness(&protocol::write_awareness([Shown { client: 5, clock: 1, state }].into_iter())));
    let shown = |frame: &[u8]| match Message::read(&mut Reader::new(frame)) {
        Ok(Some(Message::Awareness(update))) => {
            protocol::read_awareness(update).expect("awareness").first().map(|shown| shown.state.to_owned())
        }
        _ => None,
    };
    let frames = ben.read_until(|frame| shown(frame).is_some());
    let states: Vec<String> = frames.iter().filter_map(|frame| shown(frame)).collect();
    assert_eq!(states, [r#"{"user":{"name":"Ada","id":"ada"}}"#]);
    // Of another's client nothing is taken.
    let gone = protocol::write_awareness([Shown { client: 5, clock: 9, state: "null" }].into_iter());
    ben.send(protocol::awareness(&gone));
    assert!(
        ada.read_until(|frame| shown(frame).as_deref() == Some("null"))
            .iter()
            .all(|frame| shown(frame).as_deref() != Some("null"))
    );
    assert_eq!(ada.closed(), Some(4401));
    assert_eq!(
        bed.engram.consume("presence.events").iter().filter(|event| event["value"]["reason"] == "expired").count(),
        1
    );
}

#[test]
fn too_much_is_too_much() {
    let bed = Bed::start();
    let editor = token("editor");
    // Larger than a message may be, no message, and no update.
    for (frame, code) in [
        (protocol::update(&vec![0; 70_000]), 4413),
        (vec![77, 1, 2], 4400),
        (protocol::update(b"no update"), 4400),
        (protocol::awareness(b"\x01\x01\x01\x02{{"), 4400),
        (protocol::step1(b"\xff\xff\xff\xff\x0f"), 4400),
    ] {
        let mut socket = bed.socket("d", Some(&editor)).expect("an editor may edit");
        socket.send(frame);
        assert_eq!(socket.closed(), Some(code));
    }
    let deep = format!("{}1{}", "[".repeat(50), "]".repeat(50));
    let (status, answer) = bed.ask("POST", "/v1/topics/document.edits", Some(&editor), &deep);
    assert_eq!((status, answer["message"].as_str().is_some_and(|text| text.contains("nested"))), (400, true));
    // More messages than one may send in a second: they wait, and all arrive.
    let mut socket = bed.socket("flood", Some(&editor)).expect("an editor may edit");
    let started = Instant::now();
    for client in 0..200 {
        socket.send(protocol::update(&typed(client + 1, "x")));
    }
    wait_until("all have arrived", DEADLINE, || bed.edits() == 200);
    assert!(started.elapsed() > Duration::from_secs(1), "100 at once and 50 a second");
    // More requests than may come from one address.
    let refused = (0..2_000).find(|_| bed.ask("GET", "/v1/documents/d", None, "").0 == 429);
    assert!(refused.is_some(), "a flood is let in");
    assert_eq!(bed.ask("GET", "/healthz", None, "").0, 200);
}

#[test]
fn a_head_that_never_ends_is_not_waited_for() {
    let bed = Bed::start();
    let address = bed.up.http.trim_start_matches("http://").to_owned();
    let mut slow = TcpStream::connect(address).expect("connected");
    slow.set_read_timeout(Some(Duration::from_secs(1))).expect("set");
    slow.write_all(b"GET /v1/documents/d HTTP/1.1\r\nHost: localhost\r\n").expect("sent");
    let (started, mut byte) = (Instant::now(), [0_u8; 512]);
    let ended = loop {
        assert!(started.elapsed() < Duration::from_secs(40), "it is still waited for");
        if slow.write_all(b"X-Slow: 1\r\n").is_err() {
            break started.elapsed();
        }
        match slow.read(&mut byte) {
            Ok(0) => break started.elapsed(),
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => break started.elapsed(),
            Ok(_) => {}
        }
    };
    println!("cut off after {:.0} s", ended.as_secs_f64());
    assert_eq!(bed.ask("GET", "/healthz", None, "").0, 200);
}
