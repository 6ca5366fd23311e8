//! Tokens that are accepted, and every way in which one is not.

use engram_pipeline::clock::ManualClock;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::super::config::{Algorithm, KeyFile};
use super::super::role::Role;
use super::super::test_keys::{
    CONFUSED_TOKEN, ED25519_PUBLIC, EDDSA_TOKEN, HS256_TOKEN, NONE_TOKEN, RS256_TOKEN, RSA_PUBLIC, SECRET, eddsa,
    hs256, other_eddsa,
};
use super::*;

/// 2026-01-01T00:00:00Z.
const NOW_S: i64 = 1_767_225_600;

struct Fixture {
    folder: TempDir,
    hand: ManualClock,
    config: Config,
}

impl Fixture {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { folder, hand: ManualClock::new(NOW_S * 1_000), config: Config::default() }
    }

    fn key(mut self, algorithm: Algorithm, content: &str, kid: Option<&str>) -> Self {
        let file = self.folder.path().join(self.config.keys.len().to_string());
        std::fs::write(&file, content).expect("written");
        let file = file.to_string_lossy().into_owned();
        self.config.keys.push(KeyFile { algorithm, file, kid: kid.map(str::to_owned) });
        self
    }

    fn authenticator(&self) -> Authenticator {
        Authenticator::new(&self.config, self.hand.clock()).expect("keys")
    }
}

fn all_algorithms() -> Fixture {
    Fixture::new().key(Algorithm::EdDsa, ED25519_PUBLIC, None).key(Algorithm::Rs256, RSA_PUBLIC, None).key(
        Algorithm::Hs256,
        SECRET,
        None,
    )
}

fn with_secret() -> Fixture {
    Fixture::new().key(Algorithm::Hs256, SECRET, None)
}

/// Of somebody in an hour's time from now, with these claims too.
fn claims(more: &Value) -> Value {
    let mut claims = json!({"sub": "ann", "exp": NOW_S + 3_600});
    for (name, value) in more.as_object().expect("an object") {
        claims[name] = value.clone();
    }
    claims
}

/// The reason, after it was checked that the caller learns nothing of it or of the token.
fn refused(authenticator: &Authenticator, token: &str) -> String {
    let refusal = authenticator.authenticate(Some(token)).expect_err(token);
    assert_eq!(refusal.status(), 401);
    let shown = format!("{refusal} {refusal:?}");
    for part in token.split('.').filter(|part| part.len() > 8) {
        assert!(!shown.contains(part), "{shown}");
    }
    assert!(!refusal.to_string().contains(refusal.reason()), "{refusal}");
    refusal.reason().to_owned()
}

#[test]
fn tokens_that_openssl_signed_are_accepted() {
    let authenticator = all_algorithms().authenticator();
    for token in [EDDSA_TOKEN, RS256_TOKEN, HS256_TOKEN] {
        let identity = authenticator.authenticate(Some(token)).expect(token);
        assert_eq!((identity.tenant.as_str(), identity.actor.as_str()), ("default", "ann"));
        assert_eq!((identity.role, identity.name), (Some(Role::Editor), None));
        assert_eq!(identity.expires_at_ms, Some(4_102_444_805_000));
    }
}

#[test]
fn a_token_says_who_somebody_is() {
    let documents = json!({"plans/*": "viewer", "plans/mine": "owner"});
    let more = json!({"tenant": "acme.eu", "name": "Ann", "documents": documents, "other": [1]});
    let token = hs256(None, &claims(&more));
    let identity = with_secret().authenticator().authenticate(Some(&token)).expect("accepted");
    assert_eq!((identity.tenant.as_str(), identity.name.as_deref()), ("acme.eu", Some("Ann")));
    assert_eq!(identity.role_for("plans/mine"), Some(Role::Owner));
    assert_eq!(identity.role_for("plans/other"), Some(Role::Viewer));
    assert_eq!(identity.role_for("notes"), None);
}

#[test]
fn without_authentication_everybody_is_owner_on_this_machine_only() {
    let open = Authenticator::new(&Config::default(), ManualClock::new(0).clock()).expect("open");
    assert!(open.is_open());
    for token in [None, Some("anything")] {
        let identity = open.authenticate(token).expect("let in");
        assert_eq!((identity.tenant.as_str(), identity.role), ("default", Some(Role::Owner)));
        assert!(!identity.is_expired(i64::MAX));
    }
    let closed = with_secret().authenticator();
    for (address, allowed) in [
        ("127.0.0.1:80", true),
        ("[::1]:80", true),
        ("[::ffff:127.0.0.1]:80", true),
        ("0.0.0.0:80", false),
        ("[::]:80", false),
        ("192.0.2.1:80", false),
    ] {
        let address = address.parse().expect("an address");
        assert_eq!(open.check_address(address).is_ok(), allowed, "{address}");
        closed.check_address(address).expect("whoever comes has to prove who they are");
    }
    let said = open.check_address("0.0.0.0:80".parse().expect("an address")).expect_err("open").to_string();
    assert!(said.contains("[auth]") && said.contains("0.0.0.0:80"), "{said}");
}

#[test]
fn no_token_and_what_is_none_are_refused() {
    let authenticator = all_algorithms().authenticator();
    for token in [None, Some("")] {
        let refusal = authenticator.authenticate(token).expect_err("no token");
        assert_eq!((refusal.status(), refusal.reason()), (401, "no token"));
        assert!(refusal.to_string().contains("Authorization: Bearer"), "{refusal}");
    }
    for token in ["x", "..", "a.b.c", "a.b", "\u{e9}.\u{e9}.\u{e9}", &"a".repeat(TOKEN_BYTES_MAX)] {
        assert_eq!(refused(&authenticator, token), "not a token, or its algorithm is none or unknown");
    }
    let large = hs256(None, &claims(&json!({"other": "x".repeat(TOKEN_BYTES_MAX)})));
    assert_eq!(refused(&authenticator, &large), format!("a token of {} bytes", large.len()));
}

#[test]
fn the_key_decides_on_the_algorithm() {
    let all = all_algorithms().authenticator();
    assert_eq!(refused(&all, NONE_TOKEN), "not a token, or its algorithm is none or unknown");
    // A public key as the secret: there is a secret, but it is another; and then there is none.
    assert_eq!(refused(&all, CONFUSED_TOKEN), "the signature is wrong");
    let rsa = Fixture::new().key(Algorithm::Rs256, RSA_PUBLIC, None).authenticator();
    for token in [CONFUSED_TOKEN, HS256_TOKEN, EDDSA_TOKEN] {
        assert_eq!(refused(&rsa, token), "no key with its kid and algorithm");
    }
    // Of the same secret, by an algorithm that nobody has allowed.
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    let token = jsonwebtoken::encode(&Header::new(jsonwebtoken::Algorithm::HS512), &claims(&json!({})), &key);
    assert_eq!(refused(&all, &token.expect("signed")), "no key with its kid and algorithm");
    // The signature of a token by another algorithm's name.
    let (_, signature) = EDDSA_TOKEN.rsplit_once('.').expect("three parts");
    let (message, _) = RS256_TOKEN.rsplit_once('.').expect("three parts");
    assert_eq!(refused(&all, &format!("{message}.{signature}")), "the signature is wrong");
}

#[test]
fn what_was_changed_after_it_was_signed_is_refused() {
    let authenticator = all_algorithms().authenticator();
    for token in [EDDSA_TOKEN, RS256_TOKEN, HS256_TOKEN] {
        let parts: Vec<&str> = token.split('.').collect();
        let other = hs256(None, &claims(&json!({"sub": "eve", "role": "owner"})));
        let payload = other.split('.').nth(1).expect("three parts");
        assert_eq!(refused(&authenticator, &format!("{}.{payload}.{}", parts[0], parts[2])), "the signature is wrong");
        assert_eq!(refused(&authenticator, &format!("{}.{}.", parts[0], parts[1])), "the signature is wrong");
        let cut = refused(&authenticator, &token[..token.len() - 4]);
        assert!(cut.contains("signature"), "{cut}");
    }
    let strangers = other_eddsa(None, &claims(&json!({})));
    assert_eq!(refused(&authenticator, &strangers), "the signature is wrong");
}

#[test]
fn a_token_is_good_from_nbf_to_exp_by_the_injected_clock() {
    let fixture = with_secret();
    let authenticator = fixture.authenticator();
    let token = hs256(None, &json!({"sub": "ann", "nbf": NOW_S + 60, "exp": NOW_S as f64 + 120.5}));
    let at = |seconds: f64| {
        fixture.hand.set(NOW_S * 1_000 + (seconds * 1_000.0) as i64);
        authenticator.authenticate(Some(&token)).map_err(|refusal| refusal.to_string())
    };
    // With 5 s of leeway on both ends.
    assert!(at(54.999).expect_err("early").contains("not valid yet"));
    let identity = at(55.0).expect("in time");
    assert_eq!(identity.expires_at_ms, Some(NOW_S * 1_000 + 125_500));
    at(125.499).expect("in time");
    assert!(!identity.is_expired(NOW_S * 1_000 + 125_499) && identity.is_expired(NOW_S * 1_000 + 125_500));
    assert_eq!(at(125.5).expect_err("late"), Refusal::expired().to_string());
}

#[test]
fn claims_that_cannot_be_are_refused() {
    let authenticator = with_secret().authenticator();
    let tenant = "tenant must be";
    for (more, reason) in [
        (json!({"sub": ""}), "sub must be"),
        (json!({"sub": "a\nb"}), "sub must be"),
        (json!({"sub": "a".repeat(257)}), "sub must be"),
        (json!({"sub": 7}), "claims cannot be read"),
        (json!({"sub": null}), "claims cannot be read"),
        (json!({"exp": null}), "claims cannot be read"),
        (json!({"exp": "tomorrow"}), "claims cannot be read"),
        (json!({"exp": -1}), "no moment"),
        (json!({"exp": 1e300}), "no moment"),
        (json!({"nbf": 1e300}), "no moment"),
        (json!({"tenant": ""}), tenant),
        (json!({"tenant": "a:b"}), tenant),
        (json!({"tenant": "a/b"}), tenant),
        (json!({"tenant": "a b"}), tenant),
        (json!({"tenant": "\u{e9}"}), tenant),
        (json!({"tenant": "a".repeat(65)}), tenant),
        (json!({"role": "admin"}), "claims cannot be read"),
        (json!({"documents": {"a": "admin"}}), "claims cannot be read"),
        (json!({"name": "a\u{0}"}), "name must be"),
    ] {
        let said = refused(&authenticator, &hs256(None, &claims(&more)));
        assert!(said.contains(reason), "{more}: {said}");
    }
    for missing in [json!({"exp": NOW_S + 60}), json!({"sub": "ann"}), json!([])] {
        let said = refused(&authenticator, &hs256(None, &missing));
        assert!(said.contains("claims cannot be read"), "{said}");
    }
    let nulls =
        json!({"nbf": null, "iss": null, "aud": null, "tenant": null, "role": null, "documents": null, "name": null});
    authenticator.authenticate(Some(&hs256(None, &claims(&nulls)))).expect("as if they were not there");
}

#[test]
fn deep_claims_are_refused_and_take_no_stack() {
    let authenticator = with_secret().authenticator();
    let mut deep = json!(1);
    for _ in 0..200 {
        deep = json!([deep]);
    }
    let said = refused(&authenticator, &hs256(None, &claims(&json!({"role": deep}))));
    assert!(said.contains("claims cannot be read"), "{said}");
}

#[test]
fn a_token_that_names_a_key_is_checked_with_that_key() {
    let named = Fixture::new().key(Algorithm::Hs256, SECRET, Some("a")).authenticator();
    for (kid, accepted) in [(Some("a"), true), (None, true), (Some("b"), false), (Some(""), false)] {
        let token = hs256(kid, &claims(&json!({})));
        assert_eq!(named.authenticate(Some(&token)).is_ok(), accepted, "{kid:?}");
    }
    assert_eq!(refused(&named, &hs256(Some("b"), &claims(&json!({})))), "no key with its kid and algorithm");
    let unnamed = with_secret().authenticator();
    unnamed.authenticate(Some(&hs256(Some("b"), &claims(&json!({}))))).expect("a key without a name is any");
}

#[test]
fn issuer_and_audience_must_be_the_configured_ones() {
    let mut fixture = with_secret();
    fixture.config.issuer = Some("https://id.example".to_owned());
    fixture.config.audience = Some("engram".to_owned());
    let authenticator = fixture.authenticator();
    let issuer = "https://id.example";
    for (more, reason) in [
        (json!({"iss": issuer, "aud": "engram"}), None),
        (json!({"iss": issuer, "aud": ["other", "engram"]}), None),
        (json!({"iss": issuer}), Some("aud is missing or another")),
        (json!({"iss": issuer, "aud": "other"}), Some("aud is missing or another")),
        (json!({"iss": issuer, "aud": []}), Some("aud is missing or another")),
        (json!({"iss": "https://id.example/", "aud": "engram"}), Some("iss is missing or another")),
        (json!({"aud": "engram"}), Some("iss is missing or another")),
    ] {
        let token = hs256(None, &claims(&more));
        match reason {
            None => drop(authenticator.authenticate(Some(&token)).expect("accepted")),
            Some(reason) => assert_eq!(refused(&authenticator, &token), reason, "{more}"),
        }
    }
    // Nobody asked for one.
    let token = hs256(None, &claims(&json!({"aud": "other", "iss": "other"})));
    with_secret().authenticator().authenticate(Some(&token)).expect("accepted");
}

#[test]
fn headers_with_extensions_that_must_be_understood_are_refused() {
    let authenticator = with_secret().authenticator();
    let header = Header { crit: Some(vec!["b64".to_owned()]), ..Header::default() };
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    let token = jsonwebtoken::encode(&header, &claims(&json!({})), &key).expect("signed");
    assert_eq!(refused(&authenticator, &token), "its header has extensions that must be understood");
}

#[test]
fn a_key_that_a_token_brings_along_is_not_used() {
    let authenticator = Fixture::new().key(Algorithm::EdDsa, ED25519_PUBLIC, None).authenticator();
    authenticator.authenticate(Some(&eddsa(None, &claims(&json!({}))))).expect("the right key");
    let own = jsonwebtoken::EncodingKey::from_secret(b"eve's own secret, long enough to be");
    let jwk = jsonwebtoken::jwk::Jwk::from_encoding_key(&own, jsonwebtoken::Algorithm::HS256).expect("a JWK");
    let header = Header { jwk: Some(jwk), ..Header::default() };
    let token = jsonwebtoken::encode(&header, &claims(&json!({})), &own).expect("signed");
    assert_eq!(refused(&authenticator, &token), "no key with its kid and algorithm");
}
