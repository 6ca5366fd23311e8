//! Where a request carries its token: the header `Authorization`, the WebSocket subprotocol (browsers can send no headers), or
//! the query; the first that is there counts.
//!
//! ```text
//! Authorization: Bearer TOKEN
//! Sec-WebSocket-Protocol: engram.token, TOKEN      new WebSocket(url, ["engram.token", TOKEN])
//! ?token=TOKEN  or  ?access_token=TOKEN            for clients that can do neither
//! ```
//!
//! SUBTLE: the server must select one of the subprotocols that a client offers, or browsers close the connection. It
//! selects `engram.token`, so that no answer has the token in it.

use axum::http::HeaderMap;
use axum::http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL};

/// The subprotocol whose successor in the list is the token, and which the answer selects.
pub const SUBPROTOCOL: &str = "engram.token";
/// Names in the query; the second is RFC 6750's, section 2.3.
const QUERY_NAMES: [&str; 2] = ["token", "access_token"];

/// What a request carries. Not `Debug`, as it holds a token.
#[derive(Clone, PartialEq, Eq)]
pub struct Presented {
    pub token: Option<String>,
    /// What the answer to a WebSocket's upgrade has to select.
    pub subprotocol: Option<&'static str>,
}

/// Of a request's headers and query.
pub fn presented(headers: &HeaderMap, query: Option<&str>) -> Presented {
    let offered = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let mut offered = offered.flat_map(|value| value.split(',')).map(str::trim);
    let subprotocol = offered.find(|name| *name == SUBPROTOCOL).map(|_| SUBPROTOCOL);
    let in_subprotocol = subprotocol.and_then(|_| offered.next());
    let token = bearer(headers).or(in_subprotocol).or_else(|| query.and_then(in_query));
    Presented { token: token.filter(|token| !token.is_empty()).map(str::to_owned), subprotocol }
}

/// Another scheme than `Bearer` is somebody else's, such as a proxy's.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// As it stands: nothing in a token has to be percent-encoded.
fn in_query(query: &str) -> Option<&str> {
    let value = |name: &str| {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
    };
    QUERY_NAMES.into_iter().find_map(value)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn found(headers: &[(&str, &'static str)], query: Option<&str>) -> (Option<String>, Option<&'static str>) {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name: axum::http::HeaderName = name.parse().expect("a name");
            map.append(name, HeaderValue::from_static(value));
        }
        let presented = presented(&map, query);
        (presented.token, presented.subprotocol)
    }

    #[test]
    fn a_token_is_found_wherever_it_may_be() {
        let selected = Some(SUBPROTOCOL);
        for (headers, query, token, subprotocol) in [
            (&[][..], None, None, None),
            (&[], Some("a=b&token"), None, None),
            (&[], Some("token="), None, None),
            (&[], Some("mytoken=x"), None, None),
            (&[], Some("a=b&token=x.y.z"), Some("x.y.z"), None),
            (&[], Some("access_token=x.y.z"), Some("x.y.z"), None),
            (&[("authorization", "Bearer x.y.z")], Some("token=q"), Some("x.y.z"), None),
            (&[("authorization", "bearer  x.y.z ")], None, Some("x.y.z"), None),
            (&[("authorization", "Basic dTpw")], Some("token=q"), Some("q"), None),
            (&[("authorization", "Bearer")], None, None, None),
            (&[("sec-websocket-protocol", "engram.token, x.y.z")], Some("token=q"), Some("x.y.z"), selected),
            (&[("sec-websocket-protocol", "engram.token,x.y.z,other")], None, Some("x.y.z"), selected),
            (
                &[("sec-websocket-protocol", "other, engram.token"), ("sec-websocket-protocol", "x.y.z")],
                None,
                Some("x.y.z"),
                selected,
            ),
            (&[("sec-websocket-protocol", "engram.token")], Some("token=q"), Some("q"), selected),
            (&[("sec-websocket-protocol", "x.y.z")], None, None, None),
            (
                &[("authorization", "Bearer a"), ("sec-websocket-protocol", "engram.token, b")],
                None,
                Some("a"),
                selected,
            ),
        ] {
            assert_eq!(found(headers, query), (token.map(str::to_owned), subprotocol), "{headers:?} {query:?}");
        }
    }
}
