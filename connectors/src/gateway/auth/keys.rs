//! One key, with the one algorithm that it is for.
//!
//! INVARIANT: a key checks signatures of its own algorithm only, whatever a token's header says: a public RSA key never
//! becomes an HMAC secret (RFC 8725 section 2.1). Every key here can check a signature: those that cannot are refused when
//! they are read.

use jsonwebtoken::jwk::{AlgorithmParameters, Jwk};
use jsonwebtoken::{DecodingKey, DecodingKeyKind, crypto};

use super::config::{Algorithm, KeyFile};
use super::error::AuthError;

/// Of an HS256 secret: as long as the hash, RFC 7518 section 3.2.
const SECRET_BYTES_MIN: usize = 32;
/// RFC 7518 section 3.3.
const RSA_BITS_MIN: usize = 2_048;
/// What the library reads.
const RSA_BITS_MAX: usize = 4_096;
const ED25519_BYTES: usize = 32;
/// Of a file with a key.
const FILE_BYTES_MAX: usize = 64 << 10;

/// A key that checks signatures. `Debug` shows nothing of it.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub algorithm: Algorithm,
    /// `None`: it is tried for tokens that name any key or none.
    pub kid: Option<String>,
    pub decoding: DecodingKey,
}

impl Algorithm {
    pub(super) fn in_header(self) -> jsonwebtoken::Algorithm {
        match self {
            Self::EdDsa => jsonwebtoken::Algorithm::EdDSA,
            Self::Rs256 => jsonwebtoken::Algorithm::RS256,
            Self::Hs256 => jsonwebtoken::Algorithm::HS256,
        }
    }
}

impl Key {
    pub(super) fn read(file: &KeyFile) -> Result<Self, AuthError> {
        let unusable =
            |reason: &str| AuthError::Unusable { place: format!("the file {}", file.file), reason: reason.to_owned() };
        let bytes = read_file(&file.file, FILE_BYTES_MAX)?;
        let decoding = match file.algorithm {
            Algorithm::Hs256 => secret(&bytes).map_err(unusable)?,
            Algorithm::EdDsa => DecodingKey::from_ed_pem(&bytes).map_err(|_| {
                unusable("must be a public Ed25519 key as PEM: openssl pkey -in PRIVATE.pem -pubout makes one")
            })?,
            Algorithm::Rs256 => DecodingKey::from_rsa_pem(&bytes).map_err(|_| {
                unusable("must be a public RSA key as PEM: openssl pkey -in PRIVATE.pem -pubout makes one")
            })?,
        };
        Self::new(file.algorithm, file.kid.clone(), decoding).map_err(unusable)
    }

    /// Checks that it can check.
    pub(super) fn new(algorithm: Algorithm, kid: Option<String>, decoding: DecodingKey) -> Result<Self, &'static str> {
        let decoding = match algorithm {
            Algorithm::Rs256 => rsa(&decoding)?,
            // SUBTLE: the library takes the first 32 bytes without looking how many there are.
            Algorithm::EdDsa if decoding.try_get_as_bytes().map_or(0, <[u8]>::len) != ED25519_BYTES => {
                return Err("has an Ed25519 key of another length than 32 bytes: get the right one");
            }
            Algorithm::Hs256 if decoding.try_get_as_bytes().map_or(0, <[u8]>::len) < SECRET_BYTES_MIN => {
                return Err("has a secret of fewer than 32 bytes: make one with openssl rand -hex 32");
            }
            _ => decoding,
        };
        // Whether there is a verifier at all; the signature is a wrong one.
        crypto::verify("", b"", &decoding, algorithm.in_header())
            .map_err(|_| "has a key that cannot check signatures: get the right one")?;
        Ok(Self { algorithm, kid, decoding })
    }
}

/// At most `max` bytes.
pub(super) fn read_file(file: &str, max: usize) -> Result<Vec<u8>, AuthError> {
    let unreadable = |source| AuthError::Unreadable { file: file.to_owned(), source };
    let bytes = std::fs::read(file).map_err(unreadable)?;
    if bytes.len() > max {
        let reason = format!("is larger than {} KiB: it cannot be a file of keys", max >> 10);
        return Err(AuthError::Unusable { place: format!("the file {file}"), reason });
    }
    Ok(bytes)
}

/// The file without the line end that editors and `openssl` put at its end.
fn secret(bytes: &[u8]) -> Result<DecodingKey, &'static str> {
    if bytes.trim_ascii_start().starts_with(b"-----BEGIN") {
        return Err(
            "is a key as PEM: HS256 takes a secret, which nobody else knows; for a public key say EdDSA or RS256",
        );
    }
    let bytes = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    Ok(DecodingKey::from_secret(bytes.strip_suffix(b"\r").unwrap_or(bytes)))
}

/// As modulus and exponent, so that DER is parsed here and not for each token, and of a size that is neither weak nor slow.
fn rsa(key: &DecodingKey) -> Result<DecodingKey, &'static str> {
    let not_public = "must have a public RSA key: openssl pkey -in PRIVATE.pem -pubout makes one";
    let jwk = Jwk::from_decoding_key(key, None).map_err(|_| not_public)?;
    let AlgorithmParameters::RSA(parameters) = jwk.algorithm else { return Err(not_public) };
    let key = DecodingKey::from_rsa_components(&parameters.n, &parameters.e).map_err(|_| not_public)?;
    let DecodingKeyKind::RsaModulusExponent { n, .. } = key.kind() else { return Err(not_public) };
    let digits = n.iter().position(|byte| *byte != 0).map_or(&[][..], |start| &n[start..]);
    let bits = digits.len() * 8 - digits.first().map_or(0, |byte| byte.leading_zeros() as usize);
    if !(RSA_BITS_MIN..=RSA_BITS_MAX).contains(&bits) {
        return Err("has an RSA key that is not of 2048 to 4096 bits: make another");
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::super::test_keys;
    use super::*;

    fn read(algorithm: Algorithm, content: &[u8]) -> Result<Key, String> {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("key");
        std::fs::write(&file, content).expect("written");
        let file = KeyFile { algorithm, file: file.to_string_lossy().into_owned(), kid: None };
        Key::read(&file).map_err(|error| error.to_string())
    }

    #[test]
    fn keys_that_openssl_wrote_are_read() {
        read(Algorithm::EdDsa, test_keys::ED25519_PUBLIC.as_bytes()).expect("EdDSA");
        read(Algorithm::Rs256, test_keys::RSA_PUBLIC.as_bytes()).expect("RS256");
        read(Algorithm::Hs256, format!("{}\n", test_keys::SECRET).as_bytes()).expect("HS256");
    }

    #[test]
    fn what_is_no_key_of_its_algorithm_is_refused_in_one_line_without_showing_it() {
        let seed = "MC4CAQAwBQYDK2VwBCIEIIQLA8pwp8pdTJ5uQZvwdVwYhC0SKn40tuBmXjY5Y0+u";
        let private = format!("-----BEGIN PRIVATE KEY-----\n{seed}\n-----END PRIVATE KEY-----\n");
        for (algorithm, content, reason) in [
            (Algorithm::EdDsa, test_keys::RSA_PUBLIC, "public Ed25519 key"),
            (Algorithm::EdDsa, private.as_str(), "public Ed25519 key"),
            (Algorithm::EdDsa, "", "public Ed25519 key"),
            (Algorithm::Rs256, test_keys::ED25519_PUBLIC, "public RSA key"),
            (Algorithm::Rs256, private.as_str(), "public RSA key"),
            (Algorithm::Rs256, test_keys::RSA_1024_PUBLIC, "2048 to 4096 bits"),
            (Algorithm::Hs256, test_keys::RSA_PUBLIC, "HS256 takes a secret"),
            // 31 bytes; the line end is none of them.
            (Algorithm::Hs256, "0123456789abcdef0123456789abcde\n", "fewer than 32 bytes"),
            (Algorithm::Hs256, "", "fewer than 32 bytes"),
        ] {
            let said = read(algorithm, content.as_bytes()).expect_err(reason);
            assert!(said.contains(reason) && !said.contains('\n'), "{said}");
            assert!(!said.contains(seed) && !said.contains("0123456789"), "{said}");
        }
        let missing = KeyFile { algorithm: Algorithm::EdDsa, file: "no/such/file".to_owned(), kid: None };
        assert!(matches!(Key::read(&missing), Err(AuthError::Unreadable { .. })));
    }

    #[test]
    fn a_file_too_large_to_be_a_key_is_refused() {
        let said = read(Algorithm::Hs256, &vec![b'x'; FILE_BYTES_MAX + 1]).expect_err("too large");
        assert!(said.contains("64 KiB"), "{said}");
    }

    #[test]
    fn debug_shows_nothing_of_a_key() {
        let key = read(Algorithm::Hs256, test_keys::SECRET.as_bytes()).expect("a key");
        assert!(!format!("{key:?}").contains(test_keys::SECRET));
    }
}
