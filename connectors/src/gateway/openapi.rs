//! `GET /v1/openapi.json`: the description of the gateway's paths, for whoever writes a client. It is no secret.
//!
//! INVARIANT: it has the paths of `super::paths` and no others.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::extract::{ConnectInfo, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::Gateway;
use super::caller::Denied;

/// OpenAPI 3.1.
pub const OPENAPI: &str = include_str!("openapi.json");

pub(super) async fn openapi(
    State(gateway): State<Arc<Gateway>>,
    ConnectInfo(address): ConnectInfo<SocketAddr>,
) -> Result<Response, Denied> {
    gateway.admit_unknown(address)?;
    Ok(([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::Value;

    use super::*;
    use crate::gateway::paths;

    fn described() -> Value {
        serde_json::from_str(OPENAPI).expect("JSON")
    }

    #[test]
    fn every_path_is_described_and_no_other() {
        let described = described();
        let operations = described["paths"].as_object().expect("paths").iter().flat_map(|(path, item)| {
            let methods = item.as_object().expect("an item").keys().filter(|name| *name != "parameters");
            methods.map(move |method| format!("{} {path}", method.to_uppercase())).collect::<Vec<_>>()
        });
        let served = paths().into_iter().map(|(method, path, _)| format!("{method} {}", path.replace("{*", "{")));
        assert_eq!(operations.collect::<BTreeSet<_>>(), served.collect::<BTreeSet<_>>());
    }

    #[test]
    fn every_part_of_a_path_is_a_parameter_and_every_reference_leads_somewhere() {
        let described = described();
        for (path, item) in described["paths"].as_object().expect("paths") {
            let named: BTreeSet<&str> =
                path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}')).collect();
            for (method, operation) in item.as_object().expect("an item") {
                let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
                let in_path = parameters.iter().filter(|it| it["in"] == "path" && it["required"] == true);
                let in_path: BTreeSet<&str> = in_path.filter_map(|it| it["name"].as_str()).collect();
                assert_eq!(in_path, named, "{method} {path}");
                assert!(operation["operationId"].is_string() && operation["summary"].is_string(), "{method} {path}");
                let responses = operation["responses"].as_object().expect("responses");
                assert!(responses.contains_key("200") && responses.contains_key("429"), "{method} {path}");
            }
        }
        let mut rest = vec![&described];
        while let Some(value) = rest.pop() {
            match value {
                Value::Array(items) => rest.extend(items),
                Value::Object(fields) => {
                    if let Some(reference) = fields.get("$ref").and_then(Value::as_str) {
                        let pointer = reference.strip_prefix('#').expect("a reference within");
                        assert!(described.pointer(pointer).is_some(), "{reference}");
                    }
                    rest.extend(fields.values());
                }
                _ => {}
            }
        }
    }
}
