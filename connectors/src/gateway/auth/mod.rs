//! Who a caller is, and what they may do: the gateway's way from a request to an [`Identity`], before anything else of the
//! request is looked at.
//!
//! ```text
//! request --presented--> token --authenticator--> Identity --require--> allowed
//!                                    |  keys: files and JWKS      |
//!                                    `--------> Refusal <---------'      401, 403, 429
//! ```
//!
//! INVARIANT: what a refusal tells its caller is fixed text. Tokens, keys and their ids are in no answer and in no log.
//!
//! Sources: RFC 7515 (JWS), RFC 7517 (JWK), RFC 7519 (JWT), RFC 8725 (JWT best current practices).

mod authenticator;
mod claims;
mod config;
mod error;
mod identity;
mod jwks;
mod keys;
mod presented;
mod refusal;
mod role;
#[cfg(test)]
mod test_keys;

pub use authenticator::Authenticator;
pub use config::{Algorithm, Config, KeyFile};
pub use error::AuthError;
pub use identity::{Documents, Identity};
pub use presented::{Presented, SUBPROTOCOL, presented};
pub use refusal::{Refusal, RefusalLog};
pub use role::{Action, Role};
