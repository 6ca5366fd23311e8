//! The table `[auth]` of the configuration: docs/configuration.md. Empty, it is no authentication.

use serde::Deserialize;

use super::error::AuthError;

/// More than a clock of a machine that is looked after is ever wrong by.
const LEEWAY_S_MAX: u32 = 300;

/// How callers prove who they are.
#[derive(Debug, Clone, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    pub keys: Vec<KeyFile>,
    /// A JWKS: a file, or an `https://` URL; `http://` on this machine only.
    pub jwks: Option<String>,
    /// What a token's `iss` must be.
    pub issuer: Option<String>,
    /// What a token's `aud` must be or have among others.
    pub audience: Option<String>,
    /// By how much the clocks of those who give out tokens may differ from this one, in seconds.
    pub leeway_s: u32,
}

/// A key in a file of its own.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeyFile {
    pub algorithm: Algorithm,
    /// The public key as PEM; for HS256 the secret, without the line end after it.
    pub file: String,
    /// With it, tokens that name a key must name this one.
    pub kid: Option<String>,
}

/// Of signatures, by the names of RFC 7518 and RFC 8037. There is no `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub enum Algorithm {
    #[serde(rename = "EdDSA")]
    EdDsa,
    #[serde(rename = "RS256")]
    Rs256,
    #[serde(rename = "HS256")]
    Hs256,
}

impl Default for Config {
    fn default() -> Self {
        Self { keys: Vec::new(), jwks: None, issuer: None, audience: None, leeway_s: 5 }
    }
}

impl Config {
    /// Whether nobody has to prove anything.
    pub fn is_open(&self) -> bool {
        self.keys.is_empty() && self.jwks.is_none()
    }

    /// Looks at the settings alone; files and URLs are read by `Authenticator::new`.
    ///
    /// # Errors
    /// [`AuthError::Setting`]: the first that cannot be.
    pub fn check(&self) -> Result<(), AuthError> {
        let refuse = |field, reason: &str| Err(AuthError::Setting { field, reason: reason.to_owned() });
        if self.leeway_s > LEEWAY_S_MAX {
            return refuse("leeway_s", &format!("is {}: it must be 0 to {LEEWAY_S_MAX}", self.leeway_s));
        }
        for (field, value) in [("jwks", &self.jwks), ("issuer", &self.issuer), ("audience", &self.audience)] {
            let Some(value) = value else { continue };
            if value.is_empty() {
                return refuse(field, "is empty: leave it out, or say what it is");
            }
            if self.is_open() {
                return refuse(field, "is of no use without keys: add keys or jwks, or leave it out");
            }
        }
        if self.keys.iter().any(|key| key.file.is_empty() || key.kid.as_deref() == Some("")) {
            return refuse("keys", "has an entry with an empty file or kid: say what it is");
        }
        if let Some(url) = self.jwks.as_deref().filter(|jwks| is_url(jwks)) {
            check_url(url)?;
        }
        Ok(())
    }
}

pub(super) fn is_url(jwks: &str) -> bool {
    jwks.contains("://")
}

/// Whether it leads to this machine itself, where nobody can put other keys in their place on the way.
pub(super) fn is_local(url: &str) -> bool {
    url.strip_prefix("http://").is_some_and(|rest| {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host =
            authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')).map_or(authority, |(host, _)| host);
        ["localhost", "127.0.0.1", "[::1]"].contains(&host)
    })
}

fn check_url(url: &str) -> Result<(), AuthError> {
    let refuse = |reason: &str| Err(AuthError::Setting { field: "jwks", reason: reason.to_owned() });
    // Not shown: what is wrong with it may be a password.
    if url.contains('@') {
        return refuse("has a user or password in its URL: give one that asks for none, public keys are no secret");
    }
    if !url.starts_with("https://") && !is_local(url) {
        return refuse("is a URL other than https://..: keys that come unprotected may be anybody's");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(jwks: &str) -> Config {
        Config { jwks: Some(jwks.to_owned()), ..Config::default() }
    }

    #[test]
    fn the_default_is_no_authentication() {
        assert!(Config::default().is_open());
        Config::default().check().expect("it can be");
        assert!(!with("keys.json").is_open());
    }

    #[test]
    fn what_cannot_be_is_refused_in_one_line() {
        let key = |file: &str, kid: Option<&str>| {
            vec![KeyFile { algorithm: Algorithm::EdDsa, file: file.to_owned(), kid: kid.map(str::to_owned) }]
        };
        for (config, reason) in [
            (Config { leeway_s: 301, ..with("a.json") }, "0 to 300"),
            (Config { issuer: Some("i".to_owned()), ..Config::default() }, "without keys"),
            (Config { audience: Some(String::new()), ..with("a.json") }, "empty"),
            (with(""), "empty"),
            (Config { keys: key("", None), ..Config::default() }, "empty"),
            (Config { keys: key("a.pem", Some("")), ..Config::default() }, "empty"),
            (with("http://example.com/keys"), "https://"),
            (with("ftp://localhost/keys"), "https://"),
            (with("http://localhost.example.com/keys"), "https://"),
            (with("http://[::1].example.com/keys"), "https://"),
            (with("https://user:hunter2@example.com/keys"), "password"),
            (with("http://localhost:80@example.com/"), "password"),
        ] {
            let said = config.check().expect_err(reason).to_string();
            assert!(said.contains(reason) && said.starts_with("auth.") && !said.contains('\n'), "{said}");
            assert!(!said.contains("hunter2"), "{said}");
        }
    }

    #[test]
    fn keys_come_by_https_or_from_this_machine() {
        for jwks in [
            "keys.json",
            "/etc/engram/keys.json",
            "https://example.com/.well-known/jwks.json",
            "http://localhost/keys",
            "http://127.0.0.1:8080/keys",
            "http://[::1]:8080/keys",
            "http://[::1]",
        ] {
            with(jwks).check().expect(jwks);
        }
    }
}
