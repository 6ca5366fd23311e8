//! What the editors of a document show of themselves: cursors, names. It is not in the log but for `presence.events`.
//!
//! INVARIANT: a client id is shown by one connection at a time, and what is shown of its user is what their token says.
//!
//! SUBTLE: stock editors send back what they hear of others. Of a client that is bound to another connection nothing is
//! taken, and that is no offence.

use std::collections::BTreeMap;

use engram_schemas::yjs::Malformed;
use engram_schemas::yjs::protocol::{Shown, read_awareness, write_awareness};
use serde_json::{Map, Value, json};

use super::auth::Identity;

/// Clients that one connection may show: an editor has one.
const CLIENTS_PER_CONNECTION_MAX: usize = 8;

/// The states of a document's clients.
#[derive(Debug, Default)]
pub struct Awareness {
    clients: BTreeMap<u64, Client>,
}

#[derive(Debug)]
struct Client {
    clock: u64,
    /// JSON; `null` for one that is gone, whose clock is remembered for as long as its connection is.
    state: String,
    connection: u64,
}

impl Awareness {
    /// Takes what a connection shows; what others have to be told, if anything.
    pub fn take(
        &mut self,
        connection: u64,
        user: Option<&Identity>,
        update: &[u8],
    ) -> Result<Option<Vec<u8>>, Malformed> {
        let mut taken = Vec::new();
        for shown in read_awareness(update)? {
            let known = self.clients.get(&shown.client);
            if known.is_some_and(|known| known.connection != connection) {
                continue;
            }
            let is_gone = shown.state == "null";
            let is_news = known.is_none_or(|known| {
                shown.clock > known.clock || shown.clock == known.clock && is_gone && known.state != "null"
            });
            if !is_news || known.is_none() && self.count(connection) >= CLIENTS_PER_CONNECTION_MAX {
                continue;
            }
            let state = signed(shown.state, user)?;
            self.clients.insert(shown.client, Client { clock: shown.clock, state, connection });
            taken.push(shown.client);
        }
        Ok((!taken.is_empty()).then(|| self.write(&taken)))
    }

    fn count(&self, connection: u64) -> usize {
        self.clients.values().filter(|client| client.connection == connection).count()
    }

    /// A connection has ended: what others have to be told. Clients that are gone are told with a higher clock.
    pub fn leave(&mut self, connection: u64) -> Option<Vec<u8>> {
        let mut gone = Vec::new();
        for (id, client) in self.clients.iter_mut().filter(|(_, client)| client.connection == connection) {
            if client.state != "null" {
                client.clock += 1;
                "null".clone_into(&mut client.state);
                gone.push(*id);
            }
        }
        let update = (!gone.is_empty()).then(|| self.write(&gone));
        self.clients.retain(|_, client| client.connection != connection);
        update
    }

    /// What everybody shows; `None` if there is nobody.
    pub fn all(&self) -> Option<Vec<u8>> {
        let here: Vec<u64> =
            self.clients.iter().filter(|(_, client)| client.state != "null").map(|(id, _)| *id).collect();
        (!here.is_empty()).then(|| self.write(&here))
    }

    /// What a connection shows, as JSON: of its first client.
    pub fn of(&self, connection: u64) -> &str {
        let own = self.clients.values().find(|client| client.connection == connection && client.state != "null");
        own.map_or("{}", |client| client.state.as_str())
    }

    fn write(&self, clients: &[u64]) -> Vec<u8> {
        write_awareness(clients.iter().map(|id| {
            let Client { clock, state, .. } = &self.clients[id];
            Shown { client: *id, clock: *clock, state }
        }))
    }
}

/// A state whose user is the token's. Where nobody is known, it is as it came.
fn signed(state: &str, user: Option<&Identity>) -> Result<String, Malformed> {
    let mut state: Value = serde_json::from_str(state).map_err(|_| Malformed::Unknown("a state that is not JSON"))?;
    let (Some(identity), Some(fields)) = (user, state.as_object_mut()) else { return Ok(state.to_string()) };
    let shown = fields.entry("user").or_insert_with(|| Value::Object(Map::new()));
    if !shown.is_object() {
        *shown = Value::Object(Map::new());
    }
    shown["id"] = json!(identity.actor);
    shown["name"] = json!(identity.name.as_deref().unwrap_or(&identity.actor));
    Ok(state.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(client: u64, clock: u64, state: &str) -> Vec<u8> {
        write_awareness([Shown { client, clock, state }].into_iter())
    }

    fn read(update: Option<Vec<u8>>) -> Vec<(u64, u64, String)> {
        let update = update.unwrap_or_else(|| vec![0]);
        let all = read_awareness(&update).expect("an update");
        all.into_iter().map(|Shown { client, clock, state }| (client, clock, state.to_owned())).collect()
    }

    #[test]
    fn a_client_is_its_connections_alone() {
        let mut awareness = Awareness::default();
        assert_eq!(read(awareness.take(1, None, &shown(7, 1, "{}")).expect("taken")), [(7, 1, "{}".to_owned())]);
        // An echo, an old one, and another connection's.
        assert_eq!(awareness.take(1, None, &shown(7, 1, "{}")), Ok(None));
        assert_eq!(awareness.take(1, None, &shown(7, 0, r#"{"a":1}"#)), Ok(None));
        assert_eq!(awareness.take(2, None, &shown(7, 9, "null")), Ok(None));
        assert_eq!(read(awareness.all()), [(7, 1, "{}".to_owned())]);
        assert_eq!(read(awareness.leave(1)), [(7, 2, "null".to_owned())]);
        assert_eq!((awareness.leave(1), awareness.all()), (None, None));
    }

    #[test]
    fn a_user_is_who_the_token_says() {
        let ada = Identity { actor: "ada".to_owned(), name: Some("Ada".to_owned()), ..Identity::anyone() };
        let mut awareness = Awareness::default();
        let forged = r##"{"cursor":3,"user":{"id":"ben","name":"Ben","color":"#fff"}}"##;
        awareness.take(1, Some(&ada), &shown(7, 1, forged)).expect("taken");
        assert_eq!(awareness.of(1), r##"{"cursor":3,"user":{"id":"ada","name":"Ada","color":"#fff"}}"##);
        awareness.take(1, Some(&ada), &shown(7, 2, r#"{"user":"ben"}"#)).expect("taken");
        assert_eq!(awareness.of(1), r#"{"user":{"id":"ada","name":"Ada"}}"#);
        assert!(awareness.take(1, Some(&ada), &shown(7, 3, "{")).is_err());
        awareness.take(1, Some(&ada), &shown(7, 4, "null")).expect("taken");
        assert_eq!(awareness.of(1), "{}");
    }

    #[test]
    fn clients_of_a_connection_are_bounded() {
        let mut awareness = Awareness::default();
        for client in 0..100 {
            awareness.take(1, None, &shown(client, 1, "{}")).expect("read");
        }
        assert_eq!(read(awareness.all()).len(), CLIENTS_PER_CONNECTION_MAX);
    }
}
