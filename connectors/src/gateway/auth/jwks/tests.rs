//! Sets of keys in files and behind a URL, through whoever asks for them.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};

use engram_pipeline::clock::ManualClock;
use serde_json::json;

use super::super::config::Config;
use super::super::test_keys::{
    CONFUSED_TOKEN, ED25519_X, EDDSA_TOKEN, HS256_TOKEN, OTHER_ED25519_X, RS256_TOKEN, RSA_N, eddsa, other_eddsa,
};
use super::super::{Authenticator, Refusal};
use super::*;

const EXP_S: i64 = 4_102_444_800;

fn ed25519(x: &str, kid: &str) -> Value {
    json!({"kty": "OKP", "crv": "Ed25519", "x": x, "kid": kid})
}

fn rsa() -> Value {
    json!({"kty": "RSA", "n": RSA_N, "e": "AQAB"})
}

/// The base64 of `test_keys::SECRET`.
fn secret() -> Value {
    json!({"kty": "oct", "k": "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"})
}

fn with(mut key: Value, name: &str, value: Value) -> Value {
    key[name] = value;
    key
}

fn set(keys: &[Value]) -> String {
    json!({"keys": keys}).to_string()
}

fn claims() -> Value {
    json!({"sub": "ann", "exp": EXP_S})
}

/// What a server answers, and how often it was asked.
struct Served {
    address: SocketAddr,
    answer: Arc<Mutex<(u16, String)>>,
    asked: Arc<AtomicUsize>,
}

impl Served {
    /// Ends with the process; each test has its own.
    fn start(body: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let (answer, asked) = (Arc::new(Mutex::new((200, body))), Arc::new(AtomicUsize::new(0)));
        let served = Self { address, answer: answer.clone(), asked: asked.clone() };
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.expect("a connection");
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).expect("a request");
                asked.fetch_add(1, Ordering::SeqCst);
                let (status, body) = answer.lock().expect("not poisoned").clone();
                let head = format!("HTTP/1.1 {status} X\r\nlocation: /other\r\nconnection: close\r\n");
                let _ = write!(stream, "{head}content-length: {}\r\n\r\n{body}", body.len());
            }
        });
        served
    }

    fn answer(&self, status: u16, body: String) {
        *self.answer.lock().expect("not poisoned") = (status, body);
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn url(&self) -> String {
        format!("http://{}/keys", self.address)
    }
}

fn authenticator(place: &str, hand: &ManualClock) -> Result<Authenticator, AuthError> {
    let config = Config { jwks: Some(place.to_owned()), ..Config::default() };
    Authenticator::new(&config, hand.clock())
}

#[test]
fn keys_for_other_things_and_of_unknown_kinds_are_let_be() {
    let of_use = [ed25519(ED25519_X, "a"), rsa(), ed25519(OTHER_ED25519_X, "b")];
    let others = [
        json!({"kty": "XYZ", "kid": "c"}),
        json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}),
        json!({"kty": "OKP", "crv": "X25519", "x": ED25519_X}),
        json!({"kty": "RSA", "n": "AQAB", "e": "AQAB"}),
        with(rsa(), "alg", json!("RS512")),
        with(rsa(), "use", json!("enc")),
        with(rsa(), "key_ops", json!(["encrypt"])),
        // The library would panic on the first token.
        json!({"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}),
        json!({"kty": "OKP", "crv": "Ed25519"}),
        json!({"kty": "oct", "k": "c2hvcnQ"}),
        json!("text"),
        json!(null),
    ];
    let all: Vec<Value> = of_use.into_iter().chain(others.clone()).collect();
    let keys = parse(set(&all).as_bytes(), true).expect("some are of use");
    let found: Vec<_> = keys.iter().map(|key| (key.algorithm, key.kid.as_deref())).collect();
    assert_eq!(found, [(Algorithm::EdDsa, Some("a")), (Algorithm::Rs256, None), (Algorithm::EdDsa, Some("b"))]);
    let said = parse(set(&others).as_bytes(), true).expect_err("none is of use");
    assert!(said.contains("no key for signatures"), "{said}");
}

#[test]
fn keys_that_say_what_they_are_for_are_taken() {
    let key = with(with(rsa(), "alg", json!("RS256")), "use", json!("sig"));
    assert_eq!(parse(set(&[with(key, "key_ops", json!(["verify"]))]).as_bytes(), false).expect("a key").len(), 1);
    assert_eq!(parse(set(&[secret()]).as_bytes(), true).expect("a secret in a file").len(), 1);
    parse(set(&[secret()]).as_bytes(), false).expect_err("what can be fetched is no secret");
}

#[test]
fn what_is_no_set_of_keys_is_refused() {
    for text in ["", "[]", "{}", "{\"keys\": 1}", "{\"keys\": []}", "<html>"] {
        assert!(parse(text.as_bytes(), true).is_err(), "{text}");
    }
    let many = vec![rsa(); KEYS_MAX + 1];
    assert!(parse(set(&many).as_bytes(), true).expect_err("too many").contains("32 are the most"));
}

#[test]
fn each_key_of_a_set_is_for_its_own_tokens() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("keys.json");
    let keys = [ed25519(ED25519_X, "a"), ed25519(OTHER_ED25519_X, "b"), rsa()];
    std::fs::write(&file, set(&keys)).expect("written");
    let hand = ManualClock::new(0);
    let authenticator = authenticator(&file.to_string_lossy(), &hand).expect("keys");
    let accepted = |token: &str| authenticator.authenticate(Some(token)).is_ok();
    assert!(accepted(EDDSA_TOKEN) && accepted(RS256_TOKEN));
    assert!(accepted(&eddsa(Some("a"), &claims())) && accepted(&other_eddsa(Some("b"), &claims())));
    assert!(accepted(&other_eddsa(None, &claims())));
    assert!(!accepted(&eddsa(Some("b"), &claims())) && !accepted(&other_eddsa(Some("a"), &claims())));
    assert!(!accepted(HS256_TOKEN) && !accepted(CONFUSED_TOKEN));
}

#[test]
fn a_key_that_is_not_known_is_looked_for_once_a_minute() {
    let served = Served::start(set(&[ed25519(ED25519_X, "a")]));
    let hand = ManualClock::new(0);
    let authenticator = authenticator(&served.url(), &hand).expect("keys");
    let (known, new) = (eddsa(Some("a"), &claims()), other_eddsa(Some("b"), &claims()));
    let accepted = |token: &str| authenticator.authenticate(Some(token)).is_ok();
    assert!(accepted(&known));
    served.answer(200, set(&[ed25519(ED25519_X, "a"), ed25519(OTHER_ED25519_X, "b")]));
    // It was read just now.
    assert!(!accepted(&new));
    assert_eq!(served.asked(), 1);
    hand.advance(READ_EVERY);
    assert!(accepted(&new) && accepted(&known));
    assert_eq!(served.asked(), 2);
    // A flood of tokens with names of keys that are nowhere.
    hand.advance(READ_EVERY);
    for n in 0..100 {
        assert!(!accepted(&eddsa(Some(&format!("none-{n}")), &claims())));
    }
    assert_eq!(served.asked(), 3);
    // One that is known, with a wrong signature, asks for nothing.
    hand.advance(READ_EVERY);
    assert!(!accepted(&eddsa(Some("b"), &claims())));
    assert_eq!(served.asked(), 3);
}

#[test]
fn the_last_good_keys_stay_while_others_cannot_be_had() {
    let served = Served::start(set(&[ed25519(ED25519_X, "a")]));
    let hand = ManualClock::new(0);
    let authenticator = authenticator(&served.url(), &hand).expect("keys");
    let (known, new) = (eddsa(Some("a"), &claims()), other_eddsa(Some("b"), &claims()));
    let good = set(&[ed25519(OTHER_ED25519_X, "b")]);
    for (status, body) in
        [(500, good.clone()), (302, good.clone()), (204, String::new()), (200, "{\"keys\":[]}".to_owned())]
    {
        served.answer(status, body);
        hand.advance(READ_EVERY);
        let before = served.asked();
        assert!(authenticator.authenticate(Some(&new)).is_err(), "{status}");
        assert_eq!(served.asked(), before + 1, "{status}");
        authenticator.authenticate(Some(&known)).expect("the last good keys");
    }
    served.answer(200, " ".repeat(BYTES_MAX + 1) + &good);
    hand.advance(READ_EVERY);
    assert!(authenticator.authenticate(Some(&new)).is_err(), "too large");
    served.answer(200, good);
    hand.advance(READ_EVERY);
    authenticator.authenticate(Some(&new)).expect("the new key");
    assert!(authenticator.authenticate(Some(&known)).is_err(), "it was taken out");
}

#[test]
fn a_key_that_was_taken_out_is_gone_after_some_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("keys.json");
    std::fs::write(&file, set(&[ed25519(ED25519_X, "a")])).expect("written");
    let hand = ManualClock::new(0);
    let authenticator = authenticator(&file.to_string_lossy(), &hand).expect("keys");
    let token = eddsa(Some("a"), &claims());
    std::fs::write(&file, set(&[ed25519(OTHER_ED25519_X, "b")])).expect("written");
    hand.advance(AGE_MAX - Duration::from_millis(1));
    authenticator.authenticate(Some(&token)).expect("not read again yet");
    hand.advance(Duration::from_millis(1));
    let refusal = authenticator.authenticate(Some(&token)).expect_err("taken out");
    assert!(
        matches!(refusal, Refusal::Unauthenticated { reason, .. } if reason == "no key with its kid and algorithm")
    );
}

#[test]
fn a_url_that_does_not_answer_may_be_tried_again_and_the_rest_not() {
    let hand = ManualClock::new(0);
    let unused = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let error = authenticator(&format!("http://{unused}/keys"), &hand).err().expect("nobody listens");
    assert!(matches!(error, AuthError::Unreachable { .. }), "{error}");
    let served = Served::start("<html>".to_owned());
    let error = authenticator(&served.url(), &hand).err().expect("no keys");
    assert!(matches!(error, AuthError::Unusable { .. }), "{error}");
    served.answer(404, String::new());
    let error = authenticator(&served.url(), &hand).err().expect("no keys");
    assert!(matches!(error, AuthError::Unreachable { .. }), "{error}");
    let error = authenticator("no/such/file", &hand).err().expect("no file");
    assert!(matches!(error, AuthError::Unreadable { .. }), "{error}");
}
