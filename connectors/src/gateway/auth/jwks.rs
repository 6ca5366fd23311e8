//! A set of keys that others change (JWKS, RFC 7517): from a file or a URL, read at the start, when a token names a key that
//! is not in it, and when it has grown old. What cannot be read leaves the keys as they were.
//!
//! INVARIANT: whatever callers send, it is read at most once in `READ_EVERY`.

use std::sync::{Arc, Mutex, PoisonError, RwLock, TryLockError};
use std::time::Duration;

use engram_pipeline::clock::{Clock, Moment};
use jsonwebtoken::DecodingKey;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse};
use serde::Deserialize;
use serde_json::Value;
use ureq::Agent;
use ureq::tls::{RootCerts, TlsConfig, TlsProvider};

use super::config::{Algorithm, is_local, is_url};
use super::error::AuthError;
use super::keys::{Key, read_file};

const READ_EVERY: Duration = Duration::from_secs(60);
/// Keys older than this are read again, so that one that was taken out of the set does not stay for ever.
const AGE_MAX: Duration = Duration::from_secs(600);
/// From connecting to the answer's last byte.
const TIMEOUT: Duration = Duration::from_secs(5);
const BYTES_MAX: usize = 256 << 10;
/// A token without `kid` is tried with each.
pub(super) const KEYS_MAX: usize = 32;

/// The set, and where it comes from.
pub(super) struct Jwks {
    place: String,
    /// `None`: `place` is a file.
    agent: Option<Agent>,
    clock: Clock,
    keys: RwLock<Arc<Vec<Key>>>,
    reads: Mutex<Reads>,
}

struct Reads {
    /// Of the last try.
    tried: Moment,
    /// Of the last that brought keys.
    read: Moment,
}

#[derive(Deserialize)]
struct Document {
    keys: Vec<Value>,
}

impl Jwks {
    /// Reads the set for the first time.
    pub(super) fn read(place: &str, clock: Clock) -> Result<Self, AuthError> {
        let agent = is_url(place).then(|| agent(is_local(place)));
        let keys = read(place, agent.as_ref())?;
        let now = clock.now();
        Ok(Self {
            place: place.to_owned(),
            agent,
            clock,
            keys: RwLock::new(Arc::new(keys)),
            reads: Mutex::new(Reads { tried: now, read: now }),
        })
    }

    pub(super) fn keys(&self) -> Arc<Vec<Key>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the set again if that is due because of its age. Whoever comes meanwhile goes on with the keys there are.
    pub(super) fn read_if_old(&self) {
        let mut reads = match self.reads.try_lock() {
            Ok(reads) => reads,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        if self.clock.since(reads.read) >= AGE_MAX {
            self.read_again(&mut reads);
        }
    }

    /// Reads the set again for a key that is not in it, if that was not done just now; waits for whoever does it already.
    pub(super) fn read_for(&self, kid: &str) {
        let mut reads = self.reads.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.keys().iter().any(|key| key.kid.as_deref() == Some(kid)) {
            self.read_again(&mut reads);
        }
    }

    fn read_again(&self, reads: &mut Reads) {
        if self.clock.since(reads.tried) < READ_EVERY {
            return;
        }
        reads.tried = self.clock.now();
        match read(&self.place, self.agent.as_ref()) {
            Ok(keys) => {
                reads.read = reads.tried;
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                tracing::warn!(%error, cause, "the keys for tokens stay as they were");
            }
        }
    }
}

fn agent(local: bool) -> Agent {
    // The system's certificates, so that a company's own authority is trusted where the system trusts it.
    let tls = TlsConfig::builder().provider(TlsProvider::NativeTls).root_certs(RootCerts::PlatformVerifier).build();
    // A redirect could lead anywhere, unprotected too.
    let config =
        Agent::config_builder().timeout_global(Some(TIMEOUT)).max_redirects(0).https_only(!local).tls_config(tls);
    if local { config.proxy(None).build().into() } else { config.build().into() }
}

fn read(place: &str, agent: Option<&Agent>) -> Result<Vec<Key>, AuthError> {
    let Some(agent) = agent else {
        let unusable = |reason| AuthError::Unusable { place: format!("the file {place}"), reason };
        return parse(&read_file(place, BYTES_MAX)?, true).map_err(unusable);
    };
    let unreachable = |source| AuthError::Unreachable { url: place.to_owned(), source };
    let mut response = agent.get(place).call().map_err(|error| unreachable(error.into()))?;
    if response.status().as_u16() != 200 {
        return Err(unreachable(format!("it answered with status {}", response.status().as_u16()).into()));
    }
    let body = response.body_mut().with_config().limit(BYTES_MAX as u64).read_to_vec();
    let body = body.map_err(|error| unreachable(error.into()))?;
    parse(&body, false).map_err(|reason| AuthError::Unusable { place: place.to_owned(), reason })
}

/// The keys of a set that are of use here; others may be there for others. `secrets`: whether an HS256 secret is taken, which
/// none is that can be fetched.
fn parse(bytes: &[u8], secrets: bool) -> Result<Vec<Key>, String> {
    let document: Document =
        serde_json::from_slice(bytes).map_err(|_| "is not a JWKS: it must be JSON with a list \"keys\"".to_owned())?;
    let of_use = |value| serde_json::from_value::<Jwk>(value).ok().and_then(|jwk| key(&jwk, secrets));
    let keys: Vec<Key> = document.keys.into_iter().filter_map(of_use).collect();
    if keys.is_empty() {
        return Err("has no key for signatures by EdDSA or RS256: check that it is the right one".to_owned());
    }
    if keys.len() > KEYS_MAX {
        return Err(format!("has {} keys: {KEYS_MAX} are the most", keys.len()));
    }
    Ok(keys)
}

fn key(jwk: &Jwk, secrets: bool) -> Option<Key> {
    let (algorithm, name) = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => (Algorithm::Rs256, KeyAlgorithm::RS256),
        AlgorithmParameters::OctetKeyPair(pair) if pair.curve == EllipticCurve::Ed25519 => {
            (Algorithm::EdDsa, KeyAlgorithm::EdDSA)
        }
        AlgorithmParameters::OctetKey(_) if secrets => (Algorithm::Hs256, KeyAlgorithm::HS256),
        _ => return None,
    };
    let common = &jwk.common;
    let for_signatures = common.public_key_use.as_ref().is_none_or(|usage| *usage == PublicKeyUse::Signature)
        && common.key_operations.as_ref().is_none_or(|operations| operations.contains(&KeyOperations::Verify))
        && common.key_algorithm.is_none_or(|algorithm| algorithm == name);
    if !for_signatures {
        return None;
    }
    Key::new(algorithm, common.key_id.clone(), DecodingKey::from_jwk(jwk).ok()?).ok()
}

#[cfg(test)]
mod tests;
