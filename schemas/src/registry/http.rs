//! Any registry that speaks Confluent's REST API, by its URL: for a pipeline beside other users of that registry.
//!
//! INVARIANT: a password in the URL is in no error and in no log.
//!
//! Source: Confluent Schema Registry API reference, v1 (error codes included).

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};
use ureq::Agent;
use ureq::http::{Method, Request, Uri};
use ureq::tls::{RootCerts, TlsConfig, TlsProvider};

use super::{RegisteredSchema, Registry, RegistryError, Version};
use crate::SchemaId;
use crate::compatibility::Level;

/// For one try, from connecting to the answer's last byte.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Tries of one request. All requests may be repeated: registering the same schema twice gives the same id.
const TRIES_MAX: u32 = 3;
/// Wait after the first try; four times as long after each further one.
const BACKOFF: Duration = Duration::from_millis(100);
/// Schemas kept by id.
const SCHEMAS_MAX: usize = 4096;
const CONTENT_TYPE: &str = "application/vnd.schemaregistry.v1+json";

/// Subject, version, schema: in that order.
const NOT_FOUND_CODES: [u32; 3] = [40401, 40402, 40403];
/// A subject has no level of its own; older registries answer 40401.
const NO_LEVEL_CODE: u32 = 40408;

/// A registry behind a URL.
pub struct HttpRegistry {
    /// Without credentials, without a slash at its end.
    url: String,
    authorization: Option<String>,
    agent: Agent,
    /// An id means one schema for ever, so nothing here grows old.
    schemas: Mutex<BTreeMap<u32, String>>,
}

/// An answer other than success.
struct Failure {
    status: u16,
    /// 0 where the body did not name one.
    code: u32,
    message: String,
}

impl Failure {
    fn is_not_found(&self) -> bool {
        self.status == 404 && NOT_FOUND_CODES.contains(&self.code)
    }
}

#[derive(Deserialize)]
struct FailureBody {
    error_code: u32,
    #[serde(default)]
    message: String,
}

#[derive(Deserialize)]
struct VersionBody {
    subject: String,
    version: u32,
    id: u32,
    schema: String,
}

#[derive(Deserialize)]
struct SchemaBody {
    schema: String,
}

#[derive(Deserialize)]
struct IdBody {
    id: u32,
}

#[derive(Deserialize)]
struct CheckBody {
    is_compatible: bool,
    #[serde(default)]
    messages: Vec<String>,
}

#[derive(Deserialize)]
struct LevelBody {
    #[serde(rename = "compatibilityLevel")]
    level: String,
}

impl HttpRegistry {
    /// `url` is `http://` or `https://`, may hold `user:password@` (percent-encoded) and a path to put before the
    /// API's. Nothing is sent yet.
    ///
    /// # Errors
    /// [`RegistryError::Refused`] if `url` is not of that form.
    pub fn new(url: &str) -> Result<Self, RegistryError> {
        // The text is not shown: what does not parse may hold a password anywhere.
        let refused = || {
            let message = "its URL must be http://HOST:PORT or https://HOST:PORT, with USER:PASSWORD@ before HOST if \
                           it asks for them, special characters in them percent-encoded";
            RegistryError::Refused(message.to_owned())
        };
        let (scheme, rest) = url.trim().split_once("://").ok_or_else(refused)?;
        let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        let (credentials, host) = match authority.rsplit_once('@') {
            Some((credentials, host)) => (Some(credentials), host),
            None => (None, authority),
        };
        if !["http", "https"].contains(&scheme) || host.is_empty() || path.contains(['?', '#', '@']) {
            return Err(refused());
        }
        let url = format!("{scheme}://{host}{}", path.trim_end_matches('/'));
        let parsed = url.parse::<Uri>().map_err(|_| refused())?;
        // The port alone is not looked at when the rest is parsed.
        let port = parsed.authority().and_then(|authority| authority.as_str().rsplit_once(':')).map(|(_, port)| port);
        if port.is_some_and(|port| !port.ends_with(']') && port.parse::<u16>().is_err()) {
            return Err(refused());
        }
        let authorization = match credentials {
            Some(credentials) => {
                let (user, password) = credentials.split_once(':').unwrap_or((credentials, ""));
                let mut plain = percent_decode(user).ok_or_else(refused)?;
                plain.push(b':');
                plain.extend(percent_decode(password).ok_or_else(refused)?);
                Some(format!("Basic {}", base64(&plain)))
            }
            None => None,
        };
        // The system's certificates, so that a company's own authority is trusted where the system trusts it.
        let tls = TlsConfig::builder().provider(TlsProvider::NativeTls).root_certs(RootCerts::PlatformVerifier).build();
        let config = Agent::config_builder().timeout_global(Some(TIMEOUT)).http_status_as_error(false).tls_config(tls);
        Ok(Self { url, authorization, agent: config.build().into(), schemas: Mutex::default() })
    }

    /// The answer's body, or the registry's own failure.
    fn ask(&self, method: &Method, path: &str, body: Option<&Value>) -> Result<Result<String, Failure>, RegistryError> {
        let mut wait = BACKOFF;
        for attempt in 1.. {
            let source: Box<dyn Error + Send + Sync> = match self.ask_once(method, path, body) {
                Ok((status, text)) if (200..300).contains(&status) => return Ok(Ok(text)),
                Ok((status, text)) => {
                    let failure = match serde_json::from_str::<FailureBody>(&text) {
                        Ok(body) => Failure { status, code: body.error_code, message: body.message },
                        Err(_) => Failure { status, code: 0, message: "without a reason".to_owned() },
                    };
                    if status < 500 {
                        return Ok(Err(failure));
                    }
                    format!("it answered with status {status}: {}", failure.message).into()
                }
                Err(error) => error.into(),
            };
            if attempt == TRIES_MAX {
                return Err(RegistryError::Unreachable { url: self.url.clone(), source });
            }
            std::thread::sleep(wait);
            wait *= 4;
        }
        unreachable!("the last try returns")
    }

    fn ask_once(&self, method: &Method, path: &str, body: Option<&Value>) -> Result<(u16, String), ureq::Error> {
        let mut request = Request::builder().method(method.clone()).uri(format!("{}{path}", self.url));
        request = request.header("accept", format!("{CONTENT_TYPE}, application/json"));
        if let Some(authorization) = &self.authorization {
            request = request.header("authorization", authorization);
        }
        let mut response = match body {
            Some(body) => self.agent.run(request.header("content-type", CONTENT_TYPE).body(body.to_string())?)?,
            None => self.agent.run(request.body(())?)?,
        };
        Ok((response.status().as_u16(), response.body_mut().read_to_string()?))
    }

    /// What a failure means where it means nothing particular.
    fn refused(&self, failure: Failure) -> RegistryError {
        let Failure { status, message, .. } = failure;
        let url = &self.url;
        RegistryError::Refused(match status {
            401 | 403 => format!("{url} answered {status}, {message}: check the user and password in its URL"),
            404 => format!("{url} answered 404, {message}: check that this is a schema registry's URL"),
            _ => format!("{url} answered {status}, {message}"),
        })
    }

    /// As [`Self::refused`], for requests that carry a schema.
    fn refused_schema(&self, subject: &str, failure: Failure) -> RegistryError {
        match failure.status {
            409 => RegistryError::Incompatible { subject: subject.to_owned(), reasons: vec![failure.message] },
            422 => RegistryError::InvalidSchema(failure.message.into()),
            _ => self.refused(failure),
        }
    }

    fn parse<T: for<'de> Deserialize<'de>>(&self, text: &str) -> Result<T, RegistryError> {
        serde_json::from_str(text).map_err(|error| {
            RegistryError::Refused(format!("{} did not answer as a schema registry does: {error}", self.url))
        })
    }

    /// `None` where the registry says that it is not there.
    fn get<T: for<'de> Deserialize<'de>>(&self, path: &str) -> Result<Option<T>, RegistryError> {
        match self.ask(&Method::GET, path, None)? {
            Ok(text) => self.parse(&text).map(Some),
            Err(failure) if failure.is_not_found() => Ok(None),
            Err(failure) => Err(self.refused(failure)),
        }
    }

    fn delete(&self, path: &str) -> Result<Vec<u32>, RegistryError> {
        match self.ask(&Method::DELETE, path, None)? {
            Ok(text) => self.parse(&text),
            // 40404: the subject was deleted before, and may still be deleted for good.
            Err(failure) if failure.is_not_found() || failure.code == 40404 => Ok(Vec::new()),
            Err(failure) => Err(self.refused(failure)),
        }
    }
}

impl Registry for HttpRegistry {
    fn register(&self, subject: &str, schema: &str) -> Result<SchemaId, RegistryError> {
        let path = format!("/subjects/{}/versions", percent_encode(subject));
        match self.ask(&Method::POST, &path, Some(&json!({"schema": schema})))? {
            Ok(text) => Ok(SchemaId(self.parse::<IdBody>(&text)?.id)),
            Err(failure) => Err(self.refused_schema(subject, failure)),
        }
    }

    fn schema(&self, id: SchemaId) -> Result<Option<String>, RegistryError> {
        let known = self.schemas.lock().unwrap_or_else(PoisonError::into_inner).get(&id.0).cloned();
        if known.is_some() {
            return Ok(known);
        }
        let found = self.get::<SchemaBody>(&format!("/schemas/ids/{}", id.0))?.map(|body| body.schema);
        if let Some(schema) = &found {
            let mut schemas = self.schemas.lock().unwrap_or_else(PoisonError::into_inner);
            schemas.insert(id.0, schema.clone());
            if schemas.len() > SCHEMAS_MAX {
                // The lowest id is the oldest schema, so the one least likely to be in use.
                schemas.pop_first();
            }
        }
        Ok(found)
    }

    fn subjects(&self) -> Result<Vec<String>, RegistryError> {
        let mut subjects: Vec<String> = self.get("/subjects")?.unwrap_or_default();
        subjects.sort();
        Ok(subjects)
    }

    fn versions(&self, subject: &str) -> Result<Vec<u32>, RegistryError> {
        let mut versions: Vec<u32> =
            self.get(&format!("/subjects/{}/versions", percent_encode(subject)))?.unwrap_or_default();
        versions.sort_unstable();
        Ok(versions)
    }

    fn version(&self, subject: &str, version: Version) -> Result<Option<RegisteredSchema>, RegistryError> {
        let version = match version {
            Version::Latest => "latest".to_owned(),
            Version::Number(number) => number.to_string(),
        };
        let found = self.get(&format!("/subjects/{}/versions/{version}", percent_encode(subject)))?;
        Ok(found.map(registered))
    }

    fn lookup(&self, subject: &str, schema: &str) -> Result<Option<RegisteredSchema>, RegistryError> {
        let path = format!("/subjects/{}", percent_encode(subject));
        match self.ask(&Method::POST, &path, Some(&json!({"schema": schema})))? {
            Ok(text) => Ok(Some(registered(self.parse(&text)?))),
            Err(failure) if failure.is_not_found() => Ok(None),
            Err(failure) => Err(self.refused_schema(subject, failure)),
        }
    }

    fn check(&self, subject: &str, version: Version, schema: &str) -> Result<Vec<String>, RegistryError> {
        let versions = format!("/compatibility/subjects/{}/versions", percent_encode(subject));
        let body = json!({"schema": schema});
        let ask = |path: String| self.ask(&Method::POST, &path, Some(&body));
        let answer = match version {
            Version::Number(number) => ask(format!("{versions}/{number}?verbose=true"))?,
            Version::Latest => match ask(format!("{versions}?verbose=true"))? {
                // Older registries, and some of other makes, cannot ask for all versions that the level looks at.
                Err(failure) if matches!(failure.status, 404 | 405) && !failure.is_not_found() => {
                    ask(format!("{versions}/latest?verbose=true"))?
                }
                answer => answer,
            },
        };
        match (answer, version) {
            (Ok(text), _) => {
                let CheckBody { is_compatible, mut messages } = self.parse(&text)?;
                if is_compatible {
                    return Ok(Vec::new());
                }
                if messages.is_empty() {
                    messages.push("the registry gives no reasons".to_owned());
                }
                Ok(messages)
            }
            (Err(failure), Version::Latest) if failure.is_not_found() => Ok(Vec::new()),
            (Err(failure), Version::Number(version)) if failure.is_not_found() => {
                Err(RegistryError::NotFound { subject: subject.to_owned(), version })
            }
            (Err(failure), _) => Err(self.refused_schema(subject, failure)),
        }
    }

    fn compatibility(&self, subject: Option<&str>) -> Result<Level, RegistryError> {
        let own = match subject {
            Some(subject) => {
                let path = format!("/config/{}?defaultToGlobal=true", percent_encode(subject));
                match self.ask(&Method::GET, &path, None)? {
                    Ok(text) => Some(text),
                    Err(failure) if failure.is_not_found() || failure.code == NO_LEVEL_CODE => None,
                    Err(failure) => return Err(self.refused(failure)),
                }
            }
            None => None,
        };
        let text = match own {
            Some(text) => text,
            None => self.ask(&Method::GET, "/config", None)?.map_err(|failure| self.refused(failure))?,
        };
        let LevelBody { level } = self.parse(&text)?;
        level.parse().map_err(|error| RegistryError::Refused(format!("{} answered: {error}", self.url)))
    }

    fn set_compatibility(&self, subject: Option<&str>, level: Level) -> Result<(), RegistryError> {
        let path =
            subject.map_or_else(|| "/config".to_owned(), |subject| format!("/config/{}", percent_encode(subject)));
        match self.ask(&Method::PUT, &path, Some(&json!({"compatibility": level.to_string()})))? {
            Ok(_) => Ok(()),
            Err(failure) => Err(self.refused(failure)),
        }
    }

    fn delete_subject(&self, subject: &str, permanent: bool) -> Result<Vec<u32>, RegistryError> {
        let path = format!("/subjects/{}", percent_encode(subject));
        let deleted = self.delete(&path)?;
        if !permanent {
            return Ok(deleted);
        }
        // Only what is deleted can be deleted for good; that includes versions deleted long before.
        self.delete(&format!("{path}?permanent=true"))
    }
}

fn registered(body: VersionBody) -> RegisteredSchema {
    RegisteredSchema { subject: body.subject, version: body.version, id: SchemaId(body.id), schema: body.schema }
}

/// Of all but RFC 3986's unreserved characters, so that a subject is one segment of the path.
fn percent_encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            write!(encoded, "%{byte:02X}").expect("a string takes all");
        }
    }
    encoded
}

fn percent_decode(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let mut digit = || char::from(bytes.next()?).to_digit(16);
            let value = digit()? * 16 + digit()?;
            decoded.push(u8::try_from(value).ok()?);
        } else {
            decoded.push(byte);
        }
    }
    Some(decoded)
}

/// RFC 4648, section 4; here so that one header does not need a dependency.
fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut encoded = String::new();
    for chunk in bytes.chunks(3) {
        let byte = |index: usize| u32::from(chunk.get(index).copied().unwrap_or(0));
        let bits = (byte(0) << 16) | (byte(1) << 8) | byte(2);
        for place in 0..4 {
            let sextet = usize::try_from((bits >> (18 - 6 * place)) & 63).expect("six bits");
            encoded.push(if place <= chunk.len() { char::from(ALPHABET[sextet]) } else { '=' });
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Read as _, Write as _};
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use super::*;

    /// First line, authorization, body.
    type Asked = (String, String, String);

    /// Gives these answers in turn, and then what it was asked.
    fn serve(answers: Vec<(u16, &'static str)>) -> (String, JoinHandle<Vec<Asked>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            let mut asked = Vec::new();
            for (status, body) in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                let (mut first, mut authorization, mut length) = (String::new(), String::new(), 0);
                reader.read_line(&mut first).unwrap();
                loop {
                    let mut line = String::new();
                    reader.read_line(&mut line).unwrap();
                    let Some((name, value)) = line.split_once(':') else { break };
                    match name.to_ascii_lowercase().as_str() {
                        "authorization" => authorization = value.trim().to_owned(),
                        "content-length" => length = value.trim().parse().unwrap(),
                        _ => {}
                    }
                }
                let mut content = vec![0; length];
                reader.read_exact(&mut content).unwrap();
                let first = first.trim().trim_end_matches(" HTTP/1.1").to_owned();
                asked.push((first, authorization, String::from_utf8(content).unwrap()));
                let head =
                    format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
                stream.write_all(head.as_bytes()).unwrap();
                stream.write_all(body.as_bytes()).unwrap();
            }
            asked
        });
        (address, server)
    }

    #[test]
    fn requests_are_confluents() {
        let (address, server) = serve(vec![(200, r#"{"id": 7}"#), (200, r#"{"schema": "\"int\""}"#)]);
        let registry = HttpRegistry::new(&format!("http://me:s%40cret@{address}/prefix/")).unwrap();
        assert_eq!(registry.register("a/b value", r#""int""#).unwrap(), SchemaId(7));
        for _ in 0..2 {
            assert_eq!(registry.schema(SchemaId(7)).unwrap().as_deref(), Some(r#""int""#));
        }
        let asked = server.join().unwrap();
        assert_eq!(asked[0].0, "POST /prefix/subjects/a%2Fb%20value/versions");
        assert_eq!(asked[0].1, "Basic bWU6c0BjcmV0");
        assert_eq!(asked[0].2, r#"{"schema":"\"int\""}"#);
        assert_eq!(asked[1].0, "GET /prefix/schemas/ids/7");
    }

    #[test]
    fn failures_mean_what_confluents_codes_mean() {
        let (address, server) = serve(vec![
            (404, r#"{"error_code": 40401, "message": "Subject 's' not found."}"#),
            (404, r#"{"error_code": 40403, "message": "Schema not found"}"#),
            (409, r#"{"error_code": 409, "message": "the field is gone"}"#),
            (422, r#"{"error_code": 42201, "message": "not Avro"}"#),
            (401, "go away"),
            (404, "<html>"),
            (404, r#"{"error_code": 40408, "message": "no level"}"#),
            (200, r#"{"compatibilityLevel": "FORWARD"}"#),
        ]);
        let registry = HttpRegistry::new(&format!("http://me:hidden@{address}")).unwrap();
        assert_eq!(registry.versions("s").unwrap(), Vec::<u32>::new());
        assert_eq!(registry.lookup("s", "{}").unwrap(), None);
        let error = registry.register("s", "{}").unwrap_err();
        assert!(matches!(error, RegistryError::Incompatible { reasons, .. } if reasons == ["the field is gone"]));
        assert!(matches!(registry.register("s", "{}"), Err(RegistryError::InvalidSchema(_))));
        let error = registry.subjects().unwrap_err();
        assert!(matches!(error, RegistryError::Refused(_)));
        assert!(!format!("{error} {error:?}").contains("hidden"));
        assert!(matches!(registry.subjects(), Err(RegistryError::Refused(_))));
        assert_eq!(registry.compatibility(Some("s")).unwrap(), Level::Forward);
        server.join().unwrap();
    }

    #[test]
    fn a_server_in_trouble_is_asked_again_and_then_unreachable() {
        let (address, server) = serve(vec![(503, ""), (200, "[\"b\", \"a\"]")]);
        let registry = HttpRegistry::new(&format!("http://me:hidden@{address}")).unwrap();
        assert_eq!(registry.subjects().unwrap(), ["a", "b"]);
        server.join().unwrap();
        // The listener is gone.
        let error = registry.subjects().unwrap_err();
        assert!(matches!(&error, RegistryError::Unreachable { url, .. } if *url == format!("http://{address}")));
        assert!(!format!("{error} {error:?}").contains("hidden"));
    }

    #[test]
    fn urls_that_are_none_are_refused_and_not_shown() {
        for url in ["", "host:8081", "ftp://u:hidden@host", "http://", "http://u:hid/den@host", "http://u:hidden"] {
            let error = HttpRegistry::new(url).err().unwrap_or_else(|| panic!("{url} was taken"));
            assert!(!format!("{error} {error:?}").contains("hid"), "{error}");
        }
        assert!(HttpRegistry::new("https://[::1]:8081").is_ok());
    }

    /// RFC 4648, section 10.
    #[test]
    fn base64_is_the_standards() {
        for (plain, encoded) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foob", "Zm9vYg==")] {
            assert_eq!(base64(plain.as_bytes()), encoded);
        }
    }
}
