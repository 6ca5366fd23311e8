//! A document's history by HTTP and by the command line: blame, rollback, branch and merge of what editors have written; and
//! the reads beside them, each answer as the OpenAPI description has it.

mod support;

use std::time::Duration;

use engram_connectors::gateway::OPENAPI;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde_json::{Value, json};
use support::engram::{Engram, Up};
use support::wait_until;
use yrs::{Doc, GetString as _, OffsetKind, Options, Text as _, Transact as _, Update, updates::decoder::Decode as _};

const SOON: Duration = Duration::from_secs(30);
const DOCUMENT: &str = "plans/2026/trip 1";

/// Somebody with a copy of a document.
struct Editor {
    doc: Doc,
    name: &'static str,
}

impl Editor {
    fn new(client: u64, name: &'static str) -> Self {
        let client = yrs::block::ClientID::new(client);
        Self {
            doc: Doc::with_options(Options { offset_kind: OffsetKind::Utf16, ..Options::with_client_id(client) }),
            name,
        }
    }

    /// Types or deletes; the update.
    fn change(&self, at: u32, deleted: u32, typed: &str) -> Vec<u8> {
        let text = self.doc.get_or_insert_text("text");
        let mut transaction = self.doc.transact_mut();
        text.remove_range(&mut transaction, at, deleted);
        text.insert(&mut transaction, at, typed);
        transaction.encode_update_v1()
    }

    fn take(&self, update: &[u8]) {
        let update = Update::decode_v1(update).expect("an update");
        self.doc.transact_mut().apply_update(update).expect("applied");
    }

    fn text(&self) -> String {
        self.doc.get_or_insert_text("text").get_string(&self.doc.transact())
    }
}

/// Somebody at a running gateway.
struct Client<'a> {
    up: &'a Up,
    token: Option<String>,
}

impl Client<'_> {
    fn get(&self, path: &str) -> (u16, Value) {
        let mut request = agent().get(format!("{}{path}", self.up.http));
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        answer(request.call())
    }

    fn post(&self, path: &str, body: &str) -> (u16, Value) {
        let mut request = agent().post(format!("{}{path}", self.up.http)).header("content-type", "application/json");
        if let Some(token) = &self.token {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        answer(request.send(body))
    }

    /// Writes events, which must be taken.
    fn produce(&self, topic: &str, events: &Value) {
        let (status, answer) = self.post(&format!("/v1/topics/{topic}"), &events.to_string());
        assert_eq!(status, 200, "{answer}");
        check("/v1/topics/{topic}", "post", &answer);
    }

    fn send(&self, document: &str, editor: &Editor, update: &[u8]) {
        let hex: String = update.iter().map(|byte| format!("{byte:02x}")).collect();
        let id = format!("{}-{}", editor.name, &hex[..hex.len().min(60)]);
        self.produce("document.edits", &json!({"id": id, "document": document, "actor": editor.name, "update": hex}));
    }

    /// Waits until a document shows this text.
    fn wait_for(&self, document: &str, text: &str) {
        wait_until(&format!("{document} shows {text:?}"), SOON, || {
            let (status, shown) = self.get(&format!("/v1/documents/{}", encoded(document)));
            status == 200 && shown["roots"]["text"] == text
        });
    }
}

fn agent() -> ureq::Agent {
    ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().into()
}

fn answer(answer: Result<ureq::http::Response<ureq::Body>, ureq::Error>) -> (u16, Value) {
    let mut answer = answer.expect("an answer");
    (answer.status().as_u16(), answer.body_mut().read_json().expect("JSON"))
}

fn encoded(id: &str) -> String {
    id.replace(' ', "%20")
}

/// Checks an answer against what the OpenAPI description says of it.
#[track_caller]
fn check(path: &str, method: &str, answer: &Value) {
    let described: Value = serde_json::from_str(OPENAPI).expect("JSON");
    let schema = &described["paths"][path][method]["responses"]["200"]["content"]["application/json"]["schema"];
    assert!(schema.is_object(), "{method} {path} is described");
    let mut wrong = Vec::new();
    compare(&described, schema, answer, "", &mut wrong);
    assert!(wrong.is_empty(), "{method} {path}: {wrong:?}\n{answer}");
}

/// The parts of JSON Schema that the description uses: references, types, properties, items. Fields that are not described
/// are wrong too.
fn compare(described: &Value, schema: &Value, value: &Value, at: &str, wrong: &mut Vec<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let schema = described.pointer(&reference[1..]).expect("a schema");
        return compare(described, schema, value, at, wrong);
    }
    let is_a = |name: &str| match name {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "null" => value.is_null(),
        _ => false,
    };
    let types = match &schema["type"] {
        Value::Array(types) => types.clone(),
        Value::Null => Vec::new(),
        one => vec![one.clone()],
    };
    if !types.is_empty() && !types.iter().any(|name| is_a(name.as_str().expect("a name"))) {
        wrong.push(format!("{at} is no {types:?}"));
    }
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if value.get(name).is_none() {
            wrong.push(format!("{at}/{name} is missing"));
        }
    }
    if let (Some(properties), Some(fields)) = (schema["properties"].as_object(), value.as_object()) {
        for (name, field) in fields {
            match properties.get(name) {
                Some(schema) => compare(described, schema, field, &format!("{at}/{name}"), wrong),
                None => wrong.push(format!("{at}/{name} is not described")),
            }
        }
    }
    for (index, item) in value.as_array().into_iter().flatten().enumerate().filter(|_| schema["items"].is_object()) {
        compare(described, &schema["items"], item, &format!("{at}/{index}"), wrong);
    }
}

fn parts(blame: &Value) -> Vec<(u64, u64, String, String, i64)> {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let number = |value: &Value| value.as_u64().expect("a number");
    let ranges = blame["ranges"].as_array().expect("ranges").iter();
    ranges
        .map(|range| {
            let seq = range["seq"].as_i64().expect("a number");
            (number(&range["from"]), number(&range["to"]), text(&range["text"]), text(&range["actor"]), seq)
        })
        .collect()
}

#[test]
fn a_document_has_a_history() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let engram = Engram::embedded(&folder.path().join("data"));
    let up = engram.up(&[]);
    let client = Client { up: &up, token: None };
    let (ada, ben) = (Editor::new(1, "ada"), Editor::new(2, "ben"));
    let blame_path = format!("/v1/blame/{}", encoded(DOCUMENT));
    let rollback_path = format!("/v1/rollbacks/{}", encoded(DOCUMENT));
    assert_eq!(client.get(&blame_path).0, 404);

    let first = ada.change(0, 0, "Hello 👋 all");
    client.send(DOCUMENT, &ada, &first);
    client.wait_for(DOCUMENT, "Hello 👋 all");
    ben.take(&first);
    // Within Ada's text, after a character of two units; and some of hers goes.
    client.send(DOCUMENT, &ben, &ben.change(9, 3, "world"));
    client.wait_for(DOCUMENT, "Hello 👋 world");
    let (status, document) = client.get(&format!("/v1/documents/{}", encoded(DOCUMENT)));
    assert_eq!(status, 200);
    check("/v1/documents/{id}", "get", &document);

    let (status, blame) = client.get(&blame_path);
    assert_eq!(status, 200, "{blame}");
    check("/v1/blame/{id}", "get", &blame);
    let part = |from, to, text: &str, actor: &str, seq| (from, to, text.to_owned(), actor.to_owned(), seq);
    let expected = [part(0, 9, "Hello 👋 ", "ada", 1), part(9, 14, "world", "ben", 2)];
    assert_eq!(parts(&blame), expected);
    let on_the_command_line = engram.json(&["document", "blame", DOCUMENT]);
    assert_eq!(parts(&json!({"ranges": on_the_command_line})), expected);
    assert!(engram.run(&["document", "blame", DOCUMENT]).contains("text 9..14"));

    let history = engram.json(&["document", "history", DOCUMENT]);
    let actors: Vec<(&Value, &Value)> = history.iter().map(|edit| (&edit["seq"], &edit["actor"])).collect();
    assert_eq!(actors, [(&json!(1), &json!("ada")), (&json!(2), &json!("ben"))]);
    assert_eq!(engram.json(&["document", "history", DOCUMENT, "--limit", "1"]), history[1..]);
    let at_first = history[0]["position"].as_str().expect("a place").to_owned();
    let shown = &engram.json(&["document", "show", DOCUMENT])[0];
    assert_eq!((&shown["roots"], &shown["hash"]), (&document["roots"], &document["hash"]));
    let before = &engram.json(&["document", "show", DOCUMENT, "--at", &at_first])[0];
    assert_eq!(before["roots"], json!({"text": "Hello 👋 all"}));

    // Ben's edit is undone, so what he has deleted is back; and that is done once.
    let (status, written) = client.post(&rollback_path, r#"{"actor":"ben"}"#);
    assert_eq!((status, &written["changed"]), (200, &json!(true)), "{written}");
    check("/v1/rollbacks/{id}", "post", &written);
    client.wait_for(DOCUMENT, "Hello 👋 all");
    let (status, again) = client.post(&rollback_path, r#"{"actor":"ben"}"#);
    assert_eq!((status, again.clone()), (200, json!({"id": DOCUMENT, "changed": false})));
    check("/v1/rollbacks/{id}", "post", &again);
    let last = &engram.json(&["document", "history", DOCUMENT, "--limit", "1"])[0];
    assert_eq!(
        (&last["id"], &last["purpose"], &last["bytes"]),
        (&written["edit"], &json!("rollback"), &written["bytes"])
    );
    // The rollback is undone, on the command line.
    engram.run(&["document", "rollback", DOCUMENT, "--seq", "3..3", "--by", "eve"]);
    client.wait_for(DOCUMENT, "Hello 👋 world");
    assert!(engram.run(&["document", "rollback", DOCUMENT, "--actor", "nobody"]).contains("nothing would change"));
    let blamed = parts(&client.get(&blame_path).1);
    assert_eq!(blamed.last().map(|part| (part.2.as_str(), part.3.as_str())), Some(("world", "eve")));

    branches(&engram, &client, &at_first);
    reads(&client);
    bad_input(&engram, &client);
    up.stop();
    // Nothing of it needs a running process.
    let text = |id: &str| engram.json(&["document", "show", id])[0]["roots"]["text"].clone();
    assert_eq!(text(DOCUMENT), json!("Dear Hello 👋 world!"));
    engram.run(&["document", "branch", DOCUMENT, "later"]);
    assert!(engram.fails(1, &["document", "show", "later"]).contains("there is no such document"));
    engram.catch_up();
    assert_eq!(text("later"), text(DOCUMENT));
    engram.replays("collaboration");
}

/// A branch from right after the first edit, edits on both sides, and the way back.
fn branches(engram: &Engram, client: &Client<'_>, at_first: &str) {
    let path = format!("/v1/branches/{}", encoded(DOCUMENT));
    let draft = "plans/draft";
    let body = json!({"to": draft, "at": at_first}).to_string();
    let (status, written) = client.post(&path, &body);
    assert_eq!((status, &written["id"]), (200, &json!(draft)), "{written}");
    check("/v1/branches/{id}", "post", &written);
    client.wait_for(draft, "Hello 👋 all");
    let (status, refused) = client.post(&path, &body);
    assert_eq!(status, 409, "{refused}");
    assert!(engram.fails(1, &["document", "branch", DOCUMENT, draft]).contains("already"));

    let states = engram.consume("document.sequenced");
    let of_draft = states.iter().find(|edit| edit["value"]["document"] == draft).expect("the branch's first edit");
    assert_eq!((&of_draft["value"]["purpose"], &of_draft["value"]["source"]), (&json!("branch"), &json!(DOCUMENT)));
    let cleo = Editor::new(3, "cleo");
    cleo.take(&bytes(&of_draft["value"]["update"]));
    client.send(draft, &cleo, &cleo.change(0, 0, "Dear "));
    client.wait_for(draft, &cleo.text());
    let copy = Editor::new(4, "dan");
    for edit in states.iter().filter(|edit| edit["value"]["document"] == DOCUMENT) {
        copy.take(&bytes(&edit["value"]["update"]));
    }
    let end = copy.text().encode_utf16().count() as u32;
    client.send(DOCUMENT, &copy, &copy.change(end, 0, "!"));
    client.wait_for(DOCUMENT, "Hello 👋 world!");

    let path = format!("/v1/merges/{}", encoded(DOCUMENT));
    let body = json!({"from": draft}).to_string();
    let (status, written) = client.post(&path, &body);
    assert_eq!((status, &written["changed"]), (200, &json!(true)), "{written}");
    check("/v1/merges/{id}", "post", &written);
    client.wait_for(DOCUMENT, "Dear Hello 👋 world!");
    let (status, again) = client.post(&path, &body);
    assert_eq!((status, again), (200, json!({"id": DOCUMENT, "changed": false})));
    // And from the document into its branch.
    engram.run(&["document", "merge", draft, "--from", DOCUMENT]);
    client.wait_for(draft, "Dear Hello 👋 world!");
    assert!(engram.run(&["document", "merge", draft, "--from", DOCUMENT]).contains("nothing would change"));
}

fn bytes(hex: &Value) -> Vec<u8> {
    let hex = hex.as_str().expect("hexadecimal digits");
    (0..hex.len() / 2).map(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).expect("digits")).collect()
}

fn memory(workspace: &str, memory: &str) -> Value {
    json!({
        "id": format!("{workspace}/{memory}"), "workspace": workspace, "memory": memory, "type": "semantic",
        "title": memory, "tags": ["new"], "actor": "ada"
    })
}

fn relation(workspace: &str, from: &str, to: &str) -> Value {
    json!({"id": format!("{from}/{to}"), "workspace": workspace, "from": from, "to": to, "type": "related_to", "actor": "ada"})
}

fn produce_memories(client: &Client<'_>, workspace: &str) {
    let memories = ["a", "b/c", workspace].map(|name| memory(workspace, name));
    let (status, answer) =
        client.post("/v1/topics/memory.events?type=engram.memory.MemoryCreated", &json!(memories).to_string());
    assert_eq!(status, 200, "{answer}");
    let relations =
        [relation(workspace, "a", "b/c"), relation(workspace, "b/c", workspace), relation(workspace, "a", "a")];
    let (status, answer) =
        client.post("/v1/topics/graph.events?type=engram.graph.RelationCreated", &json!(relations).to_string());
    assert_eq!(status, 200, "{answer}");
}

fn names(list: &Value, field: &str) -> Vec<String> {
    let items = list.as_array().expect("a list").iter();
    let mut names: Vec<String> = items.map(|item| item[field].as_str().expect("text").to_owned()).collect();
    names.sort();
    names
}

/// Memories, relations, sessions and the description itself.
fn reads(client: &Client<'_>) {
    assert_eq!(client.get("/v1/memories/w").0, 404);
    assert_eq!(client.get("/v1/graph/w").0, 404);
    produce_memories(client, "w");
    wait_until("the relations are there", SOON, || {
        client.get("/v1/graph/w").1["relations"].as_array().is_some_and(|relations| relations.len() == 3)
    });
    let (status, memories) = client.get("/v1/memories/w");
    assert_eq!(status, 200);
    check("/v1/memories/{workspace}", "get", &memories);
    assert_eq!(names(&memories["memories"], "memory"), ["a", "b/c", "w"]);
    let (status, one) = client.get("/v1/memories/w/b/c");
    assert_eq!((status, &one["memory"], &one["workspace"]), (200, &json!("b/c"), &json!("w")));
    check("/v1/memories/{workspace}/{memory}", "get", &one);
    assert_eq!(client.get("/v1/memories/w/d").0, 404);
    let (_, some) = client.get("/v1/memories/w?limit=2");
    assert_eq!((names(&some["memories"], "memory").len(), &some["more"]), (2, &json!(true)));

    let (_, graph) = client.get("/v1/graph/w");
    check("/v1/graph/{workspace}", "get", &graph);
    let (status, of_node) = client.get("/v1/graph/w?node=a");
    assert_eq!((status, names(&of_node["relations"], "to")), (200, vec!["a".to_owned(), "b/c".to_owned()]));
    assert_eq!(client.get("/v1/graph/w?node=d").0, 404);

    let nobody = client.get(&format!("/v1/sessions/{}", encoded(DOCUMENT)));
    assert_eq!(nobody, (200, json!({"id": DOCUMENT, "sessions": [], "more": false})));
    let seen =
        json!({"document": DOCUMENT, "session": "s1", "actor": "ada", "role": "editor", "state": "{\"cursor\":3}"});
    let (status, answer) =
        client.post("/v1/topics/presence.events?type=engram.presence.SessionSeen", &seen.to_string());
    assert_eq!(status, 200, "{answer}");
    wait_until("Ada is there", SOON, || {
        let (_, there) = client.get(&format!("/v1/sessions/{}", encoded(DOCUMENT)));
        check("/v1/sessions/{id}", "get", &there);
        there["sessions"][0]["actor"] == "ada" && there["sessions"][0]["state"] == json!({"cursor": 3})
    });
    let (status, described) = client.get("/v1/openapi.json");
    assert_eq!((status, described), (200, serde_json::from_str(OPENAPI).expect("JSON")));
}

/// What cannot be is refused by a status and one line.
fn bad_input(engram: &Engram, client: &Client<'_>) {
    let long = "x".repeat(513);
    let deep = "[".repeat(200);
    let large = " ".repeat(20 << 10);
    for (path, body, status, names) in [
        ("/v1/rollbacks/plans/draft", "", 400, "body"),
        ("/v1/rollbacks/plans/draft", "{}", 400, "from_seq"),
        ("/v1/rollbacks/plans/draft", r#"{"actor":"ada","since":"soon"}"#, 400, "2026-"),
        ("/v1/rollbacks/plans/draft", r#"{"actor":"ada","until":"soon"}"#, 400, "until"),
        ("/v1/rollbacks/plans/draft", r#"{"from_seq":2,"to_seq":1}"#, 400, "to_seq"),
        ("/v1/rollbacks/plans/draft", deep.as_str(), 400, "nested"),
        ("/v1/rollbacks/plans/draft", large.as_str(), 413, "bytes"),
        ("/v1/rollbacks/plans/none", r#"{"actor":"ada"}"#, 404, "no such document"),
        ("/v1/branches/plans/none", r#"{"to":"x"}"#, 404, "no such document"),
        ("/v1/branches/plans/draft", r#"{"to":""}"#, 400, "id"),
        ("/v1/branches/plans/draft", r#"{"to":"x","at":"soon"}"#, 400, "2026-"),
        ("/v1/branches/plans/draft", r#"{"to":"x","at":"0:99999999"}"#, 400, ""),
        ("/v1/merges/plans/draft", r#"{"from":"plans/none"}"#, 404, "no such document"),
        ("/v1/merges/plans/draft", r#"{"from":"plans/draft"}"#, 409, "branch"),
    ] {
        let (got, refused) = client.post(path, body);
        let message = refused["message"].as_str().expect("a message").to_owned();
        assert_eq!((got, &refused["error_code"]), (status, &json!(status)), "{path} {message}");
        assert!(message.contains(names) && !message.contains('\n'), "{path}: {message}");
    }
    for path in [format!("/v1/blame/{long}"), "/v1/memories/w?limit=0".to_owned(), "/v1/graph/w?limit=1001".to_owned()]
    {
        assert_eq!(client.get(&path).0, 400, "{path}");
    }
    for (code, arguments, names) in [
        (1, &["document", "show", "none"] as &[&str], "no such document"),
        (1, &["document", "blame", "none"], "no such document"),
        (1, &["document", "merge", "plans/draft", "--from", "none"], "no such document"),
        (2, &["document", "show", "plans/draft", "--at", "soon"], "2026-"),
        (2, &["document", "rollback", "plans/draft"], "--actor"),
        (2, &["document", "rollback", "plans/draft", "--seq", "2..1"], "3..5"),
        (2, &["document", "rollback", "plans/draft", "--seq", "1..1", "--actor", "ada"], "--actor"),
    ] {
        let line = engram.fails(code, arguments);
        assert!(line.contains(names), "{arguments:?}: {line}");
    }
}

#[test]
fn histories_and_reads_are_of_who_may() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let secret = "a secret of the tests, as long as it has to be";
    let file = folder.path().join("secret");
    std::fs::write(&file, secret).expect("written");
    let auth = format!("[auth]\nkeys = [{{ algorithm = \"HS256\", file = \"{}\" }}]\n", file.display());
    let engram = Engram::embedded(&folder.path().join("data")).configured(&auth);
    let up = engram.up(&[]);
    let client = |tenant: &str, role: &str| {
        let claims = json!({"sub": "ada", "exp": 4_102_444_800_u64, "tenant": tenant, "role": role});
        let key = EncodingKey::from_secret(secret.as_bytes());
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &key).expect("a token");
        Client { up: &up, token: Some(token) }
    };
    let (owner, editor, viewer) = (client("acme", "owner"), client("acme", "editor"), client("acme", "viewer"));
    let stranger = client("other", "owner");
    let ada = Editor::new(1, "ada");
    editor.send("acme:notes", &ada, &ada.change(0, 0, "Hello"));
    viewer.wait_for("notes", "Hello");
    produce_memories(&Client { up: &up, token: editor.token.clone() }, "acme:w");
    wait_until("the relations are there", SOON, || viewer.get("/v1/graph/w").0 == 200);

    assert_eq!(parts(&viewer.get("/v1/blame/notes").1), [(0, 5, "Hello".to_owned(), "ada".to_owned(), 1)]);
    for (path, body) in [
        ("/v1/rollbacks/notes", r#"{"actor":"ada"}"#),
        ("/v1/branches/notes", r#"{"to":"draft"}"#),
        ("/v1/merges/notes", r#"{"from":"draft"}"#),
    ] {
        assert_eq!(editor.post(path, body).0, 403, "{path}");
        assert_eq!(Client { up: &up, token: None }.post(path, body).0, 401, "{path}");
        assert_eq!(stranger.post(path, body).0, 404, "{path}");
    }
    for path in ["/v1/blame/notes", "/v1/memories/w", "/v1/memories/w/a", "/v1/graph/w", "/v1/sessions/notes"] {
        assert_eq!(Client { up: &up, token: None }.get(path).0, 401, "{path}");
        let (status, answer) = stranger.get(path);
        assert!(status == 404 || answer["sessions"] == json!([]), "{path}: {answer}");
        assert_eq!(viewer.get(path).0, 200, "{path}");
    }
    // By another tenant's key there is nothing to be had either.
    assert_eq!(stranger.get("/v1/memories/acme:w").0, 404);
    assert_eq!(Client { up: &up, token: None }.get("/v1/openapi.json").0, 200);
    let (status, written) = owner.post("/v1/branches/notes", r#"{"to":"draft"}"#);
    assert_eq!((status, &written["id"]), (200, &json!("draft")), "{written}");
    viewer.wait_for("draft", "Hello");
    assert_eq!(engram.json(&["document", "show", "acme:draft"])[0]["roots"], json!({"text": "Hello"}));
    up.stop();
}
