//! TEST KEYS: published here, so good for nothing else. The keys and the `*_TOKEN`s are openssl's, not this library's.

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::Value;

/// Of HS256.
pub const SECRET: &str = "0123456789abcdef0123456789abcdef";

pub const ED25519_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAlwHoowyzVMFouwKycUbK7bDd49TrUoe4Hf7gLShd/iE=
-----END PUBLIC KEY-----
";
/// The same as in a JWK.
pub const ED25519_X: &str = "lwHoowyzVMFouwKycUbK7bDd49TrUoe4Hf7gLShd_iE";
const ED25519_SEED: [u8; 32] = *b"\x84\x0b\x03\xca\x70\xa7\xca\x5d\x4c\x9e\x6e\x41\x9b\xf0\x75\x5c\x18\x84\x2d\x12\x2a\x7e\x34\xb6\xe0\x66\x5e\x36\x39\x63\x4f\xae";

pub const OTHER_ED25519_X: &str = "hh0gBpuv8vhiuYCx2Q8oQZOeBrQ_76pDuEBSIfYwq_4";
const OTHER_ED25519_SEED: [u8; 32] = *b"\x9f\x27\x01\x0d\xb2\xbf\x34\xe1\x9c\x17\xec\x69\x20\xd4\x56\xba\x5d\x81\xfb\x86\x87\x5d\xba\x11\xef\x8c\xbe\xc9\xda\xdd\x26\x29";

pub const RSA_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAp4KQ5PujJot0sFAhS6Qn
w8KkkHTfOhAZ4s12eVtyEreluh0a3YolsHpqrsoavPlUSmFMsEAIWROzeLsy7BGs
gw+Yv8dWU7T7/xjAszY2keC6/7VV0uR+mZkgKb9Ank8cqIvlgUvIz4y5EyKZtp8Y
isfOfoy/fjggWOSF/cYcVo169vdK20ww3NN6XNLA7BAJoUQKKHMMYW5RisdwDd+J
uZWxQTeoo1HF0uDugv1puS6q+kKCTLUSJ5iXgJQhOUO4I0PMOH143XqXbK7c88AV
i3R/oURTiRsfuPFgISoFf5gqVjo04U+BcSEd+Qfh4n0TaU2+EDAdln98gcefdcFH
JQIDAQAB
-----END PUBLIC KEY-----
";
/// The same as in a JWK; the exponent is AQAB.
pub const RSA_N: &str = "p4KQ5PujJot0sFAhS6Qnw8KkkHTfOhAZ4s12eVtyEreluh0a3YolsHpqrsoavPlUSmFMsEAIWROzeLsy7BGsgw-Yv8dWU7T7_xjAszY2keC6_7VV0uR-mZkgKb9Ank8cqIvlgUvIz4y5EyKZtp8YisfOfoy_fjggWOSF_cYcVo169vdK20ww3NN6XNLA7BAJoUQKKHMMYW5RisdwDd-JuZWxQTeoo1HF0uDugv1puS6q-kKCTLUSJ5iXgJQhOUO4I0PMOH143XqXbK7c88AVi3R_oURTiRsfuPFgISoFf5gqVjo04U-BcSEd-Qfh4n0TaU2-EDAdln98gcefdcFHJQ";

pub const RSA_1024_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----
MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQC3VviORtj3ZOQpTT4CdK0xDm0U
nblseS7N7iobsu4p4BQTwRycUUl9ZH5yiinuM0J0UtzPR3jy4YE5CXp8QbWj9UHe
IhTYSKc7E+ZZNW8bpq0Ib2c4LaM73IO+VY1gxqA7zYXbPKfRRIaOd+wXUzeZxnbX
G5GcQ5eSmSkUVaJrKwIDAQAB
-----END PUBLIC KEY-----
";

/// Each says `{"sub":"ann","role":"editor","exp":4102444800}`, the start of 2100.
pub const HS256_TOKEN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbm4iLCJyb2xlIjoiZWRpdG9yIiwiZXhwIjo0MTAyNDQ0ODAwfQ.8-5ADJL8CLCaFeR22w7BnbtDlHZbRAFAqInczXXRNTE";
pub const EDDSA_TOKEN: &str = "eyJhbGciOiJFZERTQSIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbm4iLCJyb2xlIjoiZWRpdG9yIiwiZXhwIjo0MTAyNDQ0ODAwfQ.sQ7FxKUdpvkdB0xS2KVIPf78WOfQIy2XF-Br1aw3L1yPgeAmKUktMqi586dPhQx0Eg-AUwZkbawVlJgO8M3SAg";
pub const RS256_TOKEN: &str = "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbm4iLCJyb2xlIjoiZWRpdG9yIiwiZXhwIjo0MTAyNDQ0ODAwfQ.nHavJ1a5_SGlXaaCTFaRdOqbY04RBF6eGNHmefD09uBbPTyazLw0T3UkFASy9Xh4yW_yGdRx89WeQjZ7G7stFV6sCWup-s0rw1MSCJaYaQCmbSnJxSsDy9zxLJrpmfpMXzHF0laOGZ00c89nRI5DTXysQ0alPoyl_y2RD82EJuVCMj2EW95EFSjz307MYtGB4MIwVR37qV3pxailpv4u3x6k4HvwR8ZqAv0j6mZJ-iVJO9Gfq3vzn03_sTIjqBs8NxnYKVt2y7PCG3Jf57theiEkW1futXnrxYUBbm9YAq-jVOIy7ggEMUIU17Ub5dfduKybVShh75yaejnrFy0GIQ";
/// Of the algorithm `none`, without a signature.
pub const NONE_TOKEN: &str =
    "eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.eyJzdWIiOiJhbm4iLCJyb2xlIjoiZWRpdG9yIiwiZXhwIjo0MTAyNDQ0ODAwfQ.";
/// Of HS256, the file `RSA_PUBLIC` being the secret.
pub const CONFUSED_TOKEN: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhbm4iLCJyb2xlIjoiZWRpdG9yIiwiZXhwIjo0MTAyNDQ0ODAwfQ.AYDNRS4Ork8MeUM5MvTIp4igNQh_oRSgA0Rnt0Gv9NQ";

/// A token of HS256 with `SECRET`.
pub fn hs256(kid: Option<&str>, claims: &Value) -> String {
    signed(jsonwebtoken::Algorithm::HS256, kid, claims, &EncodingKey::from_secret(SECRET.as_bytes()))
}

/// A token of EdDSA with the key of `ED25519_PUBLIC`.
pub fn eddsa(kid: Option<&str>, claims: &Value) -> String {
    signed(jsonwebtoken::Algorithm::EdDSA, kid, claims, &private(&ED25519_SEED))
}

/// A token of EdDSA with the key of `OTHER_ED25519_X`.
pub fn other_eddsa(kid: Option<&str>, claims: &Value) -> String {
    signed(jsonwebtoken::Algorithm::EdDSA, kid, claims, &private(&OTHER_ED25519_SEED))
}

fn signed(algorithm: jsonwebtoken::Algorithm, kid: Option<&str>, claims: &Value, key: &EncodingKey) -> String {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
    encode(&header, claims, key).expect("signed")
}

/// PKCS #8 (RFC 8410 section 7).
fn private(seed: &[u8; 32]) -> EncodingKey {
    let mut der = b"\x30\x2e\x02\x01\x00\x30\x05\x06\x03\x2b\x65\x70\x04\x22\x04\x20".to_vec();
    der.extend(seed);
    EncodingKey::from_ed_der(&der)
}
