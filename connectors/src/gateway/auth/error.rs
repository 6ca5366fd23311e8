//! Why authentication cannot be set up. What a caller is refused for is a [`super::Refusal`].

use std::net::SocketAddr;

use thiserror::Error;

/// Errors say what to do about them, in one line, and hold nothing secret.
#[derive(Debug, Error)]
pub enum AuthError {
    /// Stop: a setting cannot be.
    #[error("auth.{field} {reason}")]
    Setting { field: &'static str, reason: String },
    /// Stop: a file of keys cannot be read.
    #[error("auth: the file {file} cannot be read: check its path and who may read it")]
    Unreadable { file: String, source: std::io::Error },
    /// Stop: what a file or URL has is not what it must be.
    #[error("auth: {place} {reason}")]
    Unusable { place: String, reason: String },
    /// Retry: the JWKS URL did not answer.
    #[error("auth: the keys at {url} cannot be fetched: check auth.jwks, and that this machine reaches it")]
    Unreachable {
        url: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Stop: without authentication there is nobody to keep out.
    #[error(
        "without authentication the gateway listens on this machine only: set keys or jwks in [auth], or listen on \
         127.0.0.1 instead of {address}"
    )]
    Open { address: SocketAddr },
}
