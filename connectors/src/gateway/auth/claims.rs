//! What a token says, once its signature was found to be right, and whether it may say so here and now.

use std::collections::BTreeMap;

use engram_schemas::document::DEFAULT_TENANT;
use serde::Deserialize;

use super::config::Config;
use super::identity::{Documents, Identity};
use super::refusal::Refusal;
use super::role::Role;

/// Of the actor and of the name to be shown.
const NAME_BYTES_MAX: usize = 256;
const TENANT_BYTES_MAX: usize = 64;
/// Moments of tokens end here: the year 9999, in seconds since the epoch.
const TIME_S_MAX: f64 = 253_402_300_799.0;

/// Those claims that count here (RFC 7519 section 4.1, and Engram's own); others are let be.
#[derive(Deserialize)]
pub(super) struct Claims {
    sub: String,
    exp: f64,
    nbf: Option<f64>,
    iss: Option<String>,
    aud: Option<Audience>,
    tenant: Option<String>,
    role: Option<Role>,
    documents: Option<BTreeMap<String, Role>>,
    name: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Many(Vec<String>),
}

impl Claims {
    /// Who this is.
    ///
    /// # Errors
    /// [`Refusal::Unauthenticated`]: it is not for here, not for now, or does not say who it is.
    pub(super) fn identity(self, config: &Config, now_ms: i64) -> Result<Identity, Refusal> {
        let leeway_ms = i64::from(config.leeway_s) * 1_000;
        let expires_at_ms = time_ms("exp", self.exp)? + leeway_ms;
        if now_ms >= expires_at_ms {
            return Err(Refusal::expired());
        }
        if let Some(nbf) = self.nbf
            && now_ms.saturating_add(leeway_ms) < time_ms("nbf", nbf)?
        {
            return Err(Refusal::early("before the token's nbf"));
        }
        if config.issuer.is_some() && config.issuer != self.iss {
            return Err(Refusal::rejected("iss is missing or another"));
        }
        if let Some(audience) = &config.audience
            && !self.aud.is_some_and(|aud| aud.has(audience))
        {
            return Err(Refusal::rejected("aud is missing or another"));
        }
        let tenant = self.tenant.unwrap_or_else(|| DEFAULT_TENANT.to_owned());
        if !is_tenant(&tenant) {
            return Err(Refusal::rejected("tenant must be 1 to 64 of letters, digits, '-', '_' and '.'"));
        }
        if self.sub.is_empty() || !is_name(&self.sub) {
            return Err(Refusal::rejected("sub must be 1 to 256 bytes without control characters"));
        }
        if !self.name.as_deref().is_none_or(is_name) {
            return Err(Refusal::rejected("name must be at most 256 bytes without control characters"));
        }
        Ok(Identity {
            tenant,
            actor: self.sub,
            name: self.name.filter(|name| !name.is_empty()),
            role: self.role,
            documents: Documents::new(self.documents.unwrap_or_default()),
            expires_at_ms: Some(expires_at_ms),
        })
    }
}

impl Audience {
    fn has(&self, wanted: &str) -> bool {
        match self {
            Self::One(audience) => audience == wanted,
            Self::Many(audiences) => audiences.iter().any(|audience| audience == wanted),
        }
    }
}

/// From seconds, which may have a fraction (RFC 7519 section 2, NumericDate).
fn time_ms(claim: &str, seconds: f64) -> Result<i64, Refusal> {
    if (0.0..=TIME_S_MAX).contains(&seconds) {
        Ok((seconds * 1_000.0) as i64)
    } else {
        Err(Refusal::rejected(format!("{claim} is no moment from 1970 to 9999")))
    }
}

fn is_tenant(tenant: &str) -> bool {
    (1..=TENANT_BYTES_MAX).contains(&tenant.len())
        && tenant.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
}

fn is_name(name: &str) -> bool {
    name.len() <= NAME_BYTES_MAX && !name.chars().any(char::is_control)
}
