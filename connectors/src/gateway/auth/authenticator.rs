//! From a token to who sent it.
//!
//! INVARIANT: nothing of a token but its header is looked at before its signature was found to be right, and of the header
//! only which keys to try.

use std::net::SocketAddr;

use engram_pipeline::clock::Clock;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Header, Validation, decode, decode_header};

use super::claims::Claims;
use super::config::Config;
use super::error::AuthError;
use super::identity::Identity;
use super::jwks::{Jwks, KEYS_MAX};
use super::keys::Key;
use super::refusal::Refusal;

/// Of a token; those of identity providers are below 4 KiB.
const TOKEN_BYTES_MAX: usize = 8 << 10;

/// Tells who sends a token. Share it behind an `Arc`.
pub struct Authenticator(Option<Checks>);

struct Checks {
    config: Config,
    clock: Clock,
    keys: Vec<Key>,
    jwks: Option<Jwks>,
}

impl Authenticator {
    /// Reads all keys. May wait some seconds for a URL.
    ///
    /// # Errors
    /// A setting, a file or what a URL answers is of no use; [`AuthError::Unreachable`] alone may be tried again.
    pub fn new(config: &Config, clock: Clock) -> Result<Self, AuthError> {
        config.check()?;
        if config.is_open() {
            return Ok(Self::none());
        }
        if config.keys.len() > KEYS_MAX {
            let reason = format!("has {} entries: {KEYS_MAX} are the most", config.keys.len());
            return Err(AuthError::Setting { field: "keys", reason });
        }
        let keys = config.keys.iter().map(Key::read).collect::<Result<_, _>>()?;
        let jwks = config.jwks.as_deref().map(|place| Jwks::read(place, clock.clone())).transpose()?;
        Ok(Self(Some(Checks { config: config.clone(), clock, keys, jwks })))
    }

    /// Everybody is owner of the tenant `default`.
    pub fn none() -> Self {
        Self(None)
    }

    /// Whether nobody has to prove anything: to be said at the start.
    pub fn is_open(&self) -> bool {
        self.0.is_none()
    }

    /// Whether the gateway may listen there.
    ///
    /// # Errors
    /// [`AuthError::Open`]: anybody could come in.
    pub fn check_address(&self, address: SocketAddr) -> Result<(), AuthError> {
        if self.is_open() && !address.ip().to_canonical().is_loopback() {
            return Err(AuthError::Open { address });
        }
        Ok(())
    }

    /// Who sent this token. May wait some seconds for the URL of the JWKS, at most once a minute: call it where that is
    /// allowed.
    ///
    /// # Errors
    /// [`Refusal::Unauthenticated`].
    pub fn authenticate(&self, token: Option<&str>) -> Result<Identity, Refusal> {
        let Some(checks) = &self.0 else { return Ok(Identity::anyone()) };
        let token = token.filter(|token| !token.is_empty()).ok_or_else(Refusal::missing)?;
        if token.len() > TOKEN_BYTES_MAX {
            return Err(Refusal::rejected(format!("a token of {} bytes", token.len())));
        }
        checks.claims(token)?.identity(&checks.config, checks.clock.now_ms())
    }
}

impl Checks {
    fn claims(&self, token: &str) -> Result<Claims, Refusal> {
        let header =
            decode_header(token).map_err(|_| Refusal::rejected("not a token, or its algorithm is none or unknown"))?;
        // Extensions that must be understood (RFC 7515 section 4.1.11): none is.
        if header.crit.is_some() {
            return Err(Refusal::rejected("its header has extensions that must be understood"));
        }
        if let Some(jwks) = &self.jwks {
            jwks.read_if_old();
        }
        match (self.verified(token, &header)?, &self.jwks, &header.kid) {
            (Some(claims), ..) => Ok(claims),
            (None, Some(jwks), Some(kid)) => {
                jwks.read_for(kid);
                self.verified(token, &header)?.ok_or_else(|| self.unverified(&header))
            }
            _ => Err(self.unverified(&header)),
        }
    }

    /// `None`: no key fits.
    fn verified(&self, token: &str, header: &Header) -> Result<Option<Claims>, Refusal> {
        let set = self.jwks.as_ref().map(Jwks::keys);
        for key in self.keys.iter().chain(set.iter().flat_map(|keys| keys.iter())).filter(|key| fits(key, header)) {
            match decode::<Claims>(token, &key.decoding, &signature_alone(key)) {
                Ok(token) => return Ok(Some(token.claims)),
                Err(error) if matches!(error.kind(), ErrorKind::InvalidSignature) => {}
                // The signature was right, or cannot be read by any key.
                Err(error) => {
                    let reason = match error.kind() {
                        ErrorKind::Json(error) => format!("its claims cannot be read: {error}"),
                        _ => "its claims or signature cannot be read".to_owned(),
                    };
                    return Err(Refusal::rejected(reason));
                }
            }
        }
        Ok(None)
    }

    fn unverified(&self, header: &Header) -> Refusal {
        let set = self.jwks.as_ref().map(Jwks::keys);
        let tried = self.keys.iter().chain(set.iter().flat_map(|keys| keys.iter())).any(|key| fits(key, header));
        Refusal::rejected(if tried { "the signature is wrong" } else { "no key with its kid and algorithm" })
    }
}

/// INVARIANT: the key decides on the algorithm; a header of another only means that this is not the key.
fn fits(key: &Key, header: &Header) -> bool {
    let named = match (&key.kid, &header.kid) {
        (Some(own), Some(named)) => own == named,
        _ => true,
    };
    named && header.alg == key.algorithm.in_header()
}

/// Times are checked by the injected clock, issuer and audience with a reason for the log: `Claims::identity`.
fn signature_alone(key: &Key) -> Validation {
    let mut validation = Validation::new(key.algorithm.in_header());
    validation.required_spec_claims.clear();
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.validate_aud = false;
    validation
}

#[cfg(test)]
mod tests;
