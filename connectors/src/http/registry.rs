//! The schema registry by Confluent's REST API, as far as clients use it, so that stock (de)serializers read and write
//! every topic.
//!
//! Source: Confluent Schema Registry API reference, v1 (error codes included).

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post, put};
use axum::{Json, Router};
use engram_schemas::SchemaId;
use engram_schemas::compatibility::Level;
use engram_schemas::registry::{RegisteredSchema, Registry, RegistryError, Version};
use serde::Deserialize;
use serde_json::{Value, json};

use super::App;

/// Largest request: a schema, and as much again for its escapes as a JSON string.
const BODY_BYTES_MAX: usize = 2 << 20;

pub fn routes() -> Router<App> {
    Router::new()
        .route("/", get(async || Json(json!({}))))
        .route("/subjects", get(subjects))
        .route("/subjects/{subject}", post(lookup).delete(delete_subject))
        .route("/subjects/{subject}/versions", get(versions).post(register))
        .route("/subjects/{subject}/versions/{version}", get(version))
        .route("/subjects/{subject}/versions/{version}/schema", get(version_schema))
        .route("/schemas/ids/{id}", get(schema))
        .route("/schemas/ids/{id}/schema", get(schema_text))
        .route("/schemas/types", get(async || Json(json!(["AVRO"]))))
        .route("/compatibility/subjects/{subject}/versions/{version}", post(check))
        .route("/compatibility/subjects/{subject}/versions", post(check_all))
        .route("/config", get(config).put(set_config))
        .route("/config/{subject}", get(subject_config).put(set_subject_config))
        .route("/config/{subject}/", put(set_subject_config))
        .route("/mode", get(async || Json(json!({"mode": "READWRITE"}))))
        .route("/mode/{subject}", get(async || Json(json!({"mode": "READWRITE"}))))
        .route("/subjects/{subject}/", delete(delete_subject))
        .method_not_allowed_fallback(async || {
            Failure(StatusCode::METHOD_NOT_ALLOWED, 405, "HTTP 405 Method Not Allowed".to_owned())
        })
        // Looked at while the body is read, not once it is in memory.
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
}

/// An answer in the registry's own terms.
struct Failure(StatusCode, u32, String);

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.0, content(json!({"error_code": self.1, "message": self.2}))).into_response()
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        let message = engram_pipeline::worker::chain(&error);
        match error {
            RegistryError::NotFound { .. } => Self(StatusCode::NOT_FOUND, 40402, message),
            RegistryError::Incompatible { .. } => Self(StatusCode::CONFLICT, 409, message),
            RegistryError::InvalidSchema(_) | RegistryError::Refused(_) => {
                Self(StatusCode::UNPROCESSABLE_ENTITY, 42201, message)
            }
            _ => Self(StatusCode::INTERNAL_SERVER_ERROR, 50001, message),
        }
    }
}

type Answer = Result<Value, Failure>;

async fn answer(app: App, work: impl FnOnce(&dyn Registry) -> Answer + Send + 'static) -> Response {
    match app.blocking(move |served| work(&*served.registry)).await {
        Ok(Ok(value)) => content(value).into_response(),
        Ok(Err(failure)) => failure.into_response(),
        Err(response) => response,
    }
}

fn content(value: Value) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/vnd.schemaregistry.v1+json")], value.to_string())
}

#[derive(Deserialize)]
struct SchemaBody {
    schema: String,
    #[serde(default, rename = "schemaType")]
    schema_type: Option<String>,
    #[serde(default)]
    references: Option<Vec<Value>>,
}

fn body(bytes: &Bytes) -> Result<String, Failure> {
    let invalid = |message: String| Failure(StatusCode::UNPROCESSABLE_ENTITY, 42201, message);
    let body: SchemaBody = serde_json::from_slice(bytes)
        .map_err(|error| invalid(format!("the body must be {{\"schema\": \"...\"}}: {error}")))?;
    if body.schema_type.as_deref().is_some_and(|kind| kind != "AVRO") {
        return Err(invalid("only AVRO schemas are supported".to_owned()));
    }
    if body.references.is_some_and(|references| !references.is_empty()) {
        return Err(invalid("schema references are not supported: put the types into one schema".to_owned()));
    }
    Ok(body.schema)
}

fn parse_version(text: &str) -> Result<Version, Failure> {
    match text {
        "latest" | "-1" => Ok(Version::Latest),
        _ => text.parse().ok().filter(|number| *number > 0).map(Version::Number).ok_or_else(|| {
            Failure(
                StatusCode::UNPROCESSABLE_ENTITY,
                42202,
                format!("{text} is not a version: a number from 1, or latest"),
            )
        }),
    }
}

fn no_subject(subject: &str) -> Failure {
    Failure(StatusCode::NOT_FOUND, 40401, format!("Subject '{subject}' not found."))
}

fn find(registry: &dyn Registry, subject: &str, version: &str) -> Result<RegisteredSchema, Failure> {
    let wanted = parse_version(version)?;
    match registry.version(subject, wanted)? {
        Some(found) => Ok(found),
        None if registry.versions(subject)?.is_empty() => Err(no_subject(subject)),
        None => Err(Failure(StatusCode::NOT_FOUND, 40402, format!("Version {version} not found."))),
    }
}

fn registered(found: &RegisteredSchema) -> Value {
    json!({"subject": found.subject, "version": found.version, "id": found.id.0, "schema": found.schema})
}

async fn subjects(State(app): State<App>) -> Response {
    answer(app, |registry| Ok(json!(registry.subjects()?))).await
}

async fn versions(State(app): State<App>, Path(subject): Path<String>) -> Response {
    answer(app, move |registry| match registry.versions(&subject)? {
        versions if versions.is_empty() => Err(no_subject(&subject)),
        versions => Ok(json!(versions)),
    })
    .await
}

async fn register(State(app): State<App>, Path(subject): Path<String>, bytes: Bytes) -> Response {
    answer(app, move |registry| Ok(json!({"id": registry.register(&subject, &body(&bytes)?)?.0}))).await
}

async fn lookup(State(app): State<App>, Path(subject): Path<String>, bytes: Bytes) -> Response {
    answer(app, move |registry| {
        let schema = body(&bytes)?;
        if registry.versions(&subject)?.is_empty() {
            return Err(no_subject(&subject));
        }
        let found = registry.lookup(&subject, &schema)?;
        found
            .as_ref()
            .map(registered)
            .ok_or_else(|| Failure(StatusCode::NOT_FOUND, 40403, "Schema not found".to_owned()))
    })
    .await
}

async fn version(State(app): State<App>, Path((subject, version)): Path<(String, String)>) -> Response {
    answer(app, move |registry| find(registry, &subject, &version).map(|found| registered(&found))).await
}

async fn version_schema(State(app): State<App>, Path((subject, version)): Path<(String, String)>) -> Response {
    answer(app, move |registry| raw_schema(&find(registry, &subject, &version)?.schema)).await
}

async fn schema(State(app): State<App>, Path(id): Path<u32>) -> Response {
    answer(app, move |registry| Ok(json!({"schema": by_id(registry, id)?}))).await
}

async fn schema_text(State(app): State<App>, Path(id): Path<u32>) -> Response {
    answer(app, move |registry| raw_schema(&by_id(registry, id)?)).await
}

fn by_id(registry: &dyn Registry, id: u32) -> Result<String, Failure> {
    let found = registry.schema(SchemaId(id))?;
    found.ok_or_else(|| Failure(StatusCode::NOT_FOUND, 40403, format!("Schema {id} not found")))
}

fn raw_schema(text: &str) -> Answer {
    serde_json::from_str(text).map_err(|error| Failure(StatusCode::INTERNAL_SERVER_ERROR, 50001, error.to_string()))
}

#[derive(Deserialize)]
struct Permanent {
    #[serde(default)]
    permanent: bool,
}

async fn delete_subject(
    State(app): State<App>,
    Path(subject): Path<String>,
    Query(query): Query<Permanent>,
) -> Response {
    answer(app, move |registry| {
        let deleted = registry.delete_subject(&subject, query.permanent)?;
        if deleted.is_empty() { Err(no_subject(&subject)) } else { Ok(json!(deleted)) }
    })
    .await
}

async fn check(State(app): State<App>, Path((subject, version)): Path<(String, String)>, bytes: Bytes) -> Response {
    answer(app, move |registry| {
        let reasons = registry.check(&subject, parse_version(&version)?, &body(&bytes)?)?;
        Ok(json!({"is_compatible": reasons.is_empty(), "messages": reasons}))
    })
    .await
}

async fn check_all(state: State<App>, Path(subject): Path<String>, bytes: Bytes) -> Response {
    check(state, Path((subject, "latest".to_owned())), bytes).await
}

async fn config(State(app): State<App>) -> Response {
    answer(app, |registry| Ok(json!({"compatibilityLevel": registry.compatibility(None)?.to_string()}))).await
}

async fn subject_config(State(app): State<App>, Path(subject): Path<String>) -> Response {
    answer(app, move |registry| Ok(json!({"compatibilityLevel": registry.compatibility(Some(&subject))?.to_string()})))
        .await
}

async fn set_config(State(app): State<App>, bytes: Bytes) -> Response {
    answer(app, move |registry| set_level(registry, None, &bytes)).await
}

async fn set_subject_config(State(app): State<App>, Path(subject): Path<String>, bytes: Bytes) -> Response {
    answer(app, move |registry| set_level(registry, Some(&subject), &bytes)).await
}

fn set_level(registry: &dyn Registry, subject: Option<&str>, bytes: &Bytes) -> Answer {
    let body: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let level = body["compatibility"].as_str().and_then(|name| name.parse::<Level>().ok()).ok_or_else(|| {
        let message = "the body must be {\"compatibility\": LEVEL}, with one of Confluent's levels";
        Failure(StatusCode::UNPROCESSABLE_ENTITY, 42203, message.to_owned())
    })?;
    registry.set_compatibility(subject, level)?;
    Ok(json!({"compatibility": level.to_string()}))
}
